//! How long an inode lives.
//!
//! **Invariant:** an inode row exists as long as a name or an open handle does, or the row lingers, and no
//! longer. Mounts do not register each open file, so what loses its last name lingers for a while
//! ([`UNLINKED_LINGER_MS`]): who has it open opens it again, by its number, and then a handle keeps it.

use crate::failure::{Failure, Outcome};
use crate::rows;
use crate::tree::Tree;
use everhold_proto::fs::FsError;
use everhold_proto::ids::*;
use everhold_proto::kv::{self, KvRead, KvResult, put_row, scan_rows};
use everhold_proto::limits::UNLINKED_LINGER_MS;
use everhold_proto::tables::{Key, Table};
use std::ops::ControlFlow;

/// Up to `limit` inodes that have lingered long enough, the first to lose its name first; each with the
/// log time at which that was.
pub(crate) fn lingered(
    kv: &(impl KvRead + ?Sized),
    now_ms: u64,
    limit: usize,
) -> KvResult<Vec<(u64, InodeId)>> {
    let Some(last) = now_ms.checked_sub(UNLINKED_LINGER_MS) else { return Ok(Vec::new()) };
    let to = Key::new(Table::Unlinked).u64(last.saturating_add(1)).done();
    scan_rows(kv, &rows::table(Table::Unlinked), &to, limit, |key, ()| {
        let unlinked_ms = rows::last_u64(key.get(..rows::NAME_AT)?)?;
        Some((unlinked_ms, InodeId(rows::last_u64(key)?)))
    })
}

impl Tree<'_, '_> {
    /// Takes one name away from an inode that is no directory, or its only one from an empty directory.
    /// Without a name a file lingers if it may.
    pub(crate) fn drop_link(&mut self, id: InodeId, linger: bool) -> Outcome<()> {
        let now_ms = self.ctx.stamp.log_ms;
        let row = self.touch(id)?;
        row.nlink = if row.is_directory() { 0 } else { row.nlink.saturating_sub(1) };
        if row.nlink == 0 && !row.is_directory() {
            row.parent = InodeId::NONE;
        }
        if linger && row.nlink == 0 && !row.is_directory() {
            row.unlinked_ms = Some(now_ms);
            put_row(self.ctx.kv, &rows::unlinked(now_ms, id), &())?;
        }
        self.free_if_unused(id)
    }

    /// Ends the lingering of an inode, which is freed unless a handle keeps it.
    pub(crate) fn end_lingering(&mut self, unlinked_ms: u64, id: InodeId) -> Outcome<()> {
        self.ctx.kv.delete(&rows::unlinked(unlinked_ms, id))?;
        match self.inode_mut(id) {
            Ok(row) => row.unlinked_ms = None,
            // What is not there lingers no more.
            Err(Failure::Fs(FsError::NotFound)) => return Ok(()),
            Err(e) => return Err(e),
        }
        self.free_if_unused(id)
    }

    /// Removes an inode that has neither a name nor an open handle and does not linger.
    pub(crate) fn free_if_unused(&mut self, id: InodeId) -> Outcome<()> {
        let row = self.inode(id)?;
        let wanted = row.nlink > 0 || row.unlinked_ms.is_some();
        if wanted || self.any(&rows::open_handles_of(id))? {
            return Ok(());
        }
        if self.inode(id)?.allocated > 0 {
            self.clear(id, 0, u64::MAX)?;
        }
        let (allocated, xattrs) = {
            let row = self.inode(id)?;
            (row.allocated, row.xattrs)
        };
        if xattrs > 0 {
            self.delete_range(&rows::xattr(id, &[]))?;
        }
        self.delete_locks(id)?;
        self.forget(id);
        self.ctx.kv.delete(&rows::inode(id))?;
        self.ctx.header.inodes = self.ctx.header.inodes.saturating_sub(1);
        self.ctx.header.bytes = self.ctx.header.bytes.saturating_sub(allocated);
        Ok(())
    }

    /// Whether there is a key with this prefix.
    pub(crate) fn any(&self, prefix: &[u8]) -> KvResult<bool> {
        let mut found = false;
        self.ctx.kv.scan(prefix, &kv::prefix_end(prefix), &mut |_, _| {
            found = true;
            ControlFlow::Break(())
        })?;
        Ok(found)
    }

    /// Deletes all keys with this prefix; their number is bounded by whoever writes them.
    fn delete_range(&mut self, prefix: &[u8]) -> KvResult<()> {
        let mut keys = Vec::new();
        self.ctx.kv.scan(prefix, &kv::prefix_end(prefix), &mut |key, _| {
            keys.push(key.to_vec());
            ControlFlow::Continue(())
        })?;
        self.dropped += keys.len();
        keys.iter().try_for_each(|key| self.ctx.kv.delete(key))
    }
}
