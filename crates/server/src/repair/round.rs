//! Getting single blocks back: the copy that is there, or a copy from another disk, read back.
//!
//! **Invariant:** a block counts as held only after it was read back from this disk in this session
//! and equals the table's entry; it counts as lost only when this disk and every other holder of the
//! very generation that the work was planned on said that they have no good copy.

use super::disk::LocalDisk;
use super::ports::Cluster;
use bytes::Bytes;
use everhold_env::Clock;
use everhold_proto::checksum::crc32c;
use everhold_proto::map::ClusterMap;
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::{BlockEntry, PgWork};
use everhold_proto::{DiskId, DiskSession, Error, Kind, PgId};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::Semaphore;

/// Blocks asked for at once. Enough to hide the latency of small blocks.
const IN_FLIGHT: usize = 16;
/// Failures of one source after which a round asks it no more.
const STRIKES_MAX: u32 = 3;

/// One pass over the work of a disk for one PG.
pub(crate) struct Round<'a> {
    pub(crate) disk: &'a LocalDisk,
    pub(crate) cluster: &'a dyn Cluster,
    /// The disk session in which everything of this round is verified.
    pub(crate) session: DiskSession,
    pub(crate) work: PgWork,
    /// Bytes of bodies that all rounds of the node may hold at once.
    pub(crate) bytes: &'a Semaphore,
    clock: Clock,
    strikes: Mutex<BTreeMap<DiskId, u32>>,
}

/// What became of one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Restored {
    /// It is here, read back and right.
    Held,
    /// No holder has a good copy, and all were asked.
    Lost,
    /// Not now: somebody who may have it did not answer, or the disk is full.
    Unavailable,
}

/// What one source said.
enum Asked {
    Good(Bytes),
    NoGoodCopy,
    Unknown,
}

impl<'a> Round<'a> {
    pub(crate) fn new(
        disk: &'a LocalDisk,
        cluster: &'a dyn Cluster,
        session: DiskSession,
        work: PgWork,
        bytes: &'a Semaphore,
        clock: Clock,
    ) -> Self {
        Round { disk, cluster, session, work, bytes, clock, strikes: Mutex::default() }
    }

    /// Restores many blocks, several at once. An error is the local disk's and ends the round.
    pub(crate) async fn restore_all(
        &self,
        blocks: Vec<BlockEntry>,
    ) -> Result<Vec<(BlockEntry, Restored)>, Error> {
        stream::iter(blocks)
            .map(|block| async move { Ok((block, self.restore(block).await?)) })
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await
    }

    /// Whether the disk registered anew since the round began: what was verified counts no more.
    pub(crate) fn is_stale(&self) -> bool {
        self.disk.session() != self.session
    }

    async fn restore(&self, block: BlockEntry) -> Result<Restored, Error> {
        match self.disk.store.verify(block.id).await {
            Ok(held) if held == block => return Ok(Restored::Held),
            Ok(_) => {}
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::Corrupt) => {}
            Err(e) => return Err(e),
        }
        let _turn = self.disk.pace.enter(self.clock).await;
        let _room = self.bytes.acquire_many(block.length.max(1)).await.map_err(closed)?;
        let map = self.cluster.map();
        let mut all_said_no = planned_on_this_map(&map, &self.work);
        for source in sources(&map, self.work.pg, self.disk.disk, block.id.counter) {
            match self.ask(source, block).await {
                Asked::Good(data) => return self.keep(block, data).await,
                Asked::NoGoodCopy if self.work.compare && planted::has(Bug::TrustPeerListing) => {
                    return Ok(Restored::Held);
                }
                Asked::NoGoodCopy => {}
                Asked::Unknown => all_said_no = false,
            }
        }
        Ok(if all_said_no { Restored::Lost } else { Restored::Unavailable })
    }

    async fn ask(&self, source: DiskId, block: BlockEntry) -> Asked {
        if self.strikes.lock().get(&source).is_some_and(|strikes| *strikes >= STRIKES_MAX) {
            return Asked::Unknown;
        }
        match self.cluster.fetch(source, self.work.pg, block).await {
            Ok(data) if is_copy(&block, &data) => {
                self.strikes.lock().remove(&source);
                Asked::Good(data)
            }
            Ok(_) => Asked::NoGoodCopy,
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::Corrupt) => Asked::NoGoodCopy,
            // It serves others first; that is no failure.
            Err(e) if e.kind == Kind::Busy => Asked::Unknown,
            Err(_) => {
                *self.strikes.lock().entry(source).or_default() += 1;
                Asked::Unknown
            }
        }
    }

    async fn keep(&self, block: BlockEntry, data: Bytes) -> Result<Restored, Error> {
        match self.disk.store.restore(self.work.pg, block, data).await {
            Ok(()) => {}
            Err(e) if matches!(e.kind, Kind::Full | Kind::Busy) => {
                return Ok(Restored::Unavailable);
            }
            Err(e) => return Err(e),
        }
        match self.disk.store.verify(block.id).await {
            Ok(held) if held == block => {
                self.disk.progress.fetched(block.length.into());
                Ok(Restored::Held)
            }
            Ok(_) => Ok(Restored::Unavailable),
            Err(e) if matches!(e.kind, Kind::NotFound | Kind::Corrupt) => Ok(Restored::Unavailable),
            Err(e) => Err(e),
        }
    }
}

fn closed(_: tokio::sync::AcquireError) -> Error {
    Error::new(Kind::Retry, "the node is stopping")
}

fn is_copy(block: &BlockEntry, data: &Bytes) -> bool {
    data.len() == block.length as usize && crc32c(data) == block.crc
}

fn planned_on_this_map(map: &ClusterMap, work: &PgWork) -> bool {
    map.pgs.get(&work.pg).is_some_and(|pg| pg.generation == work.generation)
}

/// Every other holder of the PG: reachable ones first, then full members, then by turns, so that a
/// repair draws on all of them evenly.
fn sources(map: &ClusterMap, pg: PgId, target: DiskId, turn: u64) -> Vec<DiskId> {
    let Some(pg) = map.pgs.get(&pg) else { return Vec::new() };
    let mut others: Vec<DiskId> = pg.holders().filter(|disk| *disk != target).collect();
    if !others.is_empty() {
        let by = (turn % others.len() as u64) as usize;
        others.rotate_left(by);
    }
    others.sort_by_key(|disk| {
        let full = pg.member(*disk).is_some_and(|m| m.is_full());
        (!map.is_reachable(*disk), !full)
    });
    others
}
