//! Transfers of whole trees: local to cluster, cluster to local, and inside the cluster. Many small
//! files are under way at once and share log entries; large ones stream with bounded memory.
//!
//! What fails is reported file by file and does not stop the rest.

mod copy;
mod get;
mod jobs;
mod local;
mod put;

use crate::error::ClientError;
use everhold_proto::{InodeId, Timestamp};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Failures kept for the report; more are only counted.
const FAILURES_KEPT: usize = 100;

/// How a tree is transferred.
#[derive(Clone, Debug)]
pub struct TransferOptions {
    /// Small files under way at once; a large one counts as eight.
    pub jobs: usize,
    /// Keep permission bits and modification times.
    pub preserve: bool,
    /// Names of one file stay names of one file.
    pub hard_links: bool,
    /// Replace files that exist; directories are always merged.
    pub replace: bool,
}

impl Default for TransferOptions {
    fn default() -> Self {
        TransferOptions { jobs: 64, preserve: true, hard_links: true, replace: true }
    }
}

/// Counters of a transfer under way; ask for [`Progress::totals`] as often as you like.
#[derive(Debug, Default)]
pub struct Progress {
    files: AtomicU64,
    directories: AtomicU64,
    links: AtomicU64,
    bytes: AtomicU64,
    failed: AtomicU64,
    files_found: AtomicU64,
    bytes_found: AtomicU64,
    failures: Mutex<Vec<(String, ClientError)>>,
}

/// What a transfer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Regular files transferred.
    pub files: u64,
    /// Directories made or found.
    pub directories: u64,
    /// Symbolic and hard links made.
    pub links: u64,
    /// Bytes of files transferred.
    pub bytes: u64,
    /// What could not be transferred.
    pub failed: u64,
    /// Regular files found so far; complete only at the end.
    pub files_found: u64,
    /// Bytes of the files found so far.
    pub bytes_found: u64,
}

/// What a transfer did.
#[derive(Clone, Debug, Default)]
pub struct TransferReport {
    /// Counts.
    pub totals: Totals,
    /// The first hundred failures: path and error.
    pub failures: Vec<(String, ClientError)>,
}

impl Progress {
    /// The counts so far.
    pub fn totals(&self) -> Totals {
        Totals {
            files: self.files.load(Relaxed),
            directories: self.directories.load(Relaxed),
            links: self.links.load(Relaxed),
            bytes: self.bytes.load(Relaxed),
            failed: self.failed.load(Relaxed),
            files_found: self.files_found.load(Relaxed),
            bytes_found: self.bytes_found.load(Relaxed),
        }
    }

    fn found(&self, bytes: u64) {
        self.files_found.fetch_add(1, Relaxed);
        self.bytes_found.fetch_add(bytes, Relaxed);
    }

    fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Relaxed);
    }

    /// Counts one more of something, or keeps its failure.
    fn ended<T>(
        &self,
        counter: &AtomicU64,
        path: impl FnOnce() -> String,
        result: Result<T, ClientError>,
    ) -> Option<T> {
        match result {
            Ok(value) => {
                counter.fetch_add(1, Relaxed);
                Some(value)
            }
            Err(e) => {
                self.failed.fetch_add(1, Relaxed);
                let mut failures = self.failures.lock();
                if failures.len() < FAILURES_KEPT {
                    failures.push((path(), e));
                }
                None
            }
        }
    }

    fn report(&self) -> TransferReport {
        TransferReport { totals: self.totals(), failures: self.failures.lock().clone() }
    }
}

/// What is set on a directory once everything in it is there.
#[derive(Clone, Copy, Debug)]
struct Finish<D> {
    directory: D,
    mode: u32,
    mtime: Timestamp,
}

/// Inodes of files with several names, by the identity of their source.
type Linked<K, V> = Arc<Mutex<std::collections::BTreeMap<K, V>>>;

/// Identity of a local file: device and inode number.
type LocalId = (u64, u64);

/// Files made so far that have further names.
type LinkedInodes = Linked<LocalId, InodeId>;
