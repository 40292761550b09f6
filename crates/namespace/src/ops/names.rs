//! Names of existing inodes: `link`, `unlink`, `rmdir`.

use crate::failure::Outcome;
use crate::tree::{Entry, Tree};
use everhold_proto::fs::{ChangeKind, FsError, FsReply};
use everhold_proto::ids::*;
use everhold_proto::limits::LINKS_MAX;

pub(super) fn link(tree: &mut Tree<'_, '_>, inode: InodeId, entry: Entry) -> Outcome<FsReply> {
    tree.load_named(inode)?;
    let row = tree.inode(inode)?;
    if row.is_directory() {
        return Err(FsError::NotPermitted.into());
    }
    // The last name is gone: nothing brings a file back that only open handles keep. One that never
    // had a name is another matter.
    let first_name = row.nlink == 0;
    if first_name && !row.linkable {
        return Err(FsError::NotFound.into());
    }
    if row.nlink >= LINKS_MAX {
        return Err(FsError::TooManyLinks.into());
    }
    if tree.lookup(entry.0, &entry.1)?.is_some() {
        return Err(FsError::Exists.into());
    }
    let row = tree.touch(inode)?;
    row.nlink += 1;
    row.linkable = false;
    match first_name {
        true => tree.place(inode, entry.0)?,
        false => row.parent = InodeId::NONE,
    }
    tree.add_entry(&entry, inode)?;
    let kind = if first_name { ChangeKind::Create } else { ChangeKind::Link };
    tree.record(kind, inode, Some(entry), None)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}

pub(super) fn unlink(tree: &mut Tree<'_, '_>, entry: Entry, linger: bool) -> Outcome<FsReply> {
    let found = tree.lookup(entry.0, &entry.1)?.ok_or(FsError::NotFound)?;
    tree.load_named(found.inode)?;
    if tree.inode(found.inode)?.is_directory() {
        return Err(FsError::IsDirectory.into());
    }
    tree.remove_entry(&entry, found)?;
    tree.drop_link(found.inode, linger)?;
    tree.record(ChangeKind::Remove, found.inode, Some(entry), None)?;
    Ok(FsReply::Done)
}

pub(super) fn rmdir(tree: &mut Tree<'_, '_>, entry: Entry) -> Outcome<FsReply> {
    let found = tree.lookup(entry.0, &entry.1)?.ok_or(FsError::NotFound)?;
    let row = tree.inode(found.inode)?;
    if !row.is_directory() {
        return Err(FsError::NotDirectory.into());
    }
    if row.size > 0 {
        return Err(FsError::NotEmpty.into());
    }
    tree.remove_entry(&entry, found)?;
    tree.drop_link(found.inode, false)?;
    tree.record(ChangeKind::Remove, found.inode, Some(entry), None)?;
    Ok(FsReply::Done)
}
