//! All models over all objects of a run.

use super::locks;
use super::model::{Call, CallOf, Model};
use super::models::{Group, Log, Slots, Tree};
use super::report::lines;
use super::search::{Answer, check};
use super::shrink::shrink;
use crate::history::{
    Input, LogOutput, ObjectId, Operation, Outcome, Output, Recorder, SlotsInput, SlotsOutput,
    Value,
};
use std::fmt;

/// Configurations that the search of one object visits in one pass before it gives up: a few seconds,
/// and at most some 200 MiB.
pub const CONFIGURATIONS_MAX: u64 = 300_000;

/// Metadata operations are linearizable, and each takes effect at most once.
const LINEARIZABLE: &str = "invariant_3_linearizable";
/// An acknowledged write is readable after the faults.
const READABLE: &str = "invariant_1_acknowledged_is_readable";

/// A breach of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which invariant.
    pub invariant: &'static str,
    /// Of which object.
    pub object: String,
    /// What is wrong, in one line.
    pub detail: String,
    /// The shortest history that shows it, one line for each operation; empty when it needs none.
    pub history: Vec<String>,
}

/// An object whose history could not be judged within the bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undecided {
    /// Which object.
    pub object: String,
    /// Operations on it.
    pub operations: usize,
    /// How many of them are of unknown outcome.
    pub unknown: usize,
}

/// What the checkers found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Breaches of invariants.
    pub violations: Vec<Violation>,
    /// Objects that could not be judged: never a pass.
    pub undecided: Vec<Undecided>,
    /// Objects judged.
    pub objects: usize,
    /// Operations judged.
    pub operations: usize,
}

impl Verdict {
    /// Whether every object was judged and nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.undecided.is_empty()
    }
}

/// Judges all that was recorded.
pub fn check_all(recorder: &Recorder) -> Verdict {
    check_all_within(recorder, CONFIGURATIONS_MAX)
}

/// As [`check_all`], with a bound on the configurations of each search.
pub fn check_all_within(recorder: &Recorder, bound: u64) -> Verdict {
    let mut verdict = Verdict::default();
    for direct in recorder.direct_violations() {
        verdict.violations.push(Violation {
            invariant: direct.invariant,
            object: direct.object.to_string(),
            detail: direct.detail,
            history: Vec::new(),
        });
    }
    for (object, operations) in recorder.histories() {
        verdict.objects += 1;
        verdict.operations += operations.len();
        verdict.violations.extend(locks::overlaps(&object, &operations));
        match judge(&object, &operations, bound) {
            Ok(None) => {}
            Ok(Some(violation)) => verdict.violations.push(violation),
            Err(undecided) => verdict.undecided.push(undecided),
        }
    }
    verdict
}

type Judged = Result<Option<Violation>, Undecided>;

/// By the model of the object's kind.
fn judge(object: &ObjectId, operations: &[Operation], bound: u64) -> Judged {
    macro_rules! by {
        ($model:expr, $kind:ident) => {
            judge_by(&$model, object, operations, bound, |operation| {
                let Input::$kind(input) = operation.input.clone() else { return None };
                let output = match &operation.outcome {
                    Some(Outcome::Returned(Output::$kind(output))) => Some(output.clone()),
                    _ => None,
                };
                Some((input, output))
            })
        };
    }
    match operations.first().map(|operation| &operation.input) {
        None => Ok(None),
        Some(Input::Group(_)) => by!(Group, Group),
        Some(Input::Log(_)) => {
            // Knowing the longest read decides quickly; only without it the failing answer is the one
            // that a person would name.
            match by!(Log { longest: longest_of(operations) }, Log) {
                Ok(Some(violation)) => by!(Log::default(), Log).or(Ok(Some(violation))),
                judged => judged,
            }
        }
        Some(Input::Slots(_)) => by!(Slots { count: slots_of(operations) }, Slots),
        Some(Input::Tree(_)) => by!(Tree, Tree),
    }
}

fn judge_by<M: Model>(
    model: &M,
    object: &ObjectId,
    operations: &[Operation],
    bound: u64,
    typed: impl Fn(&Operation) -> Option<(M::Input, Option<M::Output>)>,
) -> Judged {
    let has_effect = |op: &&Operation| !matches!(op.outcome, Some(Outcome::Failed(_)));
    let kept: Vec<&Operation> = operations.iter().filter(has_effect).collect();
    let call = |op: &&Operation| -> CallOf<M> {
        let (input, output) = typed(op).expect("an object has operations of one kind");
        let returned = output.map(|output| (op.ended.expect("has ended"), output));
        Call { input, invoked: op.invoked, returned }
    };
    let calls: Vec<CallOf<M>> = kept.iter().map(call).collect();
    let unknown = calls.iter().filter(|call| call.returned.is_none()).count();
    let object = object.to_string();
    match check(model, &calls, bound) {
        Answer::Linearizable => Ok(None),
        Answer::Undecided => Err(Undecided { object, operations: calls.len(), unknown }),
        Answer::Violation(failing) => {
            let minimal = shrink(model, &calls, failing, bound);
            let failed = kept[failing];
            let output = calls[failing].output().expect("the failing call has an answer");
            Ok(Some(Violation {
                invariant: if failed.is_final { READABLE } else { LINEARIZABLE },
                object,
                detail: format!("c{}: {} cannot answer {output}", failed.client, failed.input),
                history: lines(model, &minimal, &kept),
            }))
        }
    }
}

/// The longest answer to a read of a log.
fn longest_of(operations: &[Operation]) -> Vec<Value> {
    let records = operations.iter().filter_map(|operation| match &operation.outcome {
        Some(Outcome::Returned(Output::Log(LogOutput::Records(records)))) => Some(records),
        _ => None,
    });
    records.max_by_key(|records| records.len()).cloned().unwrap_or_default()
}

/// Slots of a file, from what was written and read.
fn slots_of(operations: &[Operation]) -> u32 {
    let count = |operation: &Operation| match (&operation.input, &operation.outcome) {
        (_, Some(Outcome::Returned(Output::Slots(SlotsOutput::All(all))))) => all.len() as u32,
        (Input::Slots(SlotsInput::Write(slot, _) | SlotsInput::ReadSlot(slot)), _) => slot + 1,
        _ => 0,
    };
    operations.iter().map(count).max().unwrap_or(0)
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}: {}", self.invariant, self.object, self.detail)?;
        self.history.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} operations on {} objects", self.operations, self.objects)?;
        for violation in &self.violations {
            write!(f, "\n{violation}")?;
        }
        for u in &self.undecided {
            let Undecided { object, operations, unknown } = u;
            write!(f, "\nundecided: {object}, {operations} operations, {unknown} of them unknown")?;
        }
        Ok(())
    }
}
