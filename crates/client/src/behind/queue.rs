//! What was done and is to be told, in order. Pure.
//!
//! A file that gets content in blocks has its place here before they are written; what was done after it waits for
//! them.
//!
//! **Invariants:** what is being told stays until it is answered; numbers rise, and are told in their order. When a
//! change is lost, all that was done after it and bears on the same directories or inodes is lost with it: of what was
//! done in a directory a prefix takes effect.

use super::fill::Rewrite;
use crate::error::ClientError;
use everhold_proto::InodeId;
use everhold_proto::fs::{Behind as Then, Content, FsOp, Source};
use everhold_proto::limits::BATCH_OPS_MAX;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// Changes that wait at most: more callers wait for the cluster. Some tens of batches.
const WAITING_MAX: usize = 8192;
/// Bytes in them, of which blocks on their way are the most.
const BYTES_MAX: usize = 96 << 20;
/// Bytes of one batch, well below `limits::COMMAND_BYTES_MAX`.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// What was done is told after so long at the latest, or as soon as it fills a batch.
const DELAY: Duration = Duration::from_millis(100);

/// What a change is.
pub(super) enum Deed {
    Is(FsOp),
    /// Not known before its blocks are written.
    Writing,
    /// Its blocks could not be written: it can never be told.
    Failed(ClientError),
    /// It will not be told, because it or something before it could not be.
    Lost,
}

/// Inodes that a change bears on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bears {
    /// Those that are different after it.
    pub(super) on: Vec<InodeId>,
    /// The directories behind whose delegations it was made.
    pub(super) within: Vec<InodeId>,
}

impl Bears {
    fn all(&self) -> impl Iterator<Item = InodeId> {
        self.on.iter().chain(&self.within).copied()
    }
}

/// One change.
pub(super) struct Pending {
    pub(super) deed: Deed,
    pub(super) then: Option<Then>,
    pub(super) bears: Bears,
    rewrite: Option<Rewrite>,
    bytes: usize,
    weight: usize,
    since: Instant,
}

impl Pending {
    /// The directories behind whose delegations it was done, or that it gives back.
    fn directories(&self) -> Vec<InodeId> {
        let named = match &self.deed {
            Deed::Is(FsOp::Undelegate { inode, .. }) => vec![*inode],
            Deed::Is(op) => names_of(op).into_iter().map(|(parent, _)| parent).collect(),
            Deed::Writing | Deed::Failed(_) | Deed::Lost => Vec::new(),
        };
        self.bears.within.iter().copied().chain(named).collect()
    }
}

/// What was lost together.
#[derive(Debug, Default)]
pub(crate) struct Lost {
    /// How many changes; giving a directory back is none.
    pub(super) changes: usize,
    /// What the first of them was, for people.
    pub(super) first: String,
    /// Inodes that would be different.
    pub(super) inodes: BTreeSet<InodeId>,
    /// Inodes and directories of which nothing that is known here can be relied on.
    pub(super) broken: BTreeSet<InodeId>,
    /// Those of them behind whose delegations something was done.
    pub(super) directories: BTreeSet<InodeId>,
    /// Names that would be different.
    pub(super) names: Vec<(InodeId, everhold_proto::fs::Name)>,
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Pending>,
    /// Number of the first that waits.
    first: u64,
    bytes: usize,
    /// The newest change of each inode that waits.
    last: BTreeMap<InodeId, u64>,
    /// All below it are wanted now.
    hurry_below: u64,
    /// How many of the first can be told, and their weight.
    ready: usize,
    ready_weight: usize,
}

impl Queue {
    pub(super) fn push(&mut self, op: FsOp, then: Option<Then>, bears: Bears, now: Instant) -> u64 {
        let weight = crate::meta::weight(&op);
        let deed = Deed::Is(op);
        self.add(Pending { deed, then, bears, rewrite: None, bytes: weight, weight, since: now })
    }

    /// The place of a commit whose blocks, of so many bytes, are about to be written.
    pub(super) fn push_writing(
        &mut self,
        bytes: usize,
        then: Then,
        bears: Bears,
        now: Instant,
    ) -> u64 {
        let (deed, then) = (Deed::Writing, Some(then));
        self.add(Pending { deed, then, bears, rewrite: None, bytes, weight: 0, since: now })
    }

    fn add(&mut self, pending: Pending) -> u64 {
        let number = self.first + self.waiting.len() as u64;
        for inode in &pending.bears.on {
            self.last.insert(*inode, number);
        }
        self.bytes += pending.bytes;
        self.waiting.push_back(pending);
        self.look_for_ready();
        number
    }

    /// The blocks of a commit are written, or cannot be. One that is lost stays lost.
    pub(super) fn written(&mut self, number: u64, rewrite: Result<Rewrite, ClientError>) {
        let index = number.checked_sub(self.first).map(|index| index as usize);
        let Some(pending) = index.and_then(|index| self.waiting.get_mut(index)) else { return };
        if !matches!(pending.deed, Deed::Writing) {
            return;
        }
        match rewrite {
            Ok(rewrite) => {
                let op = (rewrite.make)(crate::file::content_of(&rewrite.written));
                pending.weight = crate::meta::weight(&op);
                pending.bytes += pending.weight;
                self.bytes += pending.weight;
                (pending.deed, pending.rewrite) = (Deed::Is(op), Some(rewrite));
            }
            Err(e) => pending.deed = Deed::Failed(e),
        }
        self.look_for_ready();
    }

    fn look_for_ready(&mut self) {
        let others = self.waiting.iter().skip(self.ready);
        let is_ready = |pending: &&Pending| matches!(pending.deed, Deed::Is(_) | Deed::Lost);
        for pending in others.take_while(is_ready) {
            self.ready += 1;
            self.ready_weight += pending.weight;
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING_MAX || self.bytes >= BYTES_MAX
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The newest change of these inodes that waits.
    pub(super) fn last(&self, inodes: &[InodeId]) -> Option<u64> {
        inodes.iter().filter_map(|inode| self.last.get(inode)).max().copied()
    }

    /// The newest change that waits.
    pub(super) fn newest(&self) -> Option<u64> {
        (self.first + self.waiting.len() as u64).checked_sub(1).filter(|_| !self.is_empty())
    }

    /// Whether a change was told, or is lost.
    pub(super) fn is_settled(&self, number: u64) -> bool {
        number < self.first
    }

    /// Somebody waits for a change.
    pub(super) fn hurry(&mut self, number: u64) {
        self.hurry_below = self.hurry_below.max(number + 1);
    }

    pub(super) fn hurry_all(&mut self) {
        self.hurry_below = self.first + self.waiting.len() as u64;
    }

    /// Whether a directory is given back by something that waits, with nothing done behind it since.
    pub(super) fn gives_back(&self, inode: InodeId) -> bool {
        let Some(last) = self.last.get(&inode) else { return false };
        let pending = &self.waiting[(last - self.first) as usize];
        matches!(pending.deed, Deed::Is(FsOp::Undelegate { inode: other, .. }) if other == inode)
    }

    /// When the next batch is to be told; `None`: nothing can be told now.
    pub(super) fn due(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        match oldest.deed {
            Deed::Failed(_) | Deed::Lost => return Some(oldest.since),
            Deed::Writing => return None,
            Deed::Is(_) => {}
        }
        let is_full = self.ready >= BATCH_OPS_MAX || self.ready_weight >= BATCH_BYTES_MAX;
        // What somebody waits for is told with all before it, or not much later than that.
        let wanted =
            self.first < self.hurry_below && self.hurry_below <= self.first + self.ready as u64;
        let now = is_full || wanted || self.is_full();
        Some(if now { oldest.since } else { oldest.since + DELAY })
    }

    /// Why the first of those that wait can never be told, if it cannot.
    pub(super) fn failed(&self) -> Option<&ClientError> {
        match &self.waiting.front()?.deed {
            Deed::Failed(e) => Some(e),
            Deed::Is(_) | Deed::Writing | Deed::Lost => None,
        }
    }

    /// The next batch. It stays here until [`Queue::told`].
    pub(super) fn batch(&self) -> Vec<(FsOp, Option<Then>)> {
        let mut bytes = 0;
        let ready = self.waiting.iter().take(self.ready);
        let deeds = ready.filter_map(|pending| match &pending.deed {
            Deed::Is(op) => Some((pending.weight, op, pending.then)),
            Deed::Writing | Deed::Failed(_) | Deed::Lost => None,
        });
        let fits = deeds.take(BATCH_OPS_MAX).take_while(|(weight, ..)| {
            // The first one always does.
            let fits = bytes == 0 || bytes + weight <= BATCH_BYTES_MAX;
            bytes += weight;
            fits
        });
        fits.map(|(_, op, then)| (op.clone(), then)).collect()
    }

    /// The first `count` that could be told are, and what is lost before and between them waits no more. Gives all of
    /// these.
    pub(super) fn told(&mut self, mut count: usize) -> Vec<Pending> {
        let mut settled = 0;
        for pending in self.waiting.iter().take(self.ready) {
            match pending.deed {
                Deed::Lost => {}
                _ if count > 0 => count -= 1,
                _ => break,
            }
            settled += 1;
        }
        let told: Vec<Pending> = self.waiting.drain(..settled).collect();
        self.first += settled as u64;
        self.bytes -= told.iter().map(|pending| pending.bytes).sum::<usize>();
        self.ready -= settled;
        self.ready_weight -= told.iter().map(|pending| pending.weight).sum::<usize>();
        self.look_for_ready();
        for inode in told.iter().flat_map(|pending| &pending.bears.on) {
            if self.last.get(inode).is_some_and(|last| *last < self.first) {
                self.last.remove(inode);
            }
        }
        told
    }

    /// Takes the blocks of the first that waits, to write them anew. Nothing is told before [`Queue::rewritten`].
    pub(super) fn take_rewrite(&mut self) -> Option<Rewrite> {
        self.waiting.front_mut()?.rewrite.take()
    }

    /// The blocks of the first that waits are written anew.
    pub(super) fn rewritten(&mut self, rewrite: Rewrite) {
        let Some(pending) = self.waiting.front_mut() else { return };
        // It names as many blocks as before: its weight stays about the same.
        pending.deed = Deed::Is((rewrite.make)(crate::file::content_of(&rewrite.written)));
        pending.rewrite = Some(rewrite);
    }

    /// The first that waits cannot be told, and with it goes all that was done after it and bears on the same.
    pub(super) fn lose_first(&mut self) -> Lost {
        let mut lost = Lost::default();
        let first = self.waiting.front().map(|pending| pending.bears.all());
        lost.broken.extend(first.into_iter().flatten());
        for (index, pending) in self.waiting.iter_mut().enumerate() {
            let is_broken = pending.bears.all().any(|inode| lost.broken.contains(&inode));
            if !is_broken || matches!(pending.deed, Deed::Lost) {
                continue;
            }
            lost.broken.extend(pending.bears.all());
            lost.directories.extend(pending.directories());
            lost.add(pending);
            if index < self.ready {
                self.ready_weight -= pending.weight;
            }
            self.bytes -= pending.bytes;
            (pending.deed, pending.rewrite) = (Deed::Lost, None);
            (pending.weight, pending.bytes) = (0, 0);
        }
        self.look_for_ready();
        lost
    }

    /// Nothing of it can be told any more.
    pub(super) fn lose_all(&mut self) -> Lost {
        let mut lost = Lost::default();
        self.waiting.iter().for_each(|pending| lost.add(pending));
        self.first += self.waiting.len() as u64;
        self.waiting.clear();
        self.last.clear();
        (self.bytes, self.ready, self.ready_weight) = (0, 0, 0);
        lost
    }
}

impl Lost {
    fn add(&mut self, pending: &Pending) {
        let op = match &pending.deed {
            Deed::Is(FsOp::Undelegate { .. }) | Deed::Lost => return,
            Deed::Is(op) => Some(op),
            Deed::Writing | Deed::Failed(_) => None,
        };
        if self.changes == 0 {
            self.first = op.map_or_else(|| "Commit".to_string(), name_of);
        }
        self.changes += 1;
        self.inodes.extend(&pending.bears.on);
        self.names.extend(op.into_iter().flat_map(names_of));
    }
}

/// What kind of change it is, for the log.
fn name_of(op: &FsOp) -> String {
    let text = format!("{op:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_string()
}

/// The names that a change is about.
fn names_of(op: &FsOp) -> Vec<(InodeId, everhold_proto::fs::Name)> {
    match op {
        FsOp::Create { parent, name, .. }
        | FsOp::Link { parent, name, .. }
        | FsOp::Unlink { parent, name, .. }
        | FsOp::Rmdir { parent, name } => vec![(*parent, name.clone())],
        FsOp::Rename { parent, name, new_parent, new_name, .. } => {
            vec![(*parent, name.clone()), (*new_parent, new_name.clone())]
        }
        _ => Vec::new(),
    }
}

/// Bytes that travel inside an operation.
pub(super) fn inline_bytes(content: &Content) -> usize {
    let inline = |source: &Source| match source {
        Source::Inline(bytes) => bytes.len(),
        Source::Block { .. } => 0,
    };
    content.extents.iter().map(|extent| inline(&extent.source)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::PolicyId;
    use everhold_proto::fs::FsError;

    fn on(inodes: &[u64]) -> Bears {
        Bears { on: inodes.iter().map(|inode| InodeId(*inode)).collect(), within: Vec::new() }
    }

    fn within(inode: u64, directory: u64) -> Bears {
        Bears { on: vec![InodeId(inode)], within: vec![InodeId(directory)] }
    }

    fn give_back(queue: &mut Queue, inode: u64, now: Instant) -> u64 {
        let op = FsOp::Undelegate { inode: InodeId(inode), lost: false };
        queue.push(op, None, on(&[inode]), now)
    }

    fn change(queue: &mut Queue, bears: Bears, now: Instant) -> u64 {
        queue.push(FsOp::Release { inode: InodeId(1) }, None, bears, now)
    }

    fn rewrite(file: InodeId) -> Rewrite {
        let make = move |content| FsOp::Commit {
            inode: file,
            expected_version: None,
            content,
            size_at_least: 0,
            append: false,
        };
        Rewrite { policy: PolicyId(0), written: vec![], make: Box::new(make), rounds: 0 }
    }

    #[test]
    fn what_waits_is_told_in_order_and_once() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        assert_eq!((queue.due(), queue.newest()), (None, None));
        for inode in 0..300 {
            assert_eq!(give_back(&mut queue, inode % 10, now), inode);
        }
        assert_eq!(queue.due(), Some(now), "a batch is full");
        assert_eq!(queue.batch().len(), BATCH_OPS_MAX);
        assert_eq!(give_back(&mut queue, 77, now), 300, "others come meanwhile");
        assert_eq!(queue.told(BATCH_OPS_MAX).len(), BATCH_OPS_MAX);
        assert!(queue.is_settled(255) && !queue.is_settled(256));
        assert_eq!(queue.last(&[InodeId(3), InodeId(5)]), Some(295));
        assert_eq!(queue.due(), Some(now + DELAY));
        queue.hurry(256);
        assert_eq!(queue.due(), Some(now));
        assert_eq!(queue.batch().len(), 45);
        queue.told(45);
        assert_eq!((queue.due(), queue.bytes, queue.last.len()), (None, 0, 0));
        assert!(queue.is_settled(300));
    }

    #[test]
    fn what_was_done_after_a_file_waits_for_its_blocks() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let then = Then { at: everhold_proto::Timestamp::default(), inode: None };
        let file = InodeId(5);
        give_back(&mut queue, 1, now);
        let first = queue.push_writing(100, then, on(&[5]), now);
        let second = queue.push_writing(100, then, on(&[6]), now);
        let last = give_back(&mut queue, 2, now);
        queue.hurry(last);
        assert_eq!((queue.bytes > 200, queue.due()), (true, Some(now + DELAY)));
        assert_eq!(queue.batch().len(), 1, "only what is before the blocks");
        queue.told(1);
        assert_eq!(queue.due(), None);
        queue.written(second, Ok(rewrite(file)));
        assert_eq!(queue.due(), None, "the other one is before it");
        queue.written(first, Err(ClientError::Fs(FsError::NoSpace)));
        assert_eq!(queue.due(), Some(now));
        assert!(queue.failed().is_some());
        let lost = queue.lose_first();
        assert_eq!((lost.changes, lost.inodes), (1, [file].into()));
        assert_eq!((queue.due(), queue.batch().len()), (Some(now), 2), "the others are told");
        assert_eq!(queue.told(2).len(), 3);
        assert_eq!((queue.bytes, queue.ready, queue.ready_weight), (0, 0, 0));
        queue.written(second, Ok(rewrite(file)));
        assert!(queue.is_empty() && queue.is_settled(last));
    }

    /// A file is written aside, linked into place and the first name removed; its content is lost.
    #[test]
    fn what_bears_on_a_lost_change_is_lost_with_it() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let then = Then { at: everhold_proto::Timestamp::default(), inode: None };
        let (aside, other, directory) = (10, 11, 1);
        let written = queue.push_writing(100, then, within(aside, directory), now);
        let elsewhere = change(&mut queue, within(20, 2), now);
        let create = change(&mut queue, on(&[directory, other]), now);
        let below = change(&mut queue, within(30, other), now);
        let returned = give_back(&mut queue, directory, now);
        queue.written(written, Err(ClientError::Fs(FsError::NoSpace)));
        let lost = queue.lose_first();
        assert_eq!(lost.changes, 3, "giving back is no change");
        let inodes = [aside, directory, other, 30].map(InodeId);
        assert_eq!(lost.inodes, inodes.into());
        assert!(!lost.broken.contains(&InodeId(20)));
        assert_eq!(lost.directories, [InodeId(directory), InodeId(other)].into());
        assert!(!queue.gives_back(InodeId(directory)), "that was lost too");
        assert_eq!(queue.told(0).len(), 1, "what is lost waits for nothing");
        assert_eq!((queue.is_settled(written), queue.is_settled(elsewhere)), (true, false));
        assert_eq!(queue.batch().len(), 1);
        queue.told(1);
        for number in [elsewhere, create, below, returned] {
            assert!(queue.is_settled(number));
        }
        assert_eq!((queue.bytes, queue.ready, queue.last.len()), (0, 0, 0));
    }

    #[test]
    fn the_rest_of_a_batch_stays() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        for inode in 0..5 {
            give_back(&mut queue, inode, now);
        }
        assert_eq!((queue.batch().len(), queue.told(2).len()), (5, 2));
        assert_eq!((queue.batch().len(), queue.is_settled(2)), (3, false));
        let lost = queue.lose_first();
        assert_eq!((lost.changes, lost.broken), (0, [InodeId(2)].into()));
        assert_eq!((queue.batch().len(), queue.told(2).len()), (2, 3));
    }

    #[test]
    fn what_is_lost_is_counted() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        give_back(&mut queue, 1, now);
        assert!(queue.gives_back(InodeId(1)) && !queue.gives_back(InodeId(2)));
        change(&mut queue, on(&[1]), now);
        assert!(!queue.gives_back(InodeId(1)), "something was done since");
        queue.batch();
        let lost = queue.lose_all();
        assert_eq!((lost.changes, lost.inodes), (1, [InodeId(1)].into()));
        assert_eq!((lost.first.as_str(), queue.told(1).len()), ("Release", 0));
        assert!(queue.is_settled(1) && queue.is_empty());
    }
}
