//! A circuit breaker: after failures in a row a peer is left alone, and a probe ends that.
//!
//! Half-open is more than one state here. A small probe may pass where real work gets stuck, and a peer that is merely
//! slow would be given everything at once after each probe, all of it late. So a peer comes back as a TCP connection
//! starts (Jacobson, "Congestion Avoidance and Control", 1988): one call at a time first, one more with each that
//! ends well, which doubles them every round trip; a failure opens it again, for longer.

use everhold_proto::rpc::BreakerState;
use std::time::Duration;
use tokio::time::Instant;

/// Failures in a row that open it: one may be bad luck, three are a pattern.
const FAILURES_MAX: u32 = 3;
/// First pause; doubled with each strike up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause: the longest that a healed node is still left alone.
const PAUSE_MAX: Duration = Duration::from_secs(3);

/// A peer is back when so many calls may be under way to it.
const WINDOW_BACK: u32 = 16;

/// How bad a failure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Severity {
    /// Nobody is there: opens at once.
    Gone,
    /// Late, broken, failed: opens after some in a row.
    Failed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Instant },
    Probing { until: Instant },
    Recovering { window: u32 },
}

/// The state of one peer.
#[derive(Clone, Debug)]
pub(crate) struct Breaker {
    state: State,
    /// Times that it opened since the peer last worked for real.
    strikes: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Breaker { state: State::Closed { failures: 0 }, strikes: 0 }
    }
}

impl Breaker {
    /// Whether work may be sent.
    pub(crate) fn allows(&self) -> bool {
        matches!(self.state, State::Closed { .. })
    }

    /// How many calls may be under way; `None`: any number.
    pub(crate) fn window(&self) -> Option<u32> {
        match self.state {
            State::Closed { .. } => None,
            State::Open { .. } | State::Probing { .. } => Some(0),
            State::Recovering { window } => Some(window),
        }
    }

    /// Whether it comes back, a few calls at a time.
    pub(crate) fn is_recovering(&self) -> bool {
        matches!(self.state, State::Recovering { .. })
    }

    /// What it does.
    pub(crate) fn position(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::Probing { .. } | State::Recovering { .. } => BreakerState::HalfOpen,
        }
    }

    /// Whether a probe is due; the caller must send one, and no other is due until it is late.
    pub(crate) fn begin_probe(&mut self, now: Instant, limit: Duration) -> bool {
        match self.state {
            State::Open { until } | State::Probing { until } if now >= until => {
                self.state = State::Probing { until: now + limit };
                true
            }
            _ => false,
        }
    }

    /// Real work succeeded. Says whether the state changed.
    pub(crate) fn succeed(&mut self) -> bool {
        match &mut self.state {
            State::Closed { .. } => {
                *self = Breaker::default();
                false
            }
            // An old call that ends late proves nothing.
            State::Open { .. } => false,
            State::Probing { .. } => self.probe_succeeded(),
            State::Recovering { window } => {
                *window += 1;
                let back = *window >= WINDOW_BACK;
                if back {
                    *self = Breaker::default();
                }
                back
            }
        }
    }

    /// A probe succeeded: a first call may be sent.
    pub(crate) fn probe_succeeded(&mut self) -> bool {
        let probed = matches!(self.state, State::Open { .. } | State::Probing { .. });
        if probed {
            self.state = State::Recovering { window: 1 };
        }
        probed
    }

    /// Work or a probe failed; `jitter` in 0..1 keeps clients from probing in step. Says whether
    /// the state changed.
    pub(crate) fn fail(&mut self, severity: Severity, now: Instant, jitter: f64) -> bool {
        let failures = match self.state {
            State::Closed { failures } => failures + 1,
            State::Open { .. } => return false, // an old call that ends late proves nothing new
            State::Probing { .. } | State::Recovering { .. } => FAILURES_MAX,
        };
        if failures < FAILURES_MAX && severity == Severity::Failed {
            self.state = State::Closed { failures };
            return false;
        }
        let pause = (PAUSE_MIN * 2u32.saturating_pow(self.strikes)).min(PAUSE_MAX);
        self.strikes = (self.strikes + 1).min(16);
        self.state = State::Open { until: now + pause.mul_f64(0.5 + jitter / 2.0) };
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBE: Duration = Duration::from_secs(1);

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        for _ in 0..10 {
            breaker.fail(Severity::Failed, now, 0.0);
            breaker.fail(Severity::Failed, now, 0.0);
            assert!(breaker.allows());
            breaker.succeed();
        }
        for _ in 0..FAILURES_MAX {
            breaker.fail(Severity::Failed, now, 0.0);
        }
        assert!(!breaker.allows());
    }

    #[test]
    fn a_gone_peer_opens_it_at_once() {
        let mut breaker = Breaker::default();
        assert!(breaker.fail(Severity::Gone, Instant::now(), 0.0));
        assert!(!breaker.allows());
    }

    #[test]
    fn one_probe_at_a_time_and_pauses_grow() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        breaker.fail(Severity::Gone, start, 1.0);
        assert!(!breaker.begin_probe(start, PROBE));
        let due = start + PAUSE_MIN;
        assert!(breaker.begin_probe(due, PROBE));
        assert!(!breaker.begin_probe(due, PROBE), "one is under way");
        breaker.fail(Severity::Failed, due, 1.0);
        assert!(!breaker.begin_probe(due + PAUSE_MIN, PROBE), "the second pause is longer");
        assert!(breaker.begin_probe(due + PAUSE_MIN * 2, PROBE));
        assert!(breaker.probe_succeeded());
        assert_eq!(breaker.window(), Some(1));
        breaker.fail(Severity::Failed, due, 1.0);
        assert_eq!(breaker.window(), Some(0), "after a probe, the first failure opens it again");
    }

    /// A peer gets its work back bit by bit, and what ended well before it was left alone does not count.
    #[test]
    fn it_closes_by_a_growing_window() {
        let (mut breaker, now) = (Breaker::default(), Instant::now());
        breaker.fail(Severity::Gone, now, 0.0);
        assert!(!breaker.succeed());
        assert_eq!(breaker.position(), BreakerState::Open);
        assert!(breaker.begin_probe(now + PAUSE_MAX, PROBE));
        assert!(breaker.probe_succeeded() && breaker.is_recovering());
        for window in 1..WINDOW_BACK {
            assert_eq!((breaker.window(), breaker.allows()), (Some(window), false));
            assert_eq!(breaker.succeed(), window + 1 == WINDOW_BACK);
        }
        assert!(breaker.allows());
        assert_eq!(breaker.window(), None);
    }

    #[test]
    fn a_lost_probe_is_repeated() {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        breaker.fail(Severity::Gone, start, 0.0);
        let due = start + PAUSE_MIN;
        assert!(breaker.begin_probe(due, PROBE));
        assert!(breaker.begin_probe(due + PROBE, PROBE));
    }
}
