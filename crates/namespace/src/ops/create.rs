//! New inodes: `open(O_CREAT)`, `mkdir`, `symlink`, `mknod`, `O_TMPFILE`, and a whole file in one commit.

use super::handles;
use crate::failure::Outcome;
use crate::tree::{Entry, Tree};
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::limits::{FILE_BYTES_MAX, SYMLINK_BYTES_MAX};

pub(super) fn create(
    tree: &mut Tree<'_, '_>,
    entry: Entry,
    new: &NewKind,
    owner: Owner,
    open: bool,
) -> Outcome<FsReply> {
    if tree.lookup(entry.0, &entry.1)?.is_some() {
        return Err(FsError::Exists.into());
    }
    let (kind, rdev, target) = parts(new)?;
    let owner = if kind == FileKind::Symlink { Owner { mode: 0o777, ..owner } } else { owner };
    let inode = tree.create_inode(kind, owner, entry.0)?;
    let row = tree.inode_mut(inode)?;
    row.rdev = rdev;
    row.size = target.len() as u64;
    row.target = target;
    tree.add_entry(&entry, inode)?;
    if open {
        handles::add(tree, inode)?;
    }
    tree.record(ChangeKind::Create, inode, Some(entry), None)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}

/// A regular file without a name, which the handle of this session keeps.
pub(super) fn create_unnamed(
    tree: &mut Tree<'_, '_>,
    parent: InodeId,
    owner: Owner,
    linkable: bool,
) -> Outcome<FsReply> {
    let inode = tree.create_inode(FileKind::File, owner, parent)?;
    let row = tree.inode_mut(inode)?;
    row.nlink = 0;
    row.parent = InodeId::NONE;
    row.linkable = linkable;
    handles::add(tree, inode)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}

fn parts(new: &NewKind) -> Outcome<(FileKind, u64, Bytes)> {
    let plain = |kind| Ok((kind, 0, Bytes::new()));
    match new {
        NewKind::File => plain(FileKind::File),
        NewKind::Directory => plain(FileKind::Directory),
        NewKind::Fifo => plain(FileKind::Fifo),
        NewKind::Socket => plain(FileKind::Socket),
        NewKind::CharDevice(rdev) => Ok((FileKind::CharDevice, *rdev, Bytes::new())),
        NewKind::BlockDevice(rdev) => Ok((FileKind::BlockDevice, *rdev, Bytes::new())),
        NewKind::Symlink(target) => {
            if target.is_empty() {
                return Err(FsError::NotFound.into());
            }
            if target.len() > SYMLINK_BYTES_MAX {
                return Err(FsError::NameTooLong.into());
            }
            if target.contains(&0) {
                return Err(FsError::Invalid.into());
            }
            Ok((FileKind::Symlink, 0, target.clone()))
        }
    }
}

/// What [`put_file`] makes.
pub(super) struct WholeFile<'a> {
    pub(super) owner: Owner,
    pub(super) size: u64,
    pub(super) content: &'a Content,
    pub(super) replace: bool,
    pub(super) mtime: TimeOrNow,
}

/// Creates a whole file. One that it replaces loses the name as by a rename over it: who has the old
/// one open keeps reading the old content.
pub(super) fn put_file(
    tree: &mut Tree<'_, '_>,
    entry: Entry,
    file: WholeFile<'_>,
) -> Outcome<FsReply> {
    let old = tree.lookup(entry.0, &entry.1)?;
    match old.map(|old| old.kind) {
        None => {}
        Some(FileKind::File) if file.replace => {}
        Some(FileKind::Directory) if file.replace => return Err(FsError::IsDirectory.into()),
        Some(_) => return Err(FsError::Exists.into()),
    }
    if file.size > FILE_BYTES_MAX {
        return Err(FsError::TooLarge.into());
    }
    if tree.check_content(file.content, 0)? > file.size {
        return Err(FsError::Invalid.into());
    }
    let inode = tree.create_inode(FileKind::File, file.owner, entry.0)?;
    tree.put_content(inode, file.content, 0)?;
    let row = tree.inode_mut(inode)?;
    row.size = file.size;
    if let TimeOrNow::At(time) = file.mtime {
        row.mtime = time;
    }
    let kind = match old {
        Some(old) => {
            tree.replace_entry(&entry, old, inode)?;
            tree.drop_link(old.inode, true)?;
            // As for a rename over it: who caches the old inode must hear that it lost a name.
            tree.record(ChangeKind::Remove, old.inode, Some(entry.clone()), None)?;
            ChangeKind::Write
        }
        None => {
            tree.add_entry(&entry, inode)?;
            ChangeKind::Create
        }
    };
    tree.record(kind, inode, Some(entry), None)?;
    Ok(FsReply::Attr(tree.attr(inode)?))
}
