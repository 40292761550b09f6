//! The local side: blocking calls, to be made on threads for blocking calls.

use crate::buffers::Buffers;
use crate::error::{ClientError, Result};
use bytes::Bytes;
use everhold_proto::Timestamp;
use everhold_proto::fs::{FileKind, Name};
use std::fs::{File, FileTimes, Metadata, OpenOptions, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Up to this size a file is read in one go into memory of its own size.
const SMALL_BYTES: u64 = 256 << 10;

/// What is known of a local file before it is opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    pub(super) kind: FileKind,
    pub(super) mode: u32,
    pub(super) mtime: Timestamp,
    pub(super) size: u64,
    pub(super) id: super::LocalId,
    pub(super) links: u64,
}

/// An entry of a local directory.
#[derive(Clone, Debug)]
pub(super) struct LocalEntry {
    pub(super) path: PathBuf,
    pub(super) name: Name,
    pub(super) facts: Facts,
}

fn facts(meta: &Metadata) -> Facts {
    let kind = meta.file_type();
    let kind = match kind {
        _ if kind.is_dir() => FileKind::Directory,
        _ if kind.is_symlink() => FileKind::Symlink,
        _ if kind.is_fifo() => FileKind::Fifo,
        _ if kind.is_socket() => FileKind::Socket,
        _ if kind.is_char_device() => FileKind::CharDevice,
        _ if kind.is_block_device() => FileKind::BlockDevice,
        _ => FileKind::File,
    };
    let nanos = i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec());
    Facts {
        kind,
        mode: meta.mode() & 0o7777,
        mtime: Timestamp(nanos.clamp(i64::MIN.into(), i64::MAX.into()) as i64),
        size: meta.len(),
        id: (meta.dev(), meta.ino()),
        links: meta.nlink(),
    }
}

/// Facts of what `path` leads to.
pub(super) fn look(path: &Path) -> Result<Facts> {
    std::fs::metadata(path).map(|meta| facts(&meta)).map_err(|e| ClientError::local(path, e))
}

/// The entries of a directory, in the order of their names.
pub(super) fn list(path: &Path) -> Result<Vec<LocalEntry>> {
    use std::os::unix::ffi::OsStringExt;
    let failed = |e| ClientError::local(path, e);
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = Name::new(entry.file_name().into_vec())?;
        let path = entry.path();
        let meta = entry.metadata().map_err(|e| ClientError::local(&path, e))?;
        entries.push(LocalEntry { path, name, facts: facts(&meta) });
    }
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(entries)
}

/// Target of a symbolic link.
pub(super) fn read_link(path: &Path) -> Result<Bytes> {
    use std::os::unix::ffi::OsStringExt;
    let target = std::fs::read_link(path).map_err(|e| ClientError::local(path, e))?;
    Ok(target.into_os_string().into_vec().into())
}

/// A file that is read block by block.
pub(super) struct Source {
    path: PathBuf,
    file: File,
    buffers: Buffers,
}

impl Source {
    /// Opens a file and reads its first block.
    pub(super) fn open(path: PathBuf, size: u64, buffers: Buffers) -> Result<(Self, Bytes)> {
        let mut file = File::open(&path).map_err(|e| ClientError::local(&path, e))?;
        if size > SMALL_BYTES {
            return Source { path, file, buffers }.next();
        }
        let mut small = Vec::with_capacity(size as usize + 1);
        let read = (&mut file).take(SMALL_BYTES).read_to_end(&mut small);
        read.map_err(|e| ClientError::local(&path, e))?;
        Ok((Source { path, file, buffers }, small.into()))
    }

    /// The next block; empty at the end.
    pub(super) fn next(mut self) -> Result<(Self, Bytes)> {
        let mut buffer = self.buffers.take();
        let read = buffer.fill_from(usize::MAX, |to| self.file.read(to));
        read.map_err(|e| ClientError::local(&self.path, e))?;
        Ok((self, buffer.into_bytes()))
    }
}

/// A file that is written under a hidden name and gets its own when it is whole. Dropped before
/// that, it is removed.
pub(super) struct Sink {
    path: PathBuf,
    hidden: PathBuf,
    file: File,
    finished: bool,
}

impl Sink {
    /// Creates the hidden file; `random` makes its name one of its own.
    pub(super) fn create(path: PathBuf, random: u64) -> Result<Self> {
        let hidden = path.with_file_name(format!(".everhold-{random:016x}.part"));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&hidden);
        let file = file.map_err(|e| ClientError::local(&path, e))?;
        Ok(Sink { path, hidden, file, finished: false })
    }

    /// Adds bytes at the end.
    pub(super) fn write(mut self, bytes: Bytes) -> Result<Self> {
        match self.file.write_all(&bytes) {
            Ok(()) => Ok(self),
            Err(e) => Err(ClientError::local(&self.path, e)),
        }
    }

    /// Gives the file its attributes and its name; an existing one is replaced when `replace`.
    pub(super) fn finish(
        mut self,
        mode: u32,
        mtime: Option<Timestamp>,
        replace: bool,
    ) -> Result<()> {
        let work = || {
            if let Some(mtime) = mtime {
                self.file.set_times(FileTimes::new().set_modified(system_time(mtime)))?;
            }
            self.file.set_permissions(Permissions::from_mode(mode))?;
            if replace {
                return std::fs::rename(&self.hidden, &self.path);
            }
            std::fs::hard_link(&self.hidden, &self.path)?; // fails when the name is taken
            std::fs::remove_file(&self.hidden)
        };
        work().map_err(|e| ClientError::local(&self.path, e))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if !self.finished
            && let Err(e) = std::fs::remove_file(&self.hidden)
        {
            tracing::debug!(path = %self.hidden.display(), error = %e, "left behind");
        }
    }
}

/// Makes a directory; one that is there is fine.
pub(super) fn make_dir(path: &Path) -> Result<()> {
    match std::fs::create_dir(path) {
        Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        other => other.map_err(|e| ClientError::local(path, e)),
    }
}

/// Sets permission bits and modification time of a directory.
pub(super) fn finish_dir(path: &Path, mode: u32, mtime: Timestamp) -> Result<()> {
    let work = || {
        let directory = File::open(path)?;
        directory.set_times(FileTimes::new().set_modified(system_time(mtime)))?;
        directory.set_permissions(Permissions::from_mode(mode))
    };
    work().map_err(|e| ClientError::local(path, e))
}

/// Makes a symbolic link.
pub(super) fn make_link(target: &[u8], path: &Path, replace: bool) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let target = Path::new(std::ffi::OsStr::from_bytes(target));
    replacing(path, replace, || std::os::unix::fs::symlink(target, path))
}

/// Gives a file another name.
pub(super) fn make_hard_link(existing: &Path, path: &Path, replace: bool) -> Result<()> {
    replacing(path, replace, || std::fs::hard_link(existing, path))
}

fn replacing(path: &Path, replace: bool, make: impl Fn() -> std::io::Result<()>) -> Result<()> {
    let made = match make() {
        Err(e) if replace && e.kind() == std::io::ErrorKind::AlreadyExists => {
            std::fs::remove_file(path).and_then(|()| make())
        }
        other => other,
    };
    made.map_err(|e| ClientError::local(path, e))
}

fn system_time(at: Timestamp) -> std::time::SystemTime {
    let span = Duration::from_nanos(at.0.unsigned_abs());
    if at.0 >= 0 { UNIX_EPOCH + span } else { UNIX_EPOCH - span }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sink_that_is_not_finished_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let sink = Sink::create(path.clone(), 1).unwrap().write(Bytes::from_static(b"x")).unwrap();
        drop(sink);
        assert!(list(dir.path()).unwrap().is_empty());
        let sink = Sink::create(path.clone(), 1).unwrap().write(Bytes::from_static(b"x")).unwrap();
        sink.finish(0o640, Some(Timestamp(-5_000_000_001)), false).unwrap();
        let found = list(dir.path()).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].facts.mode, found[0].facts.size), (0o640, 1));
        assert_eq!(found[0].facts.mtime, Timestamp(-5_000_000_001));
        let again = Sink::create(path, 2).unwrap();
        assert!(again.finish(0o640, None, false).is_err(), "the name is taken");
        assert_eq!(list(dir.path()).unwrap().len(), 1);
    }

    #[test]
    fn a_source_reads_to_the_end_whatever_the_size_was() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, vec![7; 300 << 10]).unwrap();
        for claimed in [0, 300 << 10] {
            let (mut source, mut block) =
                Source::open(path.clone(), claimed, Buffers::default()).unwrap();
            let mut total = 0;
            while !block.is_empty() {
                total += block.len();
                (source, block) = source.next().unwrap();
            }
            assert_eq!(total, 300 << 10, "claimed {claimed}");
        }
    }
}
