//! `everhold status`: the cluster as its leader sees it, with the process of each node.

use crate::args::Global;
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::CliResult;
use crate::output::{Table, duration, json, line, rate, size};
use everhold_proto::map::{ClusterMap, Node, NodeState};
use everhold_proto::rpc::{BreakerStatus, ClusterStatus, Finding, NodeStatus, RepairStatus};
use everhold_proto::{ClusterId, Epoch, NodeId};
use futures_util::future::join_all;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// One node, as `status --json` tells it.
#[derive(Debug, Serialize)]
pub(crate) struct NodeView {
    id: NodeId,
    zone: String,
    address: String,
    /// `None`: the process does not answer.
    pid: Option<u32>,
    state: NodeState,
    reason: String,
    voter: bool,
    leader: bool,
    maintenance: bool,
    used_bytes: u64,
    capacity_bytes: u64,
    blocks: Option<u64>,
    fetched_bytes: Option<u64>,
    fetched_blocks: Option<u64>,
    checksum_errors: Option<u64>,
    resident_bytes: Option<u64>,
    cpu_seconds: Option<f64>,
}

#[derive(Debug, Serialize)]
struct StatusView<'a> {
    cluster: String,
    epoch: Epoch,
    term: u64,
    applied: u64,
    leader: Option<NodeId>,
    voters: &'a [NodeId],
    nodes: Vec<NodeView>,
    placement_groups: usize,
    redundancy: &'a RepairStatus,
    brake: &'a Option<String>,
    health: &'a [Finding],
    breakers: &'a [BreakerStatus],
    inodes: u64,
    bytes: u64,
}

/// What is known of the nodes: the leader's view, joined with what each says of itself.
pub(crate) async fn node_views(
    seeds: &[String],
    status: &ClusterStatus,
) -> (Vec<NodeView>, BTreeMap<NodeId, NodeStatus>) {
    let admin = &Admin::of_cluster(seeds, cluster_of(status));
    let asked = status.map.nodes.values().map(|node| async move {
        let answer = admin.node_status(&node.address).await.ok()?;
        // Another process may have taken the address of a node that is gone.
        (answer.node == Some(node.id)).then_some((node.id, answer))
    });
    let answers: BTreeMap<NodeId, NodeStatus> =
        join_all(asked).await.into_iter().flatten().collect();
    let view = |node| node_view(status, node, answers.get(&node.id));
    (status.map.nodes.values().map(view).collect(), answers)
}

fn cluster_of(status: &ClusterStatus) -> ClusterId {
    status.map.cluster
}

fn node_view(status: &ClusterStatus, node: &Node, own: Option<&NodeStatus>) -> NodeView {
    let disks = || status.map.disks.values().filter(|disk| disk.node == node.id);
    NodeView {
        id: node.id,
        zone: node.labels.zone.clone(),
        address: node.address.clone(),
        pid: own.map(|own| own.pid),
        state: node.state,
        reason: node.reason.clone(),
        voter: status.voters.contains(&node.id),
        leader: status.leader == Some(node.id),
        maintenance: node.maintenance,
        used_bytes: disks().map(|disk| disk.used_bytes).sum(),
        capacity_bytes: disks().map(|disk| disk.capacity_bytes).sum(),
        blocks: own.map(|own| own.disks.iter().map(|disk| disk.blocks).sum()),
        fetched_bytes: own.map(|own| own.repair.fetched_bytes),
        fetched_blocks: own.map(|own| own.repair.fetched_blocks),
        checksum_errors: own.map(|own| own.disks.iter().map(|disk| disk.checksum_errors).sum()),
        resident_bytes: own.map(|own| own.resident_bytes),
        cpu_seconds: own.map(|own| own.cpu_seconds),
    }
}

/// Prints it.
pub(crate) async fn run(global: &Global) -> CliResult {
    let seeds = seeds(global)?;
    let status = Admin::new(&seeds).status(LEADER_LIMIT).await?;
    let (nodes, _) = node_views(&seeds, &status).await;
    if global.json {
        return json(&StatusView {
            cluster: status.map.cluster.to_string(),
            epoch: status.map.epoch,
            term: status.term,
            applied: status.applied.0,
            leader: status.leader,
            voters: &status.voters,
            nodes,
            placement_groups: status.map.pgs.len(),
            redundancy: &status.repair,
            brake: &status.brake,
            health: &status.health,
            breakers: &status.breakers,
            inodes: status.inodes,
            bytes: status.bytes,
        });
    }
    line(format!(
        "cluster {}, epoch {}, {} placement groups, {} files and directories, {}",
        status.map.cluster,
        status.map.epoch.0,
        status.map.pgs.len(),
        status.inodes,
        size(status.bytes, false)
    ))?;
    print_nodes(&nodes)?;
    line(redundancy(&status.repair, &status.map))?;
    if let Some(reason) = &status.brake {
        line(format!("brake: bulk repair and deletion are held: {reason}"))?;
    }
    for breaker in &status.breakers {
        let BreakerStatus { of, node, disk, state, for_ms, reason } = breaker;
        let suspect = disk.map_or(node.to_string(), |disk| format!("{disk} of {node}"));
        let lasted = duration(Duration::from_millis(*for_ms));
        line(format!("breaker of {of:?} for {suspect}: {state} for {lasted}: {reason}"))?;
    }
    for finding in &status.health {
        line(format!("{:?}: {} → {}", finding.severity, finding.text, finding.remedy))?;
    }
    Ok(())
}

/// The table of nodes.
pub(crate) fn print_nodes(nodes: &[NodeView]) -> CliResult {
    let titles = [
        "NODE",
        "ZONE",
        "ADDRESS",
        ">PID",
        "STATE",
        "ROLE",
        ">USED",
        ">CAPACITY",
        ">BLOCKS",
        "WHY",
    ];
    let mut table = Table::new(&titles);
    let number = |n: Option<u64>| n.map_or("-".into(), |n| n.to_string());
    for node in nodes {
        let role = match (node.leader, node.voter) {
            (true, _) => "leader",
            (false, true) => "voter",
            (false, false) => "-",
        };
        let state = if node.maintenance {
            format!("{} (maintenance)", node.state)
        } else {
            node.state.to_string()
        };
        let why = if node.state == NodeState::Up { "" } else { &node.reason };
        table.row([
            node.id.to_string(),
            node.zone.clone(),
            node.address.clone(),
            number(node.pid.map(u64::from)),
            state,
            role.into(),
            size(node.used_bytes, false),
            size(node.capacity_bytes, false),
            number(node.blocks),
            why.into(),
        ]);
    }
    table.print()
}

/// Redundancy in one line.
pub(crate) fn redundancy(repair: &RepairStatus, map: &ClusterMap) -> String {
    let lost = match repair.blocks_lost {
        0 => String::new(),
        n => format!("; {n} BLOCKS HAVE NO COPY LEFT"),
    };
    if repair.redundant {
        return format!("redundancy: full{lost}");
    }
    format!(
        "redundancy: {} copies missing ({}), {} groups degraded, {} at risk; {}{lost}",
        repair.copies_missing,
        size(repair.bytes_missing, false),
        repair.pgs_degraded,
        repair.pgs_at_risk,
        progress(repair, map),
    )
}

/// What is done about missing copies. Where a node is waited for, a rate says nothing about the end.
fn progress(repair: &RepairStatus, map: &ClusterMap) -> String {
    let is_waited_for = |node: &&Node| node.state == NodeState::Down;
    let waited: Vec<String> =
        map.nodes.values().filter(is_waited_for).map(|node| node.id.to_string()).collect();
    if !waited.is_empty() {
        let waiting = format!("waiting for {} before copies are made elsewhere", waited.join(", "));
        return match repair.bytes_per_second {
            some if some >= 1.0 => format!("{waiting}; repairing {}", rate(some)),
            _ => waiting,
        };
    }
    let eta = repair
        .eta_seconds
        .filter(|s| s.is_finite() && *s >= 0.0)
        .and_then(|s| Duration::try_from_secs_f64(s).ok());
    match eta {
        Some(eta) => {
            format!("repairing {}, ready in about {}", rate(repair.bytes_per_second), duration(eta))
        }
        None => "waiting to be repaired".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An end is named only where copies move and nobody is waited for.
    #[test]
    fn waiting_is_told_as_waiting() {
        let mut map = ClusterMap::default();
        let mut repair = RepairStatus { bytes_missing: 1 << 20, ..Default::default() };
        assert!(redundancy(&repair, &map).ends_with("; waiting to be repaired"));
        repair.bytes_per_second = 1024.0;
        repair.eta_seconds = Some(1024.0);
        assert!(redundancy(&repair, &map).contains("ready in about"));
        let node = serde_json::json!({
            "id": 2, "uuid": vec![0; 16], "address": "a:1",
            "labels": { "region": "", "zone": "", "rack": "", "host": "" },
            "state": "down", "since_ms": 0, "reason": "late", "boot": 1, "raft": null,
            "maintenance": false, "labels_fixed": false, "mark": 0,
        });
        let node: Node = serde_json::from_value(node).unwrap();
        map.nodes.insert(node.id, node);
        let waiting = redundancy(&repair, &map);
        assert!(
            waiting.contains("waiting for n2 before") && !waiting.contains("ready in"),
            "{waiting}"
        );
    }
}
