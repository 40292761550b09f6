//! What happened when: faults, operations, and which fault an operation felt. Times are counted from
//! the start of the faults.

use crate::real::faults::FaultKind;
use parking_lot::Mutex;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// One fault that was injected.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Injected {
    pub(crate) number: usize,
    pub(crate) kind: FaultKind,
    /// The node that it hit, if it hit one.
    pub(crate) node: Option<u32>,
    /// What was done exactly.
    pub(crate) detail: String,
    pub(crate) started_s: f64,
    pub(crate) healed_s: f64,
    /// When the cluster had converged after it; none: it did not in time.
    pub(crate) converged_s: Option<f64>,
}

/// Whether an operation writes or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Direction {
    Write,
    Read,
    /// A change of names, which no storage node takes part in.
    Metadata,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Outcome {
    /// Acknowledged.
    Done,
    /// Refused or given up; nothing was done.
    Failed,
    /// It may have been applied.
    Unknown,
}

/// One operation of a probe.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Operation {
    pub(crate) direction: Direction,
    pub(crate) started: Duration,
    pub(crate) ended: Duration,
    pub(crate) outcome: Outcome,
}

/// Operations by name and outcome.
pub(crate) type Counts = BTreeMap<String, BTreeMap<Outcome, u64>>;

/// The operations of all probes.
pub(crate) struct Timeline {
    pub(crate) start: Instant,
    operations: Mutex<Vec<Operation>>,
}

/// The longest that one direction stood still.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Stalls {
    pub(crate) operations: u64,
    pub(crate) failed: u64,
    /// From the start of an operation until one succeeded, however many failed in between.
    pub(crate) longest_ms: u64,
}

impl Timeline {
    pub(crate) fn new(start: Instant) -> Self {
        Timeline { start, operations: Mutex::default() }
    }

    pub(crate) fn add(&self, operation: Operation) {
        self.operations.lock().push(operation);
    }

    /// The stalls of `direction` that overlap one of these periods (in seconds).
    pub(crate) fn stalls(&self, direction: Direction, periods: &[(f64, f64)]) -> Stalls {
        stalls(&self.operations.lock(), direction, |from, to| {
            periods.iter().any(|(start, end)| from <= *end && to >= *start)
        })
    }

    /// How long the operations of `direction` took that began and succeeded between two times (in seconds),
    /// sorted.
    pub(crate) fn latencies(&self, direction: Direction, from: f64, to: f64) -> Vec<Duration> {
        let within = |o: &&Operation| {
            o.direction == direction
                && o.outcome == Outcome::Done
                && (from..to).contains(&o.started.as_secs_f64())
        };
        let operations = self.operations.lock();
        let mut took: Vec<Duration> =
            operations.iter().filter(within).map(|o| o.ended.saturating_sub(o.started)).collect();
        took.sort_unstable();
        took
    }

    /// The stalls that overlap none of these periods.
    pub(crate) fn stalls_outside(&self, direction: Direction, periods: &[(f64, f64)]) -> Stalls {
        stalls(&self.operations.lock(), direction, |from, to| {
            !periods.iter().any(|(start, end)| from <= *end && to >= *start)
        })
    }
}

fn stalls(
    operations: &[Operation],
    direction: Direction,
    counts: impl Fn(f64, f64) -> bool,
) -> Stalls {
    let mut stalls = Stalls::default();
    let mut since: Option<Duration> = None;
    for operation in operations.iter().filter(|operation| operation.direction == direction) {
        let failed = operation.outcome != Outcome::Done;
        let from = since.unwrap_or(operation.started);
        since = failed.then_some(from);
        if !counts(from.as_secs_f64(), operation.ended.as_secs_f64()) {
            continue;
        }
        stalls.operations += 1;
        stalls.failed += u64::from(failed);
        let took = u64::try_from((operation.ended - from).as_millis()).unwrap_or(u64::MAX);
        stalls.longest_ms = stalls.longest_ms.max(took);
    }
    stalls
}

#[cfg(test)]
mod tests {
    use super::*;

    fn operation(from: u64, to: u64, outcome: Outcome) -> Operation {
        let at = Duration::from_millis;
        Operation { direction: Direction::Write, started: at(from), ended: at(to), outcome }
    }

    #[test]
    fn a_stall_lasts_until_an_operation_succeeds() {
        use Outcome::*;
        let operations = [
            operation(0, 10, Done),
            operation(1000, 3000, Failed),
            operation(3100, 4000, Unknown),
            operation(4100, 4200, Done),
            operation(9000, 9007, Done),
        ];
        let during = |from, to| {
            stalls(&operations, Direction::Write, move |start, end| start <= to && end >= from)
        };
        assert_eq!(during(0.0, 0.5).longest_ms, 10);
        assert_eq!(during(1.5, 2.0), Stalls { operations: 3, failed: 2, longest_ms: 3200 });
        assert_eq!(during(8.0, 10.0).longest_ms, 7);
        assert_eq!(stalls(&operations, Direction::Read, |_, _| true), Stalls::default());
    }
}
