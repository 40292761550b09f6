//! Time. Monotonic time is tokio's, which the simulator drives; the wall clock is only for people.

use everhold_proto::Timestamp;
use std::future::Future;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// The port to time.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// In the simulator: the wall time at `started`. `None`: ask the operating system.
    simulated: Option<(Timestamp, Instant)>,
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

    /// A wall clock that starts at `wall` and advances with tokio's (simulated) time.
    pub fn simulated(wall: Timestamp) -> Self {
        Clock { simulated: Some((wall, Instant::now())) }
    }

    /// Monotonic now.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Wall-clock now. Nothing may be ordered or decided by it.
    #[expect(clippy::disallowed_methods, reason = "this is the port that others must use")]
    pub fn wall(&self) -> Timestamp {
        match self.simulated {
            Some((wall, started)) => Timestamp(wall.0 + started.elapsed().as_nanos() as i64),
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
