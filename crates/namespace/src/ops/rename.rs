//! `renameat2`: replace, no-replace, exchange and whiteout.
//!
//! **Invariant:** directories form a tree. A directory never moves below itself; the walk up from the
//! new place that makes sure of it is bounded.

use super::create;
use crate::failure::Outcome;
use crate::rows::DentryRow;
use crate::tree::{Entry, Tree};
use everhold_proto::fs::{ChangeKind, FileKind, FsError, FsReply, NewKind, Owner, RenameMode};
use everhold_proto::ids::*;
use everhold_proto::limits::PATH_DEPTH_MAX;

pub(super) fn rename(
    tree: &mut Tree<'_, '_>,
    from: Entry,
    to: Entry,
    mode: RenameMode,
) -> Outcome<FsReply> {
    let source = tree.lookup(from.0, &from.1)?;
    let target = tree.lookup(to.0, &to.1)?;
    let source = source.ok_or(FsError::NotFound)?;
    let moved = source.inode;
    for inode in [Some(source), target].into_iter().flatten().map(|row| row.inode) {
        tree.load_named(inode)?;
    }
    if mode == RenameMode::NoReplace && target.is_some() {
        return Err(FsError::Exists.into());
    }
    check_no_cycle(tree, source, &from, &to)?;
    match (mode, target) {
        (RenameMode::Exchange, None) => return Err(FsError::NotFound.into()),
        // Two names of one inode: POSIX has it that nothing happens.
        (_, Some(target)) if target.inode == moved => {}
        (RenameMode::Exchange, Some(target)) => {
            check_no_cycle(tree, target, &to, &from)?;
            exchange(tree, (from, source), (to, target))?;
        }
        (_, Some(target)) => {
            check_replaceable(tree, source, target)?;
            replace(tree, (from.clone(), source), (to, target))?;
            leave_whiteout(tree, from, mode)?;
        }
        (_, None) => {
            tree.remove_entry(&from, source)?;
            enter(tree, &to, source)?;
            tree.record(ChangeKind::Rename, moved, Some(to), Some(from.clone()))?;
            leave_whiteout(tree, from, mode)?;
        }
    }
    Ok(FsReply::Attr(tree.attr(moved)?))
}

/// Leaves a character device 0:0 of root's, without any permission, under a name that was moved away.
fn leave_whiteout(tree: &mut Tree<'_, '_>, from: Entry, mode: RenameMode) -> Outcome<()> {
    if mode != RenameMode::Whiteout {
        return Ok(());
    }
    let owner = Owner { uid: 0, gid: 0, mode: 0, umask: 0 };
    create::create(tree, from, &NewKind::CharDevice(0), owner, false)?;
    Ok(())
}

fn replace(
    tree: &mut Tree<'_, '_>,
    (from, source): (Entry, DentryRow),
    (to, target): (Entry, DentryRow),
) -> Outcome<()> {
    tree.remove_entry(&from, source)?;
    tree.remove_entry(&to, target)?;
    enter(tree, &to, source)?;
    tree.drop_link(target.inode, true)?;
    tree.record(ChangeKind::Remove, target.inode, Some(to.clone()), None)?;
    tree.record(ChangeKind::Rename, source.inode, Some(to), Some(from))
}

fn exchange(
    tree: &mut Tree<'_, '_>,
    (from, source): (Entry, DentryRow),
    (to, target): (Entry, DentryRow),
) -> Outcome<()> {
    tree.remove_entry(&from, source)?;
    tree.remove_entry(&to, target)?;
    enter(tree, &to, source)?;
    enter(tree, &from, target)?;
    tree.record(ChangeKind::Rename, source.inode, Some(to.clone()), Some(from.clone()))?;
    tree.record(ChangeKind::Rename, target.inode, Some(from), Some(to))
}

/// Enters a moved inode under its new name.
fn enter(tree: &mut Tree<'_, '_>, entry: &Entry, moved: DentryRow) -> Outcome<()> {
    if tree.touch(moved.inode)?.parent != InodeId::NONE {
        tree.place(moved.inode, entry.0)?;
    }
    tree.add_entry(entry, moved.inode)
}

fn check_replaceable(tree: &mut Tree<'_, '_>, source: DentryRow, target: DentryRow) -> Outcome<()> {
    let is_directory = |row: DentryRow| row.kind == FileKind::Directory;
    match (is_directory(source), is_directory(target)) {
        (true, false) => Err(FsError::NotDirectory.into()),
        (false, true) => Err(FsError::IsDirectory.into()),
        (true, true) if tree.inode(target.inode)?.size > 0 => Err(FsError::NotEmpty.into()),
        _ => Ok(()),
    }
}

/// Refuses to move a directory to a place below itself.
fn check_no_cycle(
    tree: &mut Tree<'_, '_>,
    moved: DentryRow,
    from: &Entry,
    to: &Entry,
) -> Outcome<()> {
    if moved.kind != FileKind::Directory || from.0 == to.0 {
        return Ok(());
    }
    let mut at = to.0;
    for _ in 0..PATH_DEPTH_MAX {
        if at == moved.inode {
            return Err(FsError::Invalid.into());
        }
        if at == InodeId::ROOT {
            return Ok(());
        }
        at = tree.inode(at)?.parent;
    }
    Err(FsError::Loop.into())
}
