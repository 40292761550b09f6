//! The disks of this node: those that it started with, and those that were added since and not removed.

use crate::disk::DiskSeat;
use arc_swap::ArcSwap;
use everhold_proto::DiskId;
use parking_lot::Mutex;
use std::sync::Arc;

/// Disks of one node: as many devices as a large storage machine holds.
pub(crate) const DISKS_MAX: usize = 256;

/// See the module's words.
pub(crate) struct Disks {
    seats: ArcSwap<Vec<Arc<DiskSeat>>>,
    /// Those that could not be opened at the start, and why.
    unopened: Mutex<Vec<(DiskId, String)>>,
}

impl Disks {
    /// The disks at the start.
    pub(crate) fn new(disks: Vec<Arc<DiskSeat>>, unopened: Vec<(DiskId, String)>) -> Self {
        Disks { seats: ArcSwap::from_pointee(disks), unopened: Mutex::new(unopened) }
    }

    /// Those that do not work, and why. Not the first one, beside the metadata: the process ends for it, and finds out
    /// whether it opens again.
    pub(crate) fn failed(&self) -> Vec<(DiskId, String)> {
        let seats = self.seats.load();
        let added = seats.iter().skip(1);
        let failed = added.filter_map(|disk| Some((disk.id()?, disk.store.failure()?)));
        self.unopened.lock().iter().cloned().chain(failed).collect()
    }

    /// All of them, in the order in which they came.
    pub(crate) fn all(&self) -> Arc<Vec<Arc<DiskSeat>>> {
        self.seats.load_full()
    }

    /// The disk that is `id`.
    pub(crate) fn find(&self, id: DiskId) -> Option<Arc<DiskSeat>> {
        self.seats.load().iter().find(|disk| disk.id() == Some(id)).cloned()
    }

    /// One less; gives it back, unless it could not be opened.
    pub(crate) fn remove(&self, id: DiskId) -> Option<Arc<DiskSeat>> {
        let seat = self.find(id);
        let stays = |disk: &&Arc<DiskSeat>| disk.id() != Some(id);
        self.seats.rcu(|disks| disks.iter().filter(stays).cloned().collect::<Vec<_>>());
        self.unopened.lock().retain(|(unopened, _)| *unopened != id);
        seat
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
