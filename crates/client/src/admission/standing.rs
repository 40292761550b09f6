//! When a queue is served from its end: see `queue`.

use std::time::Duration;
use tokio::time::Instant;

/// A queue that was not empty for so long stands.
pub(crate) const STANDING: Duration = Duration::from_millis(100);
/// While it stands, the longest waiting get every so manieth turn.
const OLDEST_EVERY: u32 = 16;

/// Whether a queue stands, and whose turn it is. Pure: times come from the caller.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    /// Since when it has not been empty.
    since: Option<Instant>,
    turns: u32,
}

impl Standing {
    /// Something was added.
    pub(crate) fn filled(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Nothing waits any more.
    pub(crate) fn emptied(&mut self) {
        self.since = None;
    }

    /// Whether it was not empty for long.
    pub(crate) fn stands(&self, now: Instant) -> bool {
        self.since.is_some_and(|at| now.saturating_duration_since(at) >= STANDING)
    }

    /// Takes a turn; says whether it is that of the newest.
    pub(crate) fn is_for_newest(&mut self, now: Instant) -> bool {
        if !self.stands(now) {
            return false;
        }
        self.turns = (self.turns + 1) % OLDEST_EVERY;
        self.turns != 0
    }
}
