//! Pages for people and scrapers: `/status`, `/metrics`, `/health`, `/readyz`.

use super::own::node_status;
use crate::control::add_rate;
use crate::counters::{labelled, metric};
use crate::disk::DiskSeat;
use crate::http::{Encoding, Reply, text_reply, value_reply};
use crate::node::Node;
use everhold_client::Admitted;
use everhold_cluster::reads;
use everhold_proto::rpc::NodeStatus;
use everhold_proto::{ClusterId, Error, Kind, Priority};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

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
    admission(node, &mut text);
    disks(node, &mut text);
    if let Err(e) = cluster(node, &mut text) {
        tracing::debug!(error = %e, "the cluster's figures are left out of the metrics");
    }
    let mut gauge = |name: &str, help: &str, value: f64| {
        metric(&mut text, name, help, "gauge", value);
    };
    if let Some(raft) = node.raft.current().map(|c| c.status()) {
        gauge("raft_term", "Raft term", raft.term as f64);
        gauge("raft_applied", "last applied log index", raft.applied.0 as f64);
    }
    text_reply(text)
}

/// One of the figures of an admission.
type Figure = fn(&Admitted) -> usize;

/// What the node takes on at once, and what it sent away.
fn admission(node: &Node, text: &mut String) {
    let all = [("blocks", &node.gates.work), ("metadata", &node.gates.metadata)];
    let gauges: [(&str, &str, Figure); 3] = [
        ("admission_limit", "work that may be under way at once, as it adapts", |a| a.limit),
        ("admission_under_way", "work under way", |a| a.under_way),
        ("admission_waiting", "work that waits for a place", |a| a.waiting),
    ];
    for (name, help, value) in gauges {
        let values = all.map(|(class, gate)| (class.to_owned(), value(&gate.admitted()) as f64));
        labelled(text, name, help, "gauge", "class", values);
    }
    let shed = Priority::ALL.map(|priority| {
        let sum: u64 = all.iter().map(|(_, gate)| gate.shed(priority)).sum();
        (priority.to_string(), sum as f64)
    });
    let help = "work sent away because there was too much, by priority";
    labelled(text, "admission_shed_total", help, "counter", "priority", shed);
}

/// How fast the disks are, and how much repair each takes on.
fn disks(node: &Node, text: &mut String) {
    let now = node.env.clock.now();
    let of_each = |value: &dyn Fn(&DiskSeat) -> Option<f64>| -> Vec<(String, f64)> {
        let one = |disk: &Arc<DiskSeat>| Some((disk.id()?.to_string(), value(disk)?));
        node.disks.all().iter().filter_map(one).collect()
    };
    let seconds = |micros: Option<u32>| micros.map(|micros| f64::from(micros) / 1e6);
    let write = of_each(&|disk| seconds(disk.speed.speed(disk.id()?, now).write_micros));
    let read = of_each(&|disk| seconds(disk.speed.speed(disk.id()?, now).read_micros));
    let places = of_each(&|disk| Some(disk.local()?.pace.places() as f64));
    let fetched = of_each(&|disk| Some(disk.local()?.progress.snapshot().fetched_bytes as f64));
    labelled(text, "disk_write_seconds", "median time of a durable write", "gauge", "disk", write);
    labelled(text, "disk_read_seconds", "median time of a read", "gauge", "disk", read);
    let help = "blocks that repair may fetch at once, as it gives way to clients";
    labelled(text, "repair_places", help, "gauge", "disk", places);
    let help = "bytes fetched by repair, by the disk that they were fetched for";
    labelled(text, "repair_fetched_bytes_total", help, "counter", "disk", fetched);
}

/// Redundancy and repair of the whole cluster, and who goes round whom: told by the leader only.
fn cluster(node: &Node, text: &mut String) -> Result<(), Error> {
    let Ok(leading) = node.leading() else { return Ok(()) };
    let mut repair = leading.read(|kv, _| reads::repair_status(kv, &reads::load_map(kv)?))?;
    let now = node.env.clock.now();
    add_rate(&mut repair, node.observations.repair_rate(now));
    let gauges = [
        ("cluster_pgs_degraded", "placement groups that lack copies", repair.pgs_degraded as f64),
        (
            "cluster_pgs_at_risk",
            "placement groups with at most one full copy",
            repair.pgs_at_risk as f64,
        ),
        ("cluster_copies_missing", "copies that are missing", repair.copies_missing as f64),
        ("cluster_bytes_missing", "bytes of these, estimated", repair.bytes_missing as f64),
        ("cluster_blocks_lost", "blocks without any copy left", repair.blocks_lost as f64),
        (
            "cluster_repair_bytes_per_second",
            "bytes per second that all nodes fetch for repair",
            repair.bytes_per_second,
        ),
        (
            "cluster_brake",
            "whether the brake holds repair and deletions",
            f64::from(u8::from(node.observations.brake().is_some())),
        ),
    ];
    for (name, help, value) in gauges {
        metric(text, name, help, "gauge", value);
    }
    if let Some(seconds) = repair.eta_seconds {
        let help = "seconds until all copies are there, at this rate; absent: nobody knows";
        metric(text, "cluster_repair_eta_seconds", help, "gauge", seconds);
    }
    let (mut nodes, mut disks) = (BTreeMap::<String, f64>::new(), BTreeMap::<String, f64>::new());
    for breaker in node.observations.breakers(now) {
        let (count, suspect) = match breaker.disk {
            None => (&mut nodes, breaker.node.to_string()),
            Some(disk) => (&mut disks, disk.to_string()),
        };
        *count.entry(suspect).or_default() += 1.0;
    }
    let help = "clients whose circuit breaker for a node is not closed";
    labelled(text, "cluster_breakers_open", help, "gauge", "node", nodes);
    let help = "clients whose circuit breaker for a disk is not closed";
    labelled(text, "cluster_disk_breakers_open", help, "gauge", "disk", disks);
    Ok(())
}

/// Whether the cluster can be used through this node: it is in service, and there is a leader that it hears.
pub(crate) fn ready_page(node: &Node) -> Result<Reply, Error> {
    health_page(node)?;
    if !node.is_leader() && node.leader_hint().is_none() {
        return Err(Error::new(Kind::Retry, "no metadata leader is heard"));
    }
    Ok(text_reply("ready\n".into()))
}

/// Whether the node is in service: registered, its disks working.
pub(crate) fn health_page(node: &Node) -> Result<Reply, Error> {
    if let Some(reason) = node.disks.all().iter().find_map(|disk| disk.store.failure()) {
        return Err(Error::new(Kind::Internal, format!("a disk failed: {reason}")));
    }
    if node.registration.current().is_none() {
        return Err(Error::new(Kind::Retry, "not registered with the cluster yet"));
    }
    Ok(text_reply("ok\n".into()))
}
