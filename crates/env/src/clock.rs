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

/// A wall clock in the simulator.
#[derive(Clone, Copy, Debug)]
struct Simulated {
    /// Wall time at `started`.
    wall: Timestamp,
    started: Instant,
    /// How far it was set forward since, in nanoseconds.
    set_by: &'static AtomicI64,
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

    /// A wall clock that starts at `wall` and advances with tokio's (simulated) time. Whoever holds
    /// `set_by` may set it forward or back, by nanoseconds, as an administrator or NTP does.
    pub fn simulated(wall: Timestamp, set_by: &'static AtomicI64) -> Self {
        Clock { simulated: Some(Simulated { wall, started: Instant::now(), set_by }) }
    }

    /// Monotonic now.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Wall-clock now. Nothing may be ordered or decided by it.
    #[expect(clippy::disallowed_methods, reason = "this is the port that others must use")]
    pub fn wall(&self) -> Timestamp {
        match self.simulated {
            Some(Simulated { wall, started, set_by }) => {
                let since = started.elapsed().as_nanos() as i64;
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
        tokio::time::sleep(duration).await;
    }

    /// Waits for `future` until `deadline`; the future is dropped when it is reached.
    pub async fn until<F: Future>(
        &self,
        deadline: Instant,
        future: F,
    ) -> Result<F::Output, DeadlineExceeded> {
        tokio::time::timeout_at(deadline, future).await.map_err(|_| DeadlineExceeded)
    }

    /// Waits for `future` at most `limit`.
    pub async fn within<F: Future>(
        &self,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, DeadlineExceeded> {
        tokio::time::timeout(limit, future).await.map_err(|_| DeadlineExceeded)
    }
}
