//! What all parts of a running node share: who it is, what it holds, whom it can ask.

use crate::config::ServerConfig;
use crate::control::Observations;
use crate::counters::Counters;
use crate::directory::DataDirectory;
use crate::disk::DiskSeat;
use crate::disks::Disks;
use crate::error::Fatal;
use crate::feed::Feed;
use crate::http::{Budget, Gate, WAIT_MAX};
use crate::leader::LeaderHint;
use crate::log_time::LogTime;
use crate::map_cache::MapCache;
use crate::raft::RaftSeat;
use crate::reach::Reach;
use everhold_client::{Admission, AdmissionConfig, LimitConfig, Wire};
use everhold_env::Env;
use everhold_proto::limits::FOLLOWERS_MAX;
use everhold_proto::rpc::RepairProgress;
use everhold_proto::{ClusterId, DiskId, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// A peer that could not be reached is named in heartbeats for this long.
const UNREACHABLE_FOR: Duration = Duration::from_secs(3);

/// Repair may hold this part of what clients may hold.
const REPAIR_PART: usize = 4;

/// Everything that services, loops and workers of one node share.
pub(crate) struct Node {
    pub(crate) env: Env,
    pub(crate) config: ServerConfig,
    /// `HOST:PORT` under which others reach this node.
    pub(crate) address: String,
    pub(crate) uuid: [u8; 16],
    pub(crate) cluster: ClusterId,
    pub(crate) directory: Arc<DataDirectory>,
    /// It is creating its cluster and has not registered itself: it must become the first node.
    pub(crate) founding: AtomicBool,
    pub(crate) wire: Wire,
    pub(crate) map: Arc<MapCache>,
    /// Held by whoever asks for a newer map.
    pub(crate) map_question: tokio::sync::Mutex<()>,
    pub(crate) disks: Disks,
    /// Where added disks are sent to come into service.
    pub(crate) added: mpsc::Sender<Arc<DiskSeat>>,
    /// Held while a disk is added.
    pub(crate) adding: tokio::sync::Mutex<()>,
    pub(crate) raft: RaftSeat,
    pub(crate) observations: Arc<Observations>,
    pub(crate) leader: LeaderHint,
    pub(crate) log_time: LogTime,
    pub(crate) feed: Feed,
    pub(crate) registration: Registration,
    pub(crate) signals: Signals,
    pub(crate) reach: Reach,
    pub(crate) counters: Counters,
    pub(crate) gates: Gates,
    pub(crate) heartbeats: HeartbeatConnections,
    pub(crate) fatal: mpsc::Sender<Fatal>,
}

impl Node {
    /// The disk of this node that is `id`.
    pub(crate) fn disk(&self, id: DiskId) -> Option<Arc<DiskSeat>> {
        self.disks.find(id)
    }

    /// Repair on all disks of this node.
    pub(crate) fn repair_progress(&self) -> RepairProgress {
        let mut sum = RepairProgress::default();
        for one in self.disks.all().iter().filter_map(|d| d.local()).map(|d| d.progress.snapshot())
        {
            sum.fetched_bytes += one.fetched_bytes;
            sum.fetched_blocks += one.fetched_blocks;
            sum.comparing_blocks += one.comparing_blocks;
        }
        sum
    }

    /// Ends the process for `reason`; the first reason wins.
    pub(crate) fn fail(&self, reason: Fatal) {
        tracing::error!(error = %reason, "the server must end");
        if self.fatal.try_send(reason).is_err() {
            tracing::debug!("it is ending already");
        }
    }
}

/// This node's place in the cluster.
#[derive(Default)]
pub(crate) struct Registration {
    node: OnceLock<NodeId>,
    /// 0: not registered since the start.
    boot: AtomicU64,
}

impl Registration {
    /// Its id, once it has one.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.node.get().copied()
    }

    /// Its id and boot count, once it registered in this process.
    pub(crate) fn current(&self) -> Option<(NodeId, u64)> {
        let boot = self.boot.load(Ordering::Acquire);
        self.node().filter(|_| boot > 0).map(|node| (node, boot))
    }

    /// Learns the id; `false` when it had another one.
    pub(crate) fn set_node(&self, node: NodeId) -> bool {
        *self.node.get_or_init(|| node) == node
    }

    /// It registered.
    pub(crate) fn set_boot(&self, boot: u64) {
        self.boot.store(boot, Ordering::Release);
    }
}

/// What the parts of a node tell each other.
#[derive(Default)]
pub(crate) struct Signals {
    /// The node is stopping on purpose.
    pub(crate) leaving: AtomicBool,
    unreachable: Mutex<BTreeMap<NodeId, Instant>>,
    /// When the replica here was last sent entries, a heartbeat or a snapshot.
    led: Mutex<Option<Instant>>,
    workers: Mutex<BTreeMap<String, String>>,
}

impl Signals {
    /// A peer could not be reached.
    pub(crate) fn unreachable(&self, node: NodeId, now: Instant) {
        self.unreachable.lock().insert(node, now);
    }

    /// A leader sent something to the replica here.
    pub(crate) fn is_led(&self, now: Instant) {
        *self.led.lock() = Some(now);
    }

    /// For how long no leader has; `None`: since the start.
    pub(crate) fn leader_silence(&self, now: Instant) -> Option<Duration> {
        self.led.lock().map(|at| now.saturating_duration_since(at))
    }

    /// Peers that could not be reached lately.
    pub(crate) fn unreachable_lately(&self, now: Instant) -> Vec<NodeId> {
        let mut all = self.unreachable.lock();
        all.retain(|_, at| now.saturating_duration_since(*at) < UNREACHABLE_FOR);
        all.keys().copied().collect()
    }

    /// What a background worker does now, for people; `None`: it has ended.
    pub(crate) fn set_worker(&self, name: &str, status: Option<String>) {
        let mut workers = self.workers.lock();
        match status {
            Some(status) => workers.insert(name.into(), status),
            None => workers.remove(name),
        };
    }

    /// All background workers.
    pub(crate) fn workers(&self) -> Vec<(String, String)> {
        self.workers.lock().iter().map(|(name, status)| (name.clone(), status.clone())).collect()
    }
}

/// Metadata calls wait for a round trip between the voters and a sync of the log, many at a time.
const METADATA_LIMIT: LimitConfig = LimitConfig {
    start: 128,
    min: 32,
    max: 4096,
    target: Duration::from_millis(250),
    tolerance: 2.0,
};
/// Blocks wait for the disks; group commit makes many at once cheap.
const WORK_LIMIT: LimitConfig =
    LimitConfig { start: 64, min: 8, max: 1024, target: Duration::from_millis(50), tolerance: 2.0 };

/// Bounds on what is under way, one per class of calls, so that no class starves another.
pub(crate) struct Gates {
    /// Metadata calls of clients: adapts to what ends in time.
    pub(crate) metadata: Arc<Admission>,
    /// Work on the disks by priority: adapts to what ends in time.
    pub(crate) work: Arc<Admission>,
    /// Calls of nodes and operators.
    pub(crate) control: Gate,
    /// Calls of caches for the change feed; most of them wait for something to happen.
    pub(crate) feed: Gate,
    /// Bytes of blocks in memory, for clients.
    pub(crate) blocks: Budget,
    /// Bytes of blocks in memory that are read for the repair of others.
    pub(crate) repair: Budget,
}

impl Gates {
    /// The configured bounds.
    pub(crate) fn new(env: &Env, config: &ServerConfig) -> Self {
        let load = config.load;
        let admission = |what, limit: LimitConfig, max: usize, waiting_max| {
            let (start, min) = (limit.start.min(max), limit.min.min(max));
            let limit = LimitConfig { start, min, max: limit.max.min(max), ..limit };
            let config = AdmissionConfig { what, limit, waiting_max, wait_max: WAIT_MAX };
            Admission::new(env, config)
        };
        let (calls_max, connections_max) = (load.metadata_calls_max, load.connections_max);
        // The unit of the block budget is a KiB, because a semaphore counts to 2^29 at least.
        let block_units = usize::try_from(load.block_bytes_max.0 >> 10).unwrap_or(usize::MAX);
        Gates {
            metadata: admission("metadata calls", METADATA_LIMIT, calls_max, calls_max),
            work: admission("blocks", WORK_LIMIT, connections_max, connections_max),
            control: Gate::new("control calls", load.control_calls_max),
            feed: Gate::new("followers", 2 * FOLLOWERS_MAX),
            blocks: Budget::new("blocks", block_units, load.connections_max),
            repair: Budget::new(
                "blocks for repair",
                block_units / REPAIR_PART,
                load.connections_max,
            ),
        }
    }
}

/// Which connection carried the last heartbeat of each node.
#[derive(Default)]
pub(crate) struct HeartbeatConnections(Mutex<BTreeMap<NodeId, u64>>);

impl HeartbeatConnections {
    /// A heartbeat of `node` came over `connection`.
    pub(crate) fn carried(&self, connection: u64, node: NodeId) {
        self.0.lock().insert(node, connection);
    }

    /// `connection` closed: the nodes whose last heartbeat it carried.
    pub(crate) fn closed(&self, connection: u64) -> Vec<NodeId> {
        let mut all = self.0.lock();
        let gone = all.iter().filter(|(_, c)| **c == connection).map(|(n, _)| *n).collect();
        all.retain(|_, c| *c != connection);
        gone
    }
}
