//! Starting a cluster and waiting for conditions, not for time.

use crate::connect::Admin;
use crate::exit::{CliError, CliResult, Exit};
use crate::local::LocalCluster;
use everhold_proto::map::{Node, NodeState};
use everhold_proto::rpc::ClusterStatus;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a cluster may take to become ready. Generous: a loaded machine writes zeroes into new
/// segment files first.
const READY_LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(100);
/// One question to a cluster that is starting.
const STATUS_LIMIT: Duration = Duration::from_secs(3);

/// Starts every node that does not run, in order. A new cluster is ready when all nodes are registered, the voters are chosen
/// and the placement groups exist. One that was there before is ready when it has a leader and the nodes that run are
/// registered: nodes that are drained or removed, or that do not start, do not keep it from serving, and it goes on waiting
/// for a leader. Must be awaited on a thread that outlives the servers (see [`super::process::NodeDir::spawn`]).
pub(crate) async fn wait_ready(
    cluster: &mut LocalCluster,
    mut tell: impl FnMut(String),
) -> CliResult<ClusterStatus> {
    let admin = Admin::new(&cluster.file().addresses());
    let created = start_all(cluster, &admin, &mut tell).await?;
    let mut running: BTreeSet<u32> = cluster.file().nodes.iter().map(|n| n.number).collect();
    let mut deadline = Instant::now() + READY_LIMIT;
    let mut shown = String::new();
    loop {
        look_after(cluster, &mut running, created, &mut tell)?;
        let (lacking, serves) = match admin.status(STATUS_LIMIT).await {
            Ok(status) => match lacking(cluster, &status, &running, created) {
                None => return Ok(status),
                // What it lacks may come much later, such as a node that replays a long log.
                Some(_) if !created && Instant::now() >= deadline => return Ok(status),
                Some(what) => (what, true),
            },
            Err(e) if e.exit == Exit::Unreachable || e.exit == Exit::Busy => {
                ("a leader".to_string(), false)
            }
            Err(e) => return Err(e),
        };
        if Instant::now() >= deadline {
            if created {
                return Err(not_ready(&lacking));
            }
            let limit = READY_LIMIT.as_secs();
            tell(format!("still no leader after {limit} s more; see DIR/nodeN/log"));
            deadline = Instant::now() + READY_LIMIT;
        }
        if lacking != shown {
            tell(format!("waiting for {lacking}{}", if serves { "; it serves" } else { "" }));
            shown = lacking;
        }
        sleep(POLL).await;
    }
}

/// Starts what does not run; tells whether the cluster is a new one.
async fn start_all(
    cluster: &mut LocalCluster,
    admin: &Admin,
    tell: &mut impl FnMut(String),
) -> CliResult<bool> {
    let deadline = Instant::now() + READY_LIMIT;
    let numbers: Vec<u32> = cluster.file().nodes.iter().map(|node| node.number).collect();
    let created = numbers.iter().all(|number| cluster.node_dir(*number).id().is_none());
    let last_joined = numbers.iter().rposition(|n| cluster.node_dir(*n).id().is_some());
    for (place, number) in numbers.iter().enumerate() {
        let joined = cluster.node_dir(*number).id().is_some();
        let pid = cluster.start(*number)?;
        tell(format!("node {number} started (pid {pid})"));
        // The next new one joins when this one has its id: so ids are the numbers. One that lost its directory among
        // others that have theirs gets another id anyway, and needs those that follow to join at all.
        if !joined && last_joined.is_none_or(|last| place > last) {
            wait_joined(cluster, admin, *number, deadline).await?;
        }
    }
    Ok(created)
}

/// A node that ends while a new cluster starts is an error. In one that was there before it is told, and the others go on.
fn look_after(
    cluster: &mut LocalCluster,
    running: &mut BTreeSet<u32>,
    created: bool,
    tell: &mut impl FnMut(String),
) -> CliResult {
    for number in running.clone() {
        let Err(e) = fail_if_ended(cluster, number) else { continue };
        running.remove(&number);
        if created || running.is_empty() {
            return Err(e);
        }
        tell(format!("{}; the others go on", e.message));
    }
    Ok(())
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
        fail_if_ended(cluster, number)?;
        if Instant::now() >= deadline {
            return Err(not_ready(&format!("node {number} to join")));
        }
        sleep(POLL).await;
    }
}

fn fail_if_ended(cluster: &mut LocalCluster, number: u32) -> CliResult {
    let Some(status) = cluster.ended(number) else { return Ok(()) };
    let dir = cluster.node_dir(number);
    Err(CliError::new(
        Exit::Failed,
        format!("node {number} ended while starting ({status}): {}", dir.log_tail()),
        format!("read {}", dir.log().display()),
    ))
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

/// What the cluster still lacks. One that was just `created` has nothing to repair, so it is only ready when it is fully
/// redundant; one that returned may catch up while it serves.
fn lacking(
    cluster: &LocalCluster,
    status: &ClusterStatus,
    running: &BTreeSet<u32>,
    created: bool,
) -> Option<String> {
    let is_up = |n: &&Node| n.state == NodeState::Up;
    let ups: Vec<&Node> = status.map.nodes.values().filter(is_up).collect();
    let waited = cluster.file().nodes.iter().filter(|node| running.contains(&node.number));
    let (mut there, mut nodes) = (0, 0);
    for node in waited {
        nodes += 1;
        there += usize::from(ups.iter().any(|up| up.address == node.address));
    }
    if there < nodes {
        return Some(format!("nodes to register ({there} of {nodes})"));
    }
    if status.leader.is_none() {
        return Some("a leader".into());
    }
    if created { lacking_new(status, nodes) } else { None }
}

fn lacking_new(status: &ClusterStatus, nodes: usize) -> Option<String> {
    let voters = if nodes >= 5 {
        5
    } else if nodes >= 3 {
        3
    } else {
        1
    };
    let copies = status.map.policies.values().next().map_or(1, |p| usize::from(p.copies));
    let placed = |pg: &everhold_proto::map::Pg| pg.members.len() >= copies.min(nodes);
    if status.map.disks.len() < nodes {
        Some("disks to register".into())
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
