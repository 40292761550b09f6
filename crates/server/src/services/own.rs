//! What a node answers for itself: who it is, how it does, and its seat in Raft.

use super::{CallContext, Class, Serve};
use crate::node::Node;
use crate::process;
use everhold_proto::codec::FORMAT_VERSION;
use everhold_proto::rpc::{
    AddDisk, ClusterStatus, DiskStatus, GetNodeStatus, GetStatus, Hello, HelloReply, NodeStatus,
    PrepareLearner, RegisteredDisk, RemoveDisk, RemovedDisk, RetireLearner, ScrubStatus,
    StartScrub,
};
use everhold_proto::{Error, Kind};
use std::sync::Arc;
use std::time::Duration;

/// The leader that asks gives up after five seconds.
const PROOF_LIMIT: Duration = Duration::from_secs(4);

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
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let id = node.registration.node();
        let id = id.ok_or_else(|| Error::new(Kind::Retry, "this node has not registered yet"))?;
        if node.raft.holds(self.raft) {
            return Ok(());
        }
        // An id that was never given would spoil all that are given later.
        let status = cluster_says(node, call).await?;
        if status.map.nodes.get(&id).and_then(|row| row.raft) != Some(self.raft) {
            let message = format!("the cluster has not given {} to {id}", self.raft);
            return Err(Error::new(Kind::Conflict, message));
        }
        node.raft.prepare(id, self.raft).await
    }
}

impl Serve for RetireLearner {
    const CLASS: Class = Class::Control;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        if !node.raft.holds(self.raft) {
            return Ok(());
        }
        let status = cluster_says(node, call).await?;
        let id = node.registration.node();
        let member =
            id.is_some_and(|id| status.voters.contains(&id) || status.learners.contains(&id));
        if member {
            let message = format!("this node has a seat in Raft as {}", self.raft);
            return Err(Error::new(Kind::Conflict, message));
        }
        node.raft.retire(self.raft).await
    }
}

/// What the leader says that this node itself looks up: a caller may be anybody, and what it says proves nothing. The log of a
/// replica that was taken out of the group usually ends before the entry that did it, so its own state cannot tell.
async fn cluster_says(node: &Arc<Node>, call: &CallContext) -> Result<ClusterStatus, Error> {
    let deadline = call.deadline.min(node.env.clock.now() + PROOF_LIMIT);
    node.call_leader(&GetStatus {}, deadline).await
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
