//! Administration: any node forwards to the leader, or redirects there.

use super::{BreakerStatus, DiskSpeed, Rpc};
use crate::command::MapCommand;
use crate::ids::*;
use crate::map::{ClusterMap, Event};
use serde::{Deserialize, Serialize};

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
