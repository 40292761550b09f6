//! What a node answers for itself: who it is, how it does, and its seat in Raft.

use super::{CallContext, Class, Serve};
use crate::node::Node;
use crate::process;
use everhold_consensus::Consensus;
use everhold_proto::codec::FORMAT_VERSION;
use everhold_proto::rpc::{
    AddDisk, DiskStatus, GetNodeStatus, GetStatus, Hello, HelloReply, NodeStatus, PrepareLearner,
    RegisteredDisk, RemoveDisk, RemovedDisk, RetireLearner, ScrubStatus, StartScrub,
};
use everhold_proto::{Error, Kind, RaftId};
use std::sync::Arc;
use tokio::time::Instant;

impl Serve for Hello {
    const CLASS: Class = Class::Vital;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<HelloReply, Error> {
        Ok(HelloReply {
            cluster: Some(node.cluster),
            node: node.registration.node(),
            format: FORMAT_VERSION,
            leader: node.leader_hint(),
            pid: process::id(&node.env),
        })
    }
}

impl Serve for PrepareLearner {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<(), Error> {
        let id = node.registration.node();
        let id = id.ok_or_else(|| Error::new(Kind::Retry, "this node has not registered yet"))?;
        node.raft.prepare(id, self.raft).await
    }
}

impl Serve for RetireLearner {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        check_has_no_seat(node, self.raft, call.deadline).await?;
        node.raft.retire(self.raft).await
    }
}

/// Whoever calls is not believed: a log is removed only when the leader itself does not count this node any more. This
/// node's own replica may not know, because a node without a seat hears of no later change.
async fn check_has_no_seat(node: &Arc<Node>, raft: RaftId, deadline: Instant) -> Result<(), Error> {
    let has_it = |consensus: Arc<Consensus>| consensus.identity().raft_id == raft;
    if !node.raft.current().is_some_and(has_it) {
        return Ok(()); // nothing is removed
    }
    let id = node.registration.node();
    let id = id.ok_or_else(|| Error::new(Kind::Retry, "this node has not registered yet"))?;
    let counts = match node.is_leader() {
        true => true,
        false => {
            let status = node.call_leader(&GetStatus {}, deadline).await?;
            status.voters.contains(&id) || status.learners.contains(&id)
        }
    };
    match counts {
        true => Err(Error::new(Kind::Conflict, format!("{id} has a seat in raft as {raft}"))),
        false => Ok(()),
    }
}

impl Serve for StartScrub {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<(), Error> {
        let seats = node.disks.all();
        let disks: Vec<_> = seats.iter().filter_map(|seat| seat.local()).collect();
        if disks.len() < seats.len() {
            return Err(Error::new(Kind::Retry, "not every disk is in service yet"));
        }
        disks.iter().for_each(|disk| disk.scrub.ask());
        Ok(())
    }
}

impl Serve for AddDisk {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<RegisteredDisk, Error> {
        crate::attach::add(node, &self, call.deadline).await
    }
}

impl Serve for RemoveDisk {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<RemovedDisk, Error> {
        crate::detach::remove(node, self.disk, call.deadline).await
    }
}

impl Serve for GetNodeStatus {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<NodeStatus, Error> {
        Ok(node_status(node))
    }
}

/// What a node knows of itself.
pub(super) fn node_status(node: &Node) -> NodeStatus {
    let role = node.raft.current().map(|c| format!("{:?}", c.status().role).to_lowercase());
    NodeStatus {
        node: node.registration.node(),
        pid: process::id(&node.env),
        raft_role: role.unwrap_or_else(|| "none".into()),
        epoch: node.map.epoch(),
        disks: disks(node),
        repair: node.repair_progress(),
        cpu_seconds: process::cpu_seconds(&node.env),
        resident_bytes: process::resident_bytes(&node.env),
        workers: node.signals.workers(),
    }
}

fn disks(node: &Node) -> Vec<DiskStatus> {
    let status = |disk: &Arc<crate::disk::DiskSeat>| {
        Some(DiskStatus {
            disk: disk.id()?,
            session: disk.session().unwrap_or_default(),
            path: disk.path.display().to_string(),
            usage: disk.usage()?,
            blocks: disk.store.space().blocks,
            checksum_errors: disk.store.checksum_errors(),
            failed: disk.store.failure(),
            scrub: scrub(disk),
        })
    };
    node.disks.all().iter().filter_map(status).collect()
}

fn scrub(disk: &crate::disk::DiskSeat) -> ScrubStatus {
    let Some(local) = disk.local() else { return ScrubStatus::default() };
    ScrubStatus { bad_blocks: local.progress.bad_blocks(), ..local.scrub.status() }
}
