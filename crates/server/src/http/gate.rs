//! Fixed bounds on what is held: a number of calls, or a number of bytes. What does not fit waits in a
//! short queue; what finds the queue full, or waits too long, is told `Busy`. How much *work* is taken on adapts to
//! what can be done in time: that is [`everhold_client::Admission`].

use everhold_env::Env;
use everhold_proto::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// Nobody waits longer than this: a caller does better somewhere else, or later.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(2);
/// After so long it is worth asking again.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// A bound on the number of calls under way.
pub(crate) struct Gate(Budget);

impl Gate {
    /// Lets `calls_max` calls through at once, and as many wait.
    pub(crate) fn new(what: &'static str, calls_max: usize) -> Self {
        Gate(Budget::new(what, calls_max, calls_max))
    }

    /// Waits for a place, at most until the deadline.
    pub(crate) async fn enter(
        &self,
        env: &Env,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, Error> {
        self.0.take(env, 1, deadline).await
    }
}

/// A bound on an amount that calls hold together.
pub(crate) struct Budget {
    what: &'static str,
    units: Arc<Semaphore>,
    units_max: usize,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Budget {
    /// A budget of `units_max`, for which at most `waiting_max` calls wait.
    pub(crate) fn new(what: &'static str, units_max: usize, waiting_max: usize) -> Self {
        let units = Arc::new(Semaphore::new(units_max));
        Budget { what, units, units_max, waiting: AtomicUsize::new(0), waiting_max }
    }

    /// Takes `units` until the permit is dropped; more than there are at all count as all. Nobody waits past its
    /// deadline.
    pub(crate) async fn take(
        &self,
        env: &Env,
        units: usize,
        deadline: Instant,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let units = u32::try_from(units.min(self.units_max)).unwrap_or(u32::MAX);
        if let Ok(permit) = self.units.clone().try_acquire_many_owned(units) {
            return Ok(permit);
        }
        let busy = || Error::busy(format!("too many {} at once", self.what), RETRY_AFTER);
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or_else(busy)?;
        let until = deadline.min(env.clock.now() + WAIT_MAX);
        match env.clock.until(until, self.units.clone().acquire_many_owned(units)).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) | Err(_) => Err(busy()),
        }
    }
}

/// A place in a queue, given back on drop.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, max: usize) -> Option<Self> {
        let place = Place(waiting);
        // Dropping `place` takes the increment back when the queue was full.
        (waiting.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::Kind;

    /// A full budget queues one caller, sheds the next, and goes on when units come back.
    #[tokio::test(start_paused = true)]
    async fn queues_then_sheds() {
        let env = Env::real();
        let budget = Arc::new(Budget::new("bytes", 10, 1));
        let later = env.clock.now() + Duration::from_secs(60);
        let all = budget.take(&env, 99, later).await.expect("is capped to all there is");
        let (queue, wait_env) = (budget.clone(), env.clone());
        let queued = env.tasks.spawn(async move { queue.take(&wait_env, 5, later).await.is_ok() });
        while budget.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(budget.take(&env, 1, later).await.expect_err("queue is full").kind, Kind::Busy);
        drop(all);
        assert_eq!(queued.join().await, Some(true));
        let _all = budget.take(&env, 10, later).await.expect("all came back");
        assert_eq!(
            budget.take(&env, 1, later).await.expect_err("waited long enough").kind,
            Kind::Busy
        );
        assert_eq!(budget.waiting.load(Ordering::Relaxed), 0);
    }
}
