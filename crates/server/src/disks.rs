//! The disks of this node: those that it started with, and those that were added since.

use crate::disk::DiskSeat;
use arc_swap::ArcSwap;
use everhold_proto::DiskId;
use std::sync::Arc;

/// Disks of one node: as many devices as a large storage machine holds.
pub(crate) const DISKS_MAX: usize = 256;

/// See the module's words. A disk that is here stays here as long as the process runs.
pub(crate) struct Disks {
    seats: ArcSwap<Vec<Arc<DiskSeat>>>,
    /// Those that could not be opened at the start, and why.
    unopened: Vec<(DiskId, String)>,
}

impl Disks {
    /// The disks at the start.
    pub(crate) fn new(disks: Vec<Arc<DiskSeat>>, unopened: Vec<(DiskId, String)>) -> Self {
        Disks { seats: ArcSwap::from_pointee(disks), unopened }
    }

    /// Those that do not work, and why.
    pub(crate) fn failed(&self) -> Vec<(DiskId, String)> {
        let seats = self.seats.load();
        let failed = seats.iter().filter_map(|disk| Some((disk.id()?, disk.store.failure()?)));
        self.unopened.iter().cloned().chain(failed).collect()
    }

    /// All of them, in the order in which they came.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<DiskSeat>>> {
        self.seats.load_full()
    }

    /// The disk that is `id`.
    pub(crate) fn find(&self, id: DiskId) -> Option<Arc<DiskSeat>> {
        self.seats.load().iter().find(|disk| disk.id() == Some(id)).cloned()
    }

    /// One more.
    pub(crate) fn add(&self, disk: Arc<DiskSeat>) {
        self.seats.rcu(|disks| {
            let mut disks = Vec::clone(disks);
            disks.push(disk.clone());
            disks
        });
    }
}
