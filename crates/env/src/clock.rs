//! Time. Monotonic time is tokio's, which the simulator drives; the wall clock is only for people.

use everhold_proto::Timestamp;
use std::future::Future;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The port to time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// `None`: ask the operating system.
    simulated: Option<Simulated>,
}

/// The clocks of one process in the simulator.
#[derive(Clone, Copy, Debug)]
struct Simulated {
    /// Wall time at `started`.
    wall: Timestamp,
    started: Instant,
    /// How far it was set forward since, in nanoseconds.
    set_by: &'static AtomicI64,
    /// How fast both clocks run.
    rate: Rate,
}

/// How fast a simulated clock runs, in millionths of the simulator's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u32);

impl Rate {
    /// As fast as the simulator's time.
    pub const EXACT: Rate = Rate(1_000_000);

    /// What this clock shows of a span of the simulator's time.
    fn shown(self, span: Duration) -> Duration {
        scale(span, self.0, Rate::EXACT.0)
    }

    /// How much of the simulator's time passes while this clock shows a span.
    fn real(self, span: Duration) -> Duration {
        scale(span, Rate::EXACT.0, self.0)
    }
}

fn scale(span: Duration, by: u32, over: u32) -> Duration {
    let nanos = span.as_nanos() * u128::from(by) / u128::from(over.max(1));
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A wait that reached its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("deadline exceeded")]
pub struct DeadlineExceeded;

impl Clock {
    /// The operating system's clock.
    pub fn real() -> Self {
        Clock { simulated: None }
    }

    /// A wall clock that starts at `wall` and advances with tokio's (simulated) time, at a `rate` that monotonic time has
    /// too. Whoever holds `set_by` may set it forward or back, by nanoseconds, as an administrator or NTP does.
    pub fn simulated(wall: Timestamp, set_by: &'static AtomicI64, rate: Rate) -> Self {
        Clock { simulated: Some(Simulated { wall, started: Instant::now(), set_by, rate }) }
    }

    /// Monotonic now.
    pub fn now(&self) -> Instant {
        match self.simulated {
            Some(Simulated { started, rate, .. }) => started + rate.shown(started.elapsed()),
            None => Instant::now(),
        }
    }

    /// The simulator's time at an instant of this clock.
    fn real_instant(&self, at: Instant) -> Instant {
        match self.simulated {
            Some(Simulated { started, rate, .. }) => {
                started + rate.real(at.saturating_duration_since(started))
            }
            None => at,
        }
    }

    fn real_span(&self, span: Duration) -> Duration {
        self.simulated.map_or(span, |simulated| simulated.rate.real(span))
    }

    /// Wall-clock now. Nothing may be ordered or decided by it.
    #[expect(clippy::disallowed_methods, reason = "this is the port that others must use")]
    pub fn wall(&self) -> Timestamp {
        match self.simulated {
            Some(Simulated { wall, started, set_by, rate }) => {
                let since = rate.shown(started.elapsed()).as_nanos() as i64;
                Timestamp(wall.0.saturating_add(since).saturating_add(set_by.load(Relaxed)))
            }
            None => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp(since.as_nanos() as i64)
            }
        }
    }

    /// Waits for `duration`.
    pub async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(self.real_span(duration)).await;
    }

    /// Waits for `future` until `deadline`; the future is dropped when it is reached.
    pub async fn until<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, DeadlineExceeded> {
        tokio::time::timeout_at(self.real_instant(deadline), future)
            .await
            .map_err(|_| DeadlineExceeded)
    }

    /// Waits for `future` at most `limit`.
    pub async fn within<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, DeadlineExceeded> {
        tokio::time::timeout(self.real_span(limit), future).await.map_err(|_| DeadlineExceeded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A clock that is a tenth too slow shows nine seconds of ten, and waits ten for nine.
    #[tokio::test(start_paused = true)]
    async fn clocks_drift() {
        static SET_BY: AtomicI64 = AtomicI64::new(0);
        let clock = Clock::simulated(Timestamp(5), &SET_BY, Rate(900_000));
        let (began, really) = (clock.now(), Instant::now());
        clock.sleep(Duration::from_secs(9)).await;
        assert_eq!(really.elapsed().as_secs(), 10);
        assert_eq!((clock.now() - began).as_millis().div_ceil(10), 900);
        let deadline = clock.now() + Duration::from_secs(18);
        assert!(clock.until(deadline, std::future::pending::<()>()).await.is_err());
        assert_eq!(really.elapsed().as_secs(), 30);
        assert!(clock.within(Duration::from_secs(9), std::future::pending::<()>()).await.is_err());
        assert_eq!(really.elapsed().as_secs(), 40);
        assert_eq!((clock.wall().0 - 5) / 1_000_000_000, 36);
    }
}
