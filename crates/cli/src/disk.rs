//! `everhold disk ls|add|drain|remove`.

use crate::args::{DiskCommand, Global};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::{Table, json, line, size};
use crate::status::node_views;
use everhold_proto::command::MapCommand;
use everhold_proto::map::{ClusterMap, DiskState, Fullness};
use everhold_proto::rpc::{AddDisk, ChangeMap, ClusterStatus, DiskStatus, NodeStatus, RemoveDisk};
use everhold_proto::{ByteSize, DiskId, NodeId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// A new disk gets its first segment zeroed before it is in service.
const ADD_LIMIT: Duration = Duration::from_secs(60);

/// A removed disk has its files closed.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);

/// Runs one of them.
pub(crate) async fn run(command: DiskCommand, global: &Global) -> CliResult {
    match command {
        DiskCommand::Ls => list(global).await,
        DiskCommand::Add { node, path, capacity } => add(node, path, capacity, global).await,
        DiskCommand::Drain { disk, cancel } => drain(disk, cancel, global).await,
        DiskCommand::Remove { disk } => remove(disk, global).await,
    }
}

/// One disk, as `disk ls --json` tells it.
#[derive(Debug, Serialize)]
struct DiskView {
    id: DiskId,
    node: NodeId,
    /// `None`: its node does not answer.
    path: Option<String>,
    state: DiskState,
    fullness: Fullness,
    used_bytes: u64,
    capacity_bytes: u64,
    /// Places in placement groups, as member.
    members: usize,
    /// Places where it does not hold everything yet.
    incomplete: usize,
    /// Places as former: it may hold what others lack.
    formers: usize,
    blocks: Option<u64>,
    checksum_errors: Option<u64>,
    /// Median times of the last seconds; `None`: too little work to tell.
    write_micros: Option<u32>,
    read_micros: Option<u32>,
    /// The same, of calls of its node to the leader.
    answer_micros: Option<u32>,
}

async fn list(global: &Global) -> CliResult {
    let seeds = seeds(global)?;
    let status = Admin::new(&seeds).status(LEADER_LIMIT).await?;
    let (_, own) = node_views(&seeds, &status).await;
    let views = views(&status, &own);
    if global.json {
        return json(&views);
    }
    let titles = [
        "DISK",
        "NODE",
        "STATE",
        ">USED",
        ">CAPACITY",
        ">PLACES",
        ">TO FILL",
        ">BLOCKS",
        ">WRITE",
        ">READ",
        ">ANSWER",
        "PATH",
    ];
    let mut table = Table::new(&titles);
    for view in views {
        let state = match view.fullness {
            Fullness::Normal => view.state.to_string(),
            Fullness::Nearfull => format!("{}, nearly full", view.state),
            Fullness::Full => format!("{}, full", view.state),
        };
        table.row([
            view.id.to_string(),
            view.node.to_string(),
            state,
            size(view.used_bytes, false),
            size(view.capacity_bytes, false),
            (view.members + view.formers).to_string(),
            view.incomplete.to_string(),
            view.blocks.map_or("-".into(), |blocks| blocks.to_string()),
            millis(view.write_micros),
            millis(view.read_micros),
            millis(view.answer_micros),
            view.path.unwrap_or_else(|| "-".into()),
        ]);
    }
    table.print()
}

fn millis(micros: Option<u32>) -> String {
    micros.map_or("-".into(), |micros| format!("{:.1} ms", f64::from(micros) / 1000.0))
}

fn views(status: &ClusterStatus, own: &BTreeMap<NodeId, NodeStatus>) -> Vec<DiskView> {
    let map: &ClusterMap = &status.map;
    let view = |disk: &everhold_proto::map::Disk| {
        let place = |status: &NodeStatus| -> Option<DiskStatus> {
            status.disks.iter().find(|own| own.disk == disk.id).cloned()
        };
        let own = own.get(&disk.node).and_then(place);
        let speed = status.speeds.iter().find(|speed| speed.disk == disk.id);
        let members: Vec<_> = map.pgs.values().filter_map(|pg| pg.member(disk.id)).collect();
        DiskView {
            id: disk.id,
            node: disk.node,
            path: own.as_ref().map(|own| own.path.clone()),
            state: disk.state,
            fullness: disk.fullness,
            used_bytes: disk.used_bytes,
            capacity_bytes: disk.capacity_bytes,
            members: members.len(),
            incomplete: members.iter().filter(|member| !member.is_full()).count(),
            formers: map.pgs.values().filter(|pg| pg.formers.contains(&disk.id)).count(),
            blocks: own.as_ref().map(|own| own.blocks),
            checksum_errors: own.as_ref().map(|own| own.checksum_errors),
            write_micros: speed.and_then(|speed| speed.write_micros),
            read_micros: speed.and_then(|speed| speed.read_micros),
            answer_micros: speed.and_then(|speed| speed.answer_micros),
        }
    };
    map.disks.values().map(view).collect()
}

async fn add(node: NodeId, path: String, capacity: Option<ByteSize>, global: &Global) -> CliResult {
    let admin = Admin::new(&seeds(global)?);
    let status = admin.status(LEADER_LIMIT).await?;
    let Some(row) = status.map.nodes.get(&node) else {
        let text = format!("the cluster has no node {node}");
        return Err(CliError::new(Exit::NotFound, text, "see `everhold node ls`"));
    };
    let ask = AddDisk { path, capacity_bytes: capacity.map(|capacity| capacity.0) };
    let added = admin.node_within(&row.address, &ask, ADD_LIMIT).await?;
    if global.json {
        return json(&serde_json::json!({ "disk": added.disk, "node": node, "path": ask.path }));
    }
    let disk = added.disk;
    line(format!(
        "disk {disk} on {node} is in service; copies move to it by themselves: `everhold rebalance status`"
    ))
}

async fn drain(disk: DiskId, cancel: bool, global: &Global) -> CliResult {
    let state = if cancel { DiskState::In } else { DiskState::Draining };
    let reason = if cancel { "an operator takes it back" } else { "an operator drains it" };
    let order = ChangeMap(MapCommand::SetDiskState { disk, state, reason: reason.into() });
    Admin::new(&seeds(global)?).leader(&order, LEADER_LIMIT).await?;
    if global.json {
        return json(&serde_json::json!({ "disk": disk, "state": state }));
    }
    let next = if cancel { "" } else { ", then `everhold disk remove`" };
    line(format!("disk {disk}: {state}; follow it with `everhold disk ls`{next}"))
}

async fn remove(disk: DiskId, global: &Global) -> CliResult {
    let admin = Admin::new(&seeds(global)?);
    let status = admin.status(LEADER_LIMIT).await?;
    let node = status.map.disks.get(&disk).and_then(|row| status.map.nodes.get(&row.node));
    let Some(node) = node else {
        let text = format!("the cluster has no disk {disk}");
        return Err(CliError::new(Exit::NotFound, text, "see `everhold disk ls`"));
    };
    let removed = admin.node_within(&node.address, &RemoveDisk { disk }, REMOVE_LIMIT).await?;
    if global.json {
        return json(&serde_json::json!({ "disk": disk, "node": node.id, "path": removed.path }));
    }
    line(format!(
        "disk {disk} is removed; what is in {} on {} may be deleted, and the device taken out",
        removed.path, node.id
    ))
}
