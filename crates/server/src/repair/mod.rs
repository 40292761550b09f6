//! The workers of each disk: repair, deletion, scrub and housekeeping of the store.
//!
//! Reading order: [`ports`] (what they need from outside), [`LocalDisk`] (what services and workers
//! share), [`gate`] (what ends a permission to delete), `restore` and its parts `missing`, `compare`,
//! `round`, then `deletion`, `scrub` and `compact`.

mod compact;
mod compare;
mod deletion;
mod disk;
pub mod gate;
mod merge;
mod missing;
mod pace;
mod passes;
pub mod ports;
mod restore;
mod round;
mod scrub;
mod worker;

#[cfg(test)]
mod tests;

pub use compact::Compaction;
pub use deletion::Deletion;
pub use disk::{LocalDisk, Progress};
pub use pace::{Foreground, Pace};
pub use passes::ScrubPasses;
pub use restore::Repair;
pub use scrub::{Scrub, ScrubPace};
pub use worker::{Status, Worker};

use everhold_env::{Env, Task};
use ports::Cluster;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Bytes of bodies that repair holds at once on a node: 16 blocks of the largest size.
pub const REPAIR_BYTES_MAX: usize = 64 << 20;

/// The running workers of one disk; they end when this is dropped.
pub struct DiskWorkers {
    workers: Vec<Arc<dyn Worker>>,
    _tasks: Vec<Task<()>>,
}

impl DiskWorkers {
    /// Starts the workers of `disk`. `bytes` is shared by the disks of the node and has
    /// [`REPAIR_BYTES_MAX`] permits.
    pub fn start(
        env: &Env,
        disk: &Arc<LocalDisk>,
        cluster: &Arc<dyn Cluster>,
        bytes: &Arc<Semaphore>,
        pace: ScrubPace,
    ) -> Self {
        let (clock, disk, cluster) = (env.clock, || disk.clone(), || cluster.clone());
        let workers: Vec<Arc<dyn Worker>> = vec![
            Arc::new(Repair::new(clock, disk(), cluster(), bytes.clone())),
            Arc::new(Deletion::new(clock, disk(), cluster())),
            Arc::new(Scrub::new(clock, disk(), cluster(), pace)),
            Arc::new(Compaction::new(clock, disk())),
        ];
        let tasks = workers.iter().map(|worker| env.tasks.spawn(worker.clone().run())).collect();
        DiskWorkers { workers, _tasks: tasks }
    }

    /// Name and status of each, for `NodeStatus`.
    pub fn statuses(&self) -> Vec<(String, String)> {
        self.workers.iter().map(|w| (w.name(), w.status().to_string())).collect()
    }
}
