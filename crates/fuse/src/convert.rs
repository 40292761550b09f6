//! Attributes and times between the cluster's form and the kernel's. Pure.

use everhold_proto::fs::{Attr, FileKind, Name, NewKind, TimeOrNow};
use everhold_proto::{InodeId, Timestamp};
use fuser::{Errno, FileAttr, FileType, INodeNo};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What `stat` gives as the preferred size of reads and writes: requests of a MiB cost the least CPU.
const BLOCK_BYTES: u32 = 1 << 20;

/// Attributes for the kernel.
pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode.0),
        size: attr.size,
        blocks: attr.allocated.div_ceil(512),
        atime: system_time(attr.atime),
        mtime: system_time(attr.mtime),
        ctime: system_time(attr.ctime),
        crtime: system_time(attr.btime),
        kind: file_type(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev as u32,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// A directory of which no more than the number is told.
pub(crate) fn bare_dir(inode: InodeId) -> FileAttr {
    FileAttr {
        ino: INodeNo(inode.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: FileType::Directory,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// What it is, for the kernel.
pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// What `mknod` wants, from its mode.
pub(crate) fn node_kind(mode: u32, rdev: u32) -> Result<NewKind, Errno> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Ok(NewKind::File),
        libc::S_IFIFO => Ok(NewKind::Fifo),
        libc::S_IFSOCK => Ok(NewKind::Socket),
        libc::S_IFCHR => Ok(NewKind::CharDevice(rdev.into())),
        libc::S_IFBLK => Ok(NewKind::BlockDevice(rdev.into())),
        _ => Err(Errno::EINVAL),
    }
}

/// A name of the kernel's. It never has a slash, and never is `.` or `..`.
pub(crate) fn name(name: &OsStr) -> Result<Name, Errno> {
    Name::new(name.as_bytes().to_vec()).map_err(|_| match name.len() {
        0..256 => Errno::EINVAL,
        _ => Errno::ENAMETOOLONG,
    })
}

/// An inode of the kernel's.
pub(crate) fn inode(number: INodeNo) -> InodeId {
    InodeId(number.0)
}

fn system_time(time: Timestamp) -> SystemTime {
    let distance = Duration::from_nanos(time.0.unsigned_abs());
    match time.0 < 0 {
        true => UNIX_EPOCH - distance,
        false => UNIX_EPOCH + distance,
    }
}

/// A time that a program sets. One that is not within 292 years of 1970 is refused: a nearest one would be another time.
pub(crate) fn time_or_now(time: fuser::TimeOrNow) -> Result<TimeOrNow, Errno> {
    match time {
        fuser::TimeOrNow::Now => Ok(TimeOrNow::Now),
        fuser::TimeOrNow::SpecificTime(time) => timestamp(time).map(TimeOrNow::At),
    }
}

fn timestamp(time: SystemTime) -> Result<Timestamp, Errno> {
    let nanos = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i128::try_from(after.as_nanos()),
        Err(before) => i128::try_from(before.duration().as_nanos()).map(|nanos| -nanos),
    };
    let nanos = nanos.ok().and_then(|nanos| i64::try_from(nanos).ok());
    nanos.map(Timestamp).ok_or(Errno::EOVERFLOW)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive() {
        for nanos in [0, 1, 1_500_000_000, -1, -1_200_000_000, i64::MAX, i64::MIN] {
            let there = system_time(Timestamp(nanos));
            assert_eq!(timestamp(there), Ok(Timestamp(nanos)), "{nanos}");
        }
    }

    #[test]
    fn times_beyond_the_range_are_refused() {
        let (last, first) = (system_time(Timestamp(i64::MAX)), system_time(Timestamp(i64::MIN)));
        let one = Duration::from_nanos(1);
        let far = Duration::from_secs(u32::MAX as u64 * 10);
        for time in [last + one, first - one, UNIX_EPOCH + far, UNIX_EPOCH - far] {
            assert_eq!(timestamp(time).map_err(i32::from), Err(libc::EOVERFLOW), "{time:?}");
        }
    }

    #[test]
    fn nodes_are_told_apart_by_their_mode() {
        assert_eq!(node_kind(libc::S_IFIFO | 0o644, 0), Ok(NewKind::Fifo));
        assert_eq!(node_kind(0o644, 0), Ok(NewKind::File));
        assert_eq!(node_kind(libc::S_IFBLK, 0x801), Ok(NewKind::BlockDevice(0x801)));
        assert_eq!(node_kind(libc::S_IFDIR, 0).map_err(i32::from), Err(libc::EINVAL));
    }
}
