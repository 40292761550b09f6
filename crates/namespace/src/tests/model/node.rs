//! A file, directory or link of the model.

use super::super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::limits::UNLINKED_LINGER_MS;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

#[derive(Clone, Debug)]
pub(in crate::tests) struct Node {
    pub(in crate::tests) kind: FileKind,
    pub(in crate::tests) bytes: Vec<u8>,
    /// For each byte whether an extent covers it.
    pub(in crate::tests) covered: Vec<bool>,
    pub(in crate::tests) nlink: u32,
    pub(in crate::tests) entries: BTreeMap<Name, InodeId>,
    pub(super) parent: InodeId,
    pub(in crate::tests) xattrs: BTreeMap<Bytes, Bytes>,
    pub(super) handles: BTreeMap<SessionId, u32>,
    pub(in crate::tests) mode: u32,
    /// Log time at which the last name went.
    pub(super) lingers_since: Option<u64>,
    pub(super) linkable: bool,
    /// Who holds which byte how.
    pub(super) locks: BTreeMap<(LockSpace, SessionId, LockOwner, u64), LockKind>,
}

impl Node {
    pub(super) fn new(kind: FileKind, parent: InodeId) -> Self {
        Node {
            kind,
            bytes: Vec::new(),
            covered: Vec::new(),
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            entries: BTreeMap::new(),
            parent,
            xattrs: BTreeMap::new(),
            handles: BTreeMap::new(),
            mode: if kind == FileKind::Symlink { 0o777 } else { OWNER.mode },
            lingers_since: None,
            linkable: false,
            locks: BTreeMap::new(),
        }
    }

    pub(in crate::tests) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        self.lingers_since.is_some_and(|since| since + UNLINKED_LINGER_MS <= now_ms)
    }

    /// Whether somebody else than this session's owner holds what is in the way.
    pub(super) fn is_locked(
        &self,
        (space, session, owner): (LockSpace, SessionId, LockOwner),
        bytes: &RangeInclusive<u64>,
        kind: LockKind,
    ) -> bool {
        self.locks.iter().any(|((s, se, o, at), held)| {
            *s == space
                && (*se, *o) != (session, owner)
                && bytes.contains(at)
                && (kind == LockKind::Write || *held == LockKind::Write)
        })
    }

    /// Whether anybody holds a byte.
    pub(in crate::tests) fn is_locked_at(&self, space: LockSpace, at: u64) -> bool {
        let nobody = (space, SessionId(u64::MAX), LockOwner(0));
        self.is_locked(nobody, &(at..=at), LockKind::Write)
    }

    pub(super) fn resize(&mut self, size: usize) {
        self.bytes.resize(size, 0);
        self.covered.resize(size, false);
    }

    pub(super) fn punch(&mut self, from: usize, to: usize) {
        let to = to.min(self.bytes.len());
        for i in from..to {
            (self.bytes[i], self.covered[i]) = (0, false);
        }
    }

    pub(super) fn write(&mut self, base: usize, pieces: &[(usize, Vec<u8>)]) {
        for (offset, piece) in pieces {
            let (from, to) = (base + offset, base + offset + piece.len());
            self.resize(self.bytes.len().max(to));
            self.bytes[from..to].copy_from_slice(piece);
            self.covered[from..to].fill(true);
        }
    }
}

/// The last byte that the model locks: it stands for all that follow.
pub(in crate::tests) const LAST_BYTE: u64 = 16;

/// The bytes that a request means.
pub(super) fn locked(space: LockSpace, start: u64, end: u64) -> RangeInclusive<u64> {
    match space {
        LockSpace::Flock => 0..=LAST_BYTE,
        LockSpace::Posix => start..=end.min(LAST_BYTE),
    }
}
