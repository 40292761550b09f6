//! Files. The trait is the smallest that the block store and the Raft log need; whatever is
//! written is durable only after `sync_data` (content) or `sync_dir` (names) returned.

mod real;
mod redb_backend;
mod simulated;

pub use real::RealDisk;
pub use redb_backend::RedbBackend;
pub use simulated::{DiskImage, Fault, Pace, SimDisk};

use crate::AlignedBuf;
use async_trait::async_trait;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenMode {
    /// Create it when it is missing (the name is durable after `sync_dir`).
    pub create: bool,
    /// Go round the page cache where the file system allows it. Then offsets and lengths of reads and
    /// writes must be multiples of `ALIGNMENT`, which holds for all callers of this crate anyway.
    pub direct: bool,
}

/// A tree of files. All calls may be made from any task; errors are the operating system's.
#[async_trait]
pub trait Disk: Send + Sync {
    /// Opens a file for reading and writing.
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>>;
    /// Creates a directory and its parents, durably.
    async fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// The entries of a directory, sorted.
    async fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>>;
    /// Removes a file (durable after `sync_dir`).
    async fn remove(&self, path: &Path) -> io::Result<()>;
    /// Renames, replacing (durable after `sync_dir` of the parent).
    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a directory durable.
    async fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Bytes (total, available) of the file system that holds `path`.
    async fn space(&self, path: &Path) -> io::Result<(u64, u64)>;
    /// Writes a small file atomically and durably: temporary name, sync, rename, sync of the directory.
    async fn write_atomic(&self, path: &Path, content: &[u8]) -> io::Result<()>;
    /// The content of a small file, at most `limit` bytes (more is an error).
    async fn read_small(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>>;
    /// A backend for redb on the file `path`, created when missing. Its syncs are real ones.
    fn redb_backend(&self, path: &Path) -> io::Result<RedbBackend>;
}

/// An open file. Reads and writes at offsets; no cursor.
#[async_trait]
#[expect(clippy::len_without_is_empty, reason = "nobody asks whether a file is empty")]
pub trait File: Send + Sync {
    /// Reads exactly `buf.capacity()` bytes or up to the end of the file into a fresh buffer of `len`
    /// bytes capacity (rounded up to `ALIGNMENT`); the result's length tells how much there was.
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf>;
    /// Writes `buf.padded()` (zero-padded to `ALIGNMENT`) at `offset` and gives the buffer back.
    async fn write_at(&self, offset: u64, buf: AlignedBuf) -> io::Result<AlignedBuf>;
    /// Makes everything written before the call durable. **A failure is final**: the state of the
    /// file is unknown and the caller must stop using the disk (never retry).
    async fn sync_data(&self) -> io::Result<()>;
    /// [`File::write_at`] and [`File::sync_data`] in one turn.
    async fn write_durably(&self, offset: u64, buf: AlignedBuf) -> io::Result<AlignedBuf> {
        let buf = self.write_at(offset, buf).await?;
        self.sync_data().await?;
        Ok(buf)
    }
    /// Length in bytes.
    async fn len(&self) -> io::Result<u64>;
    /// Extends to `len` with space that is reserved and reads as zeroes, or truncates to it; synced. The
    /// first write to each place costs the file system a note of its own, which is little beside a
    /// large write and much beside a small one.
    async fn allocate(&self, len: u64) -> io::Result<()> {
        self.set_len_zeroed(len).await
    }
    /// Extends to `len` with real, written zeroes (fallocate alone leaves unwritten extents, which
    /// cost 20–60 % of the rate later), or truncates to it; synced.
    async fn set_len_zeroed(&self, len: u64) -> io::Result<()>;
    /// Whether it goes round the page cache.
    fn is_direct(&self) -> bool;
}
