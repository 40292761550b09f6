//! A circuit breaker with what is under way past it, and with what it can tell about itself.

use super::breaker::{Breaker, Severity};
use everhold_proto::rpc::{BreakerState, BreakerStatus};
use everhold_proto::{DiskId, NodeId};
use tokio::time::Instant;

/// Stands before a node, or before a disk.
#[derive(Default)]
pub(super) struct Guard {
    pub(super) breaker: Breaker,
    /// Calls that are under way.
    pub(super) under_way: u32,
    /// Since when the breaker is not closed, and why it opened last.
    since: Option<Instant>,
    reason: String,
}

impl Guard {
    /// Whether one more call may be under way.
    pub(super) fn admits(&self) -> bool {
        self.breaker.window().is_none_or(|most| self.under_way < most)
    }

    /// Whether it comes back, and has room for a call.
    pub(super) fn is_to_be_tried(&self) -> bool {
        self.breaker.is_recovering() && self.admits()
    }

    /// Real work succeeded. Says whether the state changed.
    pub(super) fn succeed(&mut self) -> bool {
        let changed = self.breaker.succeed();
        if self.breaker.allows() {
            self.since = None;
        }
        changed
    }

    /// Work or a probe failed. Says whether the breaker opened.
    pub(super) fn fail(
        &mut self,
        severity: Severity,
        now: Instant,
        jitter: f64,
        reason: impl FnOnce() -> String,
    ) -> bool {
        let opened = self.breaker.fail(severity, now, jitter);
        if opened {
            self.since.get_or_insert(now);
            self.reason = reason();
        }
        opened
    }

    /// Closed, as if nothing had been; what is under way stays counted.
    pub(super) fn reset(&mut self) {
        *self = Guard { under_way: self.under_way, ..Guard::default() };
    }

    /// What is told of it; `None`: it is closed.
    pub(super) fn status(
        &self,
        of: &str,
        node: NodeId,
        disk: Option<DiskId>,
        now: Instant,
    ) -> Option<BreakerStatus> {
        let state = self.breaker.position();
        let lasted = now.saturating_duration_since(self.since.unwrap_or(now));
        (state != BreakerState::Closed).then(|| BreakerStatus {
            of: of.into(),
            node,
            disk,
            state,
            for_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
            reason: self.reason.clone(),
        })
    }
}
