//! The store as its users see it.

use crate::commit::{Found, Op, PutOp, Queue, Reply, Writer, answer};
use crate::compact::TOMBSTONES_AT_ONCE;
use crate::format::{BlockBody, HEADER_BYTES};
use crate::index::{Change, Digest, Entry, IndexError};
use crate::read::data_of;
use crate::shared::Shared;
use crate::space::Space;
use crate::{BlockBuf, Compaction, OpenReport, StoreConfig, StoreError, recover};
use bytes::Bytes;
use everhold_env::{Env, Task};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, DiskId, PgId};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Blocks of one internal page of a listing.
const LIST_PAGE: usize = 1000;

/// The block store of one disk. All calls may be made from any task at any time.
pub struct BlockStore {
    shared: Arc<Shared>,
    /// `None` once the store is closed.
    queue: Mutex<Option<Arc<Queue>>>,
    writer: Mutex<Option<Task<()>>>,
    maintenance: Mutex<Option<Task<()>>>,
}

/// What a put did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The block is on stable storage now.
    Stored,
    /// It was there with the same bytes; they were read back and verified.
    AlreadyStored,
}

/// What the store knows about a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockStat {
    /// Its id.
    pub id: BlockId,
    /// The PG it was written to.
    pub pg: PgId,
    /// Length in bytes.
    pub length: u32,
    /// CRC32C of the whole block.
    pub crc: u32,
}

impl BlockStat {
    fn of(id: BlockId, entry: &Entry) -> Self {
        BlockStat { id, pg: entry.pg, length: entry.length, crc: entry.crc }
    }
}

impl BlockStore {
    /// Opens the store in `dir`; an empty directory is formatted. A disk of another cluster, with
    /// another disk id or of another format version is refused. Replays what a crash left.
    pub async fn open(
        env: &Env,
        dir: &Path,
        config: StoreConfig,
    ) -> Result<(Arc<BlockStore>, OpenReport), StoreError> {
        let queue_bytes = config.queue_bytes_max;
        let (shared, report, sequence) = recover::open(env, dir, config).await?;
        let (queue, rx) = Queue::new(queue_bytes);
        let writer = env.tasks.spawn(Writer::new(shared.clone(), rx, sequence).run());
        let maintenance = env.tasks.spawn(maintain(shared.clone()));
        let store = BlockStore {
            shared,
            queue: Mutex::new(Some(Arc::new(queue))),
            writer: Mutex::new(Some(writer)),
            maintenance: Mutex::new(Some(maintenance)),
        };
        if env.witness.is_someone() {
            store.show(dir).await?;
        }
        Ok((Arc::new(store), report))
    }

    /// Shows the witness everything that the store has.
    async fn show(&self, dir: &Path) -> Result<(), StoreError> {
        let mut blocks = Vec::new();
        for pg in self.pgs().await? {
            let of_pg = self.list(pg, None, usize::MAX).await?;
            blocks.extend(of_pg.into_iter().map(|block| (pg, block)));
        }
        self.shared.env.witness.tell(|witness| witness.opened(dir, &blocks));
        Ok(())
    }

    fn queue(&self) -> Result<Arc<Queue>, StoreError> {
        self.shared.check()?;
        self.queue.lock().clone().ok_or(StoreError::Closed)
    }

    /// Stores a block whose bytes have the checksum `crc_expected`. Durable when it returns. An id
    /// that is taken by the same bytes is `AlreadyStored` after they were read back (a damaged copy
    /// is replaced); by others, or in another PG, it is a `Conflict`.
    pub async fn put(
        &self,
        id: BlockId,
        pg: PgId,
        crc_expected: u32,
        buf: BlockBuf,
    ) -> Result<Put, StoreError> {
        let body = buf.describe(id, pg, self.shared.config.page_bytes);
        if body.length == 0 {
            return Err(StoreError::Invalid("a block has at least one byte"));
        }
        if body.crc != crc_expected {
            return Err(StoreError::BadBytes(id));
        }
        let room = self.shared.superblock.lock().await.segment_bytes - 2 * HEADER_BYTES as u64;
        if body.record_bytes() > room {
            return Err(StoreError::Invalid("the block does not fit into a segment"));
        }
        self.shared.within_deadline(self.put_described(body, buf)).await
    }

    async fn put_described(&self, body: BlockBody, buf: BlockBuf) -> Result<Put, StoreError> {
        let (id, pg, length, crc) = (body.id, body.pg, body.length, body.crc);
        let (mut body, mut buf, mut replace) = (body, buf, None);
        let mut repairs = 0;
        loop {
            let (reply, rx) = Reply::channel();
            let op = Op::Put(PutOp { body, buf, replace, reply });
            self.queue()?.send(&self.shared, op).await?;
            let (entry, back) = match answer(rx).await? {
                Found::Stored => return Ok(Put::Stored),
                Found::Exists(entry, back) => (entry, back),
            };
            if (entry.pg, entry.length, entry.crc) != (pg, length, crc) {
                return Err(StoreError::Conflict(id));
            }
            match self.shared.read_whole(id).await {
                Ok(_) => return Ok(Put::AlreadyStored),
                Err(StoreError::Corrupt { .. }) if repairs < 2 => replace = Some(entry.sequence),
                Err(StoreError::NotFound(_)) if repairs < 2 => replace = None,
                Err(error) => return Err(error),
            }
            repairs += 1;
            (body, buf) = *back;
        }
    }

    /// Reads `range` of a block, verified. The range must lie within it and not be empty.
    pub async fn get(&self, id: BlockId, range: Range<u32>) -> Result<Bytes, StoreError> {
        self.shared.within_deadline(self.shared.read_range(id, range)).await
    }

    /// Reads a block, verified, without copying it.
    pub async fn get_whole(&self, id: BlockId) -> Result<(BlockStat, Bytes), StoreError> {
        if planted::has(Bug::ServeUnverified) {
            return self.get_as_is(id).await;
        }
        let (entry, _, record) = self.shared.within_deadline(self.shared.read_whole(id)).await?;
        Ok((BlockStat::of(id, &entry), data_of(record)))
    }

    /// For a planted bug: whatever bytes are there, under a checksum of their own.
    async fn get_as_is(&self, id: BlockId) -> Result<(BlockStat, Bytes), StoreError> {
        let stat = self.stat(id).await?.ok_or(StoreError::NotFound(id))?;
        let data = self.get(id, 0..stat.length).await?;
        Ok((BlockStat { crc: everhold_proto::checksum::crc32c(&data), ..stat }, data))
    }

    /// Reads a block back from the disk and checks all of it.
    pub async fn verify(&self, id: BlockId) -> Result<BlockStat, StoreError> {
        let (entry, block, record) =
            self.shared.within_deadline(self.shared.read_whole(id)).await?;
        let whole = everhold_proto::checksum::crc32c(&record[HEADER_BYTES..]);
        match whole == block.crc {
            true => Ok(BlockStat::of(id, &entry)),
            false => Err(StoreError::Corrupt { id, reason: "its checksum does not hold" }),
        }
    }

    /// What the index knows about a block, without reading it.
    pub async fn stat(&self, id: BlockId) -> Result<Option<BlockStat>, StoreError> {
        Ok(self.shared.lookup(id).await?.map(|entry| BlockStat::of(id, &entry)))
    }

    /// Deletes blocks; durable when it returns. Ids that are not here are skipped. Returns how many
    /// were deleted. Whether a block *may* be deleted is for the caller to know.
    pub async fn delete(&self, ids: &[BlockId]) -> Result<usize, StoreError> {
        let ids: Vec<BlockId> = ids.iter().copied().collect::<BTreeSet<_>>().into_iter().collect();
        let mut deleted = 0;
        for some in ids.chunks(TOMBSTONES_AT_ONCE) {
            deleted += self.shared.within_deadline(self.delete_some(some)).await?;
        }
        Ok(deleted)
    }

    async fn delete_some(&self, ids: &[BlockId]) -> Result<usize, StoreError> {
        let (reply, rx) = Reply::channel();
        self.queue()?.send(&self.shared, Op::Delete { ids: ids.to_vec(), reply }).await?;
        answer(rx).await
    }

    /// Up to `limit` blocks of a PG after `after`, in the order of their ids.
    pub async fn list(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockEntry>, StoreError> {
        self.list_up_to(pg, after, BlockId::MAX, limit).await
    }

    async fn list_up_to(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
        limit: usize,
    ) -> Result<Vec<BlockEntry>, StoreError> {
        self.shared.check()?;
        match self.list_now(pg, after, last, limit) {
            Ok(listing) => Ok(listing),
            Err(e) => Err(self.shared.fail_index(e).await),
        }
    }

    /// Lays the changes in memory over the index file.
    fn list_now(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
        limit: usize,
    ) -> Result<Vec<BlockEntry>, IndexError> {
        let mut listing = Vec::new();
        let mut after = after;
        while listing.len() < limit {
            let wanted = (limit - listing.len()).min(LIST_PAGE);
            // Each page is consistent in itself; a block that is there all the time is in one.
            let catalog = self.shared.catalog.lock();
            let rows = self.shared.index.snapshot()?.list(pg, after, last, wanted)?;
            let mut end = rows.get(wanted - 1).map_or(last, |row| row.0);
            for layer in catalog.layers() {
                end = layer.nth(pg, after, end, wanted).unwrap_or(end);
            }
            let mut page: std::collections::BTreeMap<_, _> = rows
                .into_iter()
                .filter(|(id, ..)| *id <= end)
                .map(|(id, length, crc)| (id, BlockEntry { id, length, crc }))
                .collect();
            for layer in catalog.layers() {
                let mut at = after;
                while let Some((id, change)) = layer.next(pg, at, end) {
                    match change {
                        Change::Put(entry) => page.insert(id, entry.listed(id)),
                        Change::Delete(_) => page.remove(&id),
                    };
                    at = Some(id);
                }
            }
            drop(catalog);
            listing.extend(page.into_values());
            if end == last {
                break;
            }
            after = Some(end);
        }
        listing.truncate(limit);
        Ok(listing)
    }

    /// The fingerprint of the blocks of a PG with ids from `from` to `to`, both included.
    pub async fn digest(&self, pg: PgId, from: BlockId, to: BlockId) -> Result<Digest, StoreError> {
        let mut digest = Digest::default();
        let before = u128::from_be_bytes(from.to_bytes()).checked_sub(1);
        let mut after = before.map(|before| BlockId::from_bytes(before.to_be_bytes()));
        loop {
            let page = self.list_up_to(pg, after, to, LIST_PAGE).await?;
            page.iter().for_each(|block| digest.add(block));
            match page.last() {
                Some(last) if page.len() == LIST_PAGE => after = Some(last.id),
                _ => return Ok(digest),
            }
        }
    }

    /// The PGs that have blocks here, in order.
    pub async fn pgs(&self) -> Result<Vec<PgId>, StoreError> {
        self.shared.check()?;
        let candidates = || {
            let catalog = self.shared.catalog.lock();
            let mut pgs: BTreeSet<PgId> =
                self.shared.index.snapshot()?.pgs()?.into_iter().collect();
            catalog.layers().iter().for_each(|layer| pgs.extend(layer.pgs()));
            Ok(pgs)
        };
        let candidates = match candidates() {
            Ok(candidates) => candidates,
            Err(e) => return Err(self.shared.fail_index(e).await),
        };
        let mut pgs = Vec::new();
        for pg in candidates {
            if !self.list(pg, None, 1).await?.is_empty() {
                pgs.push(pg);
            }
        }
        Ok(pgs)
    }

    /// How full the disk is.
    pub fn space(&self) -> Space {
        self.shared.space()
    }

    /// Grows with every change of what is stored.
    pub fn changes(&self) -> u64 {
        self.shared.catalog.lock().sequence
    }

    /// Why the store stopped working, if it did.
    pub fn failure(&self) -> Option<String> {
        self.shared.failure()
    }

    /// Damaged blocks found by reads since the store was opened.
    pub fn checksum_errors(&self) -> u64 {
        self.shared.checksum_errors.load(Ordering::Relaxed)
    }

    /// The id that the cluster gave to the disk, if it has one.
    pub async fn disk(&self) -> Option<DiskId> {
        self.shared.superblock.lock().await.disk
    }

    /// Records the id that the cluster gave to the disk, durably. It never changes again.
    pub async fn set_disk(&self, disk: DiskId) -> Result<(), StoreError> {
        let mut superblock = self.shared.superblock.lock().await;
        match superblock.disk {
            Some(found) if found == disk => return Ok(()),
            Some(found) => {
                let (found, expected) = (found.to_string(), disk.to_string());
                return Err(StoreError::Foreign { what: "disk", found, expected });
            }
            None => {}
        }
        let mut named = superblock.clone();
        named.disk = Some(disk);
        let path = self.shared.dir.join("superblock");
        let written = self.shared.env.disk.write_atomic(&path, &named.encode()).await;
        written.map_err(StoreError::io("write the superblock"))?;
        *superblock = named;
        Ok(())
    }

    /// Gives the dead space of one segment back, if one is worth it. To be called in a loop with
    /// the pace that the caller grants; two calls at once take turns.
    pub async fn compact_step(&self) -> Result<Compaction, StoreError> {
        let queue = self.queue()?;
        self.shared.compact_one(&queue).await
    }

    /// Writes the index to its file. Only makes the next start faster: what was acknowledged is
    /// durable without it.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.shared.flush_index().await
    }

    /// Finishes what is queued, writes the index and ends the background work. Calls that come
    /// later get `Closed`.
    pub async fn close(&self) -> Result<(), StoreError> {
        drop(self.queue.lock().take());
        let writer = self.writer.lock().take();
        if let Some(writer) = writer {
            writer.join().await;
        }
        drop(self.maintenance.lock().take());
        let flushed = self.shared.flush_index().await;
        let index = self.shared.index.clone();
        self.shared.env.tasks.blocking(move || index.close()).await;
        match flushed {
            Err(StoreError::Closed) => Ok(()), // it was closed before
            other => other,
        }
    }
}

/// Background work: spare segments, and the index every few seconds.
async fn maintain(shared: Arc<Shared>) {
    loop {
        let wake = shared.maintenance.notified();
        // Either way there is something to look at.
        let (Ok(()) | Err(_)) = shared.env.clock.within(shared.config.flush_interval, wake).await;
        if shared.check().is_err() {
            return;
        }
        for result in [shared.prepare_space().await, shared.flush_index().await] {
            match result {
                Ok(()) | Err(StoreError::Full) => {}
                Err(error) => tracing::warn!(dir = %shared.dir.display(), %error, "maintenance"),
            }
        }
    }
}

#[cfg(any(test, feature = "fuzzing"))]
impl BlockStore {
    /// Where a block is.
    pub(crate) fn place(&self, id: BlockId) -> Option<Entry> {
        self.shared.lookup_now(id).ok().flatten()
    }

    /// invariant: the counts of the segments are those of the blocks that the index places there.
    pub(crate) fn audit(&self) {
        let catalog = self.shared.catalog.lock();
        let snapshot = self.shared.index.snapshot().unwrap();
        for (slot, segment) in catalog.segments.iter() {
            let mut live: std::collections::BTreeMap<_, _> =
                snapshot.in_segment(slot).unwrap().into_iter().collect();
            for (id, change) in catalog.layers().iter().flat_map(|layer| layer.iter()) {
                match change {
                    Change::Put(entry) if entry.place.slot == slot => live.insert(id, entry),
                    Change::Put(_) | Change::Delete(_) => live.remove(&id),
                };
            }
            let bytes: u64 = live.values().map(Entry::record_bytes).sum();
            let counted = (segment.live_blocks as usize, segment.live_bytes);
            assert_eq!(counted, (live.len(), bytes), "segment {slot}: {segment:?}");
        }
    }
}
