//! What can be done here, and what only the leader can do. Pure.

use super::holdings::{Holdings, Known};
use everhold_proto::InodeId;
use everhold_proto::fs::{
    Attr, Content, FileKind, FsAnswer, FsError, FsOp, FsQuery, Name, RenameMode, Source,
};

/// What becomes of a change.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan {
    /// It is made here.
    Here,
    /// It bears on nothing that is held, or changes nothing of it.
    Elsewhere,
    /// The leader makes it, after these directories were given back, and these files forgotten.
    Leader { give_back: Vec<InodeId>, forget: Vec<InodeId> },
    /// It can be made here once this directory is held too.
    Take(InodeId),
}

/// What becomes of a question.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It is answered here.
    Here(Result<FsAnswer, FsError>),
    /// The leader answers it.
    Elsewhere,
    /// The leader answers this one in its place.
    Instead(FsQuery),
    /// A listing of which some attributes are not known here.
    Listing { entries: Vec<(Name, InodeId, Option<Attr>)>, more: bool },
}

impl Plan {
    fn give_back(directories: impl IntoIterator<Item = InodeId>) -> Plan {
        Plan::Leader { give_back: directories.into_iter().collect(), forget: Vec::new() }
    }

    fn forget(inode: InodeId) -> Plan {
        Plan::Leader { give_back: Vec::new(), forget: vec![inode] }
    }
}

/// The leader makes the change and nothing that is known here is different after it: it is refused.
const REFUSED: Plan = Plan::Leader { give_back: Vec::new(), forget: Vec::new() };

impl Holdings {
    /// What becomes of a change.
    pub(super) fn plan(&self, op: &FsOp) -> Plan {
        match op {
            FsOp::Create { parent, open, .. } if self.has(*parent) => match open {
                false => Plan::Here,
                true => Plan::give_back([*parent]),
            },
            FsOp::PutFile { parent, .. } if self.has(*parent) => Plan::give_back([*parent]),
            FsOp::Commit { inode, expected_version, content, .. } => {
                let is_simple = expected_version.is_none() && is_inline(content);
                self.plan_file(*inode, |known| known == Known::Whole && is_simple)
            }
            FsOp::Punch { inode, .. } => self.plan_file(*inode, |known| known == Known::Whole),
            FsOp::Fold { inode, .. } => self.plan_file(*inode, |_| false),
            FsOp::CloneRange { target, .. } => self.plan_file(*target, |_| false),
            FsOp::SetAttr { inode, set } if self.has(*inode) => match set.consistency {
                None => Plan::Here,
                Some(_) => Plan::give_back([*inode]),
            },
            FsOp::SetAttr { inode, set } => self.plan_file(*inode, |known| match known {
                _ if set.consistency.is_some() => false,
                Known::Whole => true,
                Known::Row => set.size.is_none() && !self.has_xattrs(*inode),
                Known::Listed | Known::Shared => false,
            }),
            FsOp::SetXattr { inode, .. } | FsOp::RemoveXattr { inode, .. } => {
                match self.has(*inode) {
                    true => Plan::Here,
                    false => self.plan_file(*inode, |known| known == Known::Whole),
                }
            }
            FsOp::Link { inode, parent, .. }
                if self.has(*parent)
                    && self.file(*inode).is_some_and(|known| known != Known::Shared)
                    && self.parent(*inode).is_some_and(|parent| self.has(parent)) =>
            {
                Plan::Here
            }
            FsOp::Link { inode, parent, .. } => {
                let (give_back, forget) = (self.held([*parent]), self.known([*inode]));
                match give_back.is_empty() && forget.is_empty() {
                    true => Plan::Elsewhere,
                    false => Plan::Leader { give_back, forget },
                }
            }
            FsOp::Unlink { parent, name, .. } if self.has(*parent) => {
                match self.entry(*parent, name) {
                    None => Plan::Here,
                    Some((inode, FileKind::Directory)) if self.has(inode) => Plan::Here,
                    Some((_, FileKind::Directory)) => REFUSED,
                    Some((inode, _)) if self.file(inode).is_some() => Plan::Here,
                    Some(_) => Plan::give_back([*parent]),
                }
            }
            FsOp::Rmdir { parent, name } if self.has(*parent) => match self.entry(*parent, name) {
                None => Plan::Here,
                Some((inode, FileKind::Directory)) if self.has(inode) => Plan::Here,
                Some((inode, FileKind::Directory)) => Plan::Take(inode),
                Some((inode, _)) if self.file(inode).is_some() => Plan::Here,
                Some(_) => REFUSED,
            },
            FsOp::Rename { parent, name, new_parent, new_name, mode } => {
                self.plan_rename((*parent, name), (*new_parent, new_name), *mode)
            }
            FsOp::Create { .. }
            | FsOp::PutFile { .. }
            | FsOp::Unlink { .. }
            | FsOp::Rmdir { .. }
            | FsOp::CreateUnnamed { .. }
            | FsOp::Open { .. }
            | FsOp::Release { .. }
            | FsOp::Lock { .. }
            | FsOp::Unlock { .. }
            | FsOp::Delegate { .. }
            | FsOp::Undelegate { .. }
            | FsOp::Reserve { .. } => Plan::Elsewhere,
        }
    }

    /// The same when nothing may be done here now: what it would have changed is given back.
    pub(super) fn plan_without_lease(&self, op: &FsOp) -> Plan {
        match self.plan(op) {
            Plan::Here | Plan::Take(_) => {
                let named = super::holdings::mentioned(op);
                let parents = named.iter().filter_map(|inode| self.parent(*inode));
                let give_back = self.held(parents.chain(named.iter().copied()));
                Plan::Leader { give_back, forget: self.known(named) }
            }
            plan => plan,
        }
    }

    fn plan_file(&self, inode: InodeId, here: impl Fn(Known) -> bool) -> Plan {
        match self.file(inode) {
            Some(Known::Shared) => Plan::Elsewhere,
            Some(known) if here(known) => Plan::Here,
            _ if self.has_file(inode) => Plan::forget(inode),
            _ => Plan::Elsewhere,
        }
    }

    fn plan_rename(&self, from: (InodeId, &Name), to: (InodeId, &Name), mode: RenameMode) -> Plan {
        let (source, target) = (self.entry(from.0, from.1), self.entry(to.0, to.1));
        let both = self.has(from.0) && self.has(to.0);
        let can_move = |(inode, kind)| match kind {
            FileKind::Directory => self.has(inode) && from.0 == to.0,
            _ => self.file(inode).is_some_and(|known| known != Known::Shared),
        };
        let here = match (source, target) {
            (None, _) => true,
            (Some(source), None) => can_move(source),
            (Some(source), Some(target)) => can_move(source) && can_move(target),
        };
        // A whiteout is a new inode beside what the operation names: the leader makes it.
        if both && here && mode != RenameMode::Whiteout {
            return Plan::Here;
        }
        let moved = [source, target].into_iter().flatten().map(|(inode, _)| inode);
        let (moved, parents): (Vec<_>, _) = (moved.collect(), [from.0, to.0]);
        let give_back = self.held(parents.into_iter().chain(moved.iter().copied()));
        let forget = self.known(moved);
        match give_back.is_empty() && forget.is_empty() {
            true => Plan::Elsewhere,
            false => Plan::Leader { give_back, forget },
        }
    }

    /// Those that are held directories.
    fn held(&self, inodes: impl IntoIterator<Item = InodeId>) -> Vec<InodeId> {
        inodes.into_iter().filter(|inode| self.has(*inode)).collect()
    }

    /// Those that are known files.
    fn known(&self, inodes: impl IntoIterator<Item = InodeId>) -> Vec<InodeId> {
        inodes.into_iter().filter(|inode| self.has_file(*inode)).collect()
    }

    /// What becomes of a question.
    pub(super) fn reply(&self, question: &FsQuery) -> Reply {
        let here = || Reply::Here(self.ask(question));
        match question {
            FsQuery::Attr { inode } if self.has(*inode) || self.shows(*inode) => here(),
            FsQuery::Lookup { parent, name } if self.has(*parent) => {
                match self.entry(*parent, name) {
                    None => here(),
                    Some((inode, _)) if self.has(inode) || self.shows(inode) => here(),
                    Some((inode, _)) => Reply::Instead(FsQuery::Attr { inode }),
                }
            }
            FsQuery::ReadDir { inode, after, limit } if self.has(*inode) => {
                self.listing(*inode, after.as_ref(), *limit as usize)
            }
            FsQuery::GetXattr { inode, .. } | FsQuery::ListXattr { inode }
                if self.has(*inode) || self.is_whole(*inode) =>
            {
                here()
            }
            FsQuery::Extents { inode, .. } | FsQuery::ReadLink { inode }
                if self.is_whole(*inode) =>
            {
                here()
            }
            FsQuery::Attr { .. }
            | FsQuery::Lookup { .. }
            | FsQuery::ReadDir { .. }
            | FsQuery::GetXattr { .. }
            | FsQuery::ListXattr { .. }
            | FsQuery::Extents { .. }
            | FsQuery::ReadLink { .. }
            | FsQuery::Resolve { .. }
            | FsQuery::TestLock { .. }
            | FsQuery::Usage => Reply::Elsewhere,
        }
    }

    fn listing(&self, inode: InodeId, after: Option<&Name>, limit: usize) -> Reply {
        let limit = limit.clamp(1, everhold_proto::limits::PAGE_ENTRIES_MAX);
        let mut found = self.entries(inode, after, limit + 1);
        let more = found.len() > limit;
        found.truncate(limit);
        let entries = found.into_iter().map(|(name, inode, _)| (name, inode, self.attr(inode)));
        Reply::Listing { entries: entries.collect(), more }
    }

    /// An answer of the leader with what is known better here.
    pub(super) fn amend(&self, answer: &mut FsAnswer) {
        let amend = |attr: &mut Attr| {
            if let Some(known) = self.attr(attr.inode) {
                *attr = known;
            }
        };
        match answer {
            FsAnswer::Attr(attr) => amend(attr),
            FsAnswer::Entries { entries, .. } => {
                entries.iter_mut().for_each(|(_, attr)| amend(attr));
            }
            _ => {}
        }
    }
}

fn is_inline(content: &Content) -> bool {
    let is_inline = |source: &Source| matches!(source, Source::Inline(_));
    content.blocks.is_empty() && content.extents.iter().all(|extent| is_inline(&extent.source))
}

/// Inodes that a question names; `None`: it may be about any.
pub(super) fn asked(question: &FsQuery) -> Option<Vec<InodeId>> {
    match question {
        FsQuery::Attr { inode }
        | FsQuery::Extents { inode, .. }
        | FsQuery::ReadDir { inode, .. }
        | FsQuery::ReadLink { inode }
        | FsQuery::GetXattr { inode, .. }
        | FsQuery::ListXattr { inode }
        | FsQuery::TestLock { inode, .. } => Some(vec![*inode]),
        FsQuery::Lookup { parent, .. } => Some(vec![*parent]),
        FsQuery::Usage => Some(Vec::new()),
        FsQuery::Resolve { .. } => None,
    }
}

/// Whether an operation may bear on inodes that it does not name.
pub(super) fn is_vague(op: &FsOp) -> bool {
    matches!(op, FsOp::Unlink { .. } | FsOp::Rmdir { .. } | FsOp::Rename { .. })
}
