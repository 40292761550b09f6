//! What a replica knows of itself and its group.

use crate::types::{RaftNode, Types};
use everhold_proto::{LogIndex, RaftId};
use openraft::{RaftMetrics, ServerState};

/// What a replica does at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Receives the log, does not vote.
    #[default]
    Learner,
    /// Votes and follows.
    Follower,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
    /// Has ended.
    Stopped,
}

/// One member of the group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number in Raft.
    pub raft_id: RaftId,
    /// Which node it is, and where.
    pub node: RaftNode,
    /// Whether it votes, in the current or, during a change, in the next configuration.
    pub voter: bool,
    /// On the leader: entries of the leader's log that it is not known to hold. `None` elsewhere, and for
    /// a member that has not answered this leader yet.
    pub lag: Option<u64>,
}

/// The state of a replica at one moment. Index 0 is the entry that founds a group, so it also stands for "none".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RaftStatus {
    /// This replica's number in Raft.
    pub raft_id: RaftId,
    /// The newest term it has seen.
    pub term: u64,
    /// What it does.
    pub role: Role,
    /// The leader's number, if it is known.
    pub leader_id: Option<RaftId>,
    /// The leader's node, if it is known.
    pub leader: Option<RaftNode>,
    /// The last entry in its log.
    pub last_log: LogIndex,
    /// The last entry it knows to be committed.
    pub committed: LogIndex,
    /// The last entry whose effect its reads show.
    pub applied: LogIndex,
    /// The last entry whose effect is on its stable storage outside of the log.
    pub durable_applied: LogIndex,
    /// Whether a change of the voters is under way.
    pub changing: bool,
    /// All members, by number.
    pub members: Vec<Member>,
}

impl RaftStatus {
    /// The member with this number.
    pub fn member(&self, raft_id: RaftId) -> Option<&Member> {
        self.members.iter().find(|m| m.raft_id == raft_id)
    }

    /// The voters.
    pub fn voters(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|m| m.voter)
    }

    /// Made of openraft's metrics and the host's two positions (next index each).
    pub(crate) fn new(metrics: &RaftMetrics<Types>, applied_next: u64, durable_next: u64) -> Self {
        let membership = metrics.membership_config.membership();
        let voters: std::collections::BTreeSet<u64> = membership.voter_ids().collect();
        let last = metrics.last_log_index;
        let lag = |id: u64| {
            let matched = *metrics.replication.as_ref()?.get(&id)?;
            Some(last.unwrap_or(0).saturating_sub(matched?.index))
        };
        let members = membership.nodes().map(|(id, node)| Member {
            raft_id: RaftId(*id),
            node: node.clone(),
            voter: voters.contains(id),
            lag: lag(*id),
        });
        RaftStatus {
            raft_id: RaftId(metrics.id),
            term: metrics.current_term,
            role: role(metrics.state),
            leader_id: metrics.current_leader.map(RaftId),
            leader: metrics.current_leader.and_then(|id| membership.get_node(&id)).cloned(),
            last_log: LogIndex(last.unwrap_or(0)),
            committed: LogIndex(metrics.local_committed.map_or(0, |id| id.index)),
            applied: LogIndex(applied_next.saturating_sub(1)),
            durable_applied: LogIndex(durable_next.saturating_sub(1)),
            changing: membership.get_joint_config().len() > 1,
            members: members.collect(),
        }
    }
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Learner => Role::Learner,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Leader => Role::Leader,
        ServerState::Shutdown => Role::Stopped,
    }
}
