//! A whole path in one question, as the Linux kernel walks it: `.`, `..`, empty components, symbolic
//! links in the middle always and at the end on demand, a trailing slash that wants a directory.
//!
//! **Invariant:** the walk is bounded by the depth of a path and the number of links, whatever the tree
//! and the path look like.

use super::{View, extents_between, load};
use crate::failure::Outcome;
use crate::rows::{self, InodeRow};
use bytes::Bytes;
use everhold_proto::fs::{FileKind, FsAnswer, FsError, Name};
use everhold_proto::ids::*;
use everhold_proto::limits::{COMMIT_EXTENTS_MAX, PATH_DEPTH_MAX, SYMLINK_FOLLOW_MAX};

/// Where the walk stands.
struct Walk<'a> {
    view: View<'a>,
    at: (InodeId, InodeRow),
    /// Directory and name of the last component, unless that was `.`, `..` or nothing.
    entry: Option<(InodeId, Name)>,
    /// Components to go, the next one last.
    pending: Vec<Bytes>,
    links_followed: usize,
    /// The path, or a link at its end, wants a directory there.
    wants_directory: bool,
}

/// The answer to a resolve question.
pub(super) fn resolve(
    view: View<'_>,
    base: InodeId,
    path: &Bytes,
    follow: bool,
    read: bool,
) -> Outcome<FsAnswer> {
    let mut walk = Walk {
        view,
        at: (base, load(view, base)?),
        entry: None,
        pending: Vec::new(),
        links_followed: 0,
        wants_directory: false,
    };
    walk.enter(path)?;
    while let Some(component) = walk.pending.pop() {
        if !walk.step(&component, follow)? {
            let (parent, name) = walk.entry.expect("a missing component has a name");
            let (name, extents) = (Some(name), Vec::new());
            return Ok(FsAnswer::Resolved { parent, name, attr: None, extents });
        }
    }
    let (inode, row) = walk.at;
    if walk.wants_directory && !row.is_directory() {
        return Err(FsError::NotDirectory.into());
    }
    let extents = match row.kind {
        FileKind::File if read => {
            extents_between(view.kv, inode, &row, (0, u64::MAX), COMMIT_EXTENTS_MAX)?.0
        }
        _ => Vec::new(),
    };
    let attr = Some(row.attr(inode));
    let (parent, name) = match walk.entry {
        Some((parent, name)) => (parent, Some(name)),
        None => (if row.is_directory() { row.parent } else { inode }, None),
    };
    Ok(FsAnswer::Resolved { parent, name, attr, extents })
}

impl Walk<'_> {
    /// Puts a path, or a link's target, before what is to go.
    fn enter(&mut self, path: &Bytes) -> Outcome<()> {
        if path.contains(&0) {
            return Err(FsError::Invalid.into());
        }
        if path.starts_with(b"/") {
            self.move_to(InodeId::ROOT)?;
        }
        if self.pending.is_empty() {
            self.wants_directory |= path.ends_with(b"/");
        }
        let first = self.pending.len();
        let components = path.split(|b| *b == b'/').filter(|c| !c.is_empty());
        for component in components {
            if self.pending.len() >= PATH_DEPTH_MAX {
                return Err(FsError::NameTooLong.into());
            }
            self.pending.push(path.slice_ref(component));
        }
        self.pending[first..].reverse();
        Ok(())
    }

    /// Walks one component; `false` when it is the last one and missing.
    fn step(&mut self, component: &Bytes, follow: bool) -> Outcome<bool> {
        if !self.at.1.is_directory() {
            return Err(FsError::NotDirectory.into());
        }
        match &component[..] {
            b"." => self.entry = None,
            b".." => self.move_to(self.at.1.parent)?,
            _ => return self.step_name(Name::new(component.clone())?, follow),
        }
        Ok(true)
    }

    fn step_name(&mut self, name: Name, follow: bool) -> Outcome<bool> {
        let directory = self.at.0;
        let found = rows::get_dentry(self.view.kv, directory, &name)?;
        self.entry = Some((directory, name));
        let Some(found) = found else {
            return if self.pending.is_empty() { Ok(false) } else { Err(FsError::NotFound.into()) };
        };
        let row = load(self.view, found.inode)?;
        let last = self.pending.is_empty();
        if row.kind != FileKind::Symlink || (last && !follow && !self.wants_directory) {
            self.at = (found.inode, row);
            return Ok(true);
        }
        if self.links_followed >= SYMLINK_FOLLOW_MAX {
            return Err(FsError::Loop.into());
        }
        self.links_followed += 1;
        self.entry = None;
        self.enter(&row.target)?;
        Ok(true)
    }

    fn move_to(&mut self, inode: InodeId) -> Outcome<()> {
        self.at = (inode, load(self.view, inode)?);
        self.entry = None;
        Ok(())
    }
}
