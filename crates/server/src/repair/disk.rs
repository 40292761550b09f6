//! What the services and the workers of one disk share.

use super::gate::Gate;
use super::pace::Pace;
use super::passes::ScrubPasses;
use super::ports::Store;
use everhold_proto::map::ClusterMap;
use everhold_proto::rpc::RepairProgress;
use everhold_proto::{BlockId, DiskId, DiskSession, NodeId, PgId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use tokio::sync::{Notify, watch};

/// Copies that wait to be verified because a read of them failed; more are found by the next scrub.
const SUSPECTS_MAX: usize = 4096;

/// One disk in service on this node.
pub struct LocalDisk {
    /// The node.
    pub node: NodeId,
    /// The disk.
    pub disk: DiskId,
    /// Its blocks.
    pub store: Arc<dyn Store>,
    /// Permissions to delete; services `enter` it before they acknowledge a block.
    pub gate: Gate,
    /// Counters for heartbeats.
    pub progress: Progress,
    /// How much repair it takes on at once.
    pub pace: Pace,
    /// What its scrub does, and was asked to do.
    pub scrub: ScrubPasses,
    session: watch::Sender<DiskSession>,
    session_ended: watch::Sender<DiskSession>,
    brake: AtomicBool,
    work: Notify,
    suspects: Mutex<BTreeMap<BlockId, PgId>>,
    suspected: Notify,
    extra: Mutex<BTreeSet<PgId>>,
}

/// Counters of repair on a disk, since the node started.
#[derive(Debug, Default)]
pub struct Progress {
    fetched_bytes: AtomicU64,
    fetched_blocks: AtomicU64,
    comparing_blocks: AtomicU64,
    bad_blocks: AtomicU64,
}

impl LocalDisk {
    /// A disk that has registered and got `session`.
    pub fn new(
        node: NodeId,
        disk: DiskId,
        session: DiskSession,
        store: Arc<dyn Store>,
    ) -> Arc<Self> {
        Arc::new(LocalDisk {
            node,
            disk,
            store,
            gate: Gate::default(),
            progress: Progress::default(),
            pace: Pace::default(),
            scrub: ScrubPasses::default(),
            session: watch::Sender::new(session),
            session_ended: watch::Sender::new(DiskSession(0)),
            brake: AtomicBool::new(false),
            work: Notify::new(),
            suspects: Mutex::default(),
            suspected: Notify::new(),
            extra: Mutex::default(),
        })
    }

    /// The disk's current session.
    pub fn session(&self) -> DiskSession {
        *self.session.borrow()
    }

    /// The disk registered anew.
    pub fn set_session(&self, session: DiskSession) {
        self.session.send_replace(session);
        self.work.notify_one();
    }

    /// A heartbeat was answered: whether the disk has work, and whether the brake is on.
    pub fn heartbeat_answered(&self, work: bool, brake: bool) {
        self.brake.store(brake, Relaxed);
        if work {
            self.work.notify_one();
        }
    }

    /// The node has a new map: older permissions to delete end where the disk has joined.
    pub fn map_changed(&self, map: &ClusterMap) {
        self.gate.map_changed(map, self.disk);
    }

    /// A read of this copy failed its checksum: it will be verified and reported soon.
    pub fn suspect(&self, pg: PgId, id: BlockId) {
        let mut suspects = self.suspects.lock();
        if suspects.len() < SUSPECTS_MAX {
            suspects.insert(id, pg);
            self.suspected.notify_one();
        }
    }

    /// Resolves when the current session has ended by a report of this disk: it must register anew.
    pub async fn session_ended(&self) {
        let mut ended = self.session_ended.subscribe();
        // The sender lives in `self`, so the channel cannot close.
        let _ = ended.wait_for(|ended| *ended >= self.session()).await;
    }

    /// Whether the current session has ended by a report of this disk.
    pub fn has_ended(&self) -> bool {
        *self.session_ended.borrow() >= self.session()
    }

    /// Whether the brake is on.
    pub fn braked(&self) -> bool {
        self.brake.load(Relaxed)
    }

    pub(crate) fn end_session(&self, session: DiskSession) {
        self.session_ended.send_replace(session);
    }

    pub(crate) async fn work_announced(&self) {
        self.work.notified().await;
    }

    /// A comparison found blocks of `pg` here that are not in its table: candidates for deletion.
    pub(crate) fn mark_extra(&self, pg: PgId) {
        self.extra.lock().insert(pg);
    }

    pub(crate) fn take_extra(&self) -> BTreeSet<PgId> {
        std::mem::take(&mut self.extra.lock())
    }

    pub(crate) fn announce_work(&self) {
        self.work.notify_one();
    }

    pub(crate) async fn suspected(&self) {
        self.suspected.notified().await;
    }

    pub(crate) fn take_suspects(&self) -> BTreeMap<BlockId, PgId> {
        std::mem::take(&mut self.suspects.lock())
    }
}

impl Progress {
    /// As a heartbeat has it.
    pub fn snapshot(&self) -> RepairProgress {
        RepairProgress {
            fetched_bytes: self.fetched_bytes.load(Relaxed),
            fetched_blocks: self.fetched_blocks.load(Relaxed),
            comparing_blocks: self.comparing_blocks.load(Relaxed),
        }
    }

    /// Copies found bad since the node started.
    pub fn bad_blocks(&self) -> u64 {
        self.bad_blocks.load(Relaxed)
    }

    pub(crate) fn fetched(&self, bytes: u64) {
        self.fetched_bytes.fetch_add(bytes, Relaxed);
        self.fetched_blocks.fetch_add(1, Relaxed);
    }

    pub(crate) fn found_bad(&self, blocks: u64) {
        self.bad_blocks.fetch_add(blocks, Relaxed);
    }

    /// Counts `blocks` as still to be compared until the guard is told or dropped.
    pub(crate) fn comparing(&self, blocks: u64) -> Comparing<'_> {
        self.comparing_blocks.fetch_add(blocks, Relaxed);
        Comparing { progress: self, left: blocks }
    }
}

/// What is left of one comparison, in the counters.
pub(crate) struct Comparing<'a> {
    progress: &'a Progress,
    left: u64,
}

impl Comparing<'_> {
    pub(crate) fn done(&mut self, blocks: u64) {
        let done = blocks.min(self.left);
        self.left -= done;
        self.progress.comparing_blocks.fetch_sub(done, Relaxed);
    }
}

impl Drop for Comparing<'_> {
    fn drop(&mut self) {
        self.progress.comparing_blocks.fetch_sub(self.left, Relaxed);
    }
}
