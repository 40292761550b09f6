//! Seats in Raft: how a node becomes a learner, a voter, and neither again.
//!
//! **Invariant:** a Raft id is allocated for one seat and never used again: a node that is to become a
//! learner first gives back the id it may still have, and an attempt that failed midway starts over
//! with a fresh one.

use crate::metadata::{done, unexpected};
use crate::node::Node;
use everhold_cluster::voters::VoterPlan;
use everhold_consensus::{Consensus, RaftNode};
use everhold_proto::command::{Answer, Command, MapCommand};
use everhold_proto::map::ClusterMap;
use everhold_proto::rpc::{PrepareLearner, RetireLearner};
use everhold_proto::{Error, Kind, NodeId, RaftId};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One step: a call to a node, or an entry. Opening a log is a few syncs.
const STEP_LIMIT: Duration = Duration::from_secs(5);
/// A change of the voters: two entries, of which the first may need a learner's answer.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);

/// Makes one step of the plan.
pub(super) async fn take_step(
    node: &Arc<Node>,
    consensus: &Arc<Consensus>,
    map: &ClusterMap,
    step: VoterPlan,
) -> Result<(), Error> {
    match step {
        VoterPlan::Settled | VoterPlan::Waiting(_) => Ok(()),
        VoterPlan::AddLearner(of) => add_learner(node, consensus, map, of).await,
        VoterPlan::ChangeVoters(wanted) => change_voters(node, consensus, &wanted).await,
        VoterPlan::RetireLearner(of) => {
            if let Some(raft) = seat_of(consensus, of) {
                consensus.remove_learner(raft, limit(node, STEP_LIMIT)).await?;
            }
            retire(node, consensus, map, of).await
        }
    }
}

/// Takes the Raft id from a node that is no member of the group any more, and its log with it.
pub(super) async fn retire(
    node: &Arc<Node>,
    consensus: &Consensus,
    map: &ClusterMap,
    of: NodeId,
) -> Result<(), Error> {
    let row = map.nodes.get(&of).ok_or_else(|| unknown(of))?;
    let Some(raft) = row.raft else { return Ok(()) };
    if consensus.status().member(raft).is_some() {
        return Err(Error::new(Kind::Conflict, format!("{of} still has a seat")));
    }
    // The log goes first: while the map names the id, this is tried again.
    let deadline = limit(node, STEP_LIMIT);
    node.wire.call_idempotent(&row.address, &RetireLearner { raft }, deadline).await?;
    let clear = MapCommand::ClearRaftId { node: of, raft };
    done(node.propose(Command::Map(clear), limit(node, STEP_LIMIT)).await?)
}

async fn add_learner(
    node: &Arc<Node>,
    consensus: &Arc<Consensus>,
    map: &ClusterMap,
    of: NodeId,
) -> Result<(), Error> {
    retire(node, consensus, map, of).await?;
    let address = map.nodes.get(&of).ok_or_else(|| unknown(of))?.address.clone();
    let allocate = Command::Map(MapCommand::AllocateRaftId { node: of });
    let raft = match node.propose(allocate, limit(node, STEP_LIMIT)).await?.1 {
        Answer::Raft(raft) => raft,
        other => return Err(unexpected(&other)),
    };
    let deadline = limit(node, STEP_LIMIT);
    node.wire.call_idempotent(&address, &PrepareLearner { raft }, deadline).await?;
    let seat = RaftNode { node: of, address };
    consensus.add_learner(raft, seat, limit(node, STEP_LIMIT)).await?;
    tracing::info!(node = %of, %raft, "became a learner");
    Ok(())
}

async fn change_voters(
    node: &Arc<Node>,
    consensus: &Arc<Consensus>,
    wanted: &BTreeSet<NodeId>,
) -> Result<(), Error> {
    // A leader that is to go lets another one make the change: it would end its own leadership midway. Where
    // nobody else votes yet, the others begin to vote beside it first.
    let mut wanted = wanted.clone();
    if let Some(me) = node.registration.node().filter(|me| !wanted.contains(me)) {
        if consensus.status().voters().any(|voter| wanted.contains(&voter.node.node)) {
            let to = consensus.step_down().await?;
            tracing::info!(%to, "this node is not to vote any more; leadership handed over");
            return Ok(());
        }
        wanted.insert(me);
    }
    let missing = |of: &NodeId| Error::new(Kind::Conflict, format!("{of} has no seat"));
    let seats: Result<BTreeSet<RaftId>, Error> =
        wanted.iter().map(|of| seat_of(consensus, *of).ok_or_else(|| missing(of))).collect();
    consensus.change_voters(seats?, limit(node, CHANGE_LIMIT)).await?;
    tracing::info!(voters = ?wanted, "the voters changed");
    Ok(())
}

fn seat_of(consensus: &Consensus, of: NodeId) -> Option<RaftId> {
    consensus.status().members.iter().find(|m| m.node.node == of).map(|m| m.raft_id)
}

fn unknown(of: NodeId) -> Error {
    Error::new(Kind::NotFound, format!("{of} is not in the map"))
}

fn limit(node: &Node, limit: Duration) -> Instant {
    node.env.clock.now() + limit
}
