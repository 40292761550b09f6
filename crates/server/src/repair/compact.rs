//! Housekeeping of a disk's store: dead space is reclaimed when that is worth its reads and writes,
//! and the index is made durable from time to time so that a start replays little.

use super::disk::LocalDisk;
use super::ports::Compacted;
use super::worker::{Status, StatusCell, Worker};
use async_trait::async_trait;
use everhold_env::Clock;
use everhold_proto::Error;
use std::sync::Arc;
use std::time::Duration;

/// The store is asked this often.
const CHECK: Duration = Duration::from_secs(5);
/// Rounds between two flushes of the index.
const ROUNDS_PER_FLUSH: u32 = 6;
/// Steps in one round: a step moves one segment, and the foreground gets its turn between rounds.
const STEPS_MAX: u32 = 8;

/// See the module's words.
pub struct Compaction {
    clock: Clock,
    disk: Arc<LocalDisk>,
    status: StatusCell,
}

impl Compaction {
    /// A worker for `disk`.
    pub fn new(clock: Clock, disk: Arc<LocalDisk>) -> Self {
        Compaction { clock, disk, status: StatusCell::default() }
    }

    async fn round(&self, flush: bool) -> Result<(), Error> {
        for _ in 0..STEPS_MAX {
            match self.disk.store.compact().await? {
                Compacted::Idle => break,
                Compacted::Freed => self.status.set(Status::Busy("reclaiming dead space".into())),
                Compacted::Damaged(copies) => {
                    // They are verified and reported like those that a reader finds.
                    copies.into_iter().for_each(|(pg, id)| self.disk.suspect(pg, id));
                    break;
                }
            }
        }
        self.status.set(Status::Idle);
        if flush { self.disk.store.flush().await } else { Ok(()) }
    }
}

#[async_trait]
impl Worker for Compaction {
    fn name(&self) -> String {
        format!("compaction {}", self.disk.disk)
    }

    fn status(&self) -> Status {
        self.status.get()
    }

    async fn run(self: Arc<Self>) {
        for round in 1u32.. {
            self.clock.sleep(CHECK).await;
            if let Err(e) = self.round(round.is_multiple_of(ROUNDS_PER_FLUSH)).await {
                tracing::warn!(disk = %self.disk.disk, error = %e, "housekeeping failed");
                self.status.set(Status::Throttled(e.to_string()));
            }
        }
    }
}
