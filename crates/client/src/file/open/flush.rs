//! Committing what was written to an open file: few commits, blocks written several at once, many small
//! runs packed into one block.

use super::overlay::{Doubt, Overlay, Sealed};
use super::sight::Sight;
use super::{OpenFile, State, too_busy};
use crate::behind::{Block, Filling, Make};
use crate::blocks::{Part, Written};
use crate::client::Client;
use crate::error::{ClientError, Result};
use bytes::{Bytes, BytesMut};
use everhold_proto::fs::{Attr, Content, Extent, FsError, FsOp, Source};
use everhold_proto::limits::{BLOCK_BYTES_MAX, COMMIT_EXTENTS_MAX, INLINE_BYTES_MAX};
use everhold_proto::planted::{self, Bug};
use everhold_proto::{InodeId, Kind, PolicyId};
use futures_util::future::try_join_all;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

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

    /// While one flush commits, the next one writes its blocks.
    async fn commit_waiting(self: &Arc<Self>, behind: bool) -> Result<()> {
        if self.is_clean() {
            return Ok(());
        }
        let (clock, deadline) = (self.client.env.clock, self.client.deadline());
        let turn = clock.until(deadline, self.writing.lock()).await.map_err(|_| too_busy())?;
        if self.state.lock().left {
            let commits = clock.until(deadline, self.committing.lock()).await;
            let _commits = commits.map_err(|_| too_busy())?;
            self.state.lock().left = false;
            self.commit_left(u64::MAX).await?;
        }
        let (sealed, number, alone) = self.seal();
        // Whatever ends this early leaves what it took to the next one.
        let mut unfinished = Unfinished { file: self, armed: true };
        let staged = match sealed {
            Some(sealed) => Some(self.client.stage(self.inode, sealed.runs, alone, None).await),
            None => None,
        };
        let commits = clock.until(deadline, self.committing.lock()).await;
        let _commits = commits.map_err(|_| too_busy())?;
        if behind {
            self.state.lock().behind = false; // the next one may write its blocks meanwhile
        }
        drop(turn);
        let is_next = self.state.lock().overlay.oldest().is_some_and(|next| next.number == number);
        match staged {
            Some(staged) if is_next => self.finish(staged).await?,
            // An earlier flush left something: it goes first, and these blocks are not used.
            _ => self.commit_left(number).await?,
        }
        unfinished.armed = false;
        self.fold_behind();
        Ok(())
    }

    /// Takes everything that waits. Gives the number of what was taken last, and whether nothing else is on its way.
    fn seal(&self) -> (Option<Sealed>, u64, bool) {
        let mut state = self.state.lock();
        let alone = state.overlay.oldest().is_none();
        state.dirty_since = None;
        (state.overlay.seal(), state.overlay.seals(), alone)
    }

    /// Commits what earlier flushes left, up to a number, and what was taken and is not under a commit.
    async fn commit_left(self: &Arc<Self>, up_to: u64) -> Result<()> {
        loop {
            let oldest = self.state.lock().overlay.oldest().cloned();
            let Some(sealed) = oldest.filter(|sealed| sealed.number <= up_to) else {
                return Ok(());
            };
            match sealed.doubt.filter(|_| !planted::has(Bug::RecommitWithoutVersion)) {
                Some(doubt) => self.settle_doubt(sealed, doubt).await?,
                None => {
                    let staged = self.client.stage(self.inode, sealed.runs, false, None).await;
                    self.finish(staged).await?;
                }
            }
        }
    }

    /// Commits the oldest of what was sealed.
    pub(super) async fn finish(self: &Arc<Self>, staged: Result<Vec<Staged>>) -> Result<()> {
        let committed = match staged {
            Ok(staged) => self.commit_staged(staged).await,
            Err(e) => Err(e),
        };
        let mut state = self.state.lock();
        let sight = state.sight.take();
        state.changes += 1;
        let next = |sight: &Arc<Sight>, (attr, new): &(Attr, Vec<Extent>)| sight.next(attr, new);
        if let Ok(Some(inline)) = &committed {
            state.sight = sight.and_then(|sight| next(&sight, inline)).map(Arc::new);
            let bytes = inline.1.iter().map(|extent| extent.length).sum();
            state.inline.add(bytes, inline.0.size);
        }
        match committed {
            Ok(_) => {
                self.let_go(&mut state.overlay);
                Ok(())
            }
            Err(e) => Err(self.failed(&mut state, e)),
        }
    }

    /// Commits what is staged. If that is one commit of inline bytes: what it changed.
    async fn commit_staged(
        self: &Arc<Self>,
        staged: Vec<Staged>,
    ) -> Result<Option<(Attr, Vec<Extent>)>> {
        let (deadline, count) = (self.client.deadline(), staged.len());
        let mut inline = None;
        for Staged { policy, written, make } in staged {
            let change = written.is_empty().then(|| make(Content::default()));
            let attr = self.client.commit(policy, written, deadline, make).await?;
            self.state.lock().version = Some(attr.version);
            if count == 1
                && let Some(FsOp::Commit { content, .. }) = change
            {
                inline = Some((attr, content.extents));
            }
        }
        Ok(inline)
    }

    /// The oldest of what was sealed could not be committed. It stays for the next flush, unless that can never
    /// succeed.
    pub(super) fn failed(&self, state: &mut State, e: ClientError) -> ClientError {
        tracing::warn!(inode = %self.inode, error = %e, "a flush failed");
        if is_final(&e) {
            self.let_go(&mut state.overlay);
            self.client.losses.add([self.inode], &e);
            return e;
        }
        if e.kind() == Kind::MaybeApplied {
            let over = state.version;
            state.overlay.doubt(Doubt { over });
        }
        let now = self.client.env.clock.now();
        state.dirty_since.get_or_insert(now);
        e
    }

    /// What was sealed first needs no memory any more.
    pub(super) fn let_go(&self, overlay: &mut Overlay) {
        let before = overlay.held();
        overlay.committed();
        self.client.dirty.remove(before - overlay.held());
    }
}

/// A flush that has not committed what it took.
struct Unfinished<'a> {
    file: &'a OpenFile,
    armed: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.file.state.lock().left = true;
        }
    }
}

/// Whether the same commit can never succeed.
fn is_final(e: &ClientError) -> bool {
    // Another version than the expected one: others wrote since.
    let is_stale = matches!(e.fs(), Some(FsError::Stale { .. }));
    is_stale || e.fs().is_some() && matches!(e.kind(), Kind::NotFound | Kind::Full | Kind::Invalid)
}

/// A commit whose blocks are written.
pub(super) struct Staged {
    policy: PolicyId,
    written: Vec<Written>,
    make: Make,
}

impl Client {
    /// Writes the blocks that make runs of bytes part of a file. `alone`: nothing else of it is on its way. `over`: only
    /// if the file has this version then.
    pub(super) async fn stage(
        self: &Arc<Self>,
        inode: InodeId,
        runs: Vec<(u64, Bytes)>,
        alone: bool,
        over: Option<u64>,
    ) -> Result<Vec<Staged>> {
        let deadline = self.deadline();
        let batches = batches(runs);
        let has_blocks = batches.iter().any(|b| !b.whole.is_empty() || !b.packed.is_empty());
        if has_blocks {
            // Copies and checksums: long work for a thread that only looks whether there is any.
            tokio::task::yield_now().await;
        }
        let policy = match has_blocks {
            false => PolicyId::default(), // not asked for
            true if self.view.map().policies.len() <= 1 => PolicyId(0),
            true => self.attr(inode).await?.policy,
        };
        let expected = std::iter::once(over).chain(std::iter::repeat(None));
        let mut fillings: Vec<Filling> = batches
            .into_iter()
            .zip(expected)
            .map(|(batch, expected)| batch.filling(inode, policy, expected))
            .collect();
        if let Some(behind) = &self.behind
            && alone
            && let Some(filling) = fillings.pop_if(|filling| !filling.blocks.is_empty())
        {
            match fillings.is_empty() {
                true => match behind.fill(self, inode, filling, deadline).await {
                    Ok(_) => return Ok(Vec::new()),
                    Err(filling) => fillings.push(filling),
                },
                false => fillings.push(filling),
            }
        }
        let count: usize = fillings.iter().map(|filling| filling.blocks.len()).sum();
        // All at once or none: whoever waits for memory holds none.
        let want = count.min(self.options.buffers.max(1));
        let memory = self.memory.clone().acquire_many_owned(want as u32);
        let memory = self.env.clock.until(deadline, memory).await?;
        let mut memory = memory.map_err(|_| ClientError::new(Kind::Internal, "no memory"))?;
        let mut staged = Vec::with_capacity(fillings.len());
        for Filling { blocks, make, .. } in fillings {
            let writes = blocks.into_iter().map(|block| {
                let memory = memory.split(1);
                self.write_one(policy, block, memory, deadline)
            });
            staged.push((try_join_all(writes.collect::<Vec<_>>()), make));
        }
        let all = staged.into_iter().map(|(writes, make)| async move {
            Ok::<_, ClientError>(Staged { policy, written: writes.await?, make })
        });
        try_join_all(all).await
    }

    /// Writes runs of a file as one block.
    pub(crate) async fn write_one(
        &self,
        policy: PolicyId,
        Block { offset, bytes, parts }: Block,
        memory: Option<OwnedSemaphorePermit>,
        deadline: Instant,
    ) -> Result<Written> {
        let mut written = self.write_block(policy, offset, bytes, memory, deadline).await?;
        written.parts = parts;
        Ok(written)
    }
}

impl Batch {
    /// What a file is to be filled with.
    fn filling(self, inode: InodeId, policy: PolicyId, expected: Option<u64>) -> Filling {
        let all = || self.inline.iter().chain(&self.whole).chain(&self.packed);
        let size = all().map(|(at, bytes)| at + bytes.len() as u64).max().unwrap_or(0);
        let allocated = all().map(|(_, bytes)| bytes.len() as u64).sum();
        let inline: Vec<Extent> = self.inline.into_iter().map(inline_extent).collect();
        let make = move |mut content: Content| {
            content.extents.extend(inline.iter().cloned());
            content.extents.sort_by_key(|e| e.offset);
            FsOp::Commit {
                inode,
                expected_version: expected,
                content,
                size_at_least: size,
                append: false,
            }
        };
        let blocks = blocks(self.whole, &self.packed);
        Filling { policy, size, allocated, blocks, make: Box::new(make) }
    }
}

/// The blocks of a commit: one for each large run, and one for all the small ones.
fn blocks(whole: Vec<(u64, Bytes)>, packed: &[(u64, Bytes)]) -> Vec<Block> {
    let whole = whole.into_iter().map(|(offset, bytes)| Block { offset, bytes, parts: vec![] });
    let packed = packed.first().map(|(offset, _)| {
        let (bytes, parts) = pack(packed);
        Block { offset: *offset, bytes, parts }
    });
    whole.chain(packed).collect()
}

fn inline_extent((offset, bytes): (u64, Bytes)) -> Extent {
    let length = bytes.len() as u64;
    // Its own memory, so that a few bytes do not keep a large buffer.
    Extent { offset, length, source: Source::Inline(Bytes::copy_from_slice(&bytes)) }
}

/// Runs one after the other in one block.
pub(super) fn pack(runs: &[(u64, Bytes)]) -> (Bytes, Vec<Part>) {
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
