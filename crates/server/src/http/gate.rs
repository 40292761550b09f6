//! Bounds on work under way: a number of calls, or a number of bytes. What does not fit waits in a
//! short queue; what finds the queue full, or waits too long, is told `Busy`.

use everhold_env::Env;
use everhold_proto::{Error, Kind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Nobody waits longer than this: a caller does better somewhere else, or later.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// A bound on the number of calls under way.
pub(crate) struct Gate(Budget);

impl Gate {
    /// Lets `calls_max` calls through at once, and as many wait.
    pub(crate) fn new(what: &'static str, calls_max: usize) -> Self {
        Gate(Budget::new(what, calls_max, calls_max))
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self, env: &Env) -> Result<OwnedSemaphorePermit, Error> {
        self.0.take(env, 1).await
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

    /// Takes `units` until the permit is dropped; more than there are at all count as all.
    pub(crate) async fn take(
        &self,
        env: &Env,
        units: usize,
    ) -> Result<OwnedSemaphorePermit, Error> {
        let units = u32::try_from(units.min(self.units_max)).unwrap_or(u32::MAX);
        if let Ok(permit) = self.units.clone().try_acquire_many_owned(units) {
            return Ok(permit);
        }
        let busy = || Error::new(Kind::Busy, format!("too many {} at once", self.what));
        let _place = Place::take(&self.waiting, self.waiting_max).ok_or_else(busy)?;
        match env.clock.within(WAIT_MAX, self.units.clone().acquire_many_owned(units)).await {
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

    /// A full budget queues one caller, sheds the next, and goes on when units come back.
    #[tokio::test(start_paused = true)]
    async fn queues_then_sheds() {
        let env = Env::real();
        let budget = Arc::new(Budget::new("bytes", 10, 1));
        let all = budget.take(&env, 99).await.expect("is capped to all there is");
        let (queue, wait_env) = (budget.clone(), env.clone());
        let queued = env.tasks.spawn(async move { queue.take(&wait_env, 5).await.is_ok() });
        while budget.waiting.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(budget.take(&env, 1).await.expect_err("queue is full").kind, Kind::Busy);
        drop(all);
        assert_eq!(queued.join().await, Some(true));
        let _all = budget.take(&env, 10).await.expect("all came back");
        assert_eq!(budget.take(&env, 1).await.expect_err("waited long enough").kind, Kind::Busy);
        assert_eq!(budget.waiting.load(Ordering::Relaxed), 0);
    }
}
