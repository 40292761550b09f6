//! Content of files: commits, folds and holes.

use crate::failure::Outcome;
use crate::tree::Tree;
use everhold_proto::fs::{ChangeKind, Content, FsError, FsReply};
use everhold_proto::ids::*;
use everhold_proto::limits::FILE_BYTES_MAX;

/// Refuses a request that was made for another version of the inode.
pub(super) fn expect_version(
    tree: &mut Tree<'_, '_>,
    inode: InodeId,
    expected: Option<u64>,
) -> Outcome<()> {
    let version = tree.inode(inode)?.version;
    match expected {
        Some(expected) if expected != version => Err(FsError::Stale { version }.into()),
        _ => Ok(()),
    }
}

pub(super) fn commit(
    tree: &mut Tree<'_, '_>,
    inode: InodeId,
    content: &Content,
    size_at_least: u64,
    append: bool,
) -> Outcome<FsReply> {
    let size = tree.file(inode)?.size;
    if size_at_least > FILE_BYTES_MAX {
        return Err(FsError::TooLarge.into());
    }
    let base = if append { size } else { 0 };
    let end = tree.check_content(content, base)?;
    tree.put_content(inode, content, base)?;
    tree.clear_privileges(inode)?;
    tree.touch_content(inode)?.size = size.max(size_at_least).max(end);
    tree.record(ChangeKind::Write, inode, None, None)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}

/// Lets the same bytes be found elsewhere. Nothing that an application sees changes but the version.
pub(super) fn fold(tree: &mut Tree<'_, '_>, inode: InodeId, content: &Content) -> Outcome<FsReply> {
    let row = tree.file(inode)?;
    let (size, allocated) = (row.size, row.allocated);
    if tree.check_content(content, 0)? > size {
        return Err(FsError::Invalid.into());
    }
    let covers_holes = {
        let covered: u64 = content.extents.iter().map(|e| e.length).sum();
        covered > tree.covered(inode, content)?
    };
    if covers_holes {
        return Err(FsError::Invalid.into());
    }
    tree.put_content(inode, content, 0)?;
    let row = tree.inode_mut(inode)?;
    row.version += 1;
    debug_assert!(row.allocated == allocated || !row.segments.is_empty());
    Ok(FsReply::Attr(tree.attr(inode)?))
}

pub(super) fn punch(
    tree: &mut Tree<'_, '_>,
    inode: InodeId,
    offset: u64,
    length: u64,
) -> Outcome<FsReply> {
    tree.file(inode)?;
    let end = offset.checked_add(length).ok_or(FsError::TooLarge)?;
    if length == 0 {
        return Err(FsError::Invalid.into());
    }
    tree.clear(inode, offset, end)?;
    tree.clear_privileges(inode)?;
    tree.touch_content(inode)?;
    tree.record(ChangeKind::Write, inode, None, None)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}
