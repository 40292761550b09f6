//! Deletion of what a disk need not hold: blocks of removed files, orphans of broken writes, and
//! copies that moved elsewhere.
//!
//! A cheap count tells which PGs are worth a comparison; the comparison only finds candidates; the
//! leader's answer alone permits. **Invariant:** nothing is deleted without that answer, nothing
//! while the brake is on, and no *moved* block once the disk has learned that it is a member again
//! (see [`super::gate`]). Age deletes nothing.

use super::disk::LocalDisk;
use super::merge::compare;
use super::ports::Cluster;
use super::worker::{Status, StatusCell, Worker};
use async_trait::async_trait;
use everhold_env::Clock;
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::map::ClusterMap;
use everhold_proto::planted::{self, Bug};
use everhold_proto::rpc::{MayDelete, TablePage};
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, Error, PgId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Counts are compared this often: removed data leaves the disks within seconds of its grace period.
const CHECK: Duration = Duration::from_secs(3);
/// A PG whose comparison found nothing to delete waits twice as long, up to this.
const PAUSE_MAX: Duration = Duration::from_secs(300);
/// Equal counts may hide one block lacking and one too many: each PG is compared at least this often.
const FULL_EVERY: Duration = Duration::from_secs(3600);
/// A comparison of so many blocks earns a second of rest.
const BLOCKS_PER_SECOND: u64 = 10_000;

/// See the module's words.
pub struct Deletion {
    clock: Clock,
    disk: Arc<LocalDisk>,
    cluster: Arc<dyn Cluster>,
    status: StatusCell,
    watched: Mutex<BTreeMap<PgId, Watched>>,
}

/// When a PG is compared next.
#[derive(Clone, Copy)]
struct Watched {
    not_before: Instant,
    pause: Duration,
    excess: u64,
    full_at: Instant,
}

/// What is known of a PG before it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counts {
    pg: PgId,
    held: u64,
    /// In the table; `None`: the leader does not know the PG.
    table: Option<u64>,
}

impl Deletion {
    /// A worker for `disk`.
    pub fn new(clock: Clock, disk: Arc<LocalDisk>, cluster: Arc<dyn Cluster>) -> Self {
        let (status, watched) = (StatusCell::default(), Mutex::default());
        Deletion { clock, disk, cluster, status, watched }
    }

    /// Looks at the counts, and compares what is due. Returns how many blocks were deleted.
    pub(crate) async fn pass(&self) -> Result<u64, Error> {
        if self.disk.braked() {
            self.status.set(Status::Throttled("the brake is on".into()));
            return Ok(0);
        }
        let counts = self.counts().await?;
        self.forget_all_but(&counts);
        let (map, extra) = (self.cluster.map(), self.disk.take_extra());
        let mut deleted = 0;
        for count in counts {
            if !self.is_due(&map, &count, extra.contains(&count.pg)) {
                continue;
            }
            self.status.set(Status::Busy(format!("comparing {}", count.pg)));
            let gone = self.reconcile(&map, count.pg).await?;
            self.compared(&count, gone);
            deleted += gone;
        }
        self.status.set(Status::Idle);
        Ok(deleted)
    }

    async fn counts(&self) -> Result<Vec<Counts>, Error> {
        let held = self.disk.store.pgs().await?;
        let mut counts = Vec::with_capacity(held.len());
        for part in held.chunks(PAGE_ENTRIES_MAX) {
            let asked = part.iter().map(|(pg, _)| *pg).collect();
            let table: BTreeMap<PgId, u64> = self.cluster.count(asked).await?.into_iter().collect();
            counts.extend(part.iter().map(|(pg, held)| Counts {
                pg: *pg,
                held: *held,
                table: table.get(pg).copied(),
            }));
        }
        Ok(counts)
    }

    fn is_due(&self, map: &ClusterMap, count: &Counts, marked: bool) -> bool {
        let (now, mut watched) = (self.clock.now(), self.watched.lock());
        let first_full = now + FULL_EVERY.mul_f64(f64::from(count.pg.0 % 64 + 1) / 64.0);
        let watch = watched.entry(count.pg).or_insert(Watched {
            not_before: now,
            pause: CHECK,
            excess: 0,
            full_at: first_full,
        });
        // A PG that the node's map does not have yet is newer than the map: no candidate.
        let (Some(pg), Some(table)) = (map.pgs.get(&count.pg), count.table) else { return false };
        let belongs = pg.holders().any(|disk| disk == self.disk.disk);
        let excess = if belongs { count.held.saturating_sub(table) } else { count.held };
        if excess > watch.excess {
            // More than at the last look: something was removed since.
            watch.pause = CHECK;
            watch.not_before = watch.not_before.min(now);
        }
        watch.excess = excess;
        (now >= watch.not_before && (excess > 0 || marked)) || now >= watch.full_at
    }

    fn compared(&self, count: &Counts, deleted: u64) {
        let (now, mut watched) = (self.clock.now(), self.watched.lock());
        let Some(watch) = watched.get_mut(&count.pg) else { return };
        watch.pause = if deleted > 0 { CHECK } else { (watch.pause * 2).min(PAUSE_MAX) };
        let rest = Duration::from_secs(count.table.unwrap_or(count.held) / BLOCKS_PER_SECOND);
        watch.not_before = now + watch.pause + rest;
        watch.full_at = now + FULL_EVERY;
    }

    fn forget_all_but(&self, counts: &[Counts]) {
        let held: BTreeSet<PgId> = counts.iter().map(|count| count.pg).collect();
        self.watched.lock().retain(|pg, _| held.contains(pg));
    }

    /// Finds the candidates of a PG, asks, and deletes what is permitted.
    pub(crate) async fn reconcile(&self, map: &ClusterMap, pg: PgId) -> Result<u64, Error> {
        let belongs =
            map.pgs.get(&pg).is_some_and(|row| row.holders().any(|disk| disk == self.disk.disk));
        let (mut after, mut deleted) = (None, 0);
        loop {
            let held = self.disk.store.list(pg, after, PAGE_ENTRIES_MAX).await?;
            let Some(last) = held.last().map(|entry| entry.id) else { return Ok(deleted) };
            let candidates = if belongs {
                self.extra_in(pg, after, last, &held).await?
            } else {
                held.iter().map(|entry| entry.id).collect()
            };
            if !candidates.is_empty() {
                deleted += self.delete_permitted(pg, candidates).await?;
            }
            if self.disk.braked() {
                return Ok(deleted);
            }
            after = Some(last);
        }
    }

    /// Which of `held`, the disk's blocks in `(after, last]`, are not in the table.
    async fn extra_in(
        &self,
        pg: PgId,
        mut after: Option<BlockId>,
        last: BlockId,
        held: &[BlockEntry],
    ) -> Result<Vec<BlockId>, Error> {
        let mut table: Vec<BlockEntry> = Vec::new();
        loop {
            let limit = PAGE_ENTRIES_MAX as u32;
            let page = self.cluster.table_page(TablePage { pg, after, limit }).await?;
            let end = page.blocks.last().map(|entry| entry.id);
            table.extend(page.blocks.into_iter().take_while(|entry| entry.id <= last));
            let moves_on = end.is_some_and(|end| after.is_none_or(|before| end > before));
            if !page.more || !moves_on || end.is_some_and(|end| end >= last) {
                break;
            }
            after = end;
        }
        Ok(compare(&table, held).extra)
    }

    /// Asks the leader which of `candidates` may go (the one rule) and deletes those.
    async fn delete_permitted(&self, pg: PgId, candidates: Vec<BlockId>) -> Result<u64, Error> {
        // Before the question: a join that comes later makes the answer worthless.
        let ticket = self.disk.gate.ticket(pg);
        let asked: BTreeSet<BlockId> = candidates.iter().copied().collect();
        let (disk, session) = (self.disk.disk, self.disk.session());
        let permitted =
            self.cluster.may_delete(MayDelete { disk, session, pg, blocks: candidates }).await?;
        let of_asked = |ids: Vec<BlockId>| -> Vec<BlockId> {
            ids.into_iter().filter(|id| asked.contains(id)).collect()
        };
        let (dead, moved) = (of_asked(permitted.dead), of_asked(permitted.moved));
        let mut deleted = 0;
        if !dead.is_empty() && !self.disk.braked() {
            self.disk.store.delete(&dead).await?;
            deleted += dead.len() as u64;
        }
        if planted::has(Bug::DeleteAfterRejoin) && !moved.is_empty() {
            self.clock.sleep(CHECK).await; // moved copies are no hurry
        }
        if !moved.is_empty()
            && !self.disk.braked()
            && let Some(_deleting) = self.disk.gate.begin(ticket)
        {
            self.disk.store.delete(&moved).await?;
            deleted += moved.len() as u64;
        }
        Ok(deleted)
    }
}

#[async_trait]
impl Worker for Deletion {
    fn name(&self) -> String {
        format!("deletion {}", self.disk.disk)
    }

    fn status(&self) -> Status {
        self.status.get()
    }

    async fn run(self: Arc<Self>) {
        loop {
            self.clock.sleep(CHECK).await;
            if let Err(e) = self.pass().await {
                tracing::debug!(disk = %self.disk.disk, error = %e, "deletion is put off");
                self.status.set(Status::Throttled(e.to_string()));
            }
        }
    }
}
