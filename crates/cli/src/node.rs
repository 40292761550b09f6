//! `everhold node`: what concerns processes on this machine is here, orders to the cluster in `orders`.

mod add;
mod orders;

use crate::args::{Global, NodeCommand};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::{Context, seeds};
use crate::exit::{CliError, CliResult, Exit};
use crate::local::{Lifetime, LocalCluster};
use crate::output::{json, line};
use crate::views;
use everhold_proto::command::MapCommand;
use everhold_proto::{NodeId, rpc};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a started node may take to serve: it replays its log and checks its segments first.
const SERVE_LIMIT: Duration = Duration::from_secs(60);

/// Runs one of them.
pub(crate) async fn run(command: NodeCommand, global: &Global) -> CliResult {
    match command {
        NodeCommand::Ls => views::nodes(global).await,
        NodeCommand::Add(args) => add::run(args, global).await,
        NodeCommand::Start { node } => start(node, global).await,
        NodeCommand::Stop { node, kill } => stop(node, kill, global),
        NodeCommand::Maintenance { node, mode } => maintenance(node, mode == "on", global).await,
        NodeCommand::Drain { node, cancel, wait } => {
            orders::drain(node, cancel, wait, global).await
        }
        NodeCommand::Remove { node } => orders::remove(node, global).await,
        NodeCommand::Replace { node, timeout } => {
            orders::replace(node, Duration::from_secs(timeout), global).await
        }
        NodeCommand::Label { node, region, zone, rack, host, reset } => {
            let given = orders::Given { region, zone, rack, host };
            orders::label(node, given, reset, global).await
        }
    }
}

/// The local cluster that is meant, with its nodes left running when this program ends, and the number that the node has in
/// it.
fn local(node: NodeId, global: &Global) -> CliResult<(LocalCluster, u32)> {
    let cluster = LocalCluster::open(&Context::local(global)?.dir, Lifetime::Detached)?;
    let number = cluster.number_of(node)?;
    Ok((cluster, number))
}

async fn start(node: NodeId, global: &Global) -> CliResult {
    let (mut cluster, number) = local(node, global)?;
    let address = cluster.node(number)?.address.clone();
    if let Some(pid) = cluster.node_dir(number).running() {
        return report(global, node, pid, "runs already");
    }
    let pid = cluster.start(number)?;
    let admin = Admin::new(std::slice::from_ref(&address));
    let deadline = Instant::now() + SERVE_LIMIT;
    while admin.hello(&address).await.is_err() {
        let dir = cluster.node_dir(number);
        let ended = cluster.ended(number);
        if ended.is_some() || Instant::now() >= deadline {
            let how = ended.unwrap_or_else(|| "it does not answer".into());
            return Err(CliError::new(
                Exit::Failed,
                format!("node {} does not serve ({how}): {}", node.0, dir.log_tail()),
                format!("read {}", dir.log().display()),
            ));
        }
        sleep(Duration::from_millis(50)).await;
    }
    report(global, node, pid, "started")
}

fn stop(node: NodeId, kill: bool, global: &Global) -> CliResult {
    let (mut cluster, number) = local(node, global)?;
    let Some(pid) = cluster.node_dir(number).running() else {
        return Err(CliError::new(
            Exit::NotFound,
            format!("node {} does not run", node.0),
            format!("start it with `everhold node start {}`", node.0),
        ));
    };
    if kill {
        cluster.kill(number)?
    } else {
        cluster.stop(number)?
    }
    report(global, node, pid, if kill { "killed" } else { "stopped" })
}

async fn maintenance(node: NodeId, on: bool, global: &Global) -> CliResult {
    let admin = Admin::new(&seeds(global)?);
    let status = admin.status(LEADER_LIMIT).await?;
    if !status.map.nodes.contains_key(&node) {
        return Err(CliError::new(
            Exit::NotFound,
            format!("the cluster has no node {node}"),
            "see `everhold node ls`",
        ));
    }
    let command = rpc::ChangeMap(MapCommand::SetMaintenance { node, on });
    admin.leader(&command, LEADER_LIMIT).await?;
    if global.json {
        json(&serde_json::json!({ "node": node, "maintenance": on }))
    } else {
        let effect = if on { "nothing is rebuilt while it is away" } else { "it counts again" };
        line(format!("node {node}: maintenance {}; {effect}", if on { "on" } else { "off" }))
    }
}

fn report(global: &Global, node: NodeId, pid: u32, what: &str) -> CliResult {
    if global.json {
        json(&serde_json::json!({ "node": node, "pid": pid, "result": what }))
    } else {
        line(format!("node {} (pid {pid}) {what}", node.0))
    }
}
