//! The types that openraft is instantiated with. Nothing of openraft leaves this crate.

use bytes::Bytes;
use everhold_env::RaftRuntime;
use everhold_proto::NodeId;
use openraft::type_config::alias;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A member of the Raft group: which node it is and where its RPC port is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftNode {
    /// The node that runs the member.
    pub node: NodeId,
    /// `HOST:PORT` of its RPC listener.
    pub address: String,
}

/// An encoded command; the log and the network carry it unread.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Command(pub Bytes);

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({self})")
    }
}

/// What the state machine answered; empty for entries that are not commands.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Answer(pub Vec<u8>);

openraft::declare_raft_types!(
    /// Everhold's instantiation of openraft.
    pub(crate) Types: D = Command, R = Answer, Node = RaftNode, AsyncRuntime = RaftRuntime
);

pub(crate) type Vote = alias::VoteOf<Types>;
pub(crate) type LogId = alias::LogIdOf<Types>;
pub(crate) type LeaderId = alias::LeaderIdOf<Types>;
pub(crate) type Entry = alias::EntryOf<Types>;
pub(crate) type Membership = openraft::Membership<u64, RaftNode>;
pub(crate) type StoredMembership = alias::StoredMembershipOf<Types>;
pub(crate) type SnapshotMeta = alias::SnapshotMetaOf<Types>;
pub(crate) type Snapshot = alias::SnapshotOf<Types, crate::state::SnapshotData>;
pub(crate) type Raft = openraft::Raft<Types, crate::state::Host>;

/// How much memory an entry is counted as, and about what it takes in the log.
pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    const OVERHEAD: usize = 64;
    OVERHEAD
        + match &entry.payload {
            openraft::EntryPayload::Normal(command) => command.0.len(),
            openraft::EntryPayload::Membership(_) => 1024,
            openraft::EntryPayload::Blank => 0,
        }
}

/// Whether a membership that came from disk or network can be used without openraft panicking on it.
pub(crate) fn membership_is_sound(membership: &Membership) -> bool {
    let nodes: std::collections::BTreeMap<u64, RaftNode> =
        membership.nodes().map(|(id, node)| (*id, node.clone())).collect();
    let configurations = membership.get_joint_config();
    !configurations.is_empty() && Membership::new(configurations.clone(), nodes).is_ok()
}
