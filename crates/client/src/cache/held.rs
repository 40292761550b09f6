//! What the cache holds and when it may answer. Pure: instants and positions are arguments.
//!
//! Position `n` stands for "shows all change records below `n`". **Invariants:** a value is held at a position
//! such that no record from there up to the cache's reach touches its key; nothing is answered beyond the lease, or
//! while an answer has shown more than the cache has applied.

use super::generations::Generations;
use super::keys::{Key, Touched, told};
use bytes::Bytes;
use everhold_proto::fs::{
    Attr, ChangeKind, ChangeRecord, FsAnswer, FsError, FsQuery, FsReply, Name,
};
use everhold_proto::rpc::Followed;
use everhold_proto::{InodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use tokio::time::Instant;

/// Keys that were forgotten lately, and by which record: a value that is older is not taken. Answers that
/// were under way when more were forgotten are not taken at all.
const FORGOTTEN_MAX: usize = 16_384;
/// Own changes that the feed has not told of yet. Beyond it, they are learned from the feed.
const OWN_MAX: usize = 1024;
/// Attributes that are searched for those of one directory; of more, all go.
const SEARCHED_MAX: usize = 20_000;
/// Directories whose names are all held, and names in them.
const LISTINGS_MAX: usize = 20_000;
const LISTED_MAX: usize = 200_000;
/// Absent extended attributes of one inode.
const ABSENT_MAX: usize = 16;

/// Where a batch of changes of this client stands in the feed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Own {
    /// Its first change record.
    pub(crate) first: u64,
    /// The first one after it.
    pub(crate) next: u64,
}

/// What others who hold copies must hear.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct News {
    pub(super) everything: bool,
    /// With whether the content changed.
    pub(super) inodes: BTreeMap<InodeId, bool>,
    pub(super) entries: BTreeSet<(InodeId, Name)>,
    /// Directories of which no word comes any more, with whether anything of them was known.
    pub(super) directories: BTreeMap<InodeId, bool>,
}

/// See the module's words.
#[derive(Debug)]
pub(super) struct Held {
    lease_until: Option<Instant>,
    /// All records below it were applied. 0: nothing is known of the feed yet.
    applied: u64,
    /// Own changes from `applied` on that were applied when they were answered: first record to next.
    own: BTreeMap<u64, u64>,
    /// `applied`, and the own changes that follow it without a gap.
    reach: u64,
    /// The furthest that any answer has shown.
    shown: u64,
    /// The session in which a change may have been made although nobody was told.
    doubted: Option<SessionId>,
    /// Its record may have come before the doubt: others must forget everything.
    untold: bool,
    forgotten: Forgotten,
    attrs: Generations<InodeId, At<Attr>>,
    /// `None`: there is no such name.
    entries: Generations<(InodeId, Name), At<Option<InodeId>>>,
    absent: Generations<InodeId, At<Vec<Bytes>>>,
    /// All names of a directory, ascending.
    listings: Generations<InodeId, At<Arc<[Name]>>>,
    /// Names in `listings`, or more.
    listed: usize,
}

/// A value and the position that it was read at.
#[derive(Clone, Debug)]
struct At<T> {
    value: T,
    at: u64,
}

impl Held {
    pub(super) fn new(attrs_max: usize, entries_max: usize) -> Self {
        Held {
            lease_until: None,
            applied: 0,
            own: BTreeMap::new(),
            reach: 0,
            shown: 0,
            doubted: None,
            untold: false,
            forgotten: Forgotten { known_from: u64::MAX, ..Forgotten::default() },
            attrs: Generations::new(attrs_max),
            entries: Generations::new(entries_max),
            absent: Generations::new(attrs_max),
            listings: Generations::new(LISTINGS_MAX),
            listed: 0,
        }
    }

    /// The lease ends then at the latest; `None`: there is none.
    pub(super) fn lease_until(&self) -> Option<Instant> {
        self.lease_until
    }

    /// Whether it may answer.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.reach >= self.shown && self.lease_until.is_some_and(|until| now < until)
    }

    /// The record to ask for next; 0: from now on.
    pub(super) fn cursor(&self) -> u64 {
        self.applied
    }

    pub(super) fn attr(&mut self, inode: InodeId) -> Option<Attr> {
        self.attrs.get(&inode).map(|held| held.value.clone())
    }

    /// What a name stands for; `Some(None)`: there is no such name.
    pub(super) fn entry(&mut self, parent: InodeId, name: &Name) -> Option<Option<Attr>> {
        match self.entries.get(&(parent, name.clone()))?.value {
            None => Some(None),
            Some(inode) => self.attr(inode).map(Some),
        }
    }

    /// All names of a directory, ascending.
    pub(super) fn listing(&mut self, directory: InodeId) -> Option<Arc<[Name]>> {
        self.listings.get(&directory).map(|held| held.value.clone())
    }

    /// Attributes of what is in a directory of which all names are known, in the order of the names, as far as they are
    /// known.
    pub(super) fn entries_of(&mut self, directory: InodeId) -> Option<Vec<Attr>> {
        let names = self.listing(directory)?;
        Some(names.iter().filter_map(|name| self.entry(directory, name)?).collect())
    }

    /// Whether the inode is known to lack an extended attribute.
    pub(super) fn lacks(&mut self, inode: InodeId, name: &[u8]) -> bool {
        if self.attrs.get(&inode).is_some_and(|held| held.value.xattrs == 0) {
            return true;
        }
        let absent = self.absent.get(&inode);
        absent.is_some_and(|absent| absent.value.iter().any(|other| other[..] == *name))
    }

    /// The lease goes on until then. Leases do not become shorter.
    pub(super) fn extend(&mut self, until: Instant) {
        self.lease_until = self.lease_until.max(Some(until));
    }

    /// No answers any more, for good.
    pub(super) fn close(&mut self) {
        self.clear();
        self.lease_until = None;
        self.shown = u64::MAX;
        self.forgotten.known_from = u64::MAX;
    }

    /// An answer showed all records below `position`.
    pub(super) fn shown(&mut self, position: u64) {
        self.shown = self.shown.max(position);
    }

    /// A change of `session` may be made late, or not at all.
    pub(super) fn doubt(&mut self, session: SessionId) {
        self.doubted = Some(session);
        self.untold = true;
    }

    /// Takes records in, and says what others must hear: not of changes of `own`, which they know, unless one of
    /// them is in doubt.
    pub(super) fn apply(&mut self, followed: &Followed, own: SessionId) -> News {
        let mut news = News { everything: std::mem::take(&mut self.untold), ..News::default() };
        if followed.reset {
            self.clear();
            self.forgotten = Forgotten { known_from: followed.next, ..Forgotten::default() };
            news.everything = true;
        }
        for (number, record) in &followed.records {
            for key in told(record) {
                self.forget(&key, *number);
            }
            let is_anothers = record.session != own || self.doubted == Some(own);
            if record.kind == ChangeKind::Delegate && is_anothers {
                let known = self.lose_directory(record.inode, *number);
                *news.directories.entry(record.inode).or_default() |= known;
            } else if is_anothers {
                news.add(record);
            }
        }
        self.applied = if followed.reset { followed.next } else { self.applied.max(followed.next) };
        self.stretch();
        news
    }

    /// Own changes were answered: what they touched is forgotten, what their answers tell is taken.
    pub(super) fn made(
        &mut self,
        own: &Own,
        touched: &[Touched],
        results: &[Result<FsReply, FsError>],
    ) {
        self.shown(own.next);
        if own.first >= own.next {
            return; // nothing was changed now; what an earlier answer would have told comes with the feed
        }
        let done = || touched.iter().zip(results).filter_map(|(t, r)| Some((t, r.as_ref().ok()?)));
        done().flat_map(|(touched, _)| &touched.keys).for_each(|key| {
            self.forget(key, own.next - 1);
        });
        if done().any(|(touched, _)| !touched.is_whole) {
            return; // what else it changed comes with the feed
        }
        // An answer is right as of the end of the batch if nothing else in the batch touches the same.
        let times = times_touched(done());
        let once = |key: &Key| times.get(key).is_none_or(|times| *times <= 1);
        for (touched, reply) in done() {
            let FsReply::Attr(attr) = reply else { continue };
            if once(&Key::Inode(attr.inode)) {
                self.hold_attr(attr, own.next);
            }
            if let Some((parent, name)) = &touched.names
                && once(&Key::Entry(*parent, name.clone()))
            {
                self.hold_entry(*parent, name, Some(attr.inode), own.next);
            }
        }
        if self.own.len() < OWN_MAX {
            self.own.insert(own.first, own.next);
            self.stretch();
        }
    }

    /// Takes what a question was answered with at position `at`.
    pub(super) fn learn(
        &mut self,
        question: &FsQuery,
        answer: &Result<FsAnswer, FsError>,
        at: u64,
    ) {
        match (question, answer) {
            (FsQuery::Lookup { parent, name }, Ok(FsAnswer::Attr(attr))) => {
                self.hold_attr(attr, at);
                self.hold_entry(*parent, name, Some(attr.inode), at);
            }
            (FsQuery::Lookup { parent, name }, Err(FsError::NotFound)) => {
                self.hold_entry(*parent, name, None, at);
            }
            (FsQuery::ReadDir { inode, after, .. }, Ok(FsAnswer::Entries { entries, more })) => {
                for (name, attr) in entries {
                    self.hold_attr(attr, at);
                    self.hold_entry(*inode, name, Some(attr.inode), at);
                }
                if after.is_none() && !more {
                    self.hold_listing(*inode, entries, at);
                }
            }
            (FsQuery::GetXattr { inode, name }, Err(FsError::NoAttribute)) => {
                self.hold_absent(*inode, name, at);
            }
            (
                _,
                Ok(
                    FsAnswer::Attr(attr)
                    | FsAnswer::Extents { attr, .. }
                    | FsAnswer::Resolved { attr: Some(attr), .. },
                ),
            ) => self.hold_attr(attr, at),
            _ => {}
        }
    }

    /// An inode without a name goes when its last handle does, and no record tells of that: not held.
    fn hold_attr(&mut self, attr: &Attr, at: u64) {
        let is_newest = |held: Option<&mut At<Attr>>| held.is_none_or(|held| held.at <= at);
        if attr.nlink > 0
            && self.forgotten.allows(&Key::Inode(attr.inode), at)
            && is_newest(self.attrs.get(&attr.inode))
        {
            self.attrs.insert(attr.inode, At { value: attr.clone(), at });
        }
    }

    fn hold_entry(&mut self, parent: InodeId, name: &Name, inode: Option<InodeId>, at: u64) {
        let key = (parent, name.clone());
        if self.forgotten.allows(&Key::Entry(parent, name.clone()), at)
            && self.entries.get(&key).is_none_or(|held| held.at <= at)
        {
            self.entries.insert(key, At { value: inode, at });
        }
    }

    fn hold_listing(&mut self, directory: InodeId, entries: &[(Name, Attr)], at: u64) {
        if !self.forgotten.allows(&Key::Inode(directory), at)
            || self.listings.get(&directory).is_some_and(|held| held.at > at)
        {
            return;
        }
        self.listed += entries.len();
        if self.listed > LISTED_MAX {
            self.listings.clear();
            self.listed = entries.len();
        }
        let names = entries.iter().map(|(name, _)| name.clone()).collect();
        self.listings.insert(directory, At { value: names, at });
    }

    fn hold_absent(&mut self, inode: InodeId, name: &Bytes, at: u64) {
        if !self.forgotten.allows(&Key::Inode(inode), at) {
            return;
        }
        match self.absent.get(&inode) {
            // What was absent at an earlier position still is: else it would have been forgotten.
            Some(held) if held.value.contains(name) => {}
            Some(held) if held.value.len() < ABSENT_MAX => {
                held.value.push(name.clone());
                held.at = held.at.min(at);
            }
            Some(_) => {}
            None => self.absent.insert(inode, At { value: vec![name.clone()], at }),
        }
    }

    /// The record `number` changed the key: values that do not show it go, and are not taken any more.
    fn forget(&mut self, key: &Key, number: u64) {
        match key {
            Key::Inode(inode) => {
                if self.attrs.get(inode).is_some_and(|held| held.at <= number) {
                    self.attrs.remove(inode);
                }
                if self.absent.get(inode).is_some_and(|held| held.at <= number) {
                    self.absent.remove(inode);
                }
                // A change of a name in a directory touches the directory, too.
                if self.listings.get(inode).is_some_and(|held| held.at <= number) {
                    self.listings.remove(inode);
                }
            }
            Key::Entry(parent, name) => {
                let entry = (*parent, name.clone());
                if self.entries.get(&entry).is_some_and(|held| held.at <= number) {
                    self.entries.remove(&entry);
                }
            }
        }
        self.forgotten.note(key, number);
    }

    /// The record `number` says that another client holds a directory: nothing of it is known from here on, nor of
    /// the files in it. Says whether anything was.
    fn lose_directory(&mut self, directory: InodeId, number: u64) -> bool {
        let first = (directory, Name::new(vec![1]).expect("a name of one byte"));
        let names = self.entries.remove_while(&first, |(parent, _)| *parent == directory);
        let known = match self.attrs.len() > SEARCHED_MAX {
            true => {
                self.attrs.clear();
                true
            }
            false => self.attrs.remove_if(|held| {
                let attr = &held.value;
                attr.inode == directory || attr.parent == directory
            }),
        };
        self.absent.clear();
        self.listings.remove(&directory);
        // Answers under way may be about any name in it.
        self.forgotten.known_from = self.forgotten.known_from.max(number + 1);
        known || !names.is_empty()
    }

    /// Follows own changes that continue what was applied.
    fn stretch(&mut self) {
        self.own.retain(|_, next| *next > self.applied);
        self.reach = self.applied;
        for (first, next) in &self.own {
            if *first > self.reach {
                break;
            }
            self.reach = self.reach.max(*next);
        }
    }

    fn clear(&mut self) {
        self.attrs.clear();
        self.entries.clear();
        self.absent.clear();
        self.listings.clear();
        self.listed = 0;
        self.own.clear();
    }
}

/// How many changes of a batch touch each key; the inode in an answer is touched too.
fn times_touched<'a>(done: impl Iterator<Item = (&'a Touched, &'a FsReply)>) -> BTreeMap<Key, u32> {
    let mut times = BTreeMap::new();
    for (touched, reply) in done {
        let mut keys: BTreeSet<Key> = touched.keys.iter().cloned().collect();
        if let FsReply::Attr(attr) = reply {
            keys.insert(Key::Inode(attr.inode));
        }
        for key in keys {
            *times.entry(key).or_default() += 1;
        }
    }
    times
}

/// Keys that were forgotten lately, by the newest record that touched them.
#[derive(Debug, Default)]
struct Forgotten {
    /// Values from before this position are not taken: what touched them since is not known any more.
    known_from: u64,
    last: BTreeMap<Key, u64>,
    order: VecDeque<(Key, u64)>,
}

impl Forgotten {
    /// Whether a value that was read at this position may be taken.
    fn allows(&self, key: &Key, at: u64) -> bool {
        at >= self.known_from && self.last.get(key).is_none_or(|number| *number < at)
    }

    fn note(&mut self, key: &Key, number: u64) {
        let last = self.last.entry(key.clone()).or_insert(number);
        *last = number.max(*last);
        self.order.push_back((key.clone(), number));
        while self.order.len() > FORGOTTEN_MAX
            && let Some((key, number)) = self.order.pop_front()
        {
            self.known_from = self.known_from.max(number + 1);
            if self.last.get(&key).is_some_and(|last| *last <= number) {
                self.last.remove(&key);
            }
        }
    }
}

impl News {
    pub(super) fn is_empty(&self) -> bool {
        *self == News::default()
    }

    fn add(&mut self, record: &ChangeRecord) {
        let content = record.kind == ChangeKind::Write;
        *self.inodes.entry(record.inode).or_default() |= content;
        for (directory, name) in record.entry.iter().chain(&record.old_entry) {
            self.inodes.entry(*directory).or_default();
            self.entries.insert((*directory, name.clone()));
        }
    }
}

#[cfg(test)]
mod tests;
