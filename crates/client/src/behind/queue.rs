//! What was done and is to be told, in order. Pure.
//!
//! **Invariant:** what is being told stays until it is answered; numbers rise, and are told in their order.

use crate::blocks::Written;
use everhold_proto::fs::{Behind as Then, Content, FsOp, Source};
use everhold_proto::limits::BATCH_OPS_MAX;
use everhold_proto::{InodeId, PolicyId};
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

/// Blocks that a commit names. They are kept until the cluster has taken them: else they are written anew.
pub(crate) struct Rewrite {
    pub(crate) policy: PolicyId,
    pub(crate) written: Vec<Written>,
    /// The commit of blocks that were written.
    pub(crate) make: Box<dyn Fn(Content) -> FsOp + Send + Sync>,
}

/// One change.
pub(super) struct Pending {
    pub(super) op: FsOp,
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
}

impl Queue {
    pub(super) fn push(
        &mut self,
        op: FsOp,
        then: Option<Then>,
        touched: Vec<InodeId>,
        rewrite: Option<Rewrite>,
        now: Instant,
    ) -> u64 {
        let number = self.first + self.waiting.len() as u64;
        let weight = crate::meta::weight(&op);
        let blocks: usize = rewrite.iter().flat_map(|r| &r.written).map(|w| w.data.len()).sum();
        let bytes = weight + blocks;
        for inode in &touched {
            self.last.insert(*inode, number);
        }
        self.bytes += bytes;
        self.waiting.push_back(Pending { op, then, touched, rewrite, bytes, weight, since: now });
        number
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
        matches!(pending.op, FsOp::Undelegate { inode: other } if other == inode)
    }

    /// When the next batch is to be told; `None`: nothing waits.
    pub(super) fn due(&self) -> Option<Instant> {
        let oldest = self.waiting.front()?.since;
        let is_full = self.waiting.len() >= BATCH_OPS_MAX || self.bytes >= BATCH_BYTES_MAX;
        let now = is_full || self.hurry_below > self.first;
        Some(if now { oldest } else { oldest + DELAY })
    }

    /// The next batch. It stays here until [`Queue::told`].
    pub(super) fn batch(&mut self) -> Vec<(FsOp, Option<Then>)> {
        let mut bytes = 0;
        let fits = self.waiting.iter().take(BATCH_OPS_MAX).take_while(|pending| {
            bytes += pending.weight;
            bytes <= BATCH_BYTES_MAX
        });
        self.telling = fits.count().max(1).min(self.waiting.len());
        let first = self.waiting.iter().take(self.telling);
        first.map(|pending| (pending.op.clone(), pending.then)).collect()
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
        for inode in told.iter().flat_map(|pending| &pending.touched) {
            if self.last.get(inode).is_some_and(|last| *last < self.first) {
                self.last.remove(inode);
            }
        }
        told
    }

    /// Nothing of it can be told any more; says how many changes were lost.
    pub(super) fn lose(&mut self) -> usize {
        let is_change = |pending: &&Pending| !matches!(pending.op, FsOp::Undelegate { .. });
        let lost = self.waiting.iter().filter(is_change).count();
        self.first += self.waiting.len() as u64;
        self.waiting.clear();
        self.last.clear();
        (self.bytes, self.telling) = (0, 0);
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

    fn give_back(queue: &mut Queue, inode: u64, now: Instant) -> u64 {
        let inode = InodeId(inode);
        queue.push(FsOp::Undelegate { inode }, None, vec![inode], None, now)
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
    fn what_is_lost_is_counted() {
        let (mut queue, now) = (Queue::default(), Instant::now());
        give_back(&mut queue, 1, now);
        assert!(queue.gives_back(InodeId(1)) && !queue.gives_back(InodeId(2)));
        let op = FsOp::Release { inode: InodeId(1) };
        queue.push(op, None, vec![InodeId(1)], None, now);
        assert!(!queue.gives_back(InodeId(1)), "something was done since");
        queue.batch();
        assert_eq!(queue.lose(), 1);
        assert_eq!(queue.told().len(), 0);
        assert!(queue.is_told(1) && queue.is_empty());
    }
}
