//! What a node answers for itself: who it is, how it does, and its seat in Raft.

use super::{CallContext, Class, Serve};
use crate::node::Node;
use crate::process;
use everhold_proto::codec::FORMAT_VERSION;
use everhold_proto::rpc::{
    AddDisk, DiskStatus, GetNodeStatus, Hello, HelloReply, NodeStatus, PrepareLearner,
    RegisteredDisk, RemoveDisk, RemovedDisk, RetireLearner, ScrubStatus, StartScrub,
};
use everhold_proto::{Error, Kind};
use std::sync::Arc;

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
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<(), Error> {
        node.raft.retire(self.raft).await
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
