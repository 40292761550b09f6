//! One side of the comparison: a directory, and the files that are open in it.

use super::op::{Handle, How, Op, Seen};
use crate::sys::Mapped;
use rustix::fs::{self, AtFlags, CWD, FallocateFlags, Mode, OFlags, RenameFlags, XattrFlags};
use rustix::io::Errno;
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// See the module's words.
pub(crate) struct Side {
    root: PathBuf,
    open: BTreeMap<Handle, File>,
}

/// Largest value or list of extended attributes.
const XATTR_MAX: usize = 4096;

impl Side {
    pub(crate) fn new(root: PathBuf) -> Side {
        Side { root, open: BTreeMap::new() }
    }

    /// Carries an operation out.
    pub(crate) fn perform(&mut self, op: &Op) -> Seen {
        self.try_perform(op).unwrap_or_else(|e| Seen::Error(e.raw_os_error()))
    }

    /// The inode that a handle or path leads to; a link is not followed.
    pub(crate) fn inode(&self, handle: Handle) -> Option<u64> {
        self.open.get(&handle)?.metadata().ok().map(|status| status.ino())
    }

    pub(crate) fn inode_at(&self, path: &str) -> Option<u64> {
        std::fs::symlink_metadata(self.root.join(path)).ok().map(|status| status.ino())
    }

    fn file(&self, handle: Handle) -> Result<&File, Errno> {
        self.open.get(&handle).ok_or(Errno::BADF)
    }

    fn at(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    fn try_perform(&mut self, op: &Op) -> Result<Seen, Errno> {
        match op {
            Op::Open(handle, path, how) => {
                let file = open(&self.at(path), *how)?;
                self.open.insert(*handle, file);
            }
            Op::Close(handle) => {
                let file = self.open.remove(handle).ok_or(Errno::BADF)?;
                // An error of `close` is one that a program is to see.
                // SAFETY: the descriptor is this file's, and the file is given up here.
                let closed = unsafe { libc::close(std::os::fd::IntoRawFd::into_raw_fd(file)) };
                if closed != 0 {
                    return Err(last_error());
                }
            }
            Op::Read(handle, offset, length) => {
                let mut bytes = vec![0; *length];
                let count = read(self.file(*handle)?, &mut bytes, *offset)?;
                bytes.truncate(count);
                return Ok(Seen::Bytes(bytes));
            }
            Op::Write(handle, offset, bytes) => {
                let file = self.file(*handle)?;
                file.write_all_at(bytes, *offset).map_err(of)?;
            }
            Op::Sync(handle) => fs::fsync(self.file(*handle)?)?,
            Op::SetLength(handle, length) => fs::ftruncate(self.file(*handle)?, *length)?,
            Op::Punch(handle, offset, length) => {
                let how = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
                fs::fallocate(self.file(*handle)?, how, *offset, *length)?;
            }
            Op::Copy(from, at, to, there, length) => {
                let (mut at, mut there) = (*at, *there);
                let (from, to) = (self.file(*from)?, self.file(*to)?);
                let count =
                    fs::copy_file_range(from, Some(&mut at), to, Some(&mut there), *length)?;
                return Ok(Seen::Count(count));
            }
            Op::ReadMapped(handle) => {
                let file = self.file(*handle)?;
                let length = fs::fstat(file)?.st_size as usize;
                let bytes = match length {
                    0 => Vec::new(),
                    _ => Mapped::new(file, length, true).bytes().to_vec(),
                };
                return Ok(Seen::Bytes(bytes));
            }
            Op::WriteMapped(handle, offset, bytes) => {
                let file = self.file(*handle)?;
                let (length, at) = (fs::fstat(file)?.st_size as usize, *offset as usize);
                let count = bytes.len().min(length.saturating_sub(at));
                if count > 0 {
                    let mut mapped = Mapped::new(file, length, true);
                    mapped.bytes()[at..at + count].copy_from_slice(&bytes[..count]);
                    mapped.sync();
                }
                return Ok(Seen::Count(count));
            }
            Op::StatHandle(handle) => return Ok(status(&fs::fstat(self.file(*handle)?)?)),
            _ => return self.by_path(op),
        }
        Ok(Seen::Done)
    }

    fn by_path(&self, op: &Op) -> Result<Seen, Errno> {
        let at = |path: &String| self.at(path);
        match op {
            Op::Stat(path) => {
                return Ok(status(&fs::statat(CWD, at(path), AtFlags::SYMLINK_NOFOLLOW)?));
            }
            Op::List(path) => {
                let entries = std::fs::read_dir(at(path)).map_err(of)?;
                let name = |entry: std::io::Result<std::fs::DirEntry>| {
                    Ok(entry.map_err(of)?.file_name().to_string_lossy().into_owned())
                };
                return entries.map(name).collect::<Result<_, Errno>>().map(Seen::Names);
            }
            Op::Readlink(path) => {
                return Ok(Seen::Bytes(fs::readlink(at(path), Vec::new())?.into_bytes()));
            }
            Op::GetXattr(path, name) => {
                let mut value = vec![0; XATTR_MAX];
                let length = fs::lgetxattr(at(path), name.as_str(), &mut value[..])?;
                value.truncate(length);
                return Ok(Seen::Bytes(value));
            }
            Op::ListXattr(path) => {
                let mut list = vec![0; XATTR_MAX];
                let length = fs::llistxattr(at(path), &mut list[..])?;
                let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
                let names = names.map(|name| String::from_utf8_lossy(name).into_owned());
                // What a machine adds by itself is none of the programs'.
                return Ok(Seen::Names(names.filter(|name| name.starts_with("user.")).collect()));
            }
            Op::Truncate(path, length) => {
                let file = File::options().write(true).open(at(path)).map_err(of)?;
                fs::ftruncate(file, *length)?;
            }
            Op::Rename(from, to) => fs::rename(at(from), at(to))?,
            Op::Exchange(from, to) => {
                fs::renameat_with(CWD, at(from), CWD, at(to), RenameFlags::EXCHANGE)?;
            }
            Op::Link(from, to) => fs::link(at(from), at(to))?,
            Op::Unlink(path) => fs::unlink(at(path))?,
            Op::Mkdir(path) => fs::mkdir(at(path), Mode::from_raw_mode(0o755))?,
            Op::Rmdir(path) => fs::rmdir(at(path))?,
            Op::Symlink(target, path) => fs::symlink(target.as_str(), at(path))?,
            Op::Chmod(path, mode) => fs::chmod(at(path), Mode::from_raw_mode(*mode))?,
            Op::SetTime(path, seconds) => return self.set_time(path, *seconds),
            Op::SetXattr(path, name, value) => {
                fs::lsetxattr(at(path), name.as_str(), value, XattrFlags::empty())?;
            }
            Op::RemoveXattr(path, name) => fs::lremovexattr(at(path), name.as_str())?,
            _ => unreachable!("{op:?} has no path"),
        }
        Ok(Seen::Done)
    }

    /// Sets the time of the last change, and gives it back as it is then.
    fn set_time(&self, path: &str, seconds: i64) -> Result<Seen, Errno> {
        let time = rustix::time::Timespec { tv_sec: seconds, tv_nsec: 1 };
        let times = fs::Timestamps { last_access: time, last_modification: time };
        let (path, how) = (self.at(path), AtFlags::SYMLINK_NOFOLLOW);
        fs::utimensat(CWD, &path, &times, how)?;
        let set = fs::statat(CWD, &path, how)?;
        Ok(Seen::Bytes([set.st_mtime.to_le_bytes(), set.st_mtime_nsec.to_le_bytes()].concat()))
    }
}

fn open(path: &Path, how: How) -> Result<File, Errno> {
    let mut flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    flags.set(OFlags::CREATE, how.create);
    flags.set(OFlags::EXCL, how.exclusive);
    flags.set(OFlags::TRUNC, how.truncate);
    flags.set(OFlags::APPEND, how.append);
    Ok(fs::open(path, flags, Mode::from_raw_mode(0o644))?.into())
}

/// Reads until the end of the file, or until there is enough.
fn read(file: &File, bytes: &mut [u8], offset: u64) -> Result<usize, Errno> {
    let mut count = 0;
    while count < bytes.len() {
        match file.read_at(&mut bytes[count..], offset + count as u64).map_err(of)? {
            0 => break,
            more => count += more,
        }
    }
    Ok(count)
}

fn status(status: &fs::Stat) -> Seen {
    let is_directory = fs::FileType::from_raw_mode(status.st_mode).is_dir();
    // Directories have sizes and links as their file system likes.
    let unless_directory = |number: u64| if is_directory { 0 } else { number };
    Seen::Status {
        mode: status.st_mode,
        size: unless_directory(status.st_size as u64),
        links: unless_directory(status.st_nlink),
        owner: status.st_uid,
    }
}

fn of(e: std::io::Error) -> Errno {
    Errno::from_io_error(&e).unwrap_or(Errno::IO)
}

fn last_error() -> Errno {
    of(std::io::Error::last_os_error())
}
