//! One operation from its invocation to its end, and counts of many.

use super::input::Input;
use super::output::Output;
use super::value::ObjectId;
use serde::Serialize;
use std::collections::BTreeMap;

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome<O> {
    /// With a definite answer.
    Returned(O),
    /// Definitely without effect.
    Failed(String),
    /// Nobody knows: it may take effect at any time after its invocation, or never.
    Unknown(String),
}

/// An operation that was invoked.
#[derive(Clone, Debug)]
pub struct Operation {
    /// Who asked.
    pub client: u32,
    /// Of what.
    pub object: ObjectId,
    /// What was asked.
    pub input: Input,
    /// How it ended; `None` while it is open, which counts as unknown.
    pub outcome: Option<Outcome<Output>>,
    /// Number of the event at which it was invoked.
    pub invoked: u64,
    /// Number of the event at which it ended.
    pub ended: Option<u64>,
    /// Time of the invocation in milliseconds of the run, for people.
    pub invoked_ms: u64,
    /// Time of the end, for people.
    pub ended_ms: Option<u64>,
    /// Whether it belongs to the reads after all faults: what it misses was lost.
    pub is_final: bool,
}

/// Names an open operation. It ends once.
#[derive(Debug)]
#[must_use = "an operation that never ends counts as unknown"]
pub struct OpToken(pub(super) usize);

/// Counts of one kind of operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Done with an answer that is no refusal.
    pub done: u64,
    /// Refused by the tree.
    pub refused: u64,
    /// Failed without effect.
    pub failed: u64,
    /// Of unknown outcome.
    pub unknown: u64,
    /// Longest time from invocation to end, in milliseconds.
    pub longest_ms: u64,
}

/// Counts by kind of operation.
pub type Statistics = BTreeMap<&'static str, Counts>;

impl Counts {
    /// Counts one end.
    pub(super) fn count(&mut self, outcome: &Outcome<Output>, elapsed_ms: u64) {
        let counter = match outcome {
            Outcome::Returned(output) if output.is_refusal() => &mut self.refused,
            Outcome::Returned(_) => &mut self.done,
            Outcome::Failed(_) => &mut self.failed,
            Outcome::Unknown(_) => &mut self.unknown,
        };
        *counter += 1;
        self.longest_ms = self.longest_ms.max(elapsed_ms);
    }
}
