//! What was done and is to be told, in order. Pure.
//!
//! A file that gets content in blocks has its place here before they are written; what was done after it waits for
//! them.
//!
//! **Invariant:** what is being told stays until it is answered; numbers rise, and are told in their order.

use super::fill::Rewrite;
use crate::error::ClientError;
use everhold_proto::InodeId;
use everhold_proto::fs::{Behind as Then, Content, FsOp, Source};
use everhold_proto::limits::BATCH_OPS_MAX;
use std::collections::{BTreeMap, VecDeque};
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
}

/// One change.
pub(super) struct Pending {
    pub(super) deed: Deed,
    pub(super) then: Option<Then>,
    pub(super) touched: Vec<InodeId>,
    pub(super) rewrite: Option<Rewrite>,
    bytes: usize,
    weight: usize,
    since: Instant,
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
    /// How many of the first are being told.
    telling: usize,
    /// How many of the first can be told, and their weight.
    ready: usize,
    ready_weight: usize,
}

impl Queue {
    pub(super) fn push(
        &mut self,
        op: FsOp,
        then: Option<Then>,
        touched: Vec<InodeId>,
        now: Instant,
    ) -> u64 {
        let weight = crate::meta::weight(&op);
        let deed = Deed::Is(op);
        self.add(Pending { deed, then, touched, rewrite: None, bytes: weight, weight, since: now })
    }

    /// The place of a commit whose blocks, of so many bytes, are about to be written.
    pub(super) fn push_writing(
        &mut self,
        bytes: usize,
        then: Then,
        touched: Vec<InodeId>,
        now: Instant,
    ) -> u64 {
        let (deed, then) = (Deed::Writing, Some(then));
        self.add(Pending { deed, then, touched, rewrite: None, bytes, weight: 0, since: now })
    }

    fn add(&mut self, pending: Pending) -> u64 {
        let number = self.first + self.waiting.len() as u64;
        for inode in &pending.touched {
            self.last.insert(*inode, number);
        }
        self.bytes += pending.bytes;
        self.waiting.push_back(pending);
        self.look_for_ready();
        number
    }

    /// The blocks of a commit are written, or cannot be.
    pub(super) fn written(&mut self, number: u64, rewrite: Result<Rewrite, ClientError>) {
        let index = number.checked_sub(self.first).map(|index| index as usize);
        let Some(pending) = index.and_then(|index| self.waiting.get_mut(index)) else { return };
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
        for pending in others.take_while(|pending| matches!(pending.deed, Deed::Is(_))) {
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

    /// The newest change of these inodes that waits.
    pub(super) fn last(&self, inodes: &[InodeId]) -> Option<u64> {
        inodes.iter().filter_map(|inode| self.last.get(inode)).max().copied()
    }

    /// The newest change that waits.
    pub(super) fn newest(&self) -> Option<u64> {
        (self.first + self.waiting.len() as u64).checked_sub(1).filter(|_| !self.is_empty())
    }

    /// Whether a change was told.
    pub(super) fn is_told(&self, number: u64) -> bool {
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
        matches!(pending.deed, Deed::Is(FsOp::Undelegate { inode: other }) if other == inode)
    }

    /// When the next batch is to be told; `None`: nothing can be told now.
    pub(super) fn due(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?;
        if self.ready == 0 {
            return matches!(oldest.deed, Deed::Failed(_)).then_some(oldest.since);
        }
        let is_full = self.ready >= BATCH_OPS_MAX || self.ready_weight >= BATCH_BYTES_MAX;
        // What somebody waits for is told with all before it, or not much later than that.
        let wanted =
            self.first < self.hurry_below && self.hurry_below <= self.first + self.ready as u64;
        let now = is_full || wanted || self.is_full();
        Some(if now { oldest.since } else { oldest.since + DELAY })
    }

    /// Takes the first of those that wait, if it can never be told.
    pub(super) fn take_failed(&mut self) -> Option<(Pending, ClientError)> {
        let Deed::Failed(e) = &self.waiting.front()?.deed else { return None };
        let e = e.clone();
        self.telling = 1;
        self.told().pop().map(|pending| (pending, e))
    }

    /// The next batch. It stays here until [`Queue::told`].
    pub(super) fn batch(&mut self) -> Vec<(FsOp, Option<Then>)> {
        let mut bytes = 0;
        let fits = self.waiting.iter().take(self.ready.min(BATCH_OPS_MAX)).take_while(|pending| {
            bytes += pending.weight;
            bytes <= BATCH_BYTES_MAX
        });
        self.telling = fits.count().max(1).min(self.ready);
        let first = self.waiting.iter().take(self.telling);
        let told = first.filter_map(|pending| match &pending.deed {
            Deed::Is(op) => Some((op.clone(), pending.then)),
            Deed::Writing | Deed::Failed(_) => None,
        });
        told.collect()
    }

    /// Takes the blocks of one of the batch that is being told, to write them anew.
    pub(super) fn take_rewrite(&mut self, index: usize) -> Option<Rewrite> {
        self.waiting.get_mut(index)?.rewrite.take()
    }

    /// The batch was answered. Gives what it was, and which inodes have nothing left to tell.
    pub(super) fn told(&mut self) -> Vec<Pending> {
        let count = std::mem::take(&mut self.telling).min(self.waiting.len());
        let told: Vec<Pending> = self.waiting.drain(..count).collect();
        self.first += count as u64;
        self.bytes -= told.iter().map(|pending| pending.bytes).sum::<usize>();
        let was_ready = count.min(self.ready);
        let weight: usize = told.iter().take(was_ready).map(|pending| pending.weight).sum();
        self.ready -= was_ready;
        self.ready_weight -= weight;
        self.look_for_ready();
        for inode in told.iter().flat_map(|pending| &pending.touched) {
            if self.last.get(inode).is_some_and(|last| *last < self.first) {
                self.last.remove(inode);
            }
        }
        told
    }

    /// Nothing of it can be told any more; says how many changes were lost.
    pub(super) fn lose(&mut self) -> usize {
        let is_change =
            |pending: &&Pending| !matches!(pending.deed, Deed::Is(FsOp::Undelegate { .. }));
        let lost = self.waiting.iter().filter(is_change).count();
        self.first += self.waiting.len() as u64;
        self.waiting.clear();
        self.last.clear();
        (self.bytes, self.telling) = (0, 0);
        (self.ready, self.ready_weight) = (0, 0);
        lost
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

    fn give_back(queue: &mut Queue, inode: u64, now: Instant) -> u64 {
        let inode = InodeId(inode);
        queue.push(FsOp::Undelegate { inode }, None, vec![inode], now)
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
        assert_eq!(queue.told().len(), BATCH_OPS_MAX);
        assert!(queue.is_told(255) && !queue.is_told(256));
        assert_eq!(queue.last(&[InodeId(3), InodeId(5)]), Some(295));
        assert_eq!(queue.due(), Some(now + DELAY));
        queue.hurry(256);
        assert_eq!(queue.due(), Some(now));
        assert_eq!(queue.batch().len(), 45);
        queue.told();
        assert_eq!((queue.due(), queue.bytes, queue.last.len()), (None, 0, 0));
        assert!(queue.is_told(300));
    }

    #[test]
    fn what_was_done_after_a_file_waits_for_its_blocks() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        let then = Then { at: everhold_proto::Timestamp::default(), inode: None };
        let file = InodeId(5);
        give_back(&mut queue, 1, now);
        let first = queue.push_writing(100, then, vec![file], now);
        let second = queue.push_writing(100, then, vec![file], now);
        let last = give_back(&mut queue, 2, now);
        queue.hurry(last);
        assert_eq!((queue.bytes > 200, queue.due()), (true, Some(now + DELAY)));
        assert_eq!(queue.batch().len(), 1, "only what is before the blocks");
        queue.told();
        assert_eq!(queue.due(), None);
        let make = move |content| FsOp::Commit {
            inode: file,
            expected_version: None,
            content,
            size_at_least: 0,
            append: false,
        };
        let rewrite = || Rewrite { policy: PolicyId(0), written: vec![], make: Box::new(make) };
        queue.written(second, Ok(rewrite()));
        assert_eq!(queue.due(), None, "the other one is before it");
        queue.written(first, Err(ClientError::Fs(everhold_proto::fs::FsError::NoSpace)));
        assert_eq!(queue.due(), Some(now));
        let (failed, _) = queue.take_failed().unwrap();
        assert_eq!((failed.touched, queue.last(&[file])), (vec![file], Some(second)));
        assert!(queue.take_failed().is_none());
        assert_eq!((queue.due(), queue.batch().len()), (Some(now), 2));
        queue.told();
        assert_eq!((queue.bytes, queue.ready, queue.ready_weight), (0, 0, 0));
        queue.written(second, Ok(rewrite()));
        assert!(queue.is_empty() && queue.is_told(last));
    }

    #[test]
    fn what_is_lost_is_counted() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        give_back(&mut queue, 1, now);
        assert!(queue.gives_back(InodeId(1)) && !queue.gives_back(InodeId(2)));
        let op = FsOp::Release { inode: InodeId(1) };
        queue.push(op, None, vec![InodeId(1)], now);
        assert!(!queue.gives_back(InodeId(1)), "something was done since");
        queue.batch();
        assert_eq!(queue.lose(), 1);
        assert_eq!(queue.told().len(), 0);
        assert!(queue.is_told(1) && queue.is_empty());
    }
}
