//! A session's own copy of the directories that it holds: the same rows, changed by the same code, so that what
//! is done behind a delegation is what the replicas will do when they are told (ADR 0009).
//!
//! A row here may be less than the real one: of a file that was only listed, content, extended attributes and the
//! target of a link are absent. Whoever keeps a shadow knows of which, and does not ask for these.

use crate::delegations::Rule;
use crate::ops;
use crate::query;
use crate::rows::{self, DentryRow, InodeRow};
use crate::tree::{self, Grant};
use bytes::Bytes;
use everhold_proto::apply::Apply;
use everhold_proto::fs::{
    Attr, Behind, Consistency, FileKind, FsAnswer, FsError, FsOp, FsQuery, FsReply, Name,
};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvResult, KvTxn, MemKv, get_row, prefix_end, put_row, scan_rows};
use everhold_proto::tables::Table;
use everhold_proto::units::{Stamp, Timestamp};
use std::ops::Bound;

/// See the module's words.
#[derive(Debug, Default)]
pub struct Shadow {
    kv: MemKv,
    session: SessionId,
}

/// Rows that only the real state needs: they go after each change.
const UNWANTED: [Table; 4] = [Table::Change, Table::Unlinked, Table::Doomed, Table::OpenHandle];
const READABLE: &str = "the rows of a shadow are its own";

impl Shadow {
    /// An empty one, for what this session does.
    pub fn new(session: SessionId) -> Self {
        Shadow { kv: MemKv::default(), session }
    }

    /// Takes in a directory without extended attributes, and all its entries.
    pub fn take_in<'a>(
        &mut self,
        attr: &Attr,
        entries: impl IntoIterator<Item = &'a (Name, Attr)>,
    ) {
        self.put_inode(attr);
        for (name, child) in entries {
            let row = DentryRow { inode: child.inode, kind: child.kind };
            self.put(&rows::dentry(attr.inode, name), &row);
            if Shadow::takes(child) {
                self.put_inode(child);
            }
        }
    }

    /// Whether it has a row of an inode in a directory that it takes in. One of several names does not belong to the
    /// directory: only its name can be removed.
    pub fn takes(child: &Attr) -> bool {
        child.kind != FileKind::Directory && child.consistency != Consistency::Strict
    }

    /// Does what the replicas will do when they are told.
    pub fn perform(&mut self, op: &FsOp, behind: &Behind) -> Result<FsReply, FsError> {
        let done = self.try_perform(op, behind).expect(READABLE);
        for table in UNWANTED {
            self.remove_all(&rows::table(table));
        }
        done
    }

    fn try_perform(&mut self, op: &FsOp, behind: &Behind) -> KvResult<Result<FsReply, FsError>> {
        let stamp = Stamp { log_ms: 0, wall: behind.at };
        let mut ctx = Apply::begin(&mut self.kv, LogIndex(0), stamp)?;
        let of_session = Grant::of(self.session, u64::MAX);
        let grant = Grant { rule: Rule::Ignore, number: behind.inode, ..of_session };
        let done = tree::run(&mut ctx, grant, |tree| ops::perform(tree, op))?;
        ctx.finish()?;
        Ok(done)
    }

    /// Answers a question about what it has.
    pub fn ask(&self, question: &FsQuery) -> Result<FsAnswer, FsError> {
        query(&self.kv, question).expect(READABLE)
    }

    /// The attributes of an inode that it has.
    pub fn attr(&self, inode: InodeId) -> Option<Attr> {
        self.row(inode).map(|row| row.attr(inode))
    }

    /// What a name in a directory stands for.
    pub fn entry(&self, parent: InodeId, name: &Name) -> Option<(InodeId, FileKind)> {
        let row: Option<DentryRow> =
            get_row(&self.kv, &rows::dentry(parent, name)).expect(READABLE);
        row.map(|row| (row.inode, row.kind))
    }

    /// Entries of a directory after a name, at most `limit`.
    pub fn entries(
        &self,
        parent: InodeId,
        after: Option<&Name>,
        limit: usize,
    ) -> Vec<(Name, InodeId, FileKind)> {
        let prefix = rows::dentries_of(parent);
        let from = match after {
            Some(name) => [rows::dentry(parent, name), vec![0]].concat(),
            None => prefix.clone(),
        };
        let keep = |key: &[u8], row: DentryRow| {
            let name = Name::new(key.get(rows::NAME_AT..)?.to_vec()).ok()?;
            Some((name, row.inode, row.kind))
        };
        scan_rows(&self.kv, &from, &prefix_end(&prefix), limit, keep).expect(READABLE)
    }

    /// The directory that an inode is in, if that is one only.
    pub fn parent(&self, inode: InodeId) -> Option<InodeId> {
        self.row(inode).map(|row| row.parent).filter(|parent| *parent != InodeId::NONE)
    }

    /// Whether an inode has extended attributes, as far as it knows.
    pub fn has_xattrs(&self, inode: InodeId) -> bool {
        self.row(inode).is_some_and(|row| row.xattrs > 0)
    }

    /// An extended attribute.
    pub fn xattr(&self, inode: InodeId, name: &[u8]) -> Option<Bytes> {
        get_row(&self.kv, &rows::xattr(inode, name)).expect(READABLE)
    }

    /// An empty file gets content that is elsewhere: `None` if it is not empty. The replicas judge the blocks
    /// when they are told.
    pub fn fill(
        &mut self,
        inode: InodeId,
        size: u64,
        allocated: u64,
        at: Timestamp,
    ) -> Option<Attr> {
        let mut row = self.row(inode).filter(|row| row.kind == FileKind::File)?;
        if row.allocated > 0 || row.mode & (tree::SETUID | tree::SETGID) != 0 || row.xattrs > 0 {
            return None;
        }
        row.size = row.size.max(size);
        row.allocated = allocated;
        row.version += 1;
        (row.mtime, row.ctime) = (at, at);
        self.put(&rows::inode(inode), &row);
        Some(row.attr(inode))
    }

    /// Forgets an inode that is no directory; its name stays.
    pub fn forget(&mut self, inode: InodeId) {
        self.forget_content(inode);
        self.remove_all(&rows::xattr(inode, &[]));
        self.remove(&rows::inode(inode));
    }

    /// Forgets where the content of a file is.
    pub fn forget_content(&mut self, inode: InodeId) {
        let from = rows::extent(inode.0, 0);
        self.remove_range(&from, &rows::extents_end(inode.0));
    }

    /// Forgets a directory and its names. What these stand for is forgotten one by one.
    pub fn forget_directory(&mut self, inode: InodeId) {
        self.remove_all(&rows::dentries_of(inode));
        self.remove_all(&rows::xattr(inode, &[]));
        self.remove(&rows::inode(inode));
    }

    fn row(&self, inode: InodeId) -> Option<InodeRow> {
        rows::get_inode(&self.kv, inode).expect(READABLE)
    }

    fn put_inode(&mut self, attr: &Attr) {
        self.put(&rows::inode(attr.inode), &InodeRow::listed(attr));
    }

    fn put<T: serde::Serialize>(&mut self, key: &[u8], row: &T) {
        put_row(&mut self.kv, key, row).expect(READABLE);
    }

    fn remove(&mut self, key: &[u8]) {
        self.kv.delete(key).expect(READABLE);
    }

    fn remove_all(&mut self, prefix: &[u8]) {
        self.remove_range(prefix, &prefix_end(prefix));
    }

    fn remove_range(&mut self, from: &[u8], to: &[u8]) {
        let range = (Bound::Included(from), Bound::Excluded(to));
        let keys: Vec<Vec<u8>> =
            self.kv.0.range::<[u8], _>(range).map(|(key, _)| key.clone()).collect();
        keys.iter().for_each(|key| self.remove(key));
    }
}

impl InodeRow {
    /// What a listing tells of an inode.
    fn listed(attr: &Attr) -> Self {
        InodeRow {
            kind: attr.kind,
            mode: attr.mode,
            uid: attr.uid,
            gid: attr.gid,
            nlink: attr.nlink,
            size: attr.size,
            allocated: attr.allocated,
            atime: attr.atime,
            mtime: attr.mtime,
            ctime: attr.ctime,
            btime: attr.btime,
            rdev: attr.rdev,
            version: attr.version,
            policy: attr.policy,
            consistency: attr.consistency,
            unlinked_ms: None,
            linkable: false,
            xattrs: attr.xattrs,
            parent: attr.parent,
            delegate: None,
            target: Bytes::new(),
            segments: Vec::new(),
            fences: 0,
        }
    }
}
