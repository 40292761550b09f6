//! The block store as the disk's workers see it.

use crate::repair::ports::{Compacted, Store};
use async_trait::async_trait;
use bytes::Bytes;
use everhold_client::{Admission, Place};
use everhold_env::Clock;
use everhold_proto::map::Fullness;
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, Error, Kind, PgId, Priority};
use everhold_store::{BlockBuf, BlockStat, BlockStore, Compaction, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Counting walks the whole index, so it may take this part of the time at most.
const COUNT_SHARE: u32 = 20;

/// A scrub asks again this often whether it may go on.
const SCRUB_WAIT: Duration = Duration::from_secs(1);

/// See the module's words.
pub(crate) struct StorePort {
    clock: Clock,
    store: Arc<BlockStore>,
    /// What the node takes on at once.
    work: Arc<Admission>,
    counted: Mutex<Option<Counted>>,
}

/// Numbers of blocks by PG, and when they are worth counting again.
struct Counted {
    pgs: Vec<(PgId, u64)>,
    changes: u64,
    not_before: Instant,
}

impl StorePort {
    /// The port of `store`'s workers.
    pub(crate) fn new(clock: Clock, store: Arc<BlockStore>, work: Arc<Admission>) -> Self {
        StorePort { clock, store, work, counted: Mutex::new(None) }
    }

    /// A place for a scrub, however long that takes: everything else goes first, but it has one at least.
    async fn place_for_scrub(&self) -> Place {
        loop {
            let deadline = self.clock.now() + SCRUB_WAIT;
            match self.work.enter(Priority::Scrub, deadline).await {
                Ok(place) => return place,
                Err(busy) => self.clock.sleep(busy.retry_after().unwrap_or(SCRUB_WAIT)).await,
            }
        }
    }

    async fn count(&self) -> Result<Vec<(PgId, u64)>, StoreError> {
        let mut pgs = Vec::new();
        for pg in self.store.pgs().await? {
            let digest = self.store.digest(pg, BlockId::MIN, BlockId::MAX).await?;
            pgs.push((pg, digest.count));
        }
        Ok(pgs)
    }
}

fn entry(stat: BlockStat) -> BlockEntry {
    BlockEntry { id: stat.id, length: stat.length, crc: stat.crc }
}

#[async_trait]
impl Store for StorePort {
    async fn stat(&self, id: BlockId) -> Result<Option<BlockEntry>, Error> {
        Ok(self.store.stat(id).await?.map(entry))
    }

    async fn verify(&self, id: BlockId) -> Result<BlockEntry, Error> {
        match self.store.verify(id).await {
            // A place that cannot be read is a bad copy like any other: it is fetched again.
            Err(StoreError::Io { what, source }) => {
                let message = format!("block {id} cannot be read: {what}: {source}");
                Err(Error::new(Kind::Corrupt, message))
            }
            verified => Ok(entry(verified?)),
        }
    }

    async fn scrub(&self, id: BlockId) -> Result<BlockEntry, Error> {
        let _place = self.place_for_scrub().await;
        self.verify(id).await
    }

    async fn restore(&self, pg: PgId, block: BlockEntry, data: Bytes) -> Result<(), Error> {
        let buf = BlockBuf::copy_of(&data)?;
        match self.store.put(block.id, pg, block.crc, buf).await {
            // A sound copy of other bytes is no copy of this block, nor is one that cannot be read; one
            // that is damaged is replaced by `put` itself.
            Err(StoreError::Conflict(_) | StoreError::Io { .. }) => {
                self.store.delete(&[block.id]).await?;
                self.store.put(block.id, pg, block.crc, BlockBuf::copy_of(&data)?).await?;
            }
            stored => drop(stored?),
        }
        Ok(())
    }

    async fn list(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockEntry>, Error> {
        Ok(self.store.list(pg, after, limit).await?)
    }

    async fn pgs(&self) -> Result<Vec<(PgId, u64)>, Error> {
        let mut counted = self.counted.lock().await;
        // Not the number of blocks: one that came to a PG and one that left another leave it as it was.
        let (started, changes) = (self.clock.now(), self.store.changes());
        if let Some(last) = &*counted
            && (last.changes == changes || started < last.not_before)
        {
            return Ok(last.pgs.clone());
        }
        let pgs = self.count().await?;
        let ended = self.clock.now();
        let not_before = ended + (ended - started) * COUNT_SHARE;
        *counted = Some(Counted { pgs: pgs.clone(), changes, not_before });
        Ok(pgs)
    }

    async fn delete(&self, ids: &[BlockId]) -> Result<(), Error> {
        self.store.delete(ids).await?;
        Ok(())
    }

    fn fullness(&self) -> Fullness {
        self.store.space().level
    }

    async fn compact(&self) -> Result<Compacted, Error> {
        let ids = match self.store.compact_step().await? {
            Compaction::Idle => return Ok(Compacted::Idle),
            Compaction::Freed { .. } => return Ok(Compacted::Freed),
            Compaction::Damaged(ids) => ids,
        };
        let mut damaged = Vec::with_capacity(ids.len());
        for id in ids {
            damaged.extend(self.store.stat(id).await?.map(|stat| (stat.pg, id)));
        }
        Ok(Compacted::Damaged(damaged))
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(self.store.flush().await?)
    }
}
