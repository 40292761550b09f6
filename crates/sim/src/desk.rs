//! What one program does to its own files in a directory that others use too, and what may become of it.
//!
//! Nothing is settled before it counts: a change counts from its answer on. Whoever looks afterwards sees it, or it was
//! lost. What may be lost is a suffix of what the program did, and nothing that was said to be durable. It is lost only
//! with the session in which it was done, and every open file that lost something is told.
//!
//! **Invariant:** only its program changes the files of a desk, one change after the other.

mod judge;
mod registry;

pub(crate) use judge::{Desk, Fate, Lost};
pub(crate) use registry::Desks;

use crate::history::{FileName, Tag};
use std::collections::{BTreeMap, BTreeSet};

/// A file, by the order in which its program made it.
pub(crate) type FileNo = u32;

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Content {
    /// Slots of one size; `None` is a hole.
    pub(crate) slots: Vec<Option<Tag>>,
    /// An extended attribute.
    pub(crate) note: Option<Tag>,
}

/// All names of a desk with what they lead to, as somebody sees them.
pub(crate) type Seen = BTreeMap<FileName, Content>;

/// The files of a desk, those without a name too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) names: BTreeMap<FileName, FileNo>,
    pub(crate) files: BTreeMap<FileNo, Content>,
}

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// An empty file gets its first name.
    Create(FileNo, FileName),
    /// Slots are overwritten, by one commit.
    Save(FileNo, Vec<(u32, Tag)>),
    /// A file gets this many slots.
    Truncate(FileNo, u32),
    /// The extended attribute is set.
    Note(FileNo, Tag),
    /// A file gets another name.
    Link(FileNo, FileName),
    /// A name is moved, over another one if there is one.
    Rename(FileName, FileName),
    /// A name is removed.
    Unlink(FileName),
}

impl State {
    /// What somebody sees who looks at all names.
    pub(crate) fn seen(&self) -> Seen {
        let content = |file| self.files.get(file).cloned().unwrap_or_default();
        self.names.iter().map(|(name, file)| (name.clone(), content(file))).collect()
    }

    /// Applies a change; `false`, with nothing done, when there is not what it takes.
    pub(crate) fn apply(&mut self, deed: &Deed) -> bool {
        if !self.can(deed) {
            return false;
        }
        match deed {
            Deed::Create(file, name) => {
                self.files.insert(*file, Content::default());
                self.names.insert(name.clone(), *file);
            }
            Deed::Link(file, name) => drop(self.names.insert(name.clone(), *file)),
            Deed::Unlink(name) => drop(self.names.remove(name)),
            Deed::Rename(from, to) if self.names.get(from) == self.names.get(to) => {}
            Deed::Rename(from, to) => {
                if let Some(file) = self.names.remove(from) {
                    self.names.insert(to.clone(), file);
                }
            }
            Deed::Save(file, _) | Deed::Truncate(file, _) | Deed::Note(file, _) => {
                if let Some(content) = self.files.get_mut(file) {
                    content.apply(deed);
                }
            }
        }
        true
    }

    fn can(&self, deed: &Deed) -> bool {
        match deed {
            Deed::Create(file, name) => {
                !self.names.contains_key(name) && !self.files.contains_key(file)
            }
            Deed::Link(file, name) => {
                !self.names.contains_key(name) && self.names.values().any(|named| named == file)
            }
            Deed::Rename(from, _) => self.names.contains_key(from),
            Deed::Unlink(name) => self.names.contains_key(name),
            Deed::Save(file, _) | Deed::Truncate(file, _) | Deed::Note(file, _) => {
                self.files.contains_key(file)
            }
        }
    }
}

impl Content {
    fn apply(&mut self, deed: &Deed) {
        match deed {
            Deed::Save(_, slots) => {
                for (slot, tag) in slots {
                    let at = *slot as usize;
                    self.slots.resize(self.slots.len().max(at + 1), None);
                    self.slots[at] = Some(*tag);
                }
            }
            Deed::Truncate(_, count) => self.slots.resize(*count as usize, None),
            Deed::Note(_, tag) => self.note = Some(*tag),
            Deed::Create(..) | Deed::Link(..) | Deed::Rename(..) | Deed::Unlink(..) => {}
        }
    }
}

impl Deed {
    /// The file that is different after it.
    pub(crate) fn content_of(&self) -> Option<FileNo> {
        match self {
            Deed::Create(file, _)
            | Deed::Save(file, _)
            | Deed::Truncate(file, _)
            | Deed::Note(file, _) => Some(*file),
            Deed::Link(..) | Deed::Rename(..) | Deed::Unlink(..) => None,
        }
    }

    /// Whether names are different after it.
    pub(crate) fn is_of_names(&self) -> bool {
        matches!(self, Deed::Create(..) | Deed::Link(..) | Deed::Rename(..) | Deed::Unlink(..))
    }

    /// Files without which it cannot be made, in the state before it. What a rename replaces is not among them.
    pub(crate) fn needs(&self, before: &State) -> BTreeSet<FileNo> {
        match self {
            Deed::Rename(from, _) => before.names.get(from).copied().into_iter().collect(),
            _ => self.files(before),
        }
    }

    /// Files that have to do with it, in the state before it.
    pub(crate) fn files(&self, before: &State) -> BTreeSet<FileNo> {
        let named = |name: &FileName| before.names.get(name).copied();
        match self {
            Deed::Link(file, _) => [*file].into(),
            Deed::Rename(from, to) => named(from).into_iter().chain(named(to)).collect(),
            Deed::Unlink(name) => named(name).into_iter().collect(),
            _ => self.content_of().into_iter().collect(),
        }
    }
}
