//! A disk of this node: the store with its blocks and, once it registered, the disk of the cluster
//! that it is.

use crate::repair::LocalDisk;
use crate::speed::Speedometer;
use everhold_proto::command::DiskUsage;
use everhold_proto::{DiskId, DiskSession};
use everhold_store::BlockStore;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

/// One data directory for blocks.
pub(crate) struct DiskSeat {
    /// Its directory.
    pub(crate) path: PathBuf,
    /// The disk's own mark.
    pub(crate) uuid: [u8; 16],
    /// The id it had before this start.
    formatted: Option<DiskId>,
    /// The blocks.
    pub(crate) store: Arc<BlockStore>,
    /// How fast it answers.
    pub(crate) speed: Speedometer,
    /// The disk of the cluster that it is, since its first registration in this process.
    local: OnceLock<Arc<LocalDisk>>,
}

impl DiskSeat {
    /// A disk that is not in service yet.
    pub(crate) fn new(
        path: PathBuf,
        uuid: [u8; 16],
        formatted: Option<DiskId>,
        store: Arc<BlockStore>,
    ) -> Self {
        let speed = Speedometer::default();
        DiskSeat { path, uuid, formatted, store, speed, local: OnceLock::new() }
    }

    /// The disk of the cluster that it is.
    pub(crate) fn local(&self) -> Option<&Arc<LocalDisk>> {
        self.local.get()
    }

    /// It came into service.
    pub(crate) fn set_local(&self, disk: Arc<LocalDisk>) -> &Arc<LocalDisk> {
        self.local.get_or_init(|| disk)
    }

    /// Its id, in service or as it was formatted.
    pub(crate) fn id(&self) -> Option<DiskId> {
        self.local.get().map(|local| local.disk).or(self.formatted)
    }

    /// Its session, while it is in service.
    pub(crate) fn session(&self) -> Option<DiskSession> {
        self.local.get().map(|local| local.session())
    }

    /// Usage for reports, once the disk has an id.
    pub(crate) fn usage(&self) -> Option<DiskUsage> {
        let disk = self.id()?;
        let space = self.store.space();
        Some(DiskUsage {
            disk,
            used_bytes: space.live,
            capacity_bytes: space.capacity,
            fullness: space.level,
        })
    }
}
