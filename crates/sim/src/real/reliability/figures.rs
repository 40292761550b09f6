//! Small sums over what was measured.

use everhold_env::Env;
use std::time::Duration;
use tokio::time::Instant;

/// The time, for what has no clock at hand.
pub(super) fn now() -> Instant {
    Env::real().clock.now()
}

/// The share `per_mille` of sorted times that is not longer; `None` of none.
pub(super) fn percentile(sorted: &[Duration], per_mille: usize) -> Option<Duration> {
    let last = sorted.len().checked_sub(1)?;
    Some(sorted[(sorted.len() * per_mille).div_ceil(1000).saturating_sub(1).min(last)])
}

/// The 99th percentile in milliseconds.
pub(super) fn p99_ms(sorted: &[Duration]) -> Option<f64> {
    percentile(sorted, 990).map(ms)
}

/// A time in milliseconds.
pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Bytes in MiB.
pub(super) fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_hand() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 500), Some(Duration::from_millis(100)));
        assert_eq!(p99_ms(&times), Some(198.0));
        assert_eq!(percentile(&times[..1], 990), Some(Duration::from_millis(1)));
        assert_eq!(percentile(&[], 990), None);
    }
}
