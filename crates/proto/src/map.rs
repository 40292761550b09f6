//! The cluster map: nodes, disks, placement groups and policies, versioned by epoch.

use crate::ids::*;
use crate::planted::{self, Bug};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;

/// Where a node stands: the failure domains that a policy spreads copies over. Empty = not given.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Labels {
    /// Region.
    pub region: String,
    /// Zone; nodes without one are each a zone of their own.
    pub zone: String,
    /// Rack.
    pub rack: String,
    /// Host.
    pub host: String,
}

/// What the cluster believes of a node. Only the state machine changes it; a detector proposes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Answers.
    Up,
    /// Does not answer well: writes prefer to go round it; nothing is rebuilt yet.
    Suspect,
    /// Does not answer: writes go round it.
    Down,
    /// Given up: its copies are rebuilt elsewhere; its places in PGs become *former*.
    Out,
}

impl fmt::Display for NodeState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            NodeState::Up => "up",
            NodeState::Suspect => "suspect",
            NodeState::Down => "down",
            NodeState::Out => "out",
        })
    }
}

/// One server process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Drawn by the node itself at its first start; ties the id to the data directory.
    pub uuid: [u8; 16],
    /// `HOST:PORT` where it serves everything.
    pub address: String,
    /// Failure domains.
    pub labels: Labels,
    /// What the cluster believes.
    pub state: NodeState,
    /// Log time of the last change of `state`.
    pub since_ms: u64,
    /// Why it is in this state, for people.
    pub reason: String,
    /// Counts its registrations; a heartbeat of an older boot does not count.
    pub boot: u64,
    /// Its identity in Raft, while it is a voter or learner.
    pub raft: Option<RaftId>,
    /// Stopped on purpose: it is not moved from Down to Out.
    pub maintenance: bool,
    /// An operator gave it its labels; what its process says at its start does not change them.
    pub labels_fixed: bool,
    /// The mark of its data directory when it registered last; 0 if it has none.
    pub mark: u64,
}

/// Digests of marks are below this, and only one mark in two thousand million is.
const MARK_DIGESTS: u64 = 1 << 33;

/// What is told of a node's mark instead of it: 32 bits that tell other marks from it, and leave as many unknown. 0 stays 0,
/// and a digest stays what it is.
pub fn told_mark(mark: u64) -> u64 {
    if mark < MARK_DIGESTS {
        return mark;
    }
    (MARK_DIGESTS / 2) | u64::from(crate::checksum::crc32c(&mark.to_le_bytes()))
}

impl Node {
    /// The failure domain that copies spread over: its zone, or itself when it has none.
    pub fn zone(&self) -> String {
        if self.labels.zone.is_empty() {
            format!("node:{}", self.id)
        } else {
            format!("{}/{}", self.labels.region, self.labels.zone)
        }
    }

    /// The failure domain of this level that it stands in, or itself when it has no label of the level. Two
    /// nodes with the same name of a level are in one domain only if the levels above agree too.
    pub fn domain(&self, level: Spread) -> String {
        let Labels { region, zone, rack, host } = &self.labels;
        let (own, path) = match level {
            Spread::Zone => return self.zone(),
            Spread::Region => (region, region.clone()),
            Spread::Rack => (rack, format!("{region}/{zone}/{rack}")),
            Spread::Host => (host, format!("{region}/{zone}/{rack}/{host}")),
        };
        if own.is_empty() { format!("node:{}", self.id) } else { path }
    }
}

/// A level of failure domains: what should be lost at once without losing more than one copy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Spread {
    /// Zones.
    #[default]
    Zone,
    /// Regions.
    Region,
    /// Racks.
    Rack,
    /// Hosts; several nodes may run on one.
    Host,
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Spread::Zone => "zone",
            Spread::Region => "region",
            Spread::Rack => "rack",
            Spread::Host => "host",
        })
    }
}

/// How full a disk is.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Fullness {
    /// Takes everything.
    #[default]
    Normal,
    /// No new placement of PGs, and clients avoid it.
    Nearfull,
    /// No writes and no inbound repair; a reserve lets deletion and compaction go on.
    Full,
}

/// Whether a disk takes part.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "lowercase")]
pub enum DiskState {
    /// In service.
    #[default]
    In,
    /// Being emptied: keeps its places until replacements are full.
    Draining,
    /// Failed: treated as lost.
    Failed,
    /// Far slower than its peers: writes and reads prefer to go round it, and it gets no new places. It keeps
    /// those it has, and what it holds counts.
    Slow,
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            DiskState::In => "in",
            DiskState::Draining => "draining",
            DiskState::Failed => "failed",
            DiskState::Slow => "slow",
        })
    }
}

/// One data directory or device of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its id.
    pub id: DiskId,
    /// Drawn when the disk was formatted.
    pub uuid: [u8; 16],
    /// The node that registered it last.
    pub node: NodeId,
    /// Its current session. Acknowledgements of older ones never count (invariant 7).
    pub session: DiskSession,
    /// Bytes it can hold.
    pub capacity_bytes: u64,
    /// Bytes in use when last reported.
    pub used_bytes: u64,
    /// How full it is.
    pub fullness: Fullness,
    /// Whether it takes part.
    pub state: DiskState,
}

/// A disk's place in a placement group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The disk.
    pub disk: DiskId,
    /// Log index of the entry that made it a member: from it on, commits are judged against it.
    pub joined: LogIndex,
    /// Compared with the block table since its join, its registration and the last range recorded
    /// for it, in its current disk session.
    pub complete: bool,
    /// How many single blocks are recorded as missing here.
    pub missing_blocks: u64,
    /// Log index of the last entry that recorded a range to compare here (or 0); it ends
    /// completeness, and a comparison read before it proves nothing.
    pub range_recorded: LogIndex,
}

impl Member {
    /// Complete, and no missing copy or range is recorded.
    pub fn is_full(&self) -> bool {
        self.complete && self.missing_blocks == 0
    }
}

/// The disks that hold the same set of blocks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pg {
    /// Its id.
    pub id: PgId,
    /// The policy it serves.
    pub policy: PolicyId,
    /// Raised by each change of `members` or `formers`.
    pub generation: Generation,
    /// Disks that a commit is judged against.
    pub members: Vec<Member>,
    /// Disks that went Out and may still hold blocks: sources for reads and repair that may not
    /// delete, until the PG has its full number of full members.
    pub formers: Vec<DiskId>,
    /// Blocks in its table, dead ones included, and the bytes of the live ones.
    pub blocks: u64,
    /// Bytes of the live blocks in its table.
    pub live_bytes: u64,
}

impl Pg {
    /// The member that is `disk`.
    pub fn member(&self, disk: DiskId) -> Option<&Member> {
        self.members.iter().find(|m| m.disk == disk)
    }

    /// Number of full members.
    pub fn full_members(&self) -> usize {
        self.members.iter().filter(|m| m.is_full()).count()
    }

    /// Members and formers: every disk that may hold a copy.
    pub fn holders(&self) -> impl Iterator<Item = DiskId> {
        self.members.iter().map(|m| m.disk).chain(self.formers.iter().copied())
    }
}

/// When data counts as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// On stable storage of `write_quorum` disks.
    #[default]
    Sync,
    /// In the memory of `write_quorum` nodes; for scratch data, never the default.
    Memory,
}

/// How data is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Its id; 0 is the default policy.
    pub id: PolicyId,
    /// Name for people.
    pub name: String,
    /// Copies of each block.
    pub copies: u8,
    /// Acknowledgements with which a write may be committed, in two zones where two are in service.
    pub write_quorum: u8,
    /// When data counts as written.
    pub durability: Durability,
    /// The level that copies are spread over: as many of its domains as there are, up to one for each copy.
    pub spread: Spread,
}

impl Policy {
    /// `copies` copies, spread over zones, acknowledged by a majority of them.
    pub fn replicated(id: PolicyId, name: &str, copies: u8) -> Self {
        let write_quorum = copies / 2 + u8::from(!planted::has(Bug::QuorumOfOne));
        let (durability, spread) = (Durability::Sync, Spread::Zone);
        Policy { id, name: name.into(), copies, write_quorum, durability, spread }
    }
}

/// The whole map at one epoch, as clients and nodes cache it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterMap {
    /// The cluster.
    pub cluster: ClusterId,
    /// Version.
    pub epoch: Epoch,
    /// Nodes.
    pub nodes: BTreeMap<NodeId, Node>,
    /// Disks.
    pub disks: BTreeMap<DiskId, Disk>,
    /// Placement groups.
    pub pgs: BTreeMap<PgId, Pg>,
    /// Policies.
    pub policies: BTreeMap<PolicyId, Policy>,
}

impl ClusterMap {
    /// The node that has `disk`.
    pub fn node_of(&self, disk: DiskId) -> Option<&Node> {
        self.nodes.get(&self.disks.get(&disk)?.node)
    }

    /// Whether `disk` is in service on a node that is Up or Suspect.
    pub fn is_reachable(&self, disk: DiskId) -> bool {
        self.disks.get(&disk).is_some_and(|d| d.state != DiskState::Failed)
            && self.node_of(disk).is_some_and(|n| n.state <= NodeState::Suspect)
    }

    /// Whether the node is being emptied: it has disks, and none of them is to stay.
    pub fn is_draining(&self, node: NodeId) -> bool {
        let mut disks = self.disks.values().filter(|disk| disk.node == node).peekable();
        let leaves = |d: &Disk| matches!(d.state, DiskState::Draining | DiskState::Failed);
        disks.peek().is_some() && disks.all(leaves)
    }

    /// The map as it is told to others: of the marks of nodes only digests are in it ([`told_mark`]), because whoever knows
    /// a mark can register in the name of its node.
    pub fn told(mut self) -> Self {
        self.nodes.values_mut().for_each(|node| node.mark = told_mark(node.mark));
        self
    }

    /// Whether all disks of a node that has several are far slower than those of others: then it is the node that is slow.
    pub fn is_slow(&self, node: NodeId) -> bool {
        let disks: Vec<&Disk> = self.disks.values().filter(|disk| disk.node == node).collect();
        disks.len() > 1 && disks.iter().all(|disk| disk.state == DiskState::Slow)
    }

    /// Number of distinct failure domains of `level` that `disks` stand in.
    pub fn domains_of(&self, level: Spread, disks: impl IntoIterator<Item = DiskId>) -> usize {
        let nodes = disks.into_iter().filter_map(|disk| self.node_of(disk));
        let domains: std::collections::BTreeSet<_> = nodes.map(|n| n.domain(level)).collect();
        domains.len()
    }

    /// Number of distinct zones of `disks`.
    pub fn zones_of(&self, disks: impl IntoIterator<Item = DiskId>) -> usize {
        let zones: std::collections::BTreeSet<_> =
            disks.into_iter().filter_map(|d| self.node_of(d)).map(Node::zone).collect();
        zones.len()
    }
}

/// A transition worth telling: of a node, a disk or a PG, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Log index of the entry.
    pub index: LogIndex,
    /// Wall clock of the leader.
    pub wall: crate::Timestamp,
    /// What it is about (`n3`, `d5`, `pg17`).
    pub subject: String,
    /// What happened and why, one line.
    pub text: String,
}

#[cfg(test)]
mod mark_tests {
    use super::*;

    /// Who is told a map cannot register with what is in it, but can tell whether a mark is another one.
    #[test]
    fn a_mark_is_not_told() {
        let mark = 0xfeed_beef_dead_cafe;
        let told = told_mark(mark);
        assert!(told != 0 && told < MARK_DIGESTS);
        assert_eq!(told_mark(told), told, "whoever tells it on tells the same");
        assert_ne!(told_mark(mark + 1), told);
        assert_eq!(told_mark(0), 0, "a node without a mark has none");
    }
}
