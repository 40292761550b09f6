//! The operating system's files. Calls that block run on tokio's threads for blocking calls.
//!
//! **Invariant:** a write or read that returns `Ok` moved every byte that was asked for (or, for a
//! read, all there is up to the end of the file); short transfers are continued here.

use super::{Disk, File, OpenMode, RedbBackend};
use crate::{ALIGNMENT, AlignedBuf};
use async_trait::async_trait;
use rustix::fs::{FallocateFlags, OFlags};
use std::cell::RefCell;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes of one write when a file is filled with zeroes: large enough for full disk speed.
const ZERO_CHUNK_BYTES: usize = 4 << 20;

/// The file system of this machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealDisk;

impl RealDisk {
    /// The file system of this machine.
    pub fn new() -> Self {
        RealDisk
    }
}

/// Runs `call` where it may block.
async fn blocking<T: Send + 'static>(
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => result,
        Err(e) => match e.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(io::Error::other("the runtime is shutting down")),
        },
    }
}

#[async_trait]
impl Disk for RealDisk {
    async fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn File>> {
        let path = path.to_owned();
        blocking(move || {
            Ok(Arc::new(RealFile(Arc::new(Inner::open(&path, mode)?))) as Arc<dyn File>)
        })
        .await
    }

    async fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || create_dir_durably(&path)).await
    }

    async fn list(&self, path: &Path) -> io::Result<Vec<PathBuf>> {
        let path = path.to_owned();
        blocking(move || {
            let mut entries =
                fs::read_dir(&path)?.map(|e| Ok(e?.path())).collect::<io::Result<Vec<_>>>()?;
            entries.sort();
            Ok(entries)
        })
        .await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || fs::remove_file(path)).await
    }

    async fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from, to) = (from.to_owned(), to.to_owned());
        blocking(move || fs::rename(from, to)).await
    }

    async fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = path.to_owned();
        blocking(move || sync_dir(&path)).await
    }

    async fn space(&self, path: &Path) -> io::Result<(u64, u64)> {
        let path = path.to_owned();
        blocking(move || {
            let stat = rustix::fs::statvfs(&path)?;
            Ok((
                stat.f_blocks.saturating_mul(stat.f_frsize),
                stat.f_bavail.saturating_mul(stat.f_frsize),
            ))
        })
        .await
    }

    async fn write_atomic(&self, path: &Path, content: &[u8]) -> io::Result<()> {
        let (path, content) = (path.to_owned(), content.to_owned());
        blocking(move || write_atomic(&path, &content)).await
    }

    async fn read_small(&self, path: &Path, limit: usize) -> io::Result<Vec<u8>> {
        let path = path.to_owned();
        blocking(move || {
            let mut content = Vec::new();
            fs::File::open(&path)?.take(limit as u64 + 1).read_to_end(&mut content)?;
            match content.len() > limit {
                true => Err(too_long(&path, limit)),
                false => Ok(content),
            }
        })
        .await
    }

    fn redb_backend(&self, path: &Path) -> io::Result<RedbBackend> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        let backend = redb::backends::FileBackend::new(file).map_err(io::Error::other)?;
        Ok(RedbBackend::new(backend))
    }
}

/// The error of a small file that is larger than its reader allows.
pub(super) fn too_long(path: &Path, limit: usize) -> io::Error {
    let what = format!("{} is longer than {limit} bytes", path.display());
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn sync_dir(path: &Path) -> io::Result<()> {
    fs::File::open(path)?.sync_all()
}

/// The directory that holds `path`; `.` for a bare name.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn create_dir_durably(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    create_dir_durably(parent(path))?;
    match fs::create_dir(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        other => other?,
    }
    sync_dir(parent(path))
}

fn write_atomic(path: &Path, content: &[u8]) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".tmp");
    let temporary = path.with_file_name(temporary);
    fs::write(&temporary, content)?;
    fs::File::open(&temporary)?.sync_all()?;
    fs::rename(&temporary, path)?;
    sync_dir(parent(path))
}

/// An open file; clones of the inner handle move into blocking calls.
struct RealFile(Arc<Inner>);

struct Inner {
    file: fs::File,
    direct: AtomicBool,
}

impl RealFile {
    async fn run<T: Send + 'static>(
        &self,
        call: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let inner = self.0.clone();
        blocking(move || call(&inner)).await
    }
}

#[async_trait]
impl File for RealFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.run(move |inner| inner.read_at(offset, len)).await
    }

    async fn write_at(&self, offset: u64, buf: AlignedBuf) -> io::Result<AlignedBuf> {
        self.run(move |inner| inner.write_at(offset, buf.padded()).map(|()| buf)).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        self.run(|inner| inner.file.sync_data()).await
    }

    async fn write_durably(&self, offset: u64, buf: AlignedBuf) -> io::Result<AlignedBuf> {
        self.run(move |inner| {
            inner.write_at(offset, buf.padded())?;
            inner.file.sync_data().map(|()| buf)
        })
        .await
    }

    async fn len(&self) -> io::Result<u64> {
        self.run(|inner| Ok(inner.file.metadata()?.len())).await
    }

    async fn allocate(&self, len: u64) -> io::Result<()> {
        self.run(move |inner| inner.allocate(len)).await
    }

    async fn set_len_zeroed(&self, len: u64) -> io::Result<()> {
        self.run(move |inner| inner.set_len_zeroed(len)).await
    }

    fn is_direct(&self) -> bool {
        self.0.direct.load(Ordering::Relaxed)
    }
}

impl Inner {
    fn open(path: &Path, mode: OpenMode) -> io::Result<Self> {
        let mut options = fs::OpenOptions::new();
        options.read(true).write(true).create(mode.create).truncate(false);
        let plain = options.clone();
        if !mode.direct {
            return Ok(Inner { file: plain.open(path)?, direct: AtomicBool::new(false) });
        }
        match options.custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path) {
            // Some file systems (tmpfs before Linux 6.6, some network ones) refuse the flag itself.
            Err(e) if is_invalid(&e) => {
                Ok(Inner { file: plain.open(path)?, direct: AtomicBool::new(false) })
            }
            other => Ok(Inner { file: other?, direct: AtomicBool::new(true) }),
        }
    }

    /// Repeats `io` through the page cache when the file system accepted the flag at `open` but
    /// refuses the first direct transfer.
    fn with_fallback<T>(&self, io: impl Fn() -> io::Result<T>) -> io::Result<T> {
        match io() {
            Err(e) if is_invalid(&e) && self.direct.load(Ordering::Relaxed) => {
                let flags = rustix::fs::fcntl_getfl(&self.file)?;
                rustix::fs::fcntl_setfl(&self.file, flags - OFlags::DIRECT)?;
                self.direct.store(false, Ordering::Relaxed);
                tracing::info!("direct i/o refused by the file system, using the page cache");
                io()
            }
            other => other,
        }
    }

    fn assert_aligned(&self, offset: u64) {
        assert!(offset.is_multiple_of(ALIGNMENT as u64), "offset {offset} is not aligned");
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<AlignedBuf> {
        self.assert_aligned(offset);
        let mut buf = AlignedBuf::to_fill(len.next_multiple_of(ALIGNMENT));
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let rest = RefCell::new(&mut buf[done..]);
            let n = self.with_fallback(|| self.file.read_at(&mut rest.borrow_mut(), at));
            match n {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            if self.direct.load(Ordering::Relaxed) && !done.is_multiple_of(ALIGNMENT) {
                break; // a direct read ends unaligned only at the end of the file
            }
        }
        buf.set_len(done);
        Ok(buf)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.assert_aligned(offset);
        let mut done = 0;
        while done < bytes.len() {
            let write = || self.file.write_at(&bytes[done..], offset + done as u64);
            match self.with_fallback(write) {
                // Direct writes continue at an aligned place; the few bytes before it are the same.
                Ok(n) if n < bytes.len() - done && n < ALIGNMENT => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(n) if n < bytes.len() - done => done += n - n % ALIGNMENT,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// One request for all blocks keeps the file contiguous and finds out early that the disk is full.
    /// Tells whether the file system supports it.
    fn reserve(&self, from: u64, to: u64) -> io::Result<bool> {
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, from, to - from) {
            Ok(()) => Ok(true),
            Err(rustix::io::Errno::NOSPC) => Err(io::ErrorKind::StorageFull.into()),
            Err(_) => Ok(false),
        }
    }

    fn allocate(&self, len: u64) -> io::Result<()> {
        let old = self.file.metadata()?.len();
        if len <= old || !self.reserve(old, len)? {
            return self.set_len_zeroed(len);
        }
        self.file.set_len(len)?;
        self.file.sync_all()
    }

    fn set_len_zeroed(&self, len: u64) -> io::Result<()> {
        assert!(len.is_multiple_of(ALIGNMENT as u64), "length {len} is not aligned");
        let old = self.file.metadata()?.len();
        if len <= old {
            self.file.set_len(len)?;
            return self.file.sync_all();
        }
        self.reserve(old, len)?;
        let start = old.next_multiple_of(ALIGNMENT as u64);
        self.file.set_len(start)?;
        let zeroes = AlignedBuf::zeroed(ZERO_CHUNK_BYTES);
        let mut at = start;
        while at < len {
            let n = (len - at).min(ZERO_CHUNK_BYTES as u64);
            self.write_at(at, &zeroes[..n as usize])?;
            at += n;
        }
        self.file.sync_all()
    }
}

fn is_invalid(e: &io::Error) -> bool {
    e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error())
}
