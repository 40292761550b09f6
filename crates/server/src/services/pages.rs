//! Pages for people and scrapers: `/status`, `/metrics`, `/health`.

use super::own::node_status;
use crate::counters::metric;
use crate::http::{Encoding, Reply, text_reply, value_reply};
use crate::node::Node;
use everhold_proto::rpc::NodeStatus;
use everhold_proto::{ClusterId, Error, Kind};
use serde::Serialize;

/// What `/status` tells.
#[derive(Serialize)]
struct StatusPage {
    cluster: String,
    address: String,
    leader: Option<String>,
    node: NodeStatus,
}

/// The node's own status as JSON.
pub(crate) fn status_page(node: &Node) -> Reply {
    let cluster: ClusterId = node.cluster;
    let page = StatusPage {
        cluster: cluster.to_string(),
        address: node.address.clone(),
        leader: node.leader_address(),
        node: node_status(node),
    };
    value_reply(Encoding::Json, &page)
}

/// Prometheus text.
pub(crate) fn metrics_page(node: &Node) -> Reply {
    let mut text = String::new();
    node.counters.render(&mut text);
    let status = node_status(node);
    let mut gauge = |name: &str, help: &str, value: f64| {
        metric(&mut text, name, help, "gauge", value);
    };
    gauge("cpu_seconds", "CPU seconds used by the process", status.cpu_seconds);
    gauge("resident_bytes", "resident memory", status.resident_bytes as f64);
    gauge("map_epoch", "epoch of the cluster map that the node has", status.epoch.0 as f64);
    gauge("leader", "whether the node leads", f64::from(u8::from(node.is_leader())));
    let sum = |f: fn(&everhold_proto::rpc::DiskStatus) -> u64| {
        status.disks.iter().map(f).sum::<u64>() as f64
    };
    gauge("blocks", "blocks on the node's disks", sum(|d| d.blocks));
    gauge("disk_used_bytes", "bytes in use on the node's disks", sum(|d| d.usage.used_bytes));
    gauge("disk_capacity_bytes", "bytes the node's disks hold", sum(|d| d.usage.capacity_bytes));
    gauge("repair_fetched_bytes", "bytes fetched by repair", status.repair.fetched_bytes as f64);
    if let Some(raft) = node.raft.current().map(|c| c.status()) {
        gauge("raft_term", "Raft term", raft.term as f64);
        gauge("raft_applied", "last applied log index", raft.applied.0 as f64);
    }
    text_reply(text)
}

/// Whether the node is in service: registered, its disks working.
pub(crate) fn health_page(node: &Node) -> Result<Reply, Error> {
    if let Some(reason) = node.disks.iter().find_map(|disk| disk.store.failure()) {
        return Err(Error::new(Kind::Internal, format!("a disk failed: {reason}")));
    }
    if node.registration.current().is_none() {
        return Err(Error::new(Kind::Retry, "not registered with the cluster yet"));
    }
    Ok(text_reply("ok\n".into()))
}
