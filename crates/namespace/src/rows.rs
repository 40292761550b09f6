//! Rows and keys of the namespace's tables; see `everhold_proto::tables` for the whole key space.

use crate::locks::{Held, Holder, Range};
use bytes::Bytes;
use everhold_proto::fs::{
    Attr, Consistency, Extent, FileKind, FsError, FsReply, LockKind, LockOwner, LockSpace, Name,
    Source,
};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvRead, KvResult, get_row};
use everhold_proto::planted::{self, Bug};
use everhold_proto::tables::{Key, Table};
use everhold_proto::units::Timestamp;
use serde::{Deserialize, Serialize};

/// Versions are numbers of which the part above these bits is raised when some may be lost.
const VERSIONS_BITS: u32 = 24;
/// A client holds far fewer changes than this that it has not told.
const VERSIONS_LOST_MAX: u64 = 1 << 20;

/// An inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct InodeRow {
    pub(crate) kind: FileKind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// 0: there is no name; open handles keep the row, or it lingers.
    pub(crate) nlink: u32,
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) atime: Timestamp,
    pub(crate) mtime: Timestamp,
    pub(crate) ctime: Timestamp,
    pub(crate) btime: Timestamp,
    pub(crate) rdev: u64,
    pub(crate) version: u64,
    pub(crate) policy: PolicyId,
    pub(crate) consistency: Consistency,
    /// Log time at which the last name went, as long as the inode lingers.
    pub(crate) unlinked_ms: Option<u64>,
    /// Created without a name, and may get its first.
    pub(crate) linkable: bool,
    /// Number of extended attributes.
    pub(crate) xattrs: u32,
    /// Of a directory: the one that holds it (the root's is the root). Of anything else: the one that holds its
    /// only name; [`InodeId::NONE`] without a name, and for good once it had several.
    pub(crate) parent: InodeId,
    /// Of a directory: the session that holds its delegation, as long as that session lives.
    pub(crate) delegate: Option<SessionId>,
    /// Of a symbolic link.
    pub(crate) target: Bytes,
    /// Which fork serves which range of a file, ascending, the first from 0. Empty: the fork with the
    /// inode's own number serves all. No extent crosses the border of two segments.
    pub(crate) segments: Vec<Segment>,
    /// Of a directory: how often a delegation of it ended although its holder may have had changes that were never
    /// told. Of anything else: how many of those of its directory `version` takes account of.
    pub(crate) fences: u32,
}

/// From this offset to the next segment's, the file's extents are those of a fork.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Segment {
    pub(crate) from: u64,
    pub(crate) fork: u64,
}

impl InodeRow {
    pub(crate) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    /// A delegation of this directory ended although its holder may have had changes that were never told.
    pub(crate) fn fence(&mut self) {
        self.fences = self.fences.wrapping_add(1);
        self.skip_versions(1);
    }

    /// The version is of a directory in which so many delegations ended since in that way: those that were given
    /// behind them and never told are skipped, so that none of them ever stands for other content.
    pub(crate) fn skip_versions(&mut self, fences: u32) {
        if !planted::has(Bug::VersionReused) {
            let lost = self.version.saturating_add(VERSIONS_LOST_MAX);
            let epoch = (lost >> VERSIONS_BITS).saturating_add(fences.into());
            self.version = if fences == 0 { self.version } else { epoch << VERSIONS_BITS };
        }
    }

    /// The attributes that clients see.
    pub(crate) fn attr(&self, inode: InodeId) -> Attr {
        Attr {
            inode,
            kind: self.kind,
            mode: self.mode,
            uid: self.uid,
            gid: self.gid,
            nlink: self.nlink,
            size: self.size,
            allocated: self.allocated,
            atime: self.atime,
            mtime: self.mtime,
            ctime: self.ctime,
            btime: self.btime,
            rdev: self.rdev,
            version: self.version,
            policy: self.policy,
            consistency: self.consistency,
            xattrs: self.xattrs,
            parent: self.parent,
        }
    }

    /// The parts of `[from, to)` with the fork that serves each.
    pub(crate) fn parts(&self, inode: InodeId, from: u64, to: u64) -> Vec<Part> {
        let whole = [Segment { from: 0, fork: inode.0 }];
        let segments = if self.segments.is_empty() { &whole[..] } else { &self.segments };
        let ends = segments.iter().skip(1).map(|s| s.from).chain([u64::MAX]);
        segments
            .iter()
            .zip(ends)
            .map(|(s, end)| Part { fork: s.fork, from: s.from.max(from), to: end.min(to) })
            .filter(|p| p.from < p.to)
            .collect()
    }
}

/// A range of a file within one segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) fork: u64,
    pub(crate) from: u64,
    pub(crate) to: u64,
}

/// A directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DentryRow {
    pub(crate) inode: InodeId,
    pub(crate) kind: FileKind,
}

/// An extent; its end is in the key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ExtentRow {
    pub(crate) length: u64,
    pub(crate) source: Source,
}

impl ExtentRow {
    /// The extent of the row under `key`; `None` when the two do not fit.
    pub(crate) fn at(self, key: &[u8]) -> Option<Extent> {
        let offset = last_u64(key)?.checked_sub(self.length)?;
        Some(Extent { offset, length: self.length, source: self.source })
    }
}

/// A range of a fork that no file shows any more, from the offset in the key on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DoomedRow {
    pub(crate) to: u64,
    /// The file whose allocated bytes still contain the extents; `None` when they were subtracted.
    pub(crate) counted_in: Option<InodeId>,
}

/// A lock; its holder and first byte are in the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LockRow {
    pub(crate) end: u64,
    pub(crate) kind: LockKind,
    pub(crate) pid: u32,
}

impl LockRow {
    /// The lock of the row under `key`; `None` for a key that is none of a lock.
    pub(crate) fn at(self, key: &[u8]) -> Option<Held> {
        let number = |at: usize| last_u64(key.get(..at + 8)?);
        let space = match key.get(SPACE_AT)? {
            0 => LockSpace::Posix,
            1 => LockSpace::Flock,
            _ => return None,
        };
        let holder = Holder {
            session: SessionId(number(9)?),
            space,
            owner: LockOwner(number(SPACE_AT + 1)?),
        };
        let range = Range { start: last_u64(key)?, end: self.end };
        Some(Held { holder, range, kind: self.kind, pid: self.pid })
    }
}

/// What was answered to a request.
pub(crate) type KeptAnswer = Result<FsReply, FsError>;

/// The last 8 bytes of a key as a number; `None` for a shorter key, which no table has.
pub(crate) fn last_u64(key: &[u8]) -> Option<u64> {
    let start = key.len().checked_sub(8)?;
    Some(u64::from_be_bytes(key[start..].try_into().ok()?))
}

pub(crate) fn inode(id: InodeId) -> Vec<u8> {
    Key::new(Table::Inode).u64(id.0).done()
}

pub(crate) fn dentry(parent: InodeId, name: &Name) -> Vec<u8> {
    Key::new(Table::Dentry).u64(parent.0).bytes(name.as_bytes())
}

/// Prefix of a directory's entries.
pub(crate) fn dentries_of(parent: InodeId) -> Vec<u8> {
    Key::new(Table::Dentry).u64(parent.0).done()
}

/// Length of the prefix of a key of `Dentry` or `Xattr` before the name.
pub(crate) const NAME_AT: usize = 9;

pub(crate) fn extent(fork: u64, end: u64) -> Vec<u8> {
    Key::new(Table::Extent).u64(fork).u64(end).done()
}

/// Upper bound of a fork's extents.
pub(crate) fn extents_end(fork: u64) -> Vec<u8> {
    Key::new(Table::Extent).u64(fork).u64(u64::MAX).bytes(&[0])
}

pub(crate) fn doomed(fork: u64, from: u64) -> Vec<u8> {
    Key::new(Table::Doomed).u64(fork).u64(from).done()
}

pub(crate) fn xattr(inode: InodeId, name: &[u8]) -> Vec<u8> {
    Key::new(Table::Xattr).u64(inode.0).bytes(name)
}

pub(crate) fn kept_answer(session: SessionId, request: u64) -> Vec<u8> {
    Key::new(Table::KeptAnswer).u64(session.0).u64(request).done()
}

/// Prefix of all kept answers of a session.
pub(crate) fn kept_answers_of(session: SessionId) -> Vec<u8> {
    Key::new(Table::KeptAnswer).u64(session.0).done()
}

pub(crate) fn open_handle(inode: InodeId, session: SessionId) -> Vec<u8> {
    Key::new(Table::OpenHandle).u64(inode.0).u64(session.0).done()
}

/// Prefix of all open handles of an inode.
pub(crate) fn open_handles_of(inode: InodeId) -> Vec<u8> {
    Key::new(Table::OpenHandle).u64(inode.0).done()
}

pub(crate) fn session_handle(session: SessionId, inode: InodeId) -> Vec<u8> {
    Key::new(Table::SessionHandle).u64(session.0).u64(inode.0).done()
}

/// Prefix of all open handles of a session.
pub(crate) fn session_handles_of(session: SessionId) -> Vec<u8> {
    Key::new(Table::SessionHandle).u64(session.0).done()
}

pub(crate) fn ended_session(session: SessionId) -> Vec<u8> {
    Key::new(Table::EndedSession).u64(session.0).done()
}

pub(crate) fn change(sequence: u64) -> Vec<u8> {
    Key::new(Table::Change).u64(sequence).done()
}

pub(crate) fn unlinked(unlinked_ms: u64, inode: InodeId) -> Vec<u8> {
    Key::new(Table::Unlinked).u64(unlinked_ms).u64(inode.0).done()
}

/// Where the space is in a key of `Lock`: after table, inode and session.
const SPACE_AT: usize = 17;

pub(crate) fn lock(inode: InodeId, holder: Holder, start: u64) -> Vec<u8> {
    let space = match holder.space {
        LockSpace::Posix => 0,
        LockSpace::Flock => 1,
    };
    let key = Key::new(Table::Lock).u64(inode.0).u64(holder.session.0);
    key.u8(space).u64(holder.owner.0).u64(start).done()
}

/// Prefix of all locks on an inode.
pub(crate) fn locks_of(inode: InodeId) -> Vec<u8> {
    Key::new(Table::Lock).u64(inode.0).done()
}

/// Prefix of all locks of a session on an inode.
pub(crate) fn locks_of_session(inode: InodeId, session: SessionId) -> Vec<u8> {
    Key::new(Table::Lock).u64(inode.0).u64(session.0).done()
}

pub(crate) fn session_lock(session: SessionId, inode: InodeId) -> Vec<u8> {
    Key::new(Table::SessionLock).u64(session.0).u64(inode.0).done()
}

/// Prefix of all inodes that a session has locks on.
pub(crate) fn session_locks_of(session: SessionId) -> Vec<u8> {
    Key::new(Table::SessionLock).u64(session.0).done()
}

/// Prefix of a whole table.
pub(crate) fn table(table: Table) -> Vec<u8> {
    Key::new(table).done()
}

/// Reads an inode.
pub(crate) fn get_inode(kv: &(impl KvRead + ?Sized), id: InodeId) -> KvResult<Option<InodeRow>> {
    get_row(kv, &inode(id))
}

/// Reads a directory entry.
pub(crate) fn get_dentry(
    kv: &(impl KvRead + ?Sized),
    parent: InodeId,
    name: &Name,
) -> KvResult<Option<DentryRow>> {
    get_row(kv, &dentry(parent, name))
}
