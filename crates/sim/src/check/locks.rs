//! Mutual exclusion, seen directly: whoever was told that it has a lock keeps it until it asks to release
//! it, so two such intervals never overlap. It follows from linearizability; here it has its own name.
//!
//! A release of unknown outcome may take effect much later and remove another holder's lock. That is how
//! such locks are, so nothing is claimed about a lock after one.

use super::report::line;
use super::verdict::Violation;
use crate::history::{GroupInput, GroupOutput, Input, ObjectId, Operation, Outcome, Output};

/// Name of the file that is the lock.
pub(crate) const LOCK: &str = "lock";

/// From the acknowledged acquisition to the invocation of the release.
struct Hold<'a> {
    operation: &'a Operation,
    from: u64,
    to: u64,
}

/// Two holders at once, if there ever were.
pub(super) fn overlaps(object: &ObjectId, operations: &[Operation]) -> Option<Violation> {
    let trusted_until = operations.iter().filter(|op| is_doubtful_release(op));
    let trusted_until = trusted_until.map(|op| op.invoked).min().unwrap_or(u64::MAX);
    let mut holds: Vec<Hold<'_>> = operations
        .iter()
        .filter_map(|operation| {
            let from = acquired(operation)?;
            let mut releases = operations
                .iter()
                .filter(|op| op.client == operation.client && op.invoked > from && is_release(op));
            let to = releases.next().map_or(u64::MAX, |op| op.invoked);
            (from < trusted_until).then_some(Hold { operation, from, to })
        })
        .collect();
    holds.sort_by_key(|hold| hold.from);
    let clash = holds.windows(2).find(|pair| pair[1].from < pair[0].to)?;
    Some(Violation {
        invariant: "invariant_3_mutual_exclusion",
        object: object.to_string(),
        detail: format!(
            "c{} and c{} hold the lock at once",
            clash[0].operation.client, clash[1].operation.client
        ),
        history: clash.iter().map(|hold| line(hold.operation)).collect(),
    })
}

fn acquired(operation: &Operation) -> Option<u64> {
    let is_acquisition = matches!(
        &operation.input,
        Input::Group(GroupInput::PutNew(name, _)) if &**name == LOCK
    );
    let is_done =
        matches!(operation.outcome, Some(Outcome::Returned(Output::Group(GroupOutput::Done))));
    if is_acquisition && is_done { operation.ended } else { None }
}

fn is_release(operation: &Operation) -> bool {
    matches!(&operation.input, Input::Group(GroupInput::Remove(name)) if &**name == LOCK)
}

fn is_doubtful_release(operation: &Operation) -> bool {
    is_release(operation) && matches!(operation.outcome, None | Some(Outcome::Unknown(_)))
}
