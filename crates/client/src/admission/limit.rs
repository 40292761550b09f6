//! An adaptive concurrency limit: how much may be under way so that it still ends in good time.
//!
//! The gradient algorithm of Netflix' *concurrency-limits* (Gradient2; Eran Landau et al., "Performance Under Load",
//! 2018), itself after TCP Vegas (Brakmo and Peterson, 1995): the median of a window of latencies is held against
//! what is usual. While it is within a tolerance the limit grows by its square root, which is also the queue that
//! it allows for; beyond it, the limit shrinks by the ratio. Two things differ. A latency below a *target* is always
//! well, as in CoDel (Nichols and Jacobson, 2012): group commit makes more work at once cheaper, and latency that
//! nobody feels is no reason to give throughput away. And what is usual is learned while nothing waits, hardly while
//! something does, so that an overload that lasts does not become the norm.

use std::time::Duration;
use tokio::time::Instant;

/// How a limit behaves.
#[derive(Clone, Copy, Debug)]
pub struct LimitConfig {
    /// At first.
    pub start: usize,
    /// At least; one place is the least that makes progress.
    pub min: usize,
    /// At most.
    pub max: usize,
    /// Latency up to which nothing is wrong, whatever is usual.
    pub target: Duration,
    /// Nor up to so many times the usual latency.
    pub tolerance: f64,
}

/// Latencies are judged so often at most, and by so many at least.
const WINDOW: Duration = Duration::from_millis(100);
const SAMPLES_MIN: usize = 8;
/// Latencies of one window that are kept; of more, every other one would tell the same.
const SAMPLES_MAX: usize = 256;
/// What one window can shrink the limit to.
const GRADIENT_MIN: f64 = 0.5;
/// Weight of a window in the limit.
const SMOOTHING: f64 = 0.3;
/// Weight of a window in what is usual, while nothing waits, and while something does: minutes of windows.
const WEIGHT_QUIET: f64 = 0.05;
const WEIGHT_LOADED: f64 = 1.0 / 3000.0;
/// What a refusal by a server leaves of the limit, once in a window.
const REFUSED: f64 = 0.7;

/// See the module's words. Pure: times come from the caller.
#[derive(Clone, Debug)]
pub struct Limit {
    config: LimitConfig,
    limit: f64,
    usual: Option<f64>,
    seconds: Vec<f64>,
    began: Option<Instant>,
    /// The most that was under way in this window.
    busiest: usize,
    /// Whether something had to wait in this window.
    waited: bool,
    refused: bool,
}

impl Limit {
    /// A limit that has seen nothing yet.
    pub fn new(config: LimitConfig) -> Self {
        let limit = config.start.clamp(config.min, config.max) as f64;
        Limit {
            config,
            limit,
            usual: None,
            seconds: Vec::new(),
            began: None,
            busiest: 0,
            waited: false,
            refused: false,
        }
    }

    /// How much may be under way.
    pub fn current(&self) -> usize {
        self.limit as usize
    }

    /// Something that began when `under_way` others and itself were, ended well after `took`.
    pub fn ended(&mut self, took: Duration, under_way: usize, now: Instant) {
        self.busiest = self.busiest.max(under_way);
        if self.seconds.len() < SAMPLES_MAX {
            self.seconds.push(took.as_secs_f64());
        }
        let began = *self.began.get_or_insert(now);
        let full = now.saturating_duration_since(began) >= WINDOW;
        if full && self.seconds.len() >= SAMPLES_MIN {
            self.judge();
            self.began = Some(now);
        }
    }

    /// Something has to wait for a place.
    pub fn waited(&mut self) {
        self.waited = true;
    }

    /// A server refused to take something on: the limit is too high, whatever the latencies say.
    pub fn refused(&mut self) {
        if !std::mem::replace(&mut self.refused, true) {
            self.set(self.limit * REFUSED);
        }
    }

    /// The usual time that something takes; `None` before anything was seen.
    pub fn usual(&self) -> Option<Duration> {
        self.usual.map(Duration::from_secs_f64)
    }

    fn judge(&mut self) {
        let middle = self.seconds.len() / 2;
        let median = *self.seconds.select_nth_unstable_by(middle, f64::total_cmp).1;
        self.seconds.clear();
        let usual = self.usual.get_or_insert(median);
        let good = self.config.target.as_secs_f64().max(*usual * self.config.tolerance);
        *usual += (median - *usual) * if self.waited { WEIGHT_LOADED } else { WEIGHT_QUIET };
        // What is not used says nothing about whether it is too much or too little.
        let used = self.busiest * 2 >= self.current();
        let gradient = (good / median.max(1e-9)).clamp(GRADIENT_MIN, 1.0);
        let room = if self.refused { 0.0 } else { self.limit.sqrt() };
        if used {
            let wanted = self.limit * gradient + room;
            self.set(self.limit + SMOOTHING * (wanted - self.limit));
        }
        (self.busiest, self.waited, self.refused) = (0, false, false);
    }

    fn set(&mut self, limit: f64) {
        self.limit = limit.clamp(self.config.min as f64, self.config.max as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: LimitConfig = LimitConfig {
        start: 32,
        min: 4,
        max: 1000,
        target: Duration::from_millis(50),
        tolerance: 2.0,
    };

    /// A server that does `capacity` things at once in 10 ms each, and for which everything more has to wait.
    fn run(limit: &mut Limit, now: &mut Instant, capacity: usize, wanted: usize, windows: usize) {
        for _ in 0..windows * 10 {
            let under_way = wanted.min(limit.current());
            let took =
                Duration::from_millis(10).mul_f64((under_way as f64 / capacity as f64).max(1.0));
            if wanted > under_way {
                limit.waited();
            }
            *now += Duration::from_millis(10);
            for _ in 0..4 {
                limit.ended(took, under_way, *now);
            }
        }
    }

    /// It settles where latency is at the target: five times what the server can do at once, and no more.
    #[test]
    fn settles_where_work_ends_in_good_time() {
        let (mut limit, mut now) = (Limit::new(CONFIG), Instant::now());
        run(&mut limit, &mut now, 16, 10_000, 300);
        let settled = limit.current();
        assert!((60..=130).contains(&settled), "{settled}");
        run(&mut limit, &mut now, 4, 10_000, 300);
        assert!(limit.current() < settled / 2, "the server became slower: {}", limit.current());
        run(&mut limit, &mut now, 16, 10_000, 300);
        assert!(limit.current() > settled / 2, "and quick again: {}", limit.current());
    }

    /// A limit that nobody reaches stays where it is.
    #[test]
    fn an_unused_limit_does_not_move() {
        let (mut limit, mut now) = (Limit::new(CONFIG), Instant::now());
        run(&mut limit, &mut now, 16, 3, 100);
        assert_eq!(limit.current(), 32);
    }

    /// Refusals lower it at once, but not without end, and never below the least.
    #[test]
    fn a_refusal_counts_once_in_a_window() {
        let (mut limit, mut now) = (Limit::new(CONFIG), Instant::now());
        (0..50).for_each(|_| limit.refused());
        assert_eq!(limit.current(), 22);
        for _ in 0..100 {
            limit.refused();
            run(&mut limit, &mut now, 16, 10_000, 1);
        }
        assert!(limit.current() >= CONFIG.min);
    }
}
