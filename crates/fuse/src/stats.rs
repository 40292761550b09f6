//! Counts and times of each kind of request.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

macro_rules! ops {
    ($($name:ident $text:literal),* $(,)?) => {
        /// A kind of request.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Op { $($name),* }
        const NAMES: &[&str] = &[$($text),*];
    };
}

ops! {
    Lookup "lookup", GetAttr "getattr", SetAttr "setattr", ReadLink "readlink", MkNod "mknod",
    MkDir "mkdir", Unlink "unlink", RmDir "rmdir", Symlink "symlink", Rename "rename", Link "link",
    Open "open", Create "create", Read "read", Write "write", Flush "flush", Release "release",
    Fsync "fsync", ReadDir "readdir", ReadDirPlus "readdirplus", SetXattr "setxattr", GetXattr "getxattr",
    ListXattr "listxattr", RemoveXattr "removexattr", StatFs "statfs", GetLock "getlk",
    SetLock "setlk", Copy "copy_file_range",
    Fallocate "fallocate", Seek "lseek",
}

impl Op {
    /// Whether a request of this kind changes nothing: it may end half done.
    pub(crate) fn only_asks(self) -> bool {
        use Op::*;
        matches!(
            self,
            Lookup
                | GetAttr
                | ReadLink
                | Read
                | ReadDir
                | ReadDirPlus
                | GetXattr
                | ListXattr
                | StatFs
                | GetLock
        )
    }
}

#[derive(Default)]
struct Counter {
    count: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    longest: AtomicU64,
    under_way: AtomicU64,
}

/// Counters of a mount.
pub(crate) struct Stats(Vec<Counter>);

/// One kind of request since the mount began.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpStats {
    /// Requests answered.
    pub count: u64,
    /// Those answered with an error; a name that does not exist is one.
    pub errors: u64,
    /// Mean time in milliseconds.
    pub mean_ms: f64,
    /// Longest time in milliseconds.
    pub longest_ms: f64,
    /// Requests not answered yet.
    pub under_way: u64,
}

impl Default for Stats {
    fn default() -> Self {
        Stats(NAMES.iter().map(|_| Counter::default()).collect())
    }
}

impl Stats {
    /// A request begins.
    pub(crate) fn begin(&self, op: Op) -> Instant {
        self.0[op as usize].under_way.fetch_add(1, Relaxed);
        Instant::now()
    }

    /// It was answered.
    pub(crate) fn end(&self, op: Op, begun: Instant, ok: bool) -> Duration {
        let (counter, took) = (&self.0[op as usize], begun.elapsed());
        let nanos = took.as_nanos() as u64;
        counter.count.fetch_add(1, Relaxed);
        counter.errors.fetch_add(u64::from(!ok), Relaxed);
        counter.nanos.fetch_add(nanos, Relaxed);
        counter.longest.fetch_max(nanos, Relaxed);
        counter.under_way.fetch_sub(1, Relaxed);
        took
    }

    /// All kinds that were asked for.
    pub(crate) fn snapshot(&self) -> BTreeMap<&'static str, OpStats> {
        let stats = NAMES.iter().zip(&self.0).map(|(name, counter)| {
            let count = counter.count.load(Relaxed);
            let mean = counter.nanos.load(Relaxed) as f64 / count.max(1) as f64;
            let stats = OpStats {
                count,
                errors: counter.errors.load(Relaxed),
                mean_ms: mean / 1e6,
                longest_ms: counter.longest.load(Relaxed) as f64 / 1e6,
                under_way: counter.under_way.load(Relaxed),
            };
            (*name, stats)
        });
        stats.filter(|(_, stats)| stats.count + stats.under_way > 0).collect()
    }
}

/// The name of a kind of request.
pub(crate) fn name(op: Op) -> &'static str {
    NAMES[op as usize]
}
