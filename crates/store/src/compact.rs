//! Giving dead space back: what lives in a mostly dead segment is copied to the head of the log,
//! then the segment is free.
//!
//! **Invariant:** a segment becomes free only when the index points at nothing in it, and the index
//! file says so durably. A damaged block is never dropped: its segment stays and it is reported.

use crate::StoreError;
use crate::commit::{MoveOp, Op, Queue, Reply, answer};
use crate::format::{
    BlockBody, Body, RecordHeader, SegmentHeader, SegmentUse, TOMBSTONES_MAX, Tombstone,
};
use crate::index::{Change, Entry};
use crate::scan::{ScanFrom, Scanner, read_record};
use crate::shared::Shared;
use everhold_proto::BlockId;
use futures_util::{StreamExt, stream};
use std::collections::BTreeMap;

/// Blocks being copied at once.
const COPIES_AT_ONCE: usize = 4;
/// Tombstones in one operation: few pages, so that it fits into the smallest segment.
pub(crate) const TOMBSTONES_AT_ONCE: usize = 4 * TOMBSTONES_MAX;

/// What a step of compaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compaction {
    /// No segment is worth it.
    Idle,
    /// A segment was given back.
    Freed {
        /// Blocks that were copied out of it.
        moved: u64,
        /// Their bytes.
        moved_bytes: u64,
    },
    /// A segment holds damaged blocks. It stays until they are replaced (by a put of the right
    /// bytes) or deleted; whatever else was in it was copied.
    Damaged(Vec<BlockId>),
}

/// What is in the segment that is compacted.
#[derive(Default)]
struct Contents {
    live: Vec<(BlockBody, Entry)>,
    tombstones: Vec<Tombstone>,
}

/// How it went for one block.
enum Copied {
    Moved(u64),
    Died,
    Damaged,
}

impl Shared {
    /// Compacts one segment, if one is worth it.
    pub(crate) async fn compact_one(&self, queue: &Queue) -> Result<Compaction, StoreError> {
        let _one_at_a_time = self.compacting.lock().await;
        self.check()?;
        let Some((victim, life, end)) = self.choose_victim() else { return Ok(Compaction::Idle) };
        let contents = self.read_contents(victim, life, end).await?;
        self.retain_tombstones(queue, victim, contents.tombstones).await?;
        let (mut moved, mut moved_bytes) = (0, 0);
        let mut copies = stream::iter(contents.live)
            .map(|(block, entry)| self.copy_out(queue, block, entry))
            .buffer_unordered(COPIES_AT_ONCE);
        while let Some(copied) = copies.next().await {
            if let Copied::Moved(bytes) = copied? {
                (moved, moved_bytes) = (moved + 1, moved_bytes + bytes);
            }
        }
        drop(copies);
        // Makes the index file forget the segment before it is given away.
        self.flush_index().await?;
        let left = self.blocks_in(victim).await?;
        if !left.is_empty() {
            self.catalog.lock().segments.change(victim).stuck = true;
            return Ok(Compaction::Damaged(left));
        }
        self.free_segment(victim, life).await?;
        Ok(Compaction::Freed { moved, moved_bytes })
    }

    /// Takes the next victim. From here on it is marked as holding hidden copies, which lasts until
    /// it is free, over restarts too.
    fn choose_victim(&self) -> Option<(u32, u64, u64)> {
        let mut catalog = self.catalog.lock();
        let victim = catalog.segments.victim()?;
        let segment = catalog.segments.change(victim);
        segment.shadowed = true;
        Some((victim, segment.life, segment.end))
    }

    async fn read_contents(&self, slot: u32, life: u64, end: u64) -> Result<Contents, StoreError> {
        let file = self.files.get(slot).await.map_err(StoreError::io("open a segment"))?;
        let limit = end.min(self.superblock.lock().await.segment_bytes);
        let from = ScanFrom { slot, life, offset: 0, previous: 0, limit };
        let mut scanner = Scanner::new(file, self.store, from);
        let mut contents = Contents::default();
        while let Some(record) = scanner.next().await {
            let RecordHeader { place, sequence, body, .. } = record;
            match body {
                Body::Block(block) => {
                    let entry = Entry::of(&block, place, sequence);
                    if self.lookup(block.id).await? == Some(entry) {
                        contents.live.push((block, entry));
                    }
                }
                Body::Tombstones(tombstones) => contents.tombstones.extend(tombstones),
                Body::Void => {}
            }
        }
        Ok(contents)
    }

    /// Writes those tombstones again whose victims may still be on the disk.
    async fn retain_tombstones(
        &self,
        queue: &Queue,
        victim: u32,
        mut tombstones: Vec<Tombstone>,
    ) -> Result<(), StoreError> {
        {
            let segments = &self.catalog.lock().segments;
            let shadows = segments.shadows_elsewhere(victim);
            tombstones.retain(|t| shadows || segments.may_hold(t.slot, t.life, victim));
        }
        for some in tombstones.chunks(TOMBSTONES_AT_ONCE) {
            let (reply, rx) = Reply::channel();
            queue.send(self, Op::Retain { tombstones: some.to_vec(), reply }).await?;
            answer(rx).await?;
        }
        Ok(())
    }

    async fn copy_out(
        &self,
        queue: &Queue,
        block: BlockBody,
        from: Entry,
    ) -> Result<Copied, StoreError> {
        let file =
            self.files.get(from.place.slot).await.map_err(StoreError::io("open a segment"))?;
        let read = read_record(&*file, &self.store, from.place, from.record_bytes()).await;
        let (id, bytes) = (block.id, from.record_bytes());
        let buf = match read {
            Ok(Ok((_, buf))) => buf,
            Ok(Err(reason)) => {
                tracing::warn!(block = %id, reason, "compaction found a damaged block");
                return Ok(Copied::Damaged);
            }
            Err(e) => {
                tracing::warn!(block = %id, error = %e, "compaction cannot read a block");
                return Ok(Copied::Damaged);
            }
        };
        let (reply, rx) = Reply::channel();
        queue.send(self, Op::Move(MoveOp { body: block, buf, from, reply })).await?;
        Ok(match answer(rx).await? {
            true => Copied::Moved(bytes),
            false => Copied::Died,
        })
    }

    /// The blocks that the index places in a segment.
    async fn blocks_in(&self, slot: u32) -> Result<Vec<BlockId>, StoreError> {
        if self.catalog.lock().segments.get(slot).is_none_or(|s| s.live_blocks == 0) {
            return Ok(Vec::new());
        }
        let index = self.index.clone();
        let read = move || index.snapshot()?.in_segment(slot);
        let mut found: BTreeMap<BlockId, Entry> = match self.env.tasks.blocking(read).await {
            Ok(found) => found.into_iter().collect(),
            Err(e) => return Err(self.fail_index(e).await),
        };
        let catalog = self.catalog.lock();
        for (id, change) in catalog.layers().iter().flat_map(|layer| layer.iter()) {
            match change {
                Change::Put(entry) if entry.place.slot == slot => found.insert(id, entry),
                Change::Put(_) | Change::Delete(_) => found.remove(&id),
            };
        }
        Ok(found.into_keys().collect())
    }

    /// Makes the segment free, durably, for the next head to use.
    async fn free_segment(&self, slot: u32, life: u64) -> Result<(), StoreError> {
        let header = SegmentHeader { slot, use_: SegmentUse::Free, life };
        self.files.set_header(header).await.map_err(|e| self.fail("free a segment", &e))?;
        self.catalog.lock().segments.set_free(slot, life);
        Ok(())
    }
}
