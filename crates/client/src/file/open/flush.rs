//! Committing what was written to an open file: few commits, blocks written several at once, many small
//! runs packed into one block.

use super::overlay::Overlay;
use super::{OpenFile, too_busy};
use crate::behind::Rewrite;
use crate::blocks::{Part, Written};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::meta::attr_of;
use bytes::{Bytes, BytesMut};
use everhold_proto::fs::{Attr, Content, Extent, FsOp, Source};
use everhold_proto::limits::{BLOCK_BYTES_MAX, COMMIT_EXTENTS_MAX, INLINE_BYTES_MAX};
use everhold_proto::{InodeId, Kind, PolicyId};
use futures_util::future::try_join_all;
use std::sync::Arc;

/// Bytes that travel inside one commit; more small runs share a block instead.
const INLINE_TOTAL_MAX: usize = 32 << 10;
/// Blocks in one commit.
const BLOCKS_MAX: usize = 8;

/// What one commit takes.
#[derive(Debug, Default)]
struct Batch {
    inline: Vec<(u64, Bytes)>,
    /// One block each.
    whole: Vec<(u64, Bytes)>,
    /// All in one block.
    packed: Vec<(u64, Bytes)>,
}

impl OpenFile {
    /// Commits everything that was written before the call. Durable and visible to all when this
    /// returns without an error; after an error the bytes stay and the next flush tries again, unless it
    /// never can: the file is gone, or there is no space for it.
    pub async fn flush(self: &Arc<Self>) -> Result<()> {
        self.commit_waiting(false).await
    }

    /// A flush that nobody waits for. If it loses bytes, the next one who writes or flushes is told.
    pub async fn flush_behind(self: Arc<Self>) {
        // Whatever failed is in the log, and either kept for the next try or for the next one to ask.
        let _told_later = self.commit_waiting(true).await;
        self.state.lock().behind = false;
    }

    async fn commit_waiting(self: &Arc<Self>, behind: bool) -> Result<()> {
        if self.is_clean() {
            return Ok(());
        }
        let clock = self.client.env.clock;
        let turn = clock.until(self.client.deadline(), self.flushing.lock()).await;
        let _turn = turn.map_err(|_| too_busy())?;
        // At most what an earlier flush left, and then everything else.
        for _ in 0..2 {
            let (runs, all) = {
                let mut state = self.state.lock();
                let runs = state.overlay.seal();
                let all = state.overlay.dirty() == 0;
                if all {
                    state.dirty_since = None;
                }
                (runs, all)
            };
            if runs.is_empty() {
                break;
            }
            let committed = self.client.commit_runs(self.inode, runs).await;
            let mut state = self.state.lock();
            state.sight = None;
            state.changes += 1;
            if let Err(e) = committed {
                tracing::warn!(inode = %self.inode, error = %e, "a flush failed");
                match is_final(&e) {
                    true => {
                        self.let_go(&mut state.overlay);
                        state.lost = behind.then(|| e.clone());
                    }
                    false => drop(state.dirty_since.get_or_insert_with(|| clock.now())),
                }
                return Err(e);
            }
            self.let_go(&mut state.overlay);
            if all {
                break; // newer writes that came meanwhile are not this flush's
            }
        }
        // Only who was not told yet is told, and only by one who can hear it.
        let lost = if behind { None } else { self.state.lock().lost.take() };
        lost.map_or(Ok(()), Err)
    }

    /// What was sealed last needs no memory any more.
    fn let_go(&self, overlay: &mut Overlay) {
        let before = overlay.held();
        overlay.committed();
        self.client.dirty.remove(before - overlay.held());
    }
}

/// Whether the same commit can never succeed.
fn is_final(e: &ClientError) -> bool {
    e.fs().is_some() && matches!(e.kind(), Kind::NotFound | Kind::Full | Kind::Invalid)
}

impl Client {
    /// Makes runs of bytes part of a file: ascending, not overlapping, each at most a block.
    async fn commit_runs(
        self: &Arc<Self>,
        inode: InodeId,
        runs: Vec<(u64, Bytes)>,
    ) -> Result<Option<Attr>> {
        let batches = batches(runs);
        let policy = match batches.iter().all(|b| b.whole.is_empty() && b.packed.is_empty()) {
            true => PolicyId::default(), // not asked for: nothing goes into a block
            false if self.view.map().policies.len() <= 1 => PolicyId(0),
            false => self.attr(inode).await?.policy,
        };
        let mut attr = None;
        for batch in batches {
            attr = Some(self.commit_batch(inode, policy, batch).await?);
        }
        Ok(attr)
    }

    async fn commit_batch(
        self: &Arc<Self>,
        inode: InodeId,
        policy: PolicyId,
        batch: Batch,
    ) -> Result<Attr> {
        let deadline = self.deadline();
        let inline: Vec<Extent> = batch.inline.into_iter().map(inline_extent).collect();
        let end = inline.iter().map(Extent::end);
        let blocks = batch.whole.iter().chain(&batch.packed);
        let end = end.chain(blocks.map(|(at, bytes)| at + bytes.len() as u64)).max().unwrap_or(0);
        let commit = move |mut content: Content| {
            content.extents.extend(inline.iter().cloned());
            content.extents.sort_by_key(|e| e.offset);
            FsOp::Commit {
                inode,
                expected_version: None,
                content,
                size_at_least: end,
                append: false,
            }
        };
        let count = batch.whole.len() + usize::from(!batch.packed.is_empty());
        if count == 0 {
            return attr_of(self.execute_by(commit(Content::default()), deadline).await?);
        }
        // All at once or none: whoever waits for memory holds none.
        let want = count.min(self.options.buffers.max(1));
        let memory = self.memory.clone().acquire_many_owned(want as u32);
        let memory = self.env.clock.until(deadline, memory).await?;
        let mut memory = memory.map_err(|_| ClientError::new(Kind::Internal, "no memory"))?;
        let mut writes = Vec::with_capacity(count);
        for (offset, bytes) in batch.whole {
            writes.push(self.write_parts_of_block(
                policy,
                offset,
                bytes,
                Vec::new(),
                memory.split(1),
                deadline,
            ));
        }
        if let Some((offset, _)) = batch.packed.first() {
            let offset = *offset;
            let (bytes, parts) = pack(&batch.packed);
            let permit = memory.split(1);
            writes.push(self.write_parts_of_block(policy, offset, bytes, parts, permit, deadline));
        }
        let written = try_join_all(writes).await?;
        let Some(behind) = &self.behind else {
            return self.commit(policy, written, deadline, commit).await;
        };
        let rewrite = Rewrite { policy, written, make: Box::new(commit) };
        match behind.commit(self, inode, rewrite, deadline).await {
            Ok(attr) => Ok(attr),
            Err(Rewrite { written, make, .. }) => {
                self.commit(policy, written, deadline, make).await
            }
        }
    }

    async fn write_parts_of_block(
        &self,
        policy: PolicyId,
        offset: u64,
        bytes: Bytes,
        parts: Vec<Part>,
        memory: Option<tokio::sync::OwnedSemaphorePermit>,
        deadline: tokio::time::Instant,
    ) -> Result<Written> {
        let mut written = self.write_block(policy, offset, bytes, memory, deadline).await?;
        written.parts = parts;
        Ok(written)
    }
}

fn inline_extent((offset, bytes): (u64, Bytes)) -> Extent {
    let length = bytes.len() as u64;
    // Its own memory, so that a few bytes do not keep a large buffer.
    Extent { offset, length, source: Source::Inline(Bytes::copy_from_slice(&bytes)) }
}

/// Runs one after the other in one block.
fn pack(runs: &[(u64, Bytes)]) -> (Bytes, Vec<Part>) {
    let mut bytes = BytesMut::with_capacity(runs.iter().map(|(_, b)| b.len()).sum());
    let mut parts = Vec::with_capacity(runs.len());
    for (offset, run) in runs {
        let (at, length) = (bytes.len() as u32, run.len() as u32);
        parts.push(Part { offset: *offset, at, length });
        bytes.extend_from_slice(run);
    }
    (bytes.freeze(), parts)
}

/// Divides runs into commits.
fn batches(runs: Vec<(u64, Bytes)>) -> Vec<Batch> {
    let is_small = |bytes: &Bytes| bytes.len() <= INLINE_BYTES_MAX;
    let mut batches = Vec::new();
    let (mut batch, mut small) = (Batch::default(), Vec::new());
    let (mut small_bytes, mut extents) = (0, 0);
    let mut close = |batch: &mut Batch, small: &mut Vec<(u64, Bytes)>| {
        let mut batch = std::mem::take(batch);
        let bytes: usize = small.iter().map(|(_, bytes)| bytes.len()).sum();
        match bytes <= INLINE_TOTAL_MAX {
            true => batch.inline = std::mem::take(small),
            false => batch.packed = std::mem::take(small),
        }
        batches.push(batch);
    };
    for (offset, bytes) in runs {
        let full = match is_small(&bytes) {
            true => small_bytes + bytes.len() > BLOCK_BYTES_MAX,
            false => batch.whole.len() + 1 >= BLOCKS_MAX,
        };
        if full || extents >= COMMIT_EXTENTS_MAX {
            close(&mut batch, &mut small);
            (small_bytes, extents) = (0, 0);
        }
        extents += 1;
        match is_small(&bytes) {
            true => {
                small_bytes += bytes.len();
                small.push((offset, bytes));
            }
            false => batch.whole.push((offset, bytes)),
        }
    }
    if extents > 0 {
        close(&mut batch, &mut small);
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(offset: u64, length: usize) -> (u64, Bytes) {
        (offset, vec![offset as u8; length].into())
    }

    #[test]
    fn few_small_runs_travel_inline_and_many_share_a_block() {
        let few = batches((0..4).map(|i| run(i << 20, 4096)).collect());
        assert_eq!((few.len(), few[0].inline.len(), few[0].packed.len()), (1, 4, 0));
        let many = batches((0..100).map(|i| run(i << 20, 4096)).collect());
        assert_eq!((many.len(), many[0].inline.len(), many[0].packed.len()), (1, 0, 100));
        let (bytes, parts) = pack(&many[0].packed);
        assert_eq!(bytes.len(), 100 * 4096);
        assert_eq!(parts[3], Part { offset: 3 << 20, at: 3 * 4096, length: 4096 });
    }

    #[test]
    fn commits_are_bounded() {
        let large = batches((0..20).map(|i| run(i << 22, BLOCK_BYTES_MAX)).collect());
        assert!(large.iter().all(|b| b.whole.len() <= BLOCKS_MAX));
        assert_eq!(large.iter().map(|b| b.whole.len()).sum::<usize>(), 20);
        let tiny = batches((0..1000).map(|i| run(i * 10, 1)).collect());
        assert!(tiny.iter().all(|b| b.inline.len() <= COMMIT_EXTENTS_MAX));
        assert_eq!(tiny.iter().map(|b| b.inline.len()).sum::<usize>(), 1000);
        assert!(batches(Vec::new()).is_empty());
    }
}
