//! The directories that this client holds, and what it knows of what is in them. Pure.
//!
//! **Invariant:** the row of a held directory and all its names are exactly what the replicas will have when they
//! are told everything. Of a file in it that holds for what [`Known`] says.

use super::queue::{Bears, inline_bytes};
use everhold_namespace::Shadow;
use everhold_proto::fs::{
    Attr, Behind as Then, FileKind, FsAnswer, FsError, FsOp, FsQuery, FsReply, Name,
};
use everhold_proto::units::Timestamp;
use everhold_proto::{InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Bytes of content that are kept to be read again.
const CONTENT_MAX: usize = 64 << 20;
/// Numbers that are left when more are asked for.
const NUMBERS_LOW: u64 = 1024;

/// What is known of an inode that is no directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// All of it: it was created here.
    Whole,
    /// Its attributes and its extended attributes; the content, or where a link leads, is elsewhere.
    Row,
    /// Its attributes, but not its extended ones: it was listed.
    Listed,
    /// It has or had several names, so that others may change it: only that it is there, so that a name can be removed.
    Shared,
}

#[derive(Debug)]
pub(super) struct Holdings {
    shadow: Shadow,
    directories: BTreeSet<InodeId>,
    files: BTreeMap<InodeId, Known>,
    /// Those of the files that lost their name here, and the cluster has not heard of it yet.
    gone: BTreeSet<InodeId>,
    numbers: VecDeque<(u64, u64)>,
    /// None below it is used any more.
    numbers_from: u64,
    content_bytes: usize,
}

/// A change that was made here.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) reply: FsReply,
    pub(super) then: Then,
    pub(super) bears: Bears,
}

impl Holdings {
    pub(super) fn new(session: SessionId) -> Self {
        Holdings {
            shadow: Shadow::new(session),
            directories: BTreeSet::new(),
            files: BTreeMap::new(),
            gone: BTreeSet::new(),
            numbers: VecDeque::new(),
            numbers_from: 0,
            content_bytes: 0,
        }
    }

    /// Whether a directory is held.
    pub(super) fn has(&self, directory: InodeId) -> bool {
        self.directories.contains(&directory)
    }

    pub(super) fn directories(&self) -> Vec<InodeId> {
        self.directories.iter().copied().collect()
    }

    /// Inodes that it keeps.
    pub(super) fn len(&self) -> usize {
        self.directories.len() + self.files.len()
    }

    /// What is known of a file that has its name.
    pub(super) fn file(&self, inode: InodeId) -> Option<Known> {
        self.files.get(&inode).copied().filter(|_| !self.gone.contains(&inode))
    }

    /// Whether the attributes of a file are known, with or without a name.
    pub(super) fn shows(&self, inode: InodeId) -> bool {
        self.files.get(&inode).is_some_and(|known| *known != Known::Shared)
    }

    /// Whether it has a row of a file.
    pub(super) fn has_file(&self, inode: InodeId) -> bool {
        self.files.contains_key(&inode)
    }

    /// Whether all of a file is here.
    pub(super) fn is_whole(&self, inode: InodeId) -> bool {
        self.files.get(&inode) == Some(&Known::Whole)
    }

    /// The directory that a file or directory is in.
    pub(super) fn parent(&self, inode: InodeId) -> Option<InodeId> {
        self.shadow.parent(inode)
    }

    pub(super) fn has_xattrs(&self, inode: InodeId) -> bool {
        self.shadow.has_xattrs(inode)
    }

    /// The attributes of an inode that is known.
    pub(super) fn attr(&self, inode: InodeId) -> Option<Attr> {
        let is_known = self.has(inode) || self.shows(inode);
        self.shadow.attr(inode).filter(|_| is_known)
    }

    /// What a name stands for in a directory that is held.
    pub(super) fn entry(&self, parent: InodeId, name: &Name) -> Option<(InodeId, FileKind)> {
        self.shadow.entry(parent, name)
    }

    pub(super) fn entries(
        &self,
        parent: InodeId,
        after: Option<&Name>,
        limit: usize,
    ) -> Vec<(Name, InodeId, FileKind)> {
        self.shadow.entries(parent, after, limit)
    }

    /// Answers a question about what is known.
    pub(super) fn ask(&self, question: &FsQuery) -> Result<FsAnswer, FsError> {
        self.shadow.ask(question)
    }

    /// Whether an inode lacks an extended attribute; `None`: not known.
    pub(super) fn lacks(&self, inode: InodeId, name: &[u8]) -> Option<bool> {
        let is_known =
            self.has(inode) || matches!(self.files.get(&inode), Some(Known::Whole | Known::Row));
        is_known.then(|| !self.has_xattrs(inode) || self.shadow.xattr(inode, name).is_none())
    }

    /// A directory without extended attributes is held from now on.
    pub(super) fn take_in(&mut self, attr: &Attr, entries: &[(Name, Attr)]) {
        for (_, child) in entries {
            // What was known of it from before is not newer than the listing.
            self.forget(child.inode);
            if Shadow::takes(child) {
                let known = match child.xattrs {
                    _ if child.nlink != 1 || child.parent != attr.inode => Known::Shared,
                    0 => Known::Row,
                    _ => Known::Listed,
                };
                self.files.insert(child.inode, known);
            }
        }
        self.shadow.take_in(attr, entries);
        self.directories.insert(attr.inode);
    }

    /// A directory is not held any more, and what is known of its files is not right for long.
    pub(super) fn drop_directory(&mut self, inode: InodeId) {
        if !self.directories.remove(&inode) {
            return;
        }
        for (_, child, _) in self.shadow.entries(inode, None, usize::MAX) {
            if !self.directories.contains(&child) {
                self.forget(child);
            }
        }
        self.shadow.forget_directory(inode);
    }

    /// A file may not be as it is known any more.
    pub(super) fn forget(&mut self, inode: InodeId) {
        if self.files.remove(&inode).is_some() {
            self.gone.remove(&inode);
            self.shadow.forget(inode);
        }
    }

    /// More numbers. They are used in ascending order, as the cluster wants it: those before one that was used are
    /// given up.
    pub(super) fn add_numbers(&mut self, from: u64, to: u64) {
        if from >= self.numbers_from {
            let at = self.numbers.partition_point(|(other, _)| *other < from);
            self.numbers.insert(at, (from, to));
        }
    }

    pub(super) fn has_number(&self) -> bool {
        !self.numbers.is_empty()
    }

    /// Whether more numbers should be asked for.
    pub(super) fn needs_numbers(&self) -> bool {
        self.numbers.iter().map(|(from, to)| to - from).sum::<u64>() < NUMBERS_LOW
    }

    /// Makes a change that was planned to be made here.
    pub(super) fn perform(&mut self, op: &FsOp, at: Timestamp) -> Result<Done, FsError> {
        let creates = matches!(op, FsOp::Create { .. });
        let number = self.numbers.front().filter(|_| creates).map(|(from, _)| InodeId(*from));
        let then = Then { at, inode: number };
        let mut touched = mentioned(op);
        let named = self.named(op);
        touched.extend(named.iter().map(|(inode, _)| *inode));
        let within = self.directories_of(&touched);
        let reply = self.shadow.perform(op, &then)?;
        if let Some(InodeId(number)) = number {
            self.used(number);
        }
        match (op, &reply) {
            (FsOp::Create { .. }, FsReply::Attr(attr)) => {
                touched.push(attr.inode);
                self.created(attr);
            }
            (FsOp::Commit { content, .. }, _) => self.content_bytes += inline_bytes(content),
            (FsOp::Link { inode, .. }, _) => {
                self.files.insert(*inode, Known::Shared);
                self.shadow.forget_content(*inode);
            }
            _ => {}
        }
        for (inode, kind) in named {
            self.may_be_gone(inode, kind);
        }
        Ok(Done { reply, then, bears: Bears { on: touched, within } })
    }

    /// The directories behind whose delegations files are changed.
    fn directories_of(&self, inodes: &[InodeId]) -> Vec<InodeId> {
        let files = inodes.iter().filter(|inode| !self.has(**inode));
        files.filter_map(|inode| self.parent(*inode)).collect()
    }

    /// Inodes that an operation names, and those that are known to have the names.
    pub(super) fn concerned(&self, op: &FsOp) -> Vec<InodeId> {
        let named = self.named(op).into_iter().map(|(inode, _)| inode);
        mentioned(op).into_iter().chain(named).collect()
    }

    /// An empty file that is known gets content in blocks; `None`: it is not one.
    pub(super) fn fill(
        &mut self,
        inode: InodeId,
        size: u64,
        allocated: u64,
        at: Timestamp,
    ) -> Option<Done> {
        if !matches!(self.file(inode)?, Known::Whole | Known::Row) {
            return None;
        }
        let attr = self.shadow.fill(inode, size, allocated, at)?;
        self.files.insert(inode, Known::Row);
        let then = Then { at, inode: None };
        let bears = Bears { on: vec![inode], within: self.directories_of(&[inode]) };
        Some(Done { reply: FsReply::Attr(attr), then, bears })
    }

    /// The cluster has heard of everything about these inodes.
    pub(super) fn told(&mut self, inodes: &[InodeId]) {
        for inode in inodes {
            if self.gone.contains(inode) {
                self.forget(*inode);
            }
        }
    }

    /// Content that the cluster has need not be kept when it is too much.
    pub(super) fn trim(&mut self, is_untold: impl Fn(InodeId) -> bool) {
        if self.content_bytes < CONTENT_MAX {
            return;
        }
        self.content_bytes = 0;
        for (inode, known) in &mut self.files {
            if *known == Known::Whole && !self.gone.contains(inode) {
                if is_untold(*inode) {
                    self.content_bytes += self.shadow.attr(*inode).map_or(0, |a| a.size as usize);
                    continue;
                }
                let is_file = self.shadow.attr(*inode).is_some_and(|a| a.kind == FileKind::File);
                if is_file {
                    self.shadow.forget_content(*inode);
                    *known = Known::Row;
                }
            }
        }
        // More than half of it untold is no reason to look again with each change.
        self.content_bytes = self.content_bytes.min(CONTENT_MAX / 2);
    }

    /// Inodes whose names an operation takes away or moves.
    fn named(&self, op: &FsOp) -> Vec<(InodeId, FileKind)> {
        let names = match op {
            FsOp::Unlink { parent, name, .. } | FsOp::Rmdir { parent, name } => {
                vec![(*parent, name)]
            }
            FsOp::Rename { parent, name, new_parent, new_name, .. } => {
                vec![(*parent, name), (*new_parent, new_name)]
            }
            _ => Vec::new(),
        };
        names.into_iter().filter_map(|(parent, name)| self.entry(parent, name)).collect()
    }

    fn created(&mut self, attr: &Attr) {
        match attr.kind {
            FileKind::Directory => drop(self.directories.insert(attr.inode)),
            _ => drop(self.files.insert(attr.inode, Known::Whole)),
        }
    }

    fn may_be_gone(&mut self, inode: InodeId, kind: FileKind) {
        let attr = self.shadow.attr(inode);
        match (kind, attr.map(|attr| attr.nlink)) {
            (FileKind::Directory, Some(0) | None) => drop(self.directories.remove(&inode)),
            (FileKind::Directory, Some(_)) => {}
            (_, Some(0)) => drop(self.gone.insert(inode)),
            (_, None) => self.forget(inode),
            (_, Some(_)) => {}
        }
    }

    fn used(&mut self, number: u64) {
        self.numbers_from = number + 1;
        if let Some((from, to)) = self.numbers.front_mut() {
            *from = number + 1;
            if from >= to {
                self.numbers.pop_front();
            }
        }
    }
}

/// Inodes that an operation names.
pub(super) fn mentioned(op: &FsOp) -> Vec<InodeId> {
    match op {
        FsOp::Create { parent, .. }
        | FsOp::PutFile { parent, .. }
        | FsOp::CreateUnnamed { parent, .. }
        | FsOp::Unlink { parent, .. }
        | FsOp::Rmdir { parent, .. } => vec![*parent],
        FsOp::Rename { parent, new_parent, .. } => vec![*parent, *new_parent],
        FsOp::Link { inode, parent, .. } => vec![*inode, *parent],
        FsOp::CloneRange { source, target, .. } => vec![*source, *target],
        FsOp::Commit { inode, .. }
        | FsOp::Fold { inode, .. }
        | FsOp::Punch { inode, .. }
        | FsOp::SetAttr { inode, .. }
        | FsOp::SetXattr { inode, .. }
        | FsOp::RemoveXattr { inode, .. }
        | FsOp::Open { inode }
        | FsOp::Release { inode }
        | FsOp::Lock { inode, .. }
        | FsOp::Unlock { inode, .. }
        | FsOp::Delegate { inode }
        | FsOp::Undelegate { inode, .. } => vec![*inode],
        FsOp::Reserve { .. } => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that were asked for twice at once may arrive in any order, and are used in theirs.
    #[test]
    fn numbers_are_used_in_ascending_order() {
        let mut holdings = Holdings::new(SessionId(1));
        let next = |holdings: &mut Holdings| {
            let next = holdings.numbers.front().map(|(from, _)| *from);
            next.inspect(|number| holdings.used(*number))
        };
        holdings.add_numbers(20, 22);
        holdings.add_numbers(10, 12);
        assert_eq!(next(&mut holdings), Some(10));
        holdings.add_numbers(30, 31);
        assert_eq!((next(&mut holdings), next(&mut holdings)), (Some(11), Some(20)));
        holdings.add_numbers(15, 17);
        assert_eq!(next(&mut holdings), Some(21));
        assert_eq!(next(&mut holdings), Some(30));
        assert!(!holdings.has_number() && holdings.needs_numbers());
    }
}
