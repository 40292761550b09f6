//! Admission: how much is taken on at once, and who waits, so that under overload what is taken on ends in time.
//!
//! Clients use it for their blocks and servers for their calls; [`limit`] says how much, `queue` who is next. What
//! finds the queue full, or waits too long in it, is told `Busy` with a time after which asking again is worth it:
//! the earliest refusal is the cheapest. Less important work gets less of the places, so that it is squeezed out first
//! as the limit falls, but each class that waits keeps one place: repair and scrub always end.
//!
//! **Invariant:** whoever is past its deadline is not admitted: nobody works for callers who have given up.

mod limit;
mod queue;
mod standing;

#[cfg(test)]
pub(crate) use standing::STANDING;
pub(crate) use standing::Standing;

pub use limit::{Limit, LimitConfig};

use everhold_env::{Clock, Env};
use everhold_proto::{Error, Priority};
use parking_lot::Mutex;
use queue::{Queue, Waiter};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Bounds of the time after which a refused caller should ask again.
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

/// How much is taken on.
#[derive(Clone, Copy, Debug)]
pub struct AdmissionConfig {
    /// What is taken on, for people: "blocks".
    pub what: &'static str,
    /// Places.
    pub limit: LimitConfig,
    /// How many may wait.
    pub waiting_max: usize,
    /// Nobody waits longer than this, however far away its deadline is.
    pub wait_max: Duration,
}

/// See the module's words.
pub struct Admission {
    config: AdmissionConfig,
    clock: Clock,
    inner: Mutex<Inner>,
    shed: [AtomicU64; Priority::ALL.len()],
}

struct Inner {
    limit: Limit,
    under_way: [usize; Priority::ALL.len()],
    queue: Queue<oneshot::Sender<Place>>,
}

/// A place among what is under way; given back when this is dropped.
pub struct Place {
    admission: Arc<Admission>,
    priority: Priority,
    began: Instant,
    under_way: usize,
}

/// What an admission looks like at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Places that there are.
    pub limit: usize,
    /// Places that are taken.
    pub under_way: usize,
    /// Who wait for one.
    pub waiting: usize,
}

/// The share of the places that a class may take while others could use them, in eighths.
fn eighths(priority: Priority) -> usize {
    match priority {
        Priority::Scrub | Priority::Rebalance => 2,
        Priority::Repair => 4,
        Priority::Foreground => 8,
        // What keeps the cluster together is not held back by what it would help.
        Priority::Control => 16,
    }
}

impl Admission {
    /// With nothing under way.
    pub fn new(env: &Env, config: AdmissionConfig) -> Arc<Self> {
        let inner = Inner {
            limit: Limit::new(config.limit),
            under_way: Default::default(),
            queue: Queue::new(config.waiting_max),
        };
        let (clock, shed) = (env.clock, Default::default());
        Arc::new(Admission { config, clock, inner: Mutex::new(inner), shed })
    }

    /// Waits for a place until the deadline, if there is not one at once. `Busy`: there are too many others.
    pub async fn enter(
        self: &Arc<Self>,
        priority: Priority,
        deadline: Instant,
    ) -> Result<Place, Error> {
        let now = self.clock.now();
        let deadline = deadline.min(now + self.config.wait_max);
        let mut told = {
            let mut inner = self.inner.lock();
            if inner.has_room(priority) && !inner.queue.has(priority) {
                return Ok(self.place(&mut inner, priority, now));
            }
            inner.limit.waited();
            let (tell, told) = oneshot::channel();
            let gone = inner.queue.push(Waiter { priority, deadline, tell }, now);
            drop(inner);
            // Dropped here, outside of the lock: it is told by the end of its channel.
            drop(gone);
            told
        };
        match self.clock.until(deadline, &mut told).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(self.busy(priority)),
        }
    }

    /// Refuses early what would not get a place before its deadline anyway, by what is usual.
    pub fn check(&self, priority: Priority, deadline: Instant) -> Result<(), Error> {
        let hopeless = {
            let inner = self.inner.lock();
            let left = deadline.saturating_duration_since(self.clock.now());
            !inner.has_room(priority) && inner.drained_after() > left
        };
        if hopeless { Err(self.busy(priority)) } else { Ok(()) }
    }

    /// A server refused what was admitted here: the limit falls.
    pub fn refused(&self) {
        self.inner.lock().limit.refused();
    }

    /// What it looks like now.
    pub fn admitted(&self) -> Admitted {
        let inner = self.inner.lock();
        Admitted {
            limit: inner.limit.current(),
            under_way: inner.under_way.iter().sum(),
            waiting: inner.queue.len(),
        }
    }

    /// How many of a class were sent away.
    pub fn shed(&self, priority: Priority) -> u64 {
        self.shed[priority as usize].load(Ordering::Relaxed)
    }

    fn busy(&self, priority: Priority) -> Error {
        self.shed[priority as usize].fetch_add(1, Ordering::Relaxed);
        let retry_after = self.inner.lock().drained_after();
        Error::busy(format!("too many {} at once", self.config.what), retry_after)
    }

    fn place(self: &Arc<Self>, inner: &mut Inner, priority: Priority, now: Instant) -> Place {
        inner.under_way[priority as usize] += 1;
        let under_way = inner.under_way.iter().sum();
        Place { admission: self.clone(), priority, began: now, under_way }
    }

    /// Gives free places to those who wait.
    fn admit(self: &Arc<Self>) {
        loop {
            let now = self.clock.now();
            let (waiter, place) = {
                let mut inner = self.inner.lock();
                let Some(waiter) = inner.next(now) else { return };
                let place = self.place(&mut inner, waiter.priority, now);
                (waiter, place)
            };
            // Whoever gave up meanwhile does not take its place: it comes back here, unused.
            if let Err(mut unused) = waiter.tell.send(place) {
                unused.forget();
            }
        }
    }
}

impl Inner {
    /// Whether one more of this class may begin.
    fn has_room(&self, priority: Priority) -> bool {
        let (limit, all) = (self.limit.current(), self.under_way.iter().sum::<usize>());
        let own = self.under_way[priority as usize];
        let share = limit * eighths(priority) / 8;
        let more_important = Priority::ALL.iter().any(|o| *o > priority && self.queue.has(*o));
        own == 0 || (!more_important && own < share && all < limit.max(share))
    }

    fn next(&mut self, now: Instant) -> Option<Waiter<oneshot::Sender<Place>>> {
        for priority in Priority::ALL.into_iter().rev() {
            while self.queue.has(priority) && self.has_room(priority) {
                let found = self.queue.pop(priority, now);
                if found.as_ref().is_some_and(|waiter| !waiter.tell.is_closed()) {
                    return found;
                }
            }
        }
        None
    }

    /// When those who wait now will have been served, by what is usual.
    fn drained_after(&self) -> Duration {
        let usual = self.limit.usual().unwrap_or(RETRY_AFTER_MIN);
        let rounds = self.queue.len() as f64 / self.limit.current().max(1) as f64;
        usual.mul_f64(rounds.min(1e6)).clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX)
    }
}

impl Place {
    /// What it was taken for ended well: its time tells how much can be taken on.
    pub fn ended(self) {
        self.measure();
    }

    /// The same, of a place that is kept for something whose time tells nothing.
    pub fn measure(&self) {
        let now = self.admission.clock.now();
        let took = now.saturating_duration_since(self.began);
        self.admission.inner.lock().limit.ended(took, self.under_way, now);
    }

    /// Nobody took it.
    fn forget(&mut self) {
        self.under_way = 0;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        {
            let mut inner = self.admission.inner.lock();
            inner.under_way[self.priority as usize] -= 1;
        }
        // A place that nobody took is offered on by the loop that offered it.
        if self.under_way > 0 {
            self.admission.admit();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(places: usize, waiting_max: usize) -> Arc<Admission> {
        let limit = LimitConfig {
            start: places,
            min: places,
            max: places,
            target: Duration::from_millis(50),
            tolerance: 2.0,
        };
        let wait_max = Duration::from_secs(2);
        let config = AdmissionConfig { what: "things", limit, waiting_max, wait_max };
        Admission::new(&Env::real(), config)
    }

    fn later(seconds: u64) -> Instant {
        Instant::now() + Duration::from_secs(seconds)
    }

    /// Starts to wait, and returns once it does.
    async fn queued(
        admission: &Arc<Admission>,
        priority: Priority,
        deadline: Instant,
    ) -> everhold_env::Task<Result<Place, Error>> {
        let (before, waiting) = (admission.admitted().waiting, admission.clone());
        let task = Env::real().tasks.spawn(async move { waiting.enter(priority, deadline).await });
        while admission.admitted().waiting == before {
            tokio::task::yield_now().await;
        }
        task
    }

    /// Places are bounded, waited for, given back to whoever is most important, and lost to nobody.
    #[tokio::test(start_paused = true)]
    async fn the_most_important_waiter_is_next() {
        let admission = admission(2, 8);
        let first = admission.enter(Priority::Foreground, later(9)).await.expect("there is room");
        let second = admission.enter(Priority::Foreground, later(9)).await.expect("there is room");
        // Repair and scrub keep one place each, beyond the limit; the next ones wait.
        let repair = admission.enter(Priority::Repair, later(9)).await.expect("one always may");
        let more_repair = queued(&admission, Priority::Repair, later(9)).await;
        let foreground = queued(&admission, Priority::Foreground, later(9)).await;
        drop(repair);
        drop(more_repair.join().await.expect("is not aborted").expect("repair always has one"));
        assert_eq!(admission.admitted().waiting, 1, "the foreground is at its limit");
        first.ended();
        drop(foreground.join().await.expect("is not aborted").expect("a place came free"));
        drop(second);
        assert_eq!(admission.admitted(), Admitted { limit: 2, under_way: 0, waiting: 0 });
    }

    /// Who waits in vain is told when to come back; who is past its deadline does not get a place.
    #[tokio::test(start_paused = true)]
    async fn waiting_ends() {
        let admission = admission(1, 1);
        let held = admission.enter(Priority::Foreground, later(9)).await.expect("there is room");
        let waiting = queued(&admission, Priority::Foreground, later(1)).await;
        let refused = admission.enter(Priority::Foreground, later(9)).await.err().expect("full");
        assert!(refused.retry_after().is_some(), "{refused:?}");
        assert!(waiting.join().await.expect("is not aborted").is_err());
        drop(held);
        assert_eq!(admission.admitted(), Admitted { limit: 1, under_way: 0, waiting: 0 });
        assert_eq!(admission.shed(Priority::Foreground), 2);
    }

    /// A waiter that is cancelled, even just after it was given its place, loses no place.
    #[tokio::test(start_paused = true)]
    async fn cancelled_waiters_lose_nothing() {
        let admission = admission(1, 8);
        let held = admission.enter(Priority::Foreground, later(9)).await.expect("there is room");
        let cancelled = queued(&admission, Priority::Foreground, later(9)).await;
        let other = queued(&admission, Priority::Foreground, later(9)).await;
        drop(held);
        drop(cancelled);
        drop(other.join().await.expect("is not aborted").expect("the place went on"));
        tokio::task::yield_now().await;
        assert_eq!(admission.admitted().under_way, 0);
    }
}
