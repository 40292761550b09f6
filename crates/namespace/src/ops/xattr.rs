//! Extended attributes. Which names a user may set is the edges' business.

use crate::failure::Outcome;
use crate::limits::XATTRS_MAX;
use crate::rows;
use crate::tree::Tree;
use bytes::Bytes;
use everhold_proto::fs::{ChangeKind, FsError, FsReply, XattrMode};
use everhold_proto::ids::*;
use everhold_proto::kv::put_row;
use everhold_proto::limits::{NAME_BYTES_MAX, XATTR_BYTES_MAX};

pub(super) fn set(
    tree: &mut Tree<'_, '_>,
    inode: InodeId,
    name: &Bytes,
    value: &Bytes,
    mode: XattrMode,
) -> Outcome<FsReply> {
    let count = tree.inode(inode)?.xattrs;
    check_name(name)?;
    if value.len() > XATTR_BYTES_MAX {
        return Err(FsError::TooLarge.into());
    }
    let key = rows::xattr(inode, name);
    let exists = tree.ctx.kv.get(&key)?.is_some();
    match (mode, exists) {
        (XattrMode::Create, true) => return Err(FsError::Exists.into()),
        (XattrMode::Replace, false) => return Err(FsError::NoAttribute.into()),
        (_, false) if count >= XATTRS_MAX => return Err(FsError::NoSpace.into()),
        _ => {}
    }
    put_row(tree.ctx.kv, &key, value)?;
    tree.touch(inode)?.xattrs += u32::from(!exists);
    tree.record(ChangeKind::Attributes, inode, None, None)?;
    Ok(FsReply::Done)
}

pub(super) fn remove(tree: &mut Tree<'_, '_>, inode: InodeId, name: &Bytes) -> Outcome<FsReply> {
    tree.inode(inode)?;
    check_name(name)?;
    let key = rows::xattr(inode, name);
    if tree.ctx.kv.get(&key)?.is_none() {
        return Err(FsError::NoAttribute.into());
    }
    tree.ctx.kv.delete(&key)?;
    let row = tree.touch(inode)?;
    row.xattrs = row.xattrs.saturating_sub(1);
    tree.record(ChangeKind::Attributes, inode, None, None)?;
    Ok(FsReply::Done)
}

fn check_name(name: &[u8]) -> Outcome<()> {
    if name.len() > NAME_BYTES_MAX {
        return Err(FsError::NameTooLong.into());
    }
    if name.is_empty() || name.contains(&0) {
        return Err(FsError::Invalid.into());
    }
    Ok(())
}
