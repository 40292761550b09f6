//! Open handles: they keep an inode whose last name is gone.

use crate::failure::Outcome;
use crate::rows;
use crate::tree::Tree;
use everhold_proto::fs::{FsError, FsReply};
use everhold_proto::ids::*;
use everhold_proto::kv::{get_row, put_row};

pub(super) fn open(tree: &mut Tree<'_, '_>, inode: InodeId) -> Outcome<FsReply> {
    let attr = tree.attr(inode)?;
    add(tree, inode)?;
    Ok(FsReply::Attr(attr))
}

/// Counts one more handle of the session.
pub(super) fn add(tree: &mut Tree<'_, '_>, inode: InodeId) -> Outcome<()> {
    let session = tree.grant.session;
    let key = rows::open_handle(inode, session);
    let count: u32 = get_row(&*tree.ctx.kv, &key)?.unwrap_or(0);
    let more = count.checked_add(1).ok_or(FsError::Invalid)?;
    put_row(tree.ctx.kv, &key, &more)?;
    if count == 0 {
        put_row(tree.ctx.kv, &rows::session_handle(session, inode), &())?;
    }
    Ok(())
}

pub(super) fn release(tree: &mut Tree<'_, '_>, inode: InodeId) -> Outcome<FsReply> {
    let session = tree.grant.session;
    let key = rows::open_handle(inode, session);
    let count: Option<u32> = get_row(&*tree.ctx.kv, &key)?;
    match count {
        None => return Err(FsError::NotFound.into()),
        Some(count) if count > 1 => put_row(tree.ctx.kv, &key, &(count - 1))?,
        Some(_) => tree.forget_handles(session, inode)?,
    }
    Ok(FsReply::Done)
}

impl Tree<'_, '_> {
    /// Forgets all handles of a session on an inode, and frees the inode if nothing else keeps it.
    pub(crate) fn forget_handles(&mut self, session: SessionId, inode: InodeId) -> Outcome<()> {
        self.ctx.kv.delete(&rows::open_handle(inode, session))?;
        self.ctx.kv.delete(&rows::session_handle(session, inode))?;
        self.free_if_unused(inode)
    }
}
