//! Whether the leader has been told that this client makes no changes behind its delegations. Pure.
//!
//! A delegation of a client that falls silent is taken from it at once only while the leader knows that nothing can be
//! lost by it. So a client that is about to make a change after a while without any tells the leader first.
//!
//! **Invariant:** while the number is even, nothing is done behind delegations, and nothing waits to be told.

use std::time::Duration;
use tokio::time::Instant;

/// Without a change for so long a client counts as idle. Each change after that costs a call more.
const IDLE: Duration = Duration::from_secs(2);

/// A number that is odd while the client may have changes to tell, and rises whenever that begins or ends. A leader that
/// heard nothing takes a client for active.
#[derive(Debug)]
pub(super) struct Activity {
    number: u64,
    changed: Option<Instant>,
}

impl Default for Activity {
    fn default() -> Self {
        Activity { number: 1, changed: None }
    }
}

impl Activity {
    pub(super) fn is_active(&self) -> bool {
        self.number % 2 == 1
    }

    /// The number that says that changes begin.
    pub(super) fn next(&self) -> u64 {
        self.number + 1
    }

    /// The leader knows that changes begin, by this number.
    pub(super) fn begin(&mut self, number: u64, now: Instant) {
        if number == self.next() {
            self.number = number;
            self.changed = Some(now);
        }
    }

    /// A change was made.
    pub(super) fn changed(&mut self, now: Instant) {
        self.changed = Some(now);
    }

    /// What the leader is told now. `is_idle`: nothing waits.
    pub(super) fn report(&mut self, is_idle: bool, now: Instant) -> u64 {
        let since = *self.changed.get_or_insert(now);
        if self.is_active() && is_idle && now.saturating_duration_since(since) >= IDLE {
            self.number += 1;
        }
        self.number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_begin_only_when_the_leader_knows() {
        let (mut activity, now) = (Activity::default(), Instant::now());
        assert!(activity.is_active());
        assert_eq!(activity.report(true, now), 1, "just begun");
        activity.changed(now + IDLE);
        assert_eq!(activity.report(true, now + IDLE * 3 / 2), 1);
        assert_eq!(activity.report(false, now + IDLE * 3), 1, "something waits");
        assert_eq!(activity.report(true, now + IDLE * 3), 2);
        assert!(!activity.is_active());
        activity.begin(1, now);
        assert!(!activity.is_active(), "a late answer begins nothing");
        activity.begin(activity.next(), now + IDLE * 3);
        assert!(activity.is_active());
        assert_eq!(activity.report(true, now + IDLE * 3), 3);
    }
}
