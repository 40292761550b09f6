//! Scrub: reads every block back from the disk, slowly, and at once those that a reader found bad.
//!
//! A bad copy is reported, which records it as missing, and the repair worker fetches it again. A bad
//! copy of a block that can never be committed is deleted instead (with the leader's permission):
//! reporting it would end the disk session for nothing.

use super::disk::LocalDisk;
use super::ports::Cluster;
use super::worker::{Status, StatusCell, Worker};
use async_trait::async_trait;
use everhold_env::Clock;
use everhold_proto::rpc::{MayDelete, ReportBad};
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, Error, Kind, PgId};
use futures_util::future::{Either, select, try_join_all};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// Entries listed at a time.
const PAGE: usize = 256;
/// Copies that an urgent pass reads at once: enough to keep a disk busy, a few hundredths of what repair holds.
const URGENT_AT_ONCE: usize = 8;
/// Longest wait between two blocks, so that a small store is read more often than asked.
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// Pause after the leader could not be told.
const RETRY: Duration = Duration::from_secs(1);

/// How fast a scrub goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubPace {
    /// Every block is read once in about this time, the rate permitting.
    pub interval: Duration,
    /// Never faster than this.
    pub bytes_per_second_max: u64,
}

impl Default for ScrubPace {
    fn default() -> Self {
        ScrubPace { interval: Duration::from_secs(7 * 24 * 3600), bytes_per_second_max: 16 << 20 }
    }
}

/// See the module's words.
pub struct Scrub {
    clock: Clock,
    disk: Arc<LocalDisk>,
    cluster: Arc<dyn Cluster>,
    pace: ScrubPace,
    status: StatusCell,
}

impl Scrub {
    /// A worker for `disk`.
    pub fn new(
        clock: Clock,
        disk: Arc<LocalDisk>,
        cluster: Arc<dyn Cluster>,
        pace: ScrubPace,
    ) -> Self {
        Scrub { clock, disk, cluster, pace, status: StatusCell::default() }
    }

    /// Reads every block once. `false`: it ended early, because another pass was asked for.
    async fn cycle(&self) -> Result<bool, Error> {
        let pgs = self.disk.store.pgs().await?;
        let blocks: u64 = pgs.iter().map(|(_, held)| held).sum();
        let pass = self.disk.scrub.begin(blocks);
        for (pg, _) in pgs {
            let mut after = None;
            loop {
                let page = self.disk.store.list(pg, after, PAGE).await?;
                let Some(last) = page.last() else { break };
                after = Some(last.id);
                let at_once = if pass.urgent { URGENT_AT_ONCE } else { 1 };
                for some in page.chunks(at_once) {
                    if !pass.urgent {
                        self.rest(&some[0], blocks).await;
                    }
                    if self.disk.scrub.is_overtaken(pass) {
                        return Ok(false);
                    }
                    self.status.set(Status::Busy(format!("reading {pg}")));
                    let began = self.clock.now();
                    self.check_some(pg, some).await?;
                    if pass.urgent {
                        // As long as the reads took, the disk is left to others: half of it at most is taken.
                        self.serve_suspects(self.clock.now() - began).await;
                    }
                }
            }
        }
        self.disk.scrub.end(pass);
        Ok(true)
    }

    async fn check_some(&self, pg: PgId, blocks: &[BlockEntry]) -> Result<(), Error> {
        let checks = blocks.iter().map(|block| async move {
            self.check(pg, block.id).await?;
            self.disk.scrub.checked(block.length.into());
            Ok::<(), Error>(())
        });
        try_join_all(checks).await.map(|_all| ())
    }

    /// Waits as long as the pace wants; suspects are looked at meanwhile.
    async fn rest(&self, block: &BlockEntry, blocks: u64) {
        let pause = pause_of(&self.pace, block.length, blocks);
        self.serve_suspects(pause).await;
    }

    /// Verifies suspects as they come, for as long as `pause` says, or until a pass is asked for.
    async fn serve_suspects(&self, pause: Duration) {
        let until = self.clock.now() + pause;
        loop {
            let (suspected, asked) = (pin!(self.disk.suspected()), pin!(self.disk.scrub.asked()));
            match self.clock.until(until, select(suspected, asked)).await {
                Ok(Either::Left(_)) => self.check_suspects().await,
                Ok(Either::Right(_)) | Err(_) => return,
            }
        }
    }

    /// Verifies what readers found bad; what could not be told to the leader stays suspect.
    pub(crate) async fn check_suspects(&self) {
        for (id, pg) in self.disk.take_suspects() {
            if let Err(e) = self.check(pg, id).await {
                tracing::debug!(block = %id, error = %e, "a suspect copy is looked at again later");
                self.clock.sleep(RETRY).await;
                self.disk.suspect(pg, id);
            }
        }
    }

    /// Reads one block back; a bad copy is deleted or reported.
    pub(crate) async fn check(&self, pg: PgId, id: BlockId) -> Result<(), Error> {
        match self.disk.store.scrub(id).await {
            Ok(_) => Ok(()),
            Err(e) if e.kind == Kind::NotFound => Ok(()),
            Err(e) if e.kind == Kind::Corrupt => self.bad_copy(pg, id).await,
            Err(e) => Err(e),
        }
    }

    async fn bad_copy(&self, pg: PgId, id: BlockId) -> Result<(), Error> {
        let map = self.cluster.map();
        if map.pgs.get(&pg).is_none_or(|row| row.member(self.disk.disk).is_none()) {
            // Nobody counts on this copy, and whoever reads it is told that it is bad.
            return Ok(());
        }
        self.disk.progress.found_bad(1);
        let (disk, session) = (self.disk.disk, self.disk.session());
        let ask = MayDelete { disk, session, pg, blocks: vec![id] };
        if self.cluster.may_delete(ask).await?.dead.contains(&id) {
            return self.disk.store.delete(&[id]).await;
        }
        tracing::warn!(block = %id, %pg, %disk, "stored copy is bad; it will be fetched again");
        if self.cluster.bad(ReportBad { disk, session, pg, blocks: vec![id] }).await? {
            self.disk.end_session(session);
        }
        self.disk.announce_work();
        Ok(())
    }
}

/// The wait before a block of `length` bytes, so that `blocks` blocks take the interval.
fn pause_of(pace: &ScrubPace, length: u32, blocks: u64) -> Duration {
    let even = pace.interval.div_f64(blocks.max(1) as f64).min(PAUSE_MAX);
    let rate = f64::from(length) / pace.bytes_per_second_max.max(1) as f64;
    even.max(Duration::from_secs_f64(rate))
}

#[async_trait]
impl Worker for Scrub {
    fn name(&self) -> String {
        format!("scrub {}", self.disk.disk)
    }

    fn status(&self) -> Status {
        self.status.get()
    }

    async fn run(self: Arc<Self>) {
        loop {
            match self.cycle().await {
                Ok(true) => {}
                Ok(false) => continue,
                Err(e) => {
                    tracing::debug!(disk = %self.disk.disk, error = %e, "scrub starts again later");
                }
            }
            self.status.set(Status::Idle);
            self.serve_suspects(PAUSE_MAX.min(self.pace.interval)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval sets the pace, within the rate, and a small store is read at least every minute.
    #[test]
    fn pace_follows_the_interval_and_the_rate() {
        let pace = ScrubPace { interval: Duration::from_secs(1000), bytes_per_second_max: 1 << 20 };
        assert_eq!(pause_of(&pace, 1 << 10, 100), Duration::from_secs(10));
        assert_eq!(pause_of(&pace, 4 << 20, 1_000_000), Duration::from_secs(4));
        assert_eq!(pause_of(&pace, 1, 1), PAUSE_MAX);
    }
}
