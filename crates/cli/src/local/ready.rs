//! Starting a cluster and waiting for conditions, not for time.

use crate::connect::Admin;
use crate::exit::{CliError, CliResult, Exit};
use crate::local::LocalCluster;
use everhold_proto::map::NodeState;
use everhold_proto::rpc::ClusterStatus;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a cluster may take to become ready. Generous: a loaded machine writes zeroes into new
/// segment files first.
const READY_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// How long a cluster that was there before waits for nodes once it has a leader.
const RETURN_LIMIT: Duration = Duration::from_secs(30);
/// One question to a cluster that is starting.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

/// Starts every node that does not run, in order, and waits until all are registered, the voters
/// are chosen and the placement groups exist. A cluster that was there before is ready when it has a leader and its nodes are
/// back: those that end, and those that do not come back for half a minute, are told and left, because the others serve. Must be awaited on a thread that outlives the servers
/// (see [`super::process::NodeDir::spawn`]).
pub(crate) async fn wait_ready(
    cluster: &mut LocalCluster,
    mut tell: impl FnMut(String),
) -> CliResult<ClusterStatus> {
    let deadline = Instant::now() + READY_LIMIT;
    let admin = Admin::new(&cluster.file().addresses());
    let numbers: Vec<u32> = cluster.file().nodes.iter().map(|node| node.number).collect();
    let mut created = false;
    for number in &numbers {
        let fresh = !cluster.node_dir(*number).path().join("node.json").exists();
        let pid = cluster.start(*number)?;
        tell(format!("node {number} started (pid {pid})"));
        if fresh {
            created = true;
            // The next one joins when this one has its id: so ids are the numbers.
            wait_joined(cluster, &admin, *number, deadline).await?;
        }
    }
    match created {
        true => wait_complete(cluster, &admin, &numbers, deadline, tell).await,
        false => wait_returned(cluster, &admin, numbers, deadline, tell).await,
    }
}

/// Waits for all nodes of a cluster that was just made.
async fn wait_complete(
    cluster: &mut LocalCluster,
    admin: &Admin,
    numbers: &[u32],
    deadline: Instant,
    mut tell: impl FnMut(String),
) -> CliResult<ClusterStatus> {
    let mut shown = String::new();
    loop {
        fail_if_any_ended(cluster, numbers)?;
        let lacking = match admin.status(STATUS_LIMIT).await {
            Ok(status) => match lacking(&status, numbers.len()) {
                None => return Ok(status),
                Some(what) => what,
            },
            Err(e) if e.exit == Exit::Unreachable || e.exit == Exit::Busy => "a leader".to_string(),
            Err(e) => return Err(e),
        };
        if Instant::now() >= deadline {
            return Err(not_ready(&lacking));
        }
        if lacking != shown {
            tell(format!("waiting for {lacking}"));
            shown = lacking;
        }
        sleep(POLL).await;
    }
}

/// Waits for a leader of a cluster that was there before, and for a while for its nodes.
async fn wait_returned(
    cluster: &mut LocalCluster,
    admin: &Admin,
    mut numbers: Vec<u32>,
    deadline: Instant,
    mut tell: impl FnMut(String),
) -> CliResult<ClusterStatus> {
    let (mut shown, mut led_since) = (String::new(), None);
    loop {
        numbers.retain(|number| match cluster.ended(*number) {
            None => true,
            Some(how) => {
                let log = cluster.node_dir(*number).log_tail();
                tell(format!("node {number} ended ({how}): {log}"));
                false
            }
        });
        let lacking = match admin.status(STATUS_LIMIT).await {
            Ok(status) if status.leader.is_some() => {
                let missing = missing(cluster, admin, &status, &numbers).await;
                let led_since = *led_since.get_or_insert_with(Instant::now);
                if missing.is_empty() {
                    return Ok(status);
                }
                let what = format!("node {} to come back", missing.join(", "));
                if led_since.elapsed() >= RETURN_LIMIT {
                    tell(format!("the cluster serves; still waiting for {what}"));
                    return Ok(status);
                }
                what
            }
            Ok(_) => "a leader".to_string(),
            Err(e) if e.exit == Exit::Unreachable || e.exit == Exit::Busy => "a leader".to_string(),
            Err(e) => return Err(e),
        };
        if Instant::now() >= deadline || numbers.is_empty() {
            return Err(not_ready(&lacking));
        }
        if lacking != shown {
            tell(format!("waiting for {lacking}"));
            shown = lacking;
        }
        sleep(POLL).await;
    }
}

/// Nodes that the cluster counts on and that do not serve. One that was removed is not among them.
async fn missing(
    cluster: &LocalCluster,
    admin: &Admin,
    status: &ClusterStatus,
    numbers: &[u32],
) -> Vec<String> {
    let mut missing = Vec::new();
    for number in numbers {
        let Ok(node) = cluster.node(*number) else { continue };
        let row = status.map.nodes.values().rev().find(|row| row.address == node.address);
        let Some(row) = row else { continue };
        // What the map says may be of before the restart.
        if row.state != NodeState::Up || admin.hello(&node.address).await.is_err() {
            missing.push(number.to_string());
        }
    }
    missing
}

async fn wait_joined(
    cluster: &mut LocalCluster,
    admin: &Admin,
    number: u32,
    deadline: Instant,
) -> CliResult {
    let address = cluster.node(number)?.address.clone();
    loop {
        if let Ok(hello) = admin.hello(&address).await
            && hello.node.is_some()
        {
            return Ok(());
        }
        fail_if_any_ended(cluster, &[number])?;
        if Instant::now() >= deadline {
            return Err(not_ready(&format!("node {number} to join")));
        }
        sleep(POLL).await;
    }
}

fn fail_if_any_ended(cluster: &mut LocalCluster, numbers: &[u32]) -> CliResult {
    for number in numbers {
        if let Some(status) = cluster.ended(*number) {
            let dir = cluster.node_dir(*number);
            return Err(CliError::new(
                Exit::Failed,
                format!("node {number} ended while starting ({status}): {}", dir.log_tail()),
                format!("read {}", dir.log().display()),
            ));
        }
    }
    Ok(())
}

fn not_ready(lacking: &str) -> CliError {
    CliError::new(
        Exit::Unreachable,
        format!(
            "the cluster is not ready after {} s: waiting for {lacking}",
            READY_LIMIT.as_secs()
        ),
        "read the logs in DIR/nodeN/log, then run the command again",
    )
}

/// What a cluster that was just made still lacks. It has nothing to repair, so it is only ready when it is fully redundant.
fn lacking(status: &ClusterStatus, nodes: usize) -> Option<String> {
    let up = status.map.nodes.values().filter(|n| n.state == NodeState::Up).count();
    let disks = status.map.disks.len();
    let voters = if nodes >= 5 {
        5
    } else if nodes >= 3 {
        3
    } else {
        1
    };
    let copies = status.map.policies.values().next().map_or(1, |p| usize::from(p.copies));
    let placed = |pg: &everhold_proto::map::Pg| pg.members.len() >= copies.min(nodes);
    if up < nodes || disks < nodes {
        Some(format!("nodes to register ({up} of {nodes})"))
    } else if status.leader.is_none() {
        Some("a leader".into())
    } else if status.voters.len() < voters {
        Some(format!("voters to be chosen ({} of {voters})", status.voters.len()))
    } else if status.map.pgs.is_empty() || !status.map.pgs.values().all(placed) {
        Some("placement groups".into())
    } else if !status.repair.redundant {
        Some("full redundancy".into())
    } else {
        None
    }
}
