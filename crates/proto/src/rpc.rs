//! Calls between processes. Each is a unary `POST` over HTTP/1.1 to `/everhold.v1.SERVICE/METHOD`, as the
//! Connect protocol has it: bodies are postcard between our own programs (`application/x-postcard`)
//! and JSON for everyone else (`application/json`). Errors are the HTTP status of their kind, with an
//! [`crate::Error`] as body. Blocks travel as raw bodies; see [`block`].
//!
//! Every request carries the cluster id and the format version in headers; a mismatch is refused with a
//! message that names both.

use crate::command::{DiskUsage, MapCommand};
use crate::error::Error;
use crate::fs::{ChangeRecord, FsAnswer, FsError, FsQuery, FsReply, SessionBatch};
use crate::ids::*;
use crate::map::{ClusterMap, Event, Labels};
use crate::table::{BlockEntry, Missing, PgWork, Repaired};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A call: its path and its answer.
pub trait Rpc: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// `/everhold.v1.Service/Method`.
    const PATH: &'static str;
    /// The answer.
    type Reply: Serialize + DeserializeOwned + Send + 'static;
}

macro_rules! rpc {
    ($request:ty => $reply:ty, $path:literal) => {
        impl Rpc for $request {
            const PATH: &'static str = concat!("/everhold.v1.", $path);
            type Reply = $reply;
        }
    };
}

/// HTTP header with the caller's cluster id in hexadecimal; absent in a first contact.
pub const HEADER_CLUSTER: &str = "everhold-cluster";
/// HTTP header with the caller's format version in decimal; always present.
pub const HEADER_FORMAT: &str = "everhold-format";
/// HTTP header with the milliseconds that the caller will wait.
pub const HEADER_TIMEOUT: &str = "everhold-timeout-ms";
/// Body type between our own programs.
pub const POSTCARD: &str = "application/x-postcard";
/// Body type for everyone else.
pub const JSON: &str = "application/json";

// ---- metadata, answered by the leader (others answer NotLeader with its address) ----

/// Opens a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenSession {
    /// What the client calls itself.
    pub client: String,
    /// It will [`Follow`] the change feed and keep a cache by it.
    #[serde(default)]
    pub follows: bool,
}
/// The new session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenedSession {
    /// Its id.
    pub session: SessionId,
    /// It ends when it is not renewed for this long.
    pub ttl_ms: u64,
}
rpc!(OpenSession => OpenedSession, "Meta/OpenSession");

/// Keeps a session alive. Answer `NotFound`: it has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewSession {
    /// The session.
    pub session: SessionId,
    /// As in [`SessionBatch`].
    pub acked_below: u64,
    /// As in [`SessionBatch`].
    pub floor: u64,
}
rpc!(RenewSession => (), "Meta/RenewSession");

/// Ends a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndSession {
    /// The session.
    pub session: SessionId,
}
rpc!(EndSession => (), "Meta/EndSession");

/// Changes of the tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Execute(pub SessionBatch);
/// What became of changes. The answer is held back until no other cache can show what was before
/// (`docs/protocol.md`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Executed {
    /// One result per request.
    pub results: Vec<Result<FsReply, FsError>>,
    /// The change records of this batch have the numbers from `first` on, below `next`; none when it changed
    /// nothing or was answered before.
    pub first: u64,
    /// The results show what the change records below this number tell.
    pub next: u64,
}
rpc!(Execute => Executed, "Meta/Execute");

/// Questions about the tree, all answered at one point, linearizably.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Query {
    /// At most [`crate::limits::BATCH_OPS_MAX`].
    pub queries: Vec<FsQuery>,
    /// Who asks, if it is a session that follows the change feed: its own cache is not waited for.
    #[serde(default)]
    pub session: Option<SessionId>,
}
/// Answers to questions. They are held back until no other cache can show what was before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queried {
    /// Answers to the first questions, at least to one: as many as have room in
    /// [`crate::limits::RPC_BYTES_MAX`]. The others have to be asked again.
    pub answers: Vec<Result<FsAnswer, FsError>>,
    /// The answers show what the change records below this number tell, and nothing of later ones.
    pub next: u64,
}
rpc!(Query => Queried, "Meta/Query");

/// Change records from a sequence number on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadChanges {
    /// From this sequence number.
    pub from: u64,
    /// At most so many.
    pub limit: u32,
}
rpc!(ReadChanges => Vec<(u64, ChangeRecord)>, "Meta/ReadChanges");

/// The map, when it is newer than `known`. Any node answers, with what it has; the leader has the newest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetMap {
    /// The epoch that the caller has.
    pub known: Epoch,
}
/// The map and who leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GotMap {
    /// `None`: `known` is the newest here.
    pub map: Option<ClusterMap>,
    /// `HOST:PORT` of the metadata leader, if known.
    pub leader: Option<String>,
}
rpc!(GetMap => GotMap, "Meta/GetMap");

/// The change feed for a cache: records, and a lease under which what the cache holds may be answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Follow {
    /// A session that was opened to follow; else `Invalid`. `NotFound`: it has ended.
    pub session: SessionId,
    /// The first record wanted; 0: from now on.
    pub from: u64,
    /// The cache, and whatever hangs on it, shows all records below this number; at most `from`.
    pub acked_below: u64,
    /// At most so many records ([`crate::limits::PAGE_ENTRIES_MAX`] caps it).
    pub limit: u32,
    /// Wait so many milliseconds for the first record ([`crate::limits::FEED_WAIT_MS_MAX`] caps it).
    pub wait_ms: u32,
}
/// What a cache is to forget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Followed {
    /// Records from the wanted one on, in order and without gaps.
    pub records: Vec<(u64, ChangeRecord)>,
    /// The record to ask for next.
    pub next: u64,
    /// The records before `next` are not known to the cache and cannot be given any more: it holds nothing.
    pub reset: bool,
    /// Once the cache shows all these records it may be answered from for so many milliseconds, counted by
    /// the holder's monotonic clock from before it sent the request. 0: no lease, ask again.
    pub lease_ms: u32,
    /// Delegations of this session that are called back: nothing more is done behind them, what was done is
    /// told, and they are given back.
    #[serde(default)]
    pub recalls: Vec<InodeId>,
}
rpc!(Follow => Followed, "Meta/Follow");

// ---- cluster: nodes to the leader ----

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
    /// The node that it goes round.
    pub node: NodeId,
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

// ---- administration, any node forwards or redirects to the leader ----

/// A change of the map by an operator (maintenance, drain, policy).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ChangeMap(pub MapCommand);
rpc!(ChangeMap => (), "Admin/ChangeMap");

/// The state of the whole cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetStatus {}
rpc!(GetStatus => ClusterStatus, "Admin/GetStatus");

/// A rebalance: moves for evenness beyond those that go on by themselves. The leader remembers the order until the disks
/// are even or it leads no more; given again, it changes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebalance {
    /// What to do.
    pub order: RebalanceOrder,
}
/// What to do about a rebalance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebalanceOrder {
    /// Tell how it is.
    Look,
    /// Make the disks as even as they can be.
    Start,
    /// Leave it at what goes on by itself. What is on the move ends.
    Stop,
}
rpc!(Rebalance => RebalanceStatus, "Admin/Rebalance");

/// How even the disks are, and what would move.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RebalanceStatus {
    /// An operator asked for it, and it is not done.
    pub ordered: bool,
    /// Why nothing moves now, if so.
    pub held: Option<String>,
    /// Groups that are on the move now, for whatever reason, or about to be created.
    pub in_motion: u64,
    /// Places that will move by themselves, and bytes that are copied for it.
    pub moves: u64,
    /// Bytes of these.
    pub bytes: u64,
    /// Places that would move in all until the disks are as even as they can be.
    pub exact_moves: u64,
    /// Bytes of these.
    pub exact_bytes: u64,
    /// Each disk's part, now and when they are as even as they can be.
    pub shares: Vec<DiskShare>,
}

/// How many places in groups a disk has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskShare {
    /// The disk.
    pub disk: DiskId,
    /// Its node.
    pub node: NodeId,
    /// What it can hold.
    pub capacity_bytes: u64,
    /// Now.
    pub places: u64,
    /// When the disks are even.
    pub places_after: u64,
}

/// The last events, oldest first.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetEvents {
    /// At most so many.
    pub limit: u32,
}
rpc!(GetEvents => Vec<Event>, "Admin/GetEvents");

/// The state of the whole cluster, as the leader sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The map.
    pub map: ClusterMap,
    /// The leader's node.
    pub leader: Option<NodeId>,
    /// Raft term.
    pub term: u64,
    /// Voters.
    pub voters: Vec<NodeId>,
    /// Learners.
    pub learners: Vec<NodeId>,
    /// Applied log index.
    pub applied: LogIndex,
    /// Repair.
    pub repair: RepairStatus,
    /// Whether the brake is on, and why.
    pub brake: Option<String>,
    /// Findings, the most severe first.
    pub health: Vec<Finding>,
    /// Circuit breakers of clients that are not closed, as far as the leader was told.
    pub breakers: Vec<BreakerStatus>,
    /// How fast the disks answered lately.
    pub speeds: Vec<DiskSpeed>,
    /// Totals of the tree.
    pub inodes: u64,
    /// Live bytes in files.
    pub bytes: u64,
}

/// Redundancy and repair of the whole cluster.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RepairStatus {
    /// Full redundancy: every PG has its number of full members, no missing copy is recorded.
    pub redundant: bool,
    /// PGs with fewer full members than copies.
    pub pgs_degraded: u64,
    /// PGs with one full member or none.
    pub pgs_at_risk: u64,
    /// Copies known or feared missing: records, and blocks of members that are not complete.
    pub copies_missing: u64,
    /// Bytes of these, estimated.
    pub bytes_missing: u64,
    /// Blocks without any copy left.
    pub blocks_lost: u64,
    /// Bytes per second that all nodes fetch, over the last seconds.
    pub bytes_per_second: f64,
    /// Seconds to go at this rate.
    pub eta_seconds: Option<f64>,
    /// PGs that are not full, the riskiest first, at most 100.
    pub queue: Vec<RepairItem>,
}

/// One PG that is not full.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepairItem {
    /// The PG.
    pub pg: PgId,
    /// Full members.
    pub full_members: u8,
    /// Wanted.
    pub copies: u8,
    /// Disks that have to fetch.
    pub targets: Vec<DiskId>,
    /// Copies missing.
    pub copies_missing: u64,
}

/// Something an operator should know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad.
    pub severity: Severity,
    /// What, one line.
    pub text: String,
    /// What to do, one line.
    pub remedy: String,
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Info,
    /// Redundancy or service is reduced.
    Warning,
    /// Data or service is at risk now.
    Critical,
}

// ---- node: any node answers for itself ----

/// Who are you? Also the first contact of a joining node or client: needs no cluster id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Hello {}
/// Who this is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HelloReply {
    /// Its cluster; `None` while it is joining one.
    pub cluster: Option<ClusterId>,
    /// Its id.
    pub node: Option<NodeId>,
    /// Its format version.
    pub format: u32,
    /// The metadata leader's address, if known.
    pub leader: Option<String>,
    /// Its process id.
    pub pid: u32,
}
rpc!(Hello => HelloReply, "Node/Hello");

/// Become a learner with this id: opens an empty log for it, or continues the one with this id.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PrepareLearner {
    /// The id.
    pub raft: RaftId,
}
rpc!(PrepareLearner => (), "Node/PrepareLearner");

/// You are no longer in Raft: close the log of this id and remove it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetireLearner {
    /// The id.
    pub raft: RaftId,
}
rpc!(RetireLearner => (), "Node/RetireLearner");

/// The node takes one more disk into service, without a restart. Asked again for a directory that it serves already, it
/// tells that disk. Refused (`Invalid`) when the directory is not there, not empty and no disk of this node, or within
/// another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AddDisk {
    /// Absolute path of the directory on the node, usually where the device is mounted.
    pub path: String,
    /// Bytes that it may hold; by default what the file system has.
    pub capacity_bytes: Option<u64>,
}
rpc!(AddDisk => RegisteredDisk, "Node/AddDisk");

/// A disk that was added, is drained and holds nothing leaves the cluster, and the node closes its files. Asked again
/// after that, it is done. Refused (`Conflict`) as by `MapCommand::RemoveDisk`, and for the disk beside the node's
/// metadata; `NotFound`: it is no disk of this node.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemoveDisk {
    /// The disk.
    pub disk: DiskId,
}
rpc!(RemoveDisk => RemovedDisk, "Node/RemoveDisk");
/// Answer to [`RemoveDisk`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RemovedDisk {
    /// The directory that it was added as: nothing in it is needed any more.
    pub path: String,
}

/// What a node knows of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetNodeStatus {}
/// What a node knows of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Its id.
    pub node: Option<NodeId>,
    /// Its process id.
    pub pid: u32,
    /// Role in Raft: leader, follower, candidate, learner, none.
    pub raft_role: String,
    /// The map it has.
    pub epoch: Epoch,
    /// Disks: usage and number of blocks.
    pub disks: Vec<DiskStatus>,
    /// Repair.
    pub repair: RepairProgress,
    /// CPU seconds used by the process (user and system).
    pub cpu_seconds: f64,
    /// Resident memory.
    pub resident_bytes: u64,
    /// Background workers: name and what they do.
    pub workers: Vec<(String, String)>,
}
/// One disk of a node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DiskStatus {
    /// The disk.
    pub disk: DiskId,
    /// Its session.
    pub session: DiskSession,
    /// Its directory.
    pub path: String,
    /// Usage.
    pub usage: DiskUsage,
    /// Number of blocks.
    pub blocks: u64,
    /// Checksum errors found since the start.
    pub checksum_errors: u64,
    /// Why it does not work, if so.
    pub failed: Option<String>,
    /// Its scrub.
    pub scrub: ScrubStatus,
}
rpc!(GetNodeStatus => NodeStatus, "Node/GetStatus");

/// The pass of a scrub over a disk that is under way, and what the passes before it found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScrubStatus {
    /// This pass was asked for: it reads as fast as the disk allows, instead of spreading over days.
    pub urgent: bool,
    /// Copies read in this pass.
    pub checked_blocks: u64,
    /// Bytes of these.
    pub checked_bytes: u64,
    /// Copies on the disk when the pass began.
    pub blocks: u64,
    /// Passes completed since the node started.
    pub passes: u64,
    /// Passes that were asked for and are completed, since the node started.
    pub urgent_passes: u64,
    /// Copies found bad since the node started, by scrubs and by readers.
    pub bad_blocks: u64,
}

/// Reads every block of the node's disks back, now: the passes under way end early, and urgent ones begin.
/// Asked again while one is under way, it begins anew.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartScrub {}
rpc!(StartScrub => (), "Node/StartScrub");

/// Raft messages: `POST /everhold.v1.Raft/{append,vote,prevote,snapshot}` with the bodies of the
/// `consensus` crate.
pub const RAFT_PREFIX: &str = "/everhold.v1.Raft/";

/// Blocks as raw HTTP bodies.
///
/// `PUT /blocks/{disk}/{pg}/{block}` stores the body on one disk: request headers
/// [`CRC`](block::CRC), [`GENERATION`](block::GENERATION); answer 200 with a postcard
/// [`crate::table::Ack`] once it is durable.
/// `GET /blocks/{disk}/{pg}/{block}` reads it; `Range: bytes=A-B` for a part; the answer has
/// [`CRC`](block::CRC) of the bytes sent, computed over verified bytes.
pub mod block {
    /// Path prefix.
    pub const PREFIX: &str = "/blocks/";
    /// CRC32C of the body, 8 hexadecimal digits.
    pub const CRC: &str = "everhold-crc32c";
    /// A [`crate::Priority`] by name; absent: `foreground`. Reads for the repair of other disks, and moves, say so:
    /// clients are served before them.
    pub const PRIORITY: &str = "everhold-priority";
    /// Generation of the PG that the writer goes by; the node refreshes its map when it has an older one.
    pub const GENERATION: &str = "everhold-generation";
}

/// The error body that goes with a non-200 status.
pub type ErrorBody = Error;
