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
/// One question to a cluster that is starting.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

/// Starts every node that does not run, in order, and waits until all are registered, the voters
/// are chosen and the placement groups exist. Must be awaited on a thread that outlives the servers
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
    let mut shown = String::new();
    loop {
        fail_if_any_ended(cluster, &numbers)?;
        let lacking = match admin.status(STATUS_LIMIT).await {
            Ok(status) => match lacking(&status, numbers.len(), created) {
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

/// What the cluster still lacks. One that was just `created` has nothing to repair, so it is only
/// ready when it is fully redundant; one that returned may catch up while it serves.
fn lacking(status: &ClusterStatus, nodes: usize, created: bool) -> Option<String> {
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
    } else if created && !status.repair.redundant {
        Some("full redundancy".into())
    } else {
        None
    }
}
