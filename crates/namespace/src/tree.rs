//! One request at work: the inodes it has loaded, the block references it changes, and the few steps
//! that all operations are made of (load, create, link a name, remove a name).

use crate::delegations::{self, Rule};
use crate::failure::{Outcome, split};
use crate::limits::DROP_EXTENTS_MAX;
use crate::overlay::Overlay;
use crate::rows::{self, DentryRow, InodeRow};
use bytes::Bytes;
use everhold_cluster::table;
use everhold_proto::apply::Apply;
use everhold_proto::fs::{
    Attr, ChangeKind, ChangeRecord, Consistency, FileKind, FsError, Name, Owner,
};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvResult, put_row};
use everhold_proto::units::Timestamp;
use std::collections::BTreeMap;

/// Mode bits that a file keeps.
pub(crate) const MODE_MASK: u32 = 0o7777;
pub(crate) const SETUID: u32 = 0o4000;
pub(crate) const SETGID: u32 = 0o2000;
const GROUP_EXECUTE: u32 = 0o0010;
/// Where Linux keeps what a program may do.
const CAPABILITY: &[u8] = b"security.capability";

/// A directory and a name in it.
pub(crate) type Entry = (InodeId, Name);

/// Who asks, and what the request may use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grant {
    pub(crate) session: SessionId,
    /// The lowest block counter that the session may still commit.
    pub(crate) floor: u64,
    /// Extents that may be dropped at once.
    pub(crate) drops: usize,
    /// How it goes by delegations.
    pub(crate) rule: Rule,
    /// The number for the inode that it creates, if that was set aside.
    pub(crate) number: Option<InodeId>,
}

impl Grant {
    pub(crate) fn of(session: SessionId, floor: u64) -> Self {
        Grant { session, floor, drops: DROP_EXTENTS_MAX, rule: Rule::Respect, number: None }
    }
}

/// A request at work.
pub(crate) struct Tree<'a, 'k> {
    pub(crate) ctx: &'a mut Apply<'k>,
    pub(crate) grant: Grant,
    inodes: BTreeMap<InodeId, Loaded>,
    /// Changes of (references, live bytes), applied once at the end: a block whose extent is cut in
    /// two must not die in between.
    pub(crate) references: BTreeMap<(PgId, BlockId), (i64, i64)>,
    /// Rows of freed inodes that were dropped.
    pub(crate) dropped: usize,
}

struct Loaded {
    row: InodeRow,
    dirty: bool,
}

/// Runs one request over a write buffer: all of it happens, or nothing.
pub(crate) fn run<T>(
    ctx: &mut Apply<'_>,
    grant: Grant,
    work: impl FnOnce(&mut Tree<'_, '_>) -> Outcome<T>,
) -> KvResult<Result<T, FsError>> {
    let mut overlay = Overlay::new(&mut *ctx.kv);
    let mut inner =
        Apply { kv: &mut overlay, header: ctx.header.clone(), index: ctx.index, stamp: ctx.stamp };
    let (inodes, references) = (BTreeMap::new(), BTreeMap::new());
    let mut tree = Tree { ctx: &mut inner, grant, inodes, references, dropped: 0 };
    let outcome = split(work(&mut tree))?;
    if outcome.is_ok() {
        tree.finish()?;
        let header = inner.header;
        overlay.commit()?;
        ctx.header = header;
    }
    Ok(outcome)
}

/// Makes the root directory of a new cluster; its data follows the default policy.
pub fn create_root(ctx: &mut Apply<'_>) -> KvResult<()> {
    let owner = Owner { uid: 0, gid: 0, mode: 0o755, umask: 0 };
    let row = InodeRow { nlink: 2, ..new_row(FileKind::Directory, owner, ctx.stamp.wall) };
    put_row(ctx.kv, &rows::inode(InodeId::ROOT), &row)?;
    ctx.header.next_inode = InodeId::ROOT.0 + 1;
    ctx.header.next_change = ctx.header.next_change.max(1);
    ctx.header.inodes = 1;
    Ok(())
}

fn new_row(kind: FileKind, owner: Owner, now: Timestamp) -> InodeRow {
    InodeRow {
        kind,
        mode: owner.mode & MODE_MASK,
        uid: owner.uid,
        gid: owner.gid,
        nlink: 1,
        size: 0,
        allocated: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        rdev: 0,
        version: 1,
        policy: PolicyId::default(),
        consistency: Consistency::default(),
        unlinked_ms: None,
        linkable: false,
        xattrs: 0,
        parent: InodeId::ROOT,
        target: Bytes::new(),
        delegate: None,
        segments: Vec::new(),
        fences: 0,
    }
}

impl Tree<'_, '_> {
    /// The time of the request.
    pub(crate) fn now(&self) -> Timestamp {
        self.ctx.stamp.wall
    }

    fn load(&mut self, id: InodeId) -> Outcome<&mut Loaded> {
        self.load_by(self.grant.rule, id)
    }

    fn load_by(&mut self, rule: Rule, id: InodeId) -> Outcome<&mut Loaded> {
        if !self.inodes.contains_key(&id) {
            let mut row = rows::get_inode(&*self.ctx.kv, id)?.ok_or(FsError::NotFound)?;
            let held = delegations::held(&*self.ctx.kv, id, &row, Some(self.grant.session))?;
            delegations::judge(&row, &held, rule, self.grant.session)?;
            held.settle(&mut row);
            self.inodes.insert(id, Loaded { row, dirty: false });
        }
        Ok(self.inodes.get_mut(&id).expect("loaded above"))
    }

    /// Loads the inode of a name that is given, moved or removed.
    pub(crate) fn load_named(&mut self, id: InodeId) -> Outcome<()> {
        let rule = match self.grant.rule {
            Rule::Need => Rule::NeedName,
            rule => rule,
        };
        self.load_by(rule, id).map(|_| ())
    }

    /// An inode, or `NotFound`.
    pub(crate) fn inode(&mut self, id: InodeId) -> Outcome<&InodeRow> {
        Ok(&self.load(id)?.row)
    }

    /// An inode to change; it is written back at the end.
    pub(crate) fn inode_mut(&mut self, id: InodeId) -> Outcome<&mut InodeRow> {
        let loaded = self.load(id)?;
        loaded.dirty = true;
        Ok(&mut loaded.row)
    }

    /// An inode whose attributes change now.
    pub(crate) fn touch(&mut self, id: InodeId) -> Outcome<&mut InodeRow> {
        let now = self.now();
        let row = self.inode_mut(id)?;
        row.ctime = now;
        row.version += 1;
        Ok(row)
    }

    /// An inode whose content changes now.
    pub(crate) fn touch_content(&mut self, id: InodeId) -> Outcome<&mut InodeRow> {
        let now = self.now();
        let row = self.touch(id)?;
        row.mtime = now;
        Ok(row)
    }

    pub(crate) fn attr(&mut self, id: InodeId) -> Outcome<Attr> {
        Ok(self.inode(id)?.attr(id))
    }

    /// A directory that still has a name; nothing can be put into another one.
    pub(crate) fn directory(&mut self, id: InodeId) -> Outcome<&InodeRow> {
        let row = self.inode(id)?;
        if !row.is_directory() {
            return Err(FsError::NotDirectory.into());
        }
        if row.nlink == 0 {
            return Err(FsError::NotFound.into());
        }
        Ok(row)
    }

    /// A regular file.
    pub(crate) fn file(&mut self, id: InodeId) -> Outcome<&InodeRow> {
        let row = self.inode(id)?;
        match row.kind {
            FileKind::File => Ok(row),
            FileKind::Directory => Err(FsError::IsDirectory.into()),
            _ => Err(FsError::Invalid.into()),
        }
    }

    /// Puts an inode that is loaded into a directory, which has its only name.
    pub(crate) fn place(&mut self, id: InodeId, parent: InodeId) -> Outcome<()> {
        let fences = self.inode(parent)?.fences;
        let row = self.inode_mut(id)?;
        row.parent = parent;
        if !row.is_directory() {
            row.fences = fences;
        }
        Ok(())
    }

    /// What a name of a directory stands for.
    pub(crate) fn lookup(&mut self, parent: InodeId, name: &Name) -> Outcome<Option<DentryRow>> {
        self.directory(parent)?;
        Ok(rows::get_dentry(&*self.ctx.kv, parent, name)?)
    }

    /// A new inode in `parent`, not yet linked there.
    pub(crate) fn create_inode(
        &mut self,
        kind: FileKind,
        owner: Owner,
        parent: InodeId,
    ) -> Outcome<InodeId> {
        self.directory(parent)?;
        let permissions = self.permissions(kind, owner, parent)?;
        let owner = Owner { mode: permissions.mode, ..owner };
        let mut row = new_row(kind, owner, self.now());
        let directory = self.inode(parent)?;
        row.policy = directory.policy;
        row.consistency = directory.consistency;
        if directory.mode & SETGID != 0 {
            row.gid = directory.gid;
            row.mode |= if kind == FileKind::Directory { SETGID } else { 0 };
        }
        if kind == FileKind::Directory {
            row.nlink = 2;
            // Nobody can know it yet, and who holds this directory goes on in the new one.
            row.delegate = (self.grant.rule == Rule::Need).then_some(self.grant.session);
        }
        row.parent = parent;
        if kind != FileKind::Directory {
            row.fences = self.inode(parent)?.fences;
        }
        let set_aside = self.grant.number.take();
        let id = set_aside.unwrap_or_else(|| InodeId(self.next_number()));
        self.ctx.header.inodes += 1;
        self.inodes.insert(id, Loaded { row, dirty: true });
        self.give_lists(id, permissions)?;
        Ok(id)
    }

    /// A number that no inode and no fork ever had.
    pub(crate) fn next_number(&mut self) -> u64 {
        let number = self.ctx.header.next_inode;
        self.ctx.header.next_inode += 1;
        number
    }

    /// Enters a name that is free.
    pub(crate) fn add_entry(&mut self, entry: &Entry, inode: InodeId) -> Outcome<()> {
        let kind = self.inode(inode)?.kind;
        let parent = self.touch_content(entry.0)?;
        parent.size += 1;
        parent.nlink += u32::from(kind == FileKind::Directory);
        let row = DentryRow { inode, kind };
        Ok(put_row(self.ctx.kv, &rows::dentry(entry.0, &entry.1), &row)?)
    }

    /// Removes a name that is there.
    pub(crate) fn remove_entry(&mut self, entry: &Entry, found: DentryRow) -> Outcome<()> {
        let parent = self.touch_content(entry.0)?;
        parent.size = parent.size.saturating_sub(1);
        let was_directory = u32::from(found.kind == FileKind::Directory);
        parent.nlink = parent.nlink.saturating_sub(was_directory);
        Ok(self.ctx.kv.delete(&rows::dentry(entry.0, &entry.1))?)
    }

    /// Lets an existing name stand for another inode of the same or another kind.
    pub(crate) fn replace_entry(
        &mut self,
        entry: &Entry,
        old: DentryRow,
        inode: InodeId,
    ) -> Outcome<()> {
        self.remove_entry(entry, old)?;
        self.add_entry(entry, inode)
    }

    /// Drops what was loaded of an inode that is freed.
    pub(crate) fn forget(&mut self, id: InodeId) {
        self.inodes.remove(&id);
    }

    /// Clears the set-id bits and the capabilities of a program as a write or a change of owner does.
    pub(crate) fn clear_privileges(&mut self, id: InodeId) -> Outcome<()> {
        let row = self.inode(id)?;
        if row.is_directory() {
            return Ok(());
        }
        let mut cleared = row.mode & !SETUID;
        if cleared & GROUP_EXECUTE != 0 {
            cleared &= !SETGID;
        }
        let (changed, xattrs) = (cleared != row.mode, row.xattrs);
        if changed {
            self.inode_mut(id)?.mode = cleared;
        }
        let capability = rows::xattr(id, CAPABILITY);
        if xattrs > 0 && self.ctx.kv.get(&capability)?.is_some() {
            self.ctx.kv.delete(&capability)?;
            self.inode_mut(id)?.xattrs = xattrs - 1;
        }
        Ok(())
    }

    /// Appends to the change feed.
    pub(crate) fn record(
        &mut self,
        kind: ChangeKind,
        inode: InodeId,
        entry: Option<Entry>,
        old_entry: Option<Entry>,
    ) -> Outcome<()> {
        let (index, wall, session) = (self.ctx.index, self.now(), self.grant.session);
        let record = ChangeRecord { index, wall, kind, inode, entry, old_entry, session };
        put_row(self.ctx.kv, &rows::change(self.ctx.header.next_change), &record)?;
        self.ctx.header.next_change += 1;
        Ok(())
    }

    /// Writes what was changed.
    fn finish(mut self) -> KvResult<()> {
        for (id, loaded) in &self.inodes {
            if loaded.dirty {
                put_row(self.ctx.kv, &rows::inode(*id), &loaded.row)?;
            }
        }
        for ((pg, id), (references, bytes)) in std::mem::take(&mut self.references) {
            if (references, bytes) != (0, 0) {
                table::reference(self.ctx, pg, id, references, bytes)?;
            }
        }
        Ok(())
    }
}
