//! What the client did and how long it took, for reports and for tuning. Lock-free counters.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Buckets per doubling: 4 keep the error of a percentile below a fifth.
const SUB: usize = 4;
/// From 1 µs to over an hour.
const BUCKETS: usize = 32 * SUB;

/// Latencies and errors of one kind of operation.
#[derive(Debug)]
pub(crate) struct Series {
    count: AtomicU64,
    errors: AtomicU64,
    max_micros: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

impl Default for Series {
    fn default() -> Self {
        Series {
            count: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            max_micros: AtomicU64::new(0),
            buckets: [const { AtomicU64::new(0) }; BUCKETS],
        }
    }
}

/// All counters of a client.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    pub(crate) execute: Series,
    pub(crate) query: Series,
    pub(crate) put: Series,
    pub(crate) get: Series,
    pub(crate) put_bytes: AtomicU64,
    pub(crate) get_bytes: AtomicU64,
    pub(crate) degraded: AtomicU64,
    pub(crate) rewrites: AtomicU64,
    pub(crate) hedges: AtomicU64,
    pub(crate) sessions: AtomicU64,
    pub(crate) held_up: AtomicU64,
}

/// Latency of one kind of operation, from the caller's side, retries included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationStats {
    /// How many ended.
    pub count: u64,
    /// How many of these failed.
    pub errors: u64,
    /// Median.
    pub p50: Duration,
    /// 99th percentile.
    pub p99: Duration,
    /// The longest: the worst stall that a caller saw.
    pub max: Duration,
}

/// What a client did since it connected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// Changes of the tree.
    pub execute: OperationStats,
    /// Questions about the tree.
    pub query: OperationStats,
    /// Blocks written (all copies of one block are one operation).
    pub put: OperationStats,
    /// Blocks or ranges read.
    pub get: OperationStats,
    /// Bytes of blocks written, each block counted once.
    pub put_bytes: u64,
    /// Bytes of blocks read.
    pub get_bytes: u64,
    /// Blocks committed with fewer copies than wanted.
    pub degraded: u64,
    /// Blocks that had to be written again elsewhere.
    pub rewrites: u64,
    /// Reads that asked a second replica.
    pub hedges: u64,
    /// Sessions opened, the first included.
    pub sessions: u64,
    /// How often a change or a question was asked again because another client holds the directory and has not told what
    /// it did there.
    pub held_up: u64,
}

impl Series {
    pub(crate) fn record(&self, elapsed: Duration, ok: bool) {
        let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Relaxed);
        self.errors.fetch_add(u64::from(!ok), Relaxed);
        self.max_micros.fetch_max(micros, Relaxed);
        self.buckets[bucket(micros)].fetch_add(1, Relaxed);
    }

    fn snapshot(&self) -> OperationStats {
        let counts: Vec<u64> = self.buckets.iter().map(|b| b.load(Relaxed)).collect();
        let max_micros = self.max_micros.load(Relaxed);
        let percentile = |share: f64| {
            let rank = (counts.iter().sum::<u64>() as f64 * share).ceil() as u64;
            let mut seen = 0;
            let found = counts.iter().position(|count| {
                seen += count;
                seen >= rank
            });
            let micros = found.map_or(0, upper_micros).min(max_micros);
            Duration::from_micros(micros)
        };
        OperationStats {
            count: self.count.load(Relaxed),
            errors: self.errors.load(Relaxed),
            p50: percentile(0.5),
            p99: percentile(0.99),
            max: Duration::from_micros(max_micros),
        }
    }
}

fn bucket(micros: u64) -> usize {
    let micros = micros.max(1);
    let doubling = micros.ilog2() as usize;
    let rest = micros - (1 << doubling);
    let sub = ((u128::from(rest) * SUB as u128) >> doubling) as usize;
    (doubling * SUB + sub).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_micros(bucket: usize) -> u64 {
    let (doubling, sub) = (bucket / SUB, bucket % SUB);
    let width = 1u64 << doubling;
    width + (width * (sub as u64 + 1)).div_ceil(SUB as u64) - 1
}

impl Stats {
    pub(crate) fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            execute: self.execute.snapshot(),
            query: self.query.snapshot(),
            put: self.put.snapshot(),
            get: self.get.snapshot(),
            put_bytes: self.put_bytes.load(Relaxed),
            get_bytes: self.get_bytes.load(Relaxed),
            degraded: self.degraded.load(Relaxed),
            rewrites: self.rewrites.load(Relaxed),
            hedges: self.hedges.load(Relaxed),
            sessions: self.sessions.load(Relaxed),
            held_up: self.held_up.load(Relaxed),
        }
    }
}

impl fmt::Display for OperationStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OperationStats { count, errors, p50, p99, max } = self;
        write!(f, "{count} ({errors} failed), p50 {p50:.1?}, p99 {p99:.1?}, max {max:.1?}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_lies_in_its_bucket() {
        for micros in (1..5000).chain([1 << 20, (1 << 30) + 12345]) {
            let bucket = bucket(micros);
            assert!(micros <= upper_micros(bucket), "{micros}");
            assert!(bucket == 0 || micros > upper_micros(bucket - 1), "{micros}");
        }
    }

    #[test]
    fn percentiles_are_close() {
        let series = Series::default();
        for ms in 1..=100 {
            series.record(Duration::from_millis(ms), ms != 50);
        }
        let stats = series.snapshot();
        assert_eq!((stats.count, stats.errors), (100, 1));
        assert_eq!(stats.max, Duration::from_millis(100));
        let close = |found: Duration, ms: u64| {
            let found = found.as_millis() as f64 / ms as f64;
            (1.0..1.25).contains(&found)
        };
        assert!(close(stats.p50, 50), "{stats}");
        assert!(close(stats.p99, 99), "{stats}");
    }
}
