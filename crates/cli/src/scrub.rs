//! `everhold scrub start|status`: every node is told, and asked, by itself.

use crate::args::{Global, ScrubCommand};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::{Table, json, line, size};
use crate::status::node_views;
use everhold_proto::map::NodeState;
use everhold_proto::rpc::{ClusterStatus, ScrubStatus, StartScrub};
use everhold_proto::{DiskId, NodeId};
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::sleep;

/// How often a scrub is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Runs one of them.
pub(crate) async fn run(command: ScrubCommand, global: &Global) -> CliResult {
    match command {
        ScrubCommand::Start { wait } => start(wait, global).await,
        ScrubCommand::Status => {
            let (_, disks) = look(global).await?;
            print(&disks, global)
        }
    }
}

/// One disk, as `scrub status --json` tells it.
#[derive(Clone, Debug, Serialize)]
struct DiskScrub {
    disk: DiskId,
    node: NodeId,
    #[serde(flatten)]
    scrub: ScrubStatus,
}

/// The scrubs of all nodes that answer.
async fn look(global: &Global) -> CliResult<(ClusterStatus, Vec<DiskScrub>)> {
    let seeds = seeds(global)?;
    let status = Admin::new(&seeds).status(LEADER_LIMIT).await?;
    let (_, own) = node_views(&seeds, &status).await;
    let of = |(node, status): (&NodeId, &everhold_proto::rpc::NodeStatus)| {
        let node = *node;
        let disks = status.disks.iter().map(move |disk| (disk.disk, disk.scrub.clone()));
        disks.map(move |(disk, scrub)| DiskScrub { disk, node, scrub }).collect::<Vec<_>>()
    };
    let disks = own.iter().flat_map(of).collect();
    Ok((status, disks))
}

async fn start(wait: bool, global: &Global) -> CliResult {
    let (status, before) = look(global).await?;
    let admin = Admin::of_cluster(&seeds(global)?, status.map.cluster);
    let mut begun = 0;
    for node in status.map.nodes.values().filter(|node| node.state != NodeState::Out) {
        match admin.node(&node.address, &StartScrub {}).await {
            Ok(()) => begun += 1,
            Err(e) => {
                let text = format!("{} does not begin: {}; {begun} others did", node.id, e.message);
                let hint = "begin again when it is back; see `everhold node ls`";
                return Err(CliError::new(Exit::Unreachable, text, hint));
            }
        }
    }
    if !wait {
        if global.json {
            return json(&serde_json::json!({ "nodes": begun }));
        }
        return line(format!("{begun} nodes read everything back; see `everhold scrub status`"));
    }
    let wanted: BTreeMap<DiskId, u64> =
        before.iter().map(|disk| (disk.disk, disk.scrub.urgent_passes + 1)).collect();
    loop {
        let (_, disks) = look(global).await?;
        if is_done(&wanted, &disks) {
            return print(&disks, global);
        }
        sleep(POLL).await;
    }
}

/// Whether each disk has completed a pass that was asked for since; one that is gone is not waited for.
fn is_done(wanted: &BTreeMap<DiskId, u64>, disks: &[DiskScrub]) -> bool {
    disks.iter().all(|disk| wanted.get(&disk.disk).is_none_or(|n| disk.scrub.urgent_passes >= *n))
}

fn print(disks: &[DiskScrub], global: &Global) -> CliResult {
    if global.json {
        return json(&disks);
    }
    let titles = ["DISK", "NODE", "PASS", ">READ", ">OF", ">BYTES", ">PASSES", ">BAD FOUND"];
    let mut table = Table::new(&titles);
    for DiskScrub { disk, node, scrub } in disks {
        table.row([
            disk.to_string(),
            node.to_string(),
            if scrub.urgent { "asked for" } else { "by itself" }.into(),
            scrub.checked_blocks.to_string(),
            scrub.blocks.to_string(),
            size(scrub.checked_bytes, false),
            scrub.passes.to_string(),
            scrub.bad_blocks.to_string(),
        ]);
    }
    table.print()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pass is done when every disk that still answers has completed one more.
    #[test]
    fn every_disk_completes_one_more() {
        let disk = |id, urgent_passes| DiskScrub {
            disk: DiskId(id),
            node: NodeId(id),
            scrub: ScrubStatus { urgent_passes, ..ScrubStatus::default() },
        };
        let wanted = [(DiskId(1), 1), (DiskId(2), 3)].into();
        assert!(!is_done(&wanted, &[disk(1, 1), disk(2, 2)]));
        assert!(is_done(&wanted, &[disk(1, 1), disk(2, 3)]));
        assert!(is_done(&wanted, &[disk(2, 3), disk(9, 0)]));
    }
}
