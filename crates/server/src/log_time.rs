//! The time that a leader stamps into commands. Log time advances by elapsed time since the
//! leadership began, from where the replicated state stood then; the wall clock only goes into file
//! times.

use everhold_env::Clock;
use everhold_proto::Stamp;
use parking_lot::Mutex;
use tokio::time::Instant;

/// One node's view of log time.
#[derive(Default)]
pub(crate) struct LogTime(Mutex<Option<Base>>);

#[derive(Clone, Copy)]
struct Base {
    term: u64,
    log_ms: u64,
    at: Instant,
}

impl LogTime {
    /// The stamp for a command proposed now, in `term`. `applied_ms` reads the log time of the
    /// replicated state; it is asked once per term.
    pub(crate) fn stamp<E>(
        &self,
        clock: &Clock,
        term: u64,
        applied_ms: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Stamp, E> {
        let mut base = self.0.lock();
        let now = clock.now();
        let current = match *base {
            Some(base) if base.term == term => base,
            _ => *base.insert(Base { term, log_ms: applied_ms()?, at: now }),
        };
        let elapsed = now.saturating_duration_since(current.at).as_millis();
        let log_ms = current.log_ms.saturating_add(u64::try_from(elapsed).unwrap_or(u64::MAX));
        Ok(Stamp { log_ms, wall: clock.wall() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use std::time::Duration;

    /// Time goes on from the state's, by elapsed time, and starts anew with each term.
    #[tokio::test(start_paused = true)]
    async fn advances_by_elapsed_time() {
        let (clock, time) = (Clock::real(), LogTime::default());
        let at = |term, applied| {
            let stamp = time.stamp(&clock, term, || Ok::<u64, Infallible>(applied));
            stamp.map(|s| s.log_ms).expect("cannot fail")
        };
        assert_eq!(at(1, 1000), 1000);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!(at(1, 9999), 1250);
        assert_eq!(at(3, 5000), 5000);
    }
}
