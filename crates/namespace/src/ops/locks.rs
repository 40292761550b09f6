//! `fcntl` locks and `flock`: the rows of the locks that sessions hold. A lock of a session that has
//! ended is void: nobody is kept waiting by it, and whoever meets it removes it.
//!
//! **Invariant:** a session has a `SessionLock` row for an inode exactly if it has a lock on it.

use crate::failure::Outcome;
use crate::locks::{self, Change, Held, Holder, Range};
use crate::rows::{self, LockRow};
use crate::tree::Tree;
use everhold_proto::fs::{FsError, FsReply, LockKind, LockOwner, LockSpace};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvRead, KvResult, prefix_end, put_row, scan_rows};
use everhold_proto::limits::LOCKS_PER_INODE_MAX;
use everhold_proto::tables;
use std::collections::BTreeSet;

/// A range of an inode that an owner within the session asks about.
pub(super) struct Wanted {
    pub(super) inode: InodeId,
    pub(super) space: LockSpace,
    pub(super) owner: LockOwner,
    pub(super) start: u64,
    pub(super) end: u64,
}

impl Wanted {
    fn range(&self) -> Outcome<Range> {
        Ok(Range::of(self.space, self.start, self.end).ok_or(FsError::Invalid)?)
    }

    fn holder(&self, session: SessionId) -> Holder {
        Holder { session, space: self.space, owner: self.owner }
    }
}

pub(super) fn lock(
    tree: &mut Tree<'_, '_>,
    wanted: &Wanted,
    kind: LockKind,
    pid: u32,
) -> Outcome<FsReply> {
    let (range, holder) = (wanted.range()?, wanted.holder(tree.grant.session));
    let held = tree.valid_locks(wanted.inode)?;
    if locks::conflict(&held, holder, range, kind).is_some() {
        return Err(FsError::Locked.into());
    }
    let change = locks::take(&held, Held { holder, range, kind, pid });
    tree.change_locks(wanted.inode, &held, change)?;
    Ok(FsReply::Done)
}

pub(super) fn unlock(tree: &mut Tree<'_, '_>, wanted: &Wanted) -> Outcome<FsReply> {
    let (range, holder) = (wanted.range()?, wanted.holder(tree.grant.session));
    let held = tree.valid_locks(wanted.inode)?;
    let change = locks::release(&held, holder, range);
    tree.change_locks(wanted.inode, &held, change)?;
    Ok(FsReply::Done)
}

/// All locks on an inode, void ones too.
fn all(kv: &(impl KvRead + ?Sized), inode: InodeId) -> KvResult<Vec<Held>> {
    let prefix = rows::locks_of(inode);
    scan_rows(kv, &prefix, &prefix_end(&prefix), usize::MAX, |key, row: LockRow| row.at(key))
}

/// Locks whose sessions are open, and the sessions that the others belonged to.
pub(crate) fn read(
    kv: &(impl KvRead + ?Sized),
    inode: InodeId,
) -> KvResult<(Vec<Held>, BTreeSet<SessionId>)> {
    let mut held = all(kv, inode)?;
    let sessions: BTreeSet<SessionId> = held.iter().map(|lock| lock.holder.session).collect();
    let mut ended = BTreeSet::new();
    for session in sessions {
        if kv.get(&tables::session(session))?.is_none() {
            ended.insert(session);
        }
    }
    held.retain(|lock| !ended.contains(&lock.holder.session));
    Ok((held, ended))
}

impl Tree<'_, '_> {
    /// The locks on an inode that count; the void ones are removed.
    fn valid_locks(&mut self, inode: InodeId) -> Outcome<Vec<Held>> {
        self.inode(inode)?;
        let (held, ended) = read(&*self.ctx.kv, inode)?;
        for session in ended {
            self.drop_locks(session, inode, usize::MAX)?;
        }
        Ok(held)
    }

    /// Writes what a request changes of the locks that `held` lists.
    fn change_locks(&mut self, inode: InodeId, held: &[Held], change: Change) -> Outcome<()> {
        let count = held.len() - change.removed.len() + change.added.len();
        if count > LOCKS_PER_INODE_MAX && change.added.len() > change.removed.len() {
            return Err(FsError::NoLocks.into());
        }
        let session = self.grant.session;
        let had = held.iter().filter(|lock| lock.holder.session == session).count();
        for lock in &change.removed {
            self.ctx.kv.delete(&rows::lock(inode, lock.holder, lock.range.start))?;
        }
        for lock in &change.added {
            let row = LockRow { end: lock.range.end, kind: lock.kind, pid: lock.pid };
            put_row(self.ctx.kv, &rows::lock(inode, lock.holder, lock.range.start), &row)?;
        }
        let index = rows::session_lock(session, inode);
        match (had, had - change.removed.len() + change.added.len()) {
            (0, 1..) => put_row(self.ctx.kv, &index, &())?,
            (1.., 0) => self.ctx.kv.delete(&index)?,
            _ => {}
        }
        Ok(())
    }

    /// Drops up to `limit` locks of a session on an inode; answers how many.
    pub(crate) fn drop_locks(
        &mut self,
        session: SessionId,
        inode: InodeId,
        limit: usize,
    ) -> KvResult<usize> {
        let prefix = rows::locks_of_session(inode, session);
        let (end, one_more) = (prefix_end(&prefix), limit.saturating_add(1));
        let mut keys: Vec<Vec<u8>> =
            scan_rows(&*self.ctx.kv, &prefix, &end, one_more, |key, _: LockRow| {
                Some(key.to_vec())
            })?;
        if keys.len() <= limit {
            self.ctx.kv.delete(&rows::session_lock(session, inode))?;
        }
        keys.truncate(limit);
        keys.iter().try_for_each(|key| self.ctx.kv.delete(key))?;
        Ok(keys.len())
    }

    /// Drops all locks on an inode that is freed.
    pub(crate) fn delete_locks(&mut self, inode: InodeId) -> KvResult<()> {
        let held = all(&*self.ctx.kv, inode)?;
        self.dropped += held.len();
        for lock in held {
            self.ctx.kv.delete(&rows::lock(inode, lock.holder, lock.range.start))?;
            self.ctx.kv.delete(&rows::session_lock(lock.holder.session, inode))?;
        }
        Ok(())
    }
}
