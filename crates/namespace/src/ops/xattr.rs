//! Extended attributes. Which names a user may set is the edges' business; lists of access are checked
//! here, because modes follow them.

use crate::acl;
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
    tree.inode(inode)?;
    check_name(name)?;
    if value.len() > XATTR_BYTES_MAX {
        return Err(FsError::TooLarge.into());
    }
    if is_acl(name) {
        // Linux does not look at the mode either.
        tree.set_acl(inode, name, value)?;
    } else {
        let exists = tree.has_xattr(inode, name)?;
        match (mode, exists) {
            (XattrMode::Create, true) => return Err(FsError::Exists.into()),
            (XattrMode::Replace, false) => return Err(FsError::NoAttribute.into()),
            _ => tree.put_xattr(inode, name, value)?,
        }
    }
    tree.touch(inode)?;
    tree.record(ChangeKind::Attributes, inode, None, None)?;
    Ok(FsReply::Done)
}

/// Removes an attribute. To remove a list of access that is not there is fine, as on Linux.
pub(super) fn remove(tree: &mut Tree<'_, '_>, inode: InodeId, name: &Bytes) -> Outcome<FsReply> {
    tree.inode(inode)?;
    check_name(name)?;
    if tree.delete_xattr(inode, name)? {
        tree.touch(inode)?;
        tree.record(ChangeKind::Attributes, inode, None, None)?;
    } else if !is_acl(name) {
        return Err(FsError::NoAttribute.into());
    }
    Ok(FsReply::Done)
}

fn is_acl(name: &[u8]) -> bool {
    name == acl::ACCESS || name == acl::DEFAULT
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

impl Tree<'_, '_> {
    fn has_xattr(&self, inode: InodeId, name: &[u8]) -> Outcome<bool> {
        Ok(self.ctx.kv.get(&rows::xattr(inode, name))?.is_some())
    }

    /// Sets an attribute; a new one needs room.
    pub(crate) fn put_xattr(&mut self, inode: InodeId, name: &[u8], value: &Bytes) -> Outcome<()> {
        if !self.has_xattr(inode, name)? {
            let row = self.inode_mut(inode)?;
            if row.xattrs >= XATTRS_MAX {
                return Err(FsError::NoSpace.into());
            }
            row.xattrs += 1;
        }
        Ok(put_row(self.ctx.kv, &rows::xattr(inode, name), value)?)
    }

    /// Removes an attribute; answers whether it was there.
    pub(crate) fn delete_xattr(&mut self, inode: InodeId, name: &[u8]) -> Outcome<bool> {
        let exists = self.has_xattr(inode, name)?;
        if exists {
            let row = self.inode_mut(inode)?;
            row.xattrs = row.xattrs.saturating_sub(1);
            self.ctx.kv.delete(&rows::xattr(inode, name))?;
        }
        Ok(exists)
    }
}
