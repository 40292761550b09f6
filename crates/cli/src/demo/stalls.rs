//! How long operations took, in which window, and which failed. Every operation of the demo is
//! recorded here; none is excluded.

use parking_lot::Mutex;
use serde::Serialize;
use std::time::{Duration, Instant};

/// Which fault the cluster lives with when an operation *ends*: an operation that a kill interrupts
/// counts for that kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Window {
    /// None yet.
    Healthy = 0,
    /// The storage node was killed.
    StorageNodeKilled = 1,
    /// The leader was killed too.
    LeaderKilled = 2,
}

/// Whether an operation writes or reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// Writes.
    Write = 0,
    /// Reads.
    Read = 1,
}

/// What is known of one direction in one window.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Stalls {
    /// Operations.
    pub(crate) operations: u64,
    /// Failed ones.
    pub(crate) failed: u64,
    /// The longest one.
    pub(crate) longest_ms: u64,
    /// What the longest one was.
    pub(crate) longest_was: String,
}

/// Failures told one by one; more are only counted.
const FAILURES_TOLD_MAX: usize = 20;

struct Records {
    window: Window,
    stalls: [[Stalls; 2]; 3],
    failures: Vec<String>,
}

/// The recorder, shared by everything that operates on files.
pub(crate) struct Recorder(Mutex<Records>);

impl Default for Recorder {
    fn default() -> Self {
        Recorder(Mutex::new(Records {
            window: Window::Healthy,
            stalls: Default::default(),
            failures: Vec::new(),
        }))
    }
}

impl Recorder {
    /// From now on operations end in `window`.
    pub(crate) fn enter(&self, window: Window) {
        let mut records = self.0.lock();
        assert!(records.window < window, "windows follow each other");
        records.window = window;
    }

    /// Records an operation that began at `started` and ends now.
    pub(crate) fn ended<T, E: std::fmt::Display>(
        &self,
        direction: Direction,
        what: impl FnOnce() -> String,
        started: Instant,
        result: &Result<T, E>,
    ) {
        self.add(direction, what, started.elapsed(), result.as_ref().err().map(E::to_string));
    }

    fn add(
        &self,
        direction: Direction,
        what: impl FnOnce() -> String,
        took: Duration,
        failure: Option<String>,
    ) {
        let mut records = self.0.lock();
        let window = records.window;
        let stalls = &mut records.stalls[window as usize][direction as usize];
        stalls.operations += 1;
        stalls.failed += u64::from(failure.is_some());
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let longest = took_ms > stalls.longest_ms;
        if longest {
            stalls.longest_ms = took_ms;
        }
        if !longest && failure.is_none() {
            return;
        }
        let what = what();
        if longest {
            stalls.longest_was.clone_from(&what);
        }
        if let Some(failure) = failure
            && records.failures.len() < FAILURES_TOLD_MAX
        {
            records.failures.push(format!("{what} ({took_ms} ms): {failure}"));
        }
    }

    /// One direction in one window.
    pub(crate) fn of(&self, window: Window, direction: Direction) -> Stalls {
        self.0.lock().stalls[window as usize][direction as usize].clone()
    }

    /// All operations and all failed ones.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let records = self.0.lock();
        let all = || records.stalls.iter().flatten();
        (all().map(|s| s.operations).sum(), all().map(|s| s.failed).sum())
    }

    /// The first failures.
    pub(crate) fn failures(&self) -> Vec<String> {
        self.0.lock().failures.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_counts_where_it_ends() {
        let recorder = Recorder::default();
        let add = |ms, failure: Option<&str>| {
            let took = Duration::from_millis(ms);
            recorder.add(Direction::Write, || format!("op {ms}"), took, failure.map(Into::into));
        };
        add(5, None);
        recorder.enter(Window::StorageNodeKilled);
        add(300, None);
        add(20, Some("gone"));
        let healthy = recorder.of(Window::Healthy, Direction::Write);
        assert_eq!((healthy.operations, healthy.longest_ms), (1, 5));
        let killed = recorder.of(Window::StorageNodeKilled, Direction::Write);
        assert_eq!((killed.operations, killed.failed, killed.longest_ms), (2, 1, 300));
        assert_eq!(killed.longest_was, "op 300");
        assert_eq!(recorder.totals(), (3, 1));
        assert_eq!(recorder.failures(), ["op 20 (20 ms): gone"]);
    }
}
