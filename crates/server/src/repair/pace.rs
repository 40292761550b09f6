//! How much repair a disk takes on at once: as much as leaves the foreground within twice its usual time. It
//! gives way from one and a half times on, because clients feel more than the disk does.
//!
//! Each write and read of a client that the disk serves is timed. What is usual is learned while nothing is
//! repaired; while something is, the places for repair are halved when the foreground takes twice as long, and a
//! quarter of them goes when it lags. They grow by one when it is nearly as usual, by a quarter when it is as usual,
//! and double when nobody else wants the disk. At least one place is left, so that repair always ends.

use everhold_env::Clock;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Places at most: enough to hide the latency of small blocks, from many sources at once.
const PLACES_MAX: usize = 64;
/// Places at first.
const PLACES_START: usize = 8;
/// Places are changed this often at most.
const ADJUST_EVERY: Duration = Duration::from_millis(50);
/// What the foreground felt longer ago does not count.
const WINDOW: Duration = Duration::from_millis(500);
/// Operations of the foreground remembered, and the fewest that tell something.
const SAMPLES_MAX: usize = 128;
const SAMPLES_MIN: usize = 4;
/// The foreground lags when it takes this many times as long as usual.
const LAG: f64 = 1.5;
/// From here on the places are halved.
const FAR_BEHIND: f64 = 2.0;
/// Up to here it is as usual.
const NO_LAG: f64 = 1.2;
/// After so long without repair the foreground is as usual.
const QUIET: Duration = Duration::from_secs(1);
/// Weight of a new value of what is usual.
const WEIGHT: f64 = 0.05;

/// What the foreground does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreground {
    /// A client writes a block.
    Write,
    /// A client reads one.
    Read,
}

/// See the module's words.
pub struct Pace {
    inner: Mutex<Inner>,
    freed: Notify,
}

struct Inner {
    places: usize,
    taken: usize,
    adjusted: Option<Instant>,
    /// When the last place was given back.
    worked: Option<Instant>,
    felt: [Felt; 2],
}

#[derive(Default)]
struct Felt {
    lately: VecDeque<(Instant, f64)>,
    usual: Option<f64>,
}

/// A place; given back when this is dropped.
pub(crate) struct Turn<'a> {
    pace: &'a Pace,
    clock: Clock,
}

impl Default for Pace {
    fn default() -> Self {
        let felt = [Felt::default(), Felt::default()];
        let inner = Inner { places: PLACES_START, taken: 0, adjusted: None, worked: None, felt };
        Pace { inner: Mutex::new(inner), freed: Notify::new() }
    }
}

impl Pace {
    /// A client was served.
    pub fn served(&self, what: Foreground, took: Duration, now: Instant) {
        let mut inner = self.inner.lock();
        let quiet = inner.taken == 0
            && inner.worked.is_none_or(|at| now.saturating_duration_since(at) >= QUIET);
        inner.felt[what as usize].add(took.as_secs_f64(), now, quiet);
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self, clock: Clock) -> Turn<'_> {
        loop {
            let freed = self.freed.notified();
            tokio::pin!(freed);
            // Registered before looking, so that a place given back in between is seen.
            freed.as_mut().enable();
            if self.take(clock.now()) {
                return Turn { pace: self, clock };
            }
            // Either a place was given back, or there may be more of them by now.
            let _ = clock.within(ADJUST_EVERY, freed).await;
        }
    }

    /// Places that there are now.
    pub fn places(&self) -> usize {
        self.inner.lock().places
    }

    fn take(&self, now: Instant) -> bool {
        let mut inner = self.inner.lock();
        inner.adjust(now);
        let free = inner.taken < inner.places;
        inner.taken += usize::from(free);
        free
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut inner = self.pace.inner.lock();
        inner.taken -= 1;
        inner.worked = Some(self.clock.now());
        drop(inner);
        self.pace.freed.notify_one();
    }
}

impl Inner {
    fn adjust(&mut self, now: Instant) {
        let since = self.adjusted.map(|at| now.saturating_duration_since(at));
        if since.is_some_and(|since| since < ADJUST_EVERY) {
            return;
        }
        self.adjusted = Some(now);
        let lags = self.felt.iter_mut().filter_map(|felt| felt.lag(now));
        self.places = match lags
            .fold(None, |worst: Option<f64>, lag| Some(worst.map_or(lag, |worst| worst.max(lag))))
        {
            Some(lag) if lag > FAR_BEHIND => (self.places / 2).max(1),
            Some(lag) if lag > LAG => (self.places * 3 / 4).max(1),
            Some(lag) if lag > NO_LAG => (self.places + 1).min(PLACES_MAX),
            Some(_) => (self.places + (self.places / 4).max(1)).min(PLACES_MAX),
            None => (self.places * 2).min(PLACES_MAX),
        };
    }
}

impl Felt {
    fn add(&mut self, seconds: f64, now: Instant, quiet: bool) {
        if self.lately.len() == SAMPLES_MAX {
            self.lately.pop_front();
        }
        self.lately.push_back((now, seconds));
        if !quiet {
            return;
        }
        if let Some(high) = self.high(now) {
            let usual = self.usual.get_or_insert(high);
            *usual += WEIGHT * (high - *usual);
        }
    }

    /// The 90th percentile of the last operations.
    fn high(&mut self, now: Instant) -> Option<f64> {
        while self.lately.front().is_some_and(|(at, _)| now.saturating_duration_since(*at) > WINDOW)
        {
            self.lately.pop_front();
        }
        let mut seconds: Vec<f64> = self.lately.iter().map(|(_, seconds)| *seconds).collect();
        if seconds.len() < SAMPLES_MIN {
            return None;
        }
        let at = (seconds.len() * 9).div_ceil(10) - 1;
        Some(*seconds.select_nth_unstable_by(at, f64::total_cmp).1)
    }

    /// How many times longer than usual the foreground takes; `None`: it does next to nothing, or nobody knows
    /// what is usual.
    fn lag(&mut self, now: Instant) -> Option<f64> {
        let high = self.high(now)?;
        self.usual.filter(|usual| *usual > 0.0).map(|usual| high / usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk and its clients, in steps of 10 ms.
    struct Case {
        pace: Pace,
        now: Instant,
    }

    impl Case {
        /// So many steps in which each a client's write takes `ms`; `None`: nobody writes. Tries to take a place
        /// in each, as a busy repair does, if `repairs`.
        fn run(&mut self, steps: u64, ms: Option<u64>, repairs: bool) {
            for _ in 0..steps {
                self.now += Duration::from_millis(10);
                if let Some(ms) = ms {
                    self.pace.served(Foreground::Write, Duration::from_millis(ms), self.now);
                }
                if repairs && self.pace.take(self.now) {
                    self.pace.inner.lock().taken -= 1;
                    self.pace.inner.lock().worked = Some(self.now);
                }
            }
        }
    }

    fn case() -> Case {
        Case { pace: Pace::default(), now: Instant::now() }
    }

    /// Without a foreground it is as fast as can be; with one that lags it slows down to one place, and it speeds
    /// up again when the foreground is as quick as usual.
    #[test]
    fn repair_gives_way() {
        let mut case = case();
        case.run(500, Some(4), false);
        case.run(200, None, true);
        assert_eq!(case.pace.places(), PLACES_MAX);
        case.run(200, Some(20), true);
        assert_eq!(case.pace.places(), 1);
        case.run(200, Some(5), true);
        assert!(case.pace.places() > 10, "{}", case.pace.places());
    }

    /// What is usual is not learned from what repair makes of it.
    #[test]
    fn the_usual_is_learned_in_quiet() {
        let mut case = case();
        case.run(500, Some(4), false);
        case.run(2000, Some(20), true);
        assert_eq!(case.pace.places(), 1, "still slow, however long it lasts");
    }

    /// Places are bounded, waited for, and given back.
    #[tokio::test(start_paused = true)]
    async fn places_are_given_back() {
        let (pace, clock) = (Pace::default(), Clock::real());
        pace.inner.lock().adjusted = Some(clock.now());
        let mut turns = Vec::new();
        for _ in 0..PLACES_START {
            turns.push(pace.enter(clock).await);
        }
        assert!(!pace.take(clock.now()));
        turns.pop();
        assert!(pace.take(clock.now()));
    }
}
