//! `chmod`, `chown`, `truncate`, `utimensat`.

use crate::failure::Outcome;
use crate::tree::Tree;
use everhold_proto::fs::{ChangeKind, Consistency, FsError, FsReply, SetAttr, TimeOrNow};
use everhold_proto::ids::*;
use everhold_proto::limits::FILE_BYTES_MAX;

pub(super) fn set(tree: &mut Tree<'_, '_>, inode: InodeId, set: &SetAttr) -> Outcome<FsReply> {
    if *set == SetAttr::default() {
        return Ok(FsReply::Attr(tree.attr(inode)?));
    }
    if let Some(size) = set.size {
        truncate(tree, inode, size)?;
    }
    if set.uid.is_some() || set.gid.is_some() {
        tree.clear_privileges(inode)?;
    }
    let now = tree.now();
    let time = |t: TimeOrNow| match t {
        TimeOrNow::At(time) => time,
        TimeOrNow::Now => now,
    };
    if let Some(mode) = set.mode {
        tree.chmod(inode, mode)?;
    }
    let row = tree.touch(inode)?;
    row.uid = set.uid.unwrap_or(row.uid);
    row.gid = set.gid.unwrap_or(row.gid);
    row.atime = set.atime.map_or(row.atime, time);
    row.mtime = set.mtime.map_or(row.mtime, time);
    row.consistency = set.consistency.unwrap_or(row.consistency);
    if row.consistency == Consistency::Strict {
        row.delegate = None;
    }
    let kind = if set.size.is_some() { ChangeKind::Write } else { ChangeKind::Attributes };
    tree.record(kind, inode, None, None)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}

/// Cuts a file or lets it grow by a hole.
fn truncate(tree: &mut Tree<'_, '_>, inode: InodeId, size: u64) -> Outcome<()> {
    let old = tree.file(inode)?.size;
    if size > FILE_BYTES_MAX {
        return Err(FsError::TooLarge.into());
    }
    if size < old {
        tree.clear(inode, size, u64::MAX)?;
    }
    tree.clear_privileges(inode)?;
    let now = tree.now();
    let row = tree.inode_mut(inode)?;
    row.size = size;
    row.mtime = now;
    Ok(())
}
