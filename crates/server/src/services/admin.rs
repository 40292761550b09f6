//! Administration, answered by the leader.

use super::{CallContext, Class, Serve};
use crate::metadata::done;
use crate::node::Node;
use everhold_cluster::repair::Evenness;
use everhold_cluster::{reads, rebalance};
use everhold_proto::command::{Command, MapCommand};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::map::Event;
use everhold_proto::rpc::{
    ChangeMap, ClusterStatus, GetEvents, GetStatus, Rebalance, RebalanceOrder, RebalanceStatus,
};
use everhold_proto::{Error, Kind, NodeId};
use std::sync::Arc;

impl Serve for ChangeMap {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        // Everything else is for the leader's loops and for registrations.
        match &self.0 {
            MapCommand::SetMaintenance { .. }
            | MapCommand::SetDiskState { .. }
            | MapCommand::SetPolicy(_)
            | MapCommand::DrainNode { .. }
            | MapCommand::RemoveDisk { .. }
            | MapCommand::SetLabels { .. } => {}
            MapCommand::RemoveNode { node: of } => give_seat_up(node, *of, call).await?,
            _ => return Err(Error::new(Kind::Invalid, "operators do not give this command")),
        }
        done(node.propose(Command::Map(self.0), call.deadline).await?)
    }
}

/// A node that is to be removed has no seat in Raft any more; then the id that the map may still name for it,
/// because it was away when the seat was taken, is void.
async fn give_seat_up(node: &Arc<Node>, of: NodeId, call: &CallContext) -> Result<(), Error> {
    let consensus = node.leading()?;
    let map = node.read(call.deadline, |kv, _| reads::load_map(kv)).await?;
    let Some(raft) = map.nodes.get(&of).and_then(|row| row.raft) else { return Ok(()) };
    if consensus.status().member(raft).is_some() {
        let message = format!(
            "{of} still has a seat in Raft ({raft}); a node that is drained or Out loses it as soon as \
             another one can take it: see `everhold health`"
        );
        return Err(Error::new(Kind::Conflict, message));
    }
    let clear = MapCommand::ClearRaftId { node: of, raft };
    done(node.propose(Command::Map(clear), call.deadline).await?)
}

impl Serve for Rebalance {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<RebalanceStatus, Error> {
        let map = node.read(call.deadline, |kv, _| reads::load_map(kv)).await?;
        match self.order {
            RebalanceOrder::Look => {}
            RebalanceOrder::Start => node.observations.order_rebalance(true),
            RebalanceOrder::Stop => node.observations.order_rebalance(false),
        }
        node.observations.ring();
        let worthwhile = rebalance::forecast(&map, Evenness::Worthwhile);
        let exact = rebalance::forecast(&map, Evenness::Exact);
        let held = node.observations.brake().map(|why| format!("the brake is on: {why}"));
        let to_repair = || {
            let lacks = map.pgs.values().any(|pg| pg.members.iter().any(|m| !m.is_full()));
            lacks.then(|| "copies are missing: repair comes first".to_owned())
        };
        Ok(RebalanceStatus {
            ordered: node.observations.rebalance_ordered(),
            held: held.or_else(|| to_repair().filter(|_| rebalance::in_motion(&map) == 0)),
            in_motion: rebalance::in_motion(&map) + exact.created,
            moves: worthwhile.moves,
            bytes: worthwhile.bytes,
            exact_moves: exact.moves,
            exact_bytes: exact.bytes,
            shares: exact.shares,
        })
    }
}

impl Serve for GetEvents {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<Vec<Event>, Error> {
        let limit = (self.limit as usize).min(PAGE_ENTRIES_MAX);
        node.read(call.deadline, |kv, _| reads::events(kv, limit)).await
    }
}

impl Serve for GetStatus {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<ClusterStatus, Error> {
        crate::control::cluster_status(node, call.deadline).await
    }
}
