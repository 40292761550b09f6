//! Nodes, and clients that could not reach one, to the leader.

use super::Rpc;
use crate::command::DiskUsage;
use crate::ids::*;
use crate::map::Labels;
use crate::table::{BlockEntry, Missing, PgWork, Repaired};
use serde::{Deserialize, Serialize};

/// A node registers (at each start).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterNode {
    /// The node's own mark.
    pub uuid: [u8; 16],
    /// Where it serves.
    pub address: String,
    /// Where it stands.
    pub labels: Labels,
    /// Its Raft id, if it has a log.
    pub raft: Option<RaftId>,
    /// Marks of its data directory, newest last; see `MapCommand::RegisterNode`.
    pub marks: Vec<u64>,
}
/// What a node is in this cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisteredNode {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub node: NodeId,
    /// Its boot count.
    pub boot: u64,
}
rpc!(RegisterNode => RegisteredNode, "Cluster/RegisterNode");

/// A disk comes into service (at each start, and when its session has ended).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisterDisk {
    /// The disk's own mark.
    pub uuid: [u8; 16],
    /// The id it was formatted with.
    pub disk: Option<DiskId>,
    /// Its node.
    pub node: NodeId,
    /// Bytes it can hold.
    pub capacity_bytes: u64,
    /// Bytes in use.
    pub used_bytes: u64,
}
/// The disk's id and new session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RegisteredDisk {
    /// Its id.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
}
rpc!(RegisterDisk => RegisteredDisk, "Cluster/RegisterDisk");

/// A sign of life, a few times a second, on a kept-alive connection: its closing counts too.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The node.
    pub node: NodeId,
    /// Its boot count.
    pub boot: u64,
    /// The map it has.
    pub epoch: Epoch,
    /// Its disks.
    pub disks: Vec<DiskUsage>,
    /// Peers it could not reach lately.
    pub unreachable: Vec<NodeId>,
    /// Of the peers that the map does not call Up, those that answered this node lately.
    pub reached: Vec<NodeId>,
    /// Repair going on.
    pub repair: RepairProgress,
    /// The node is stopping on purpose, now.
    pub leaving: bool,
    /// How fast its disks answered lately; none for disks without enough work to tell.
    pub speeds: Vec<DiskSpeed>,
    /// Disks that have failed while the node goes on with others, and why.
    pub failed: Vec<(DiskId, String)>,
}

/// How fast a disk answered in the last seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskSpeed {
    /// The disk.
    pub disk: DiskId,
    /// Median time of a durable write of a block; `None`: too few.
    pub write_micros: Option<u32>,
    /// Median time of a read of a block from the disk; `None`: too few.
    pub read_micros: Option<u32>,
    /// The 90th percentile of the writes: a disk that stands still now and then shows here, and not in the median.
    pub write_tail_micros: Option<u32>,
    /// The 90th percentile of the reads.
    pub read_tail_micros: Option<u32>,
    /// Median time of the last calls of its node to the leader; `None`: too few. A node whose link or processor is
    /// far slower than those of the others shows here.
    pub answer_micros: Option<u32>,
}

/// Repair on one node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepairProgress {
    /// Bytes fetched since the node started.
    pub fetched_bytes: u64,
    /// Blocks fetched since the node started.
    pub fetched_blocks: u64,
    /// Blocks of comparisons under way that are still to be looked at.
    pub comparing_blocks: u64,
}
/// Answer to a sign of life.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HeartbeatReply {
    /// Newest epoch; the node fetches the map when it has an older one.
    pub epoch: Epoch,
    /// Whether one of its disks has work (`GetWork`).
    pub work: bool,
    /// Whether the brake is on: no bulk repair, no deletion (single last copies go on).
    pub brake: bool,
    /// Whether the node must register again (its boot count is not the newest).
    pub register: bool,
    /// Disks whose sessions have ended and that must register again.
    pub register_disks: Vec<DiskId>,
}
rpc!(Heartbeat => HeartbeatReply, "Cluster/Heartbeat");

/// What a disk has to do, most urgent first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetWork {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
}
rpc!(GetWork => Vec<PgWork>, "Cluster/GetWork");

/// A page of a PG's block table, live blocks only, in id order, linearizable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TablePage {
    /// The PG.
    pub pg: PgId,
    /// After this id.
    pub after: Option<BlockId>,
    /// At most so many.
    pub limit: u32,
}
/// A page and the log index at which it was read.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TablePageReply {
    /// Read at this index.
    pub at: LogIndex,
    /// Blocks.
    pub blocks: Vec<BlockEntry>,
    /// Whether there are more.
    pub more: bool,
}
rpc!(TablePage => TablePageReply, "Cluster/TablePage");

/// The single missing copies of a disk in a PG.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ListMissing {
    /// The PG.
    pub pg: PgId,
    /// The disk.
    pub disk: DiskId,
    /// After this id.
    pub after: Option<BlockId>,
    /// At most so many.
    pub limit: u32,
}
rpc!(ListMissing => Vec<(BlockEntry, Missing)>, "Cluster/ListMissing");

/// See [`crate::command::TableCommand::Compared`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
    /// The PG.
    pub pg: PgId,
    /// Its join index.
    pub joined: LogIndex,
    /// Index of the first page.
    pub table_read: LogIndex,
    /// What it lacks.
    pub missing: Vec<BlockId>,
}
rpc!(Compared => (), "Cluster/Compared");

/// See [`crate::command::TableCommand::Repaired`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportRepaired {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
    /// The PG.
    pub pg: PgId,
    /// What.
    pub blocks: Vec<Repaired>,
}
rpc!(ReportRepaired => (), "Cluster/ReportRepaired");

/// See [`crate::command::TableCommand::Bad`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportBad {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
    /// The PG.
    pub pg: PgId,
    /// What.
    pub blocks: Vec<BlockId>,
}
/// Answer to a bad copy.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct ReportBadReply {
    /// The disk must register anew.
    pub session_ended: bool,
}
rpc!(ReportBad => ReportBadReply, "Cluster/ReportBad");

/// See [`crate::command::TableCommand::Lost`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportLost {
    /// The PG.
    pub pg: PgId,
    /// The generation on which every member and former was asked, none of them unreachable.
    pub generation: Generation,
    /// What.
    pub blocks: Vec<BlockId>,
}
rpc!(ReportLost => (), "Cluster/ReportLost");

/// How many blocks, dead ones included, the tables of these PGs hold (`map::Pg::blocks`). A hint that
/// tells a disk whether a comparison is worth its cost; it need not be linearizable. PGs that do not
/// exist are left out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CountBlocks {
    /// At most [`crate::limits::PAGE_ENTRIES_MAX`].
    pub pgs: Vec<PgId>,
}
rpc!(CountBlocks => Vec<(PgId, u64)>, "Cluster/CountBlocks");

/// Which of these blocks may this disk delete? Answered linearizably at one log index, by the one rule.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MayDelete {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
    /// The PG.
    pub pg: PgId,
    /// Candidates: its own comparison's extras. At most [`crate::limits::PAGE_ENTRIES_MAX`].
    pub blocks: Vec<BlockId>,
}
/// Permission to delete.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MayDeleteReply {
    /// The index of the answer.
    pub at: LogIndex,
    /// Not in the table and below the floor: can never be committed; final.
    pub dead: Vec<BlockId>,
    /// The disk is neither member nor former and the PG is full without it. Dropped when the disk
    /// learns that it is a member again.
    pub moved: Vec<BlockId>,
}
rpc!(MayDelete => MayDeleteReply, "Cluster/MayDelete");

/// A client or node could not reach a node, or goes round it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReportUnreachable {
    /// Whom it could not reach.
    pub nodes: Vec<NodeId>,
    /// The reporter, when it is a node.
    pub reporter: Option<NodeId>,
    /// Its circuit breakers that are not closed.
    pub breakers: Vec<BreakerStatus>,
}
rpc!(ReportUnreachable => (), "Cluster/ReportUnreachable");

/// A circuit breaker that is not closed: somebody goes round a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BreakerStatus {
    /// Whose it is: what the client calls itself.
    pub of: String,
    /// The node that it goes round, or the node of the disk.
    pub node: NodeId,
    /// The disk that it goes round; `None`: the whole node.
    pub disk: Option<DiskId>,
    /// What it does.
    pub state: BreakerState,
    /// For so long.
    pub for_ms: u64,
    /// Why it opened.
    pub reason: String,
}

/// What a circuit breaker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BreakerState {
    /// Work flows.
    Closed,
    /// A probe, or a few calls, find out whether it may close.
    HalfOpen,
    /// Nothing is sent.
    Open,
}

impl std::fmt::Display for BreakerState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            BreakerState::Closed => "closed",
            BreakerState::HalfOpen => "half-open",
            BreakerState::Open => "open",
        })
    }
}
