//! The phi-accrual estimate of one node's heartbeats (Hayashibara et al., 2004).

use std::collections::VecDeque;
use std::time::Duration;

/// Arrival intervals of heartbeats, and how surprising the present silence is.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    intervals: VecDeque<f64>,
    last: Duration,
}

impl Arrivals {
    /// Nothing heard yet; the silence is counted from `now`.
    pub(crate) fn new(now: Duration) -> Self {
        Arrivals { intervals: VecDeque::new(), last: now }
    }

    pub(crate) fn heard(&mut self, now: Duration, window: usize) {
        let interval = now.saturating_sub(self.last).as_secs_f64();
        self.last = self.last.max(now);
        self.intervals.push_back(interval);
        while self.intervals.len() > window {
            self.intervals.pop_front();
        }
    }

    /// The observer itself stood still: that time is nobody's silence.
    pub(crate) fn forgive(&mut self, gap: Duration, now: Duration) {
        self.last = (self.last + gap).min(now);
    }

    pub(crate) fn silence(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last)
    }

    /// −log10 of the probability that a live node is silent this long, from a normal distribution of
    /// its intervals (logistic approximation of the tail). `expected` stands in until there are samples;
    /// the deviation has a floor, so that a very regular node is not suspected of a short pause.
    pub(crate) fn phi(&self, now: Duration, expected: Duration, deviation_min: Duration) -> f64 {
        let (mean, deviation) = self.moments(expected.as_secs_f64());
        let deviation = deviation.max(deviation_min.as_secs_f64());
        let y = (self.silence(now).as_secs_f64() - mean) / deviation;
        let exponent = y * (1.5976 + 0.070_566 * y * y);
        // log10(1 + e^x), without overflow: for large x it is x itself.
        if exponent > 30.0 {
            exponent / std::f64::consts::LN_10
        } else {
            exponent.exp().ln_1p() / std::f64::consts::LN_10
        }
    }

    fn moments(&self, expected: f64) -> (f64, f64) {
        if self.intervals.len() < 4 {
            return (expected, 0.0);
        }
        let count = self.intervals.len() as f64;
        let mean = self.intervals.iter().sum::<f64>() / count;
        let variance = self.intervals.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
        (mean, variance.sqrt())
    }
}
