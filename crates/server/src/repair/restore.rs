//! The repair worker of a disk: asks the leader what the disk has to hold and gets it, the riskiest
//! first.
//!
//! **Invariant:** under the brake only PGs with at most one full member are worked on, and each
//! report names the session and the record that it is about: a report that comes late changes nothing.

use super::compare::Comparison;
use super::disk::LocalDisk;
use super::ports::Cluster;
use super::round::Round;
use super::worker::{Status, StatusCell, Worker};
use async_trait::async_trait;
use everhold_env::Clock;
use everhold_proto::map::Fullness;
use everhold_proto::planted::{self, Bug};
use everhold_proto::rpc::GetWork;
use everhold_proto::table::PgWork;
use everhold_proto::{DiskSession, Error, Kind};
use futures_util::stream::{self, StreamExt};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// PGs worked on at once, so that the round trips of one hide behind the copying of another.
const PGS_AT_ONCE: usize = 4;
/// Work is planned anew after so many PGs, so that new risks come first soon.
const PGS_PER_PLAN: usize = 16;
/// Without an announcement the leader is asked this often.
const POLL: Duration = Duration::from_secs(10);
/// Pause after a pass that left something behind.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Pause after a pass that did all it tried, for the leader to take note of it.
const BREATH: Duration = Duration::from_millis(20);

/// See the module's words.
pub struct Repair {
    clock: Clock,
    disk: Arc<LocalDisk>,
    cluster: Arc<dyn Cluster>,
    bytes: Arc<Semaphore>,
    status: StatusCell,
}

/// How a pass over the work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pass {
    /// Nothing to do.
    Idle,
    /// Everything that was tried succeeded; there may be more.
    Progress,
    /// Something was left behind: pause before the next pass.
    Blocked,
}

impl Repair {
    /// A worker for `disk`. `bytes` bounds the bodies that all disks of the node hold at once; it must
    /// have at least as many permits as the largest block has bytes.
    pub fn new(
        clock: Clock,
        disk: Arc<LocalDisk>,
        cluster: Arc<dyn Cluster>,
        bytes: Arc<Semaphore>,
    ) -> Self {
        Repair { clock, disk, cluster, bytes, status: StatusCell::default() }
    }

    /// Asks for work and does the most urgent part of it.
    pub(crate) async fn pass(&self) -> Result<Pass, Error> {
        let session = self.disk.session();
        let disk = self.disk.disk;
        let found = self.cluster.work(GetWork { disk, session }).await?;
        let waiting = !found.is_empty();
        let work = by_risk(found, self.disk.braked());
        if work.is_empty() {
            let held = waiting.then(|| Status::Throttled("the brake is on".into()));
            self.status.set(held.unwrap_or_default());
            return Ok(if waiting { Pass::Blocked } else { Pass::Idle });
        }
        if self.disk.store.fullness() == Fullness::Full {
            self.status.set(Status::Throttled("the disk is full".into()));
            return Ok(Pass::Blocked);
        }
        self.status.set(Status::Busy(format!("{} placement groups to repair", work.len())));
        let outcomes: Vec<bool> = stream::iter(work.into_iter().take(PGS_PER_PLAN))
            .map(|item| self.one(session, item))
            .buffer_unordered(PGS_AT_ONCE)
            .collect()
            .await;
        let all = outcomes.into_iter().all(|done| done);
        Ok(if all { Pass::Progress } else { Pass::Blocked })
    }

    /// One PG; `true` when it has nothing left to do. A failure is told and leaves the rest alone.
    async fn one(&self, session: DiskSession, work: PgWork) -> bool {
        let pg = work.pg;
        match self.repair_pg(session, work).await {
            Ok(done) => done,
            Err(e) => {
                let expected = matches!(
                    e.kind,
                    Kind::Retry | Kind::NotLeader | Kind::Busy | Kind::Fenced | Kind::Conflict
                );
                if expected {
                    tracing::debug!(%pg, disk = %self.disk.disk, error = %e, "repair is put off");
                } else {
                    tracing::warn!(%pg, disk = %self.disk.disk, error = %e, "repair failed");
                }
                false
            }
        }
    }

    async fn repair_pg(&self, session: DiskSession, work: PgWork) -> Result<bool, Error> {
        let (pg, compare, missing) = (work.pg, work.compare, work.missing_blocks > 0);
        let round = Round::new(&self.disk, &*self.cluster, session, work, &self.bytes, self.clock);
        let mut done = true;
        if missing {
            done &= round.repair_missing().await?;
        }
        if compare {
            match round.compare().await? {
                Comparison::Done { extra: true } => self.disk.mark_extra(pg),
                Comparison::Done { extra: false } => {}
                Comparison::Unfinished => done = false,
            }
        }
        Ok(done)
    }
}

/// Most urgent first: fewest full members, then what is known to be missing, then the smaller PG.
fn by_risk(mut work: Vec<PgWork>, braked: bool) -> Vec<PgWork> {
    let last_copy =
        |item: &PgWork| item.full_members <= 1 && !planted::has(Bug::BrakeStopsLastCopy);
    work.retain(|item| !braked || last_copy(item));
    work.sort_by_key(|item| (item.full_members, item.compare, item.live_bytes, item.pg));
    work
}

#[async_trait]
impl Worker for Repair {
    fn name(&self) -> String {
        format!("repair {}", self.disk.disk)
    }

    fn status(&self) -> Status {
        self.status.get()
    }

    async fn run(self: Arc<Self>) {
        let mut pause = PAUSE;
        loop {
            let passed = self.pass().await;
            let left = match passed {
                Ok(Pass::Progress) => {
                    pause = PAUSE;
                    BREATH
                }
                Ok(Pass::Idle) => {
                    pause = PAUSE;
                    POLL
                }
                Ok(Pass::Blocked) | Err(_) => {
                    let now = pause;
                    pause = (pause * 2).min(PAUSE_MAX);
                    now
                }
            };
            if passed == Ok(Pass::Idle) {
                // Woken early by an announcement; the end of the wait is the other way to go on.
                let _ = self.clock.within(left, self.disk.work_announced()).await;
            } else {
                self.clock.sleep(left).await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::{Generation, LogIndex, PgId};

    fn item(pg: u32, full_members: u8, compare: bool) -> PgWork {
        PgWork {
            pg: PgId(pg),
            generation: Generation(1),
            joined: LogIndex(1),
            compare,
            missing_blocks: 1,
            full_members,
            blocks: 1,
            live_bytes: 1,
        }
    }

    /// The fewest copies come first; the brake leaves only those with one copy or none.
    #[test]
    fn risk_decides_the_order() {
        let work = vec![item(1, 2, false), item(2, 1, true), item(3, 1, false), item(4, 0, true)];
        let order = |braked| -> Vec<u32> {
            by_risk(work.clone(), braked).iter().map(|item| item.pg.0).collect()
        };
        assert_eq!(order(false), [4, 3, 2, 1]);
        assert_eq!(order(true), [4, 3, 2]);
    }
}
