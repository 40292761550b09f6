//! A latency estimate: the 95th percentile of the last answers, and their moving average.

use std::time::Duration;

/// Answers remembered: few enough to follow a change within a second of work.
const SAMPLES: usize = 64;
/// The percentile is computed again after so many answers.
const REFRESH: usize = 8;

/// Latency of one kind of call to one peer.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    micros: [u32; SAMPLES],
    count: usize,
    p95_micros: u32,
    mean_micros: f64,
}

impl Default for Latency {
    fn default() -> Self {
        Latency { micros: [0; SAMPLES], count: 0, p95_micros: 0, mean_micros: 0.0 }
    }
}

impl Latency {
    /// An answer came after `elapsed` (or none did for that long).
    pub(crate) fn record(&mut self, elapsed: Duration) {
        let micros = u32::try_from(elapsed.as_micros()).unwrap_or(u32::MAX);
        self.micros[self.count % SAMPLES] = micros;
        self.count += 1;
        let weight = (1.0 / self.count as f64).max(0.1);
        self.mean_micros += weight * (f64::from(micros) - self.mean_micros);
        if self.count <= REFRESH || self.count.is_multiple_of(REFRESH) {
            let mut sorted = self.micros;
            let known = &mut sorted[..self.count.min(SAMPLES)];
            let index = (known.len() * 95).div_ceil(100) - 1;
            self.p95_micros = *known.select_nth_unstable(index).1;
        }
    }

    /// The 95th percentile; `None` before the first answer.
    pub(crate) fn p95(&self) -> Option<Duration> {
        (self.count > 0).then(|| Duration::from_micros(self.p95_micros.into()))
    }

    /// The moving average; zero before the first answer, so that an unknown peer is tried.
    pub(crate) fn mean(&self) -> Duration {
        Duration::from_micros(self.mean_micros as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_last_answers() {
        let mut latency = Latency::default();
        assert_eq!(latency.p95(), None);
        for ms in 1..=64 {
            latency.record(Duration::from_millis(ms));
        }
        assert_eq!(latency.p95(), Some(Duration::from_millis(61)));
        for _ in 0..64 {
            latency.record(Duration::from_millis(2));
        }
        assert_eq!(latency.p95(), Some(Duration::from_millis(2)));
        assert!(latency.mean() < Duration::from_millis(3));
    }
}
