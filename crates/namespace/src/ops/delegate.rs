//! Giving a directory to one session, and taking it back.

use crate::failure::Outcome;
use crate::rows;
use crate::tree::Tree;
use everhold_proto::fs::{ChangeKind, Consistency, FsError, FsReply};
use everhold_proto::ids::*;

pub(super) fn give(tree: &mut Tree<'_, '_>, inode: InodeId) -> Outcome<FsReply> {
    let session = tree.grant.session;
    let row = tree.directory(inode)?;
    if row.consistency == Consistency::Strict {
        return Err(FsError::Invalid.into());
    }
    if row.delegate != Some(session) {
        tree.inode_mut(inode)?.delegate = Some(session);
        tree.record(ChangeKind::Delegate, inode, None, None)?;
    }
    Ok(FsReply::Attr(tree.attr(inode)?))
}

/// `lost`: versions of what is in it were shown to programs of the holder and will never be told.
pub(super) fn take_back(tree: &mut Tree<'_, '_>, inode: InodeId, lost: bool) -> Outcome<FsReply> {
    let row = rows::get_inode(&*tree.ctx.kv, inode)?;
    if row.is_some_and(|row| row.delegate == Some(tree.grant.session)) {
        let row = tree.inode_mut(inode)?;
        row.delegate = None;
        if lost {
            row.fence();
            tree.record(ChangeKind::Delegate, inode, None, None)?;
        }
    }
    Ok(FsReply::Done)
}
