//! Whole clusters in one process: files survive restarts, leaders change, foreign nodes are refused.

mod common;

use common::{TestCluster, TestNode, call, pattern};
use everhold_client::CreateOptions;
use everhold_env::Env;
use everhold_proto::rpc::{GetMap, GetNodeStatus, PrepareLearner, RetireLearner};
use everhold_proto::{ClusterId, Epoch, Kind, RaftId};
use everhold_server::{Origin, Server, StartError};

/// Sizes around the borders: inline, one block, several blocks.
const SIZES: [usize; 5] = [0, 100, 8 << 10, 300_000, (9 << 20) + 17];

async fn write_all(cluster: &TestCluster, prefix: &str) {
    let client = cluster.client().await;
    for (seed, size) in SIZES.into_iter().enumerate() {
        let data = pattern(seed as u64, size);
        let path = format!("/{prefix}-{size}");
        client.put(&path, data.into(), CreateOptions::default()).await.expect("is written");
    }
    client.close().await.expect("closes");
}

async fn check_all(cluster: &TestCluster, prefix: &str) {
    let client = cluster.client().await;
    for (seed, size) in SIZES.into_iter().enumerate() {
        let path = format!("/{prefix}-{size}");
        let data = client.get(&path, 64 << 20).await.expect("is read");
        assert!(data == pattern(seed as u64, size), "{path} differs");
    }
    client.close().await.expect("closes");
}

/// One node with one copy serves files, and keeps them when it is stopped and started again.
#[tokio::test(flavor = "multi_thread")]
async fn one_node_keeps_files_over_a_restart() {
    let mut cluster = TestCluster::start(1, 1).await;
    write_all(&cluster, "a").await;
    check_all(&cluster, "a").await;
    cluster.nodes[0].stop().await;
    cluster.nodes[0].start().await;
    cluster.is_whole().await;
    check_all(&cluster, "a").await;
    write_all(&cluster, "b").await;
    check_all(&cluster, "b").await;
    cluster.nodes[0].stop().await;
}

/// Three nodes become three voters; all are stopped and started, and every file is there.
#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_keep_files_when_all_restart() {
    let mut cluster = TestCluster::start(3, 3).await;
    write_all(&cluster, "a").await;
    cluster
        .until("three voters", || async {
            let status = cluster.status().await.ok()?;
            (status.voters.len() == 3).then_some(())
        })
        .await;
    for node in &mut cluster.nodes {
        node.stop().await;
    }
    for node in &mut cluster.nodes {
        node.start().await;
    }
    cluster.is_whole().await;
    check_all(&cluster, "a").await;
    write_all(&cluster, "b").await;
    check_all(&cluster, "b").await;
}

/// The leader stops: another one takes over, and reading and writing go on.
#[tokio::test(flavor = "multi_thread")]
async fn another_node_leads_when_the_leader_stops() {
    let mut cluster = TestCluster::start(3, 3).await;
    write_all(&cluster, "a").await;
    cluster
        .until("three voters", || async {
            (cluster.status().await.ok()?.voters.len() == 3).then_some(())
        })
        .await;
    hold_on_to_seats(&cluster).await;
    let leader = cluster.status().await.expect("a status").leader.expect("a leader");
    let map = cluster.status().await.expect("a status").map;
    let address = map.nodes[&leader].address.clone();
    let index = cluster.nodes.iter().position(|n| n.address() == address).expect("is one of ours");
    cluster.nodes[index].stop().await;
    check_all(&cluster, "a").await;
    write_all(&cluster, "b").await;
    cluster.nodes[index].start().await;
    cluster.is_whole().await;
    check_all(&cluster, "b").await;
}

/// A seat in Raft is neither given twice nor taken away under another id.
async fn hold_on_to_seats(cluster: &TestCluster) {
    let (id, raft) = (cluster.cluster_id(), RaftId(99));
    let map = cluster.status().await.expect("a status").map;
    for node in &cluster.nodes {
        let prepared = call(&cluster.env, &node.address(), id, &PrepareLearner { raft }).await;
        assert_eq!(prepared.expect_err("has a seat").kind, Kind::Conflict);
        let retired = call(&cluster.env, &node.address(), id, &RetireLearner { raft }).await;
        retired.expect("is no seat of this node");
        let seat =
            map.nodes.values().find(|row| row.address == node.address()).expect("a row").raft;
        let raft = seat.expect("it votes");
        let retired = call(&cluster.env, &node.address(), id, &RetireLearner { raft }).await;
        assert_eq!(retired.expect_err("it votes").kind, Kind::Conflict);
        let status = call(&cluster.env, &node.address(), id, &GetNodeStatus {}).await;
        assert_ne!(status.expect("answers").raft_role, "none");
    }
}

/// A directory of one cluster is refused by another one, by a message that names both.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused_by_name() {
    let one = TestCluster::start(1, 1).await;
    let mut two = TestCluster::start(1, 1).await;
    let (ours, theirs) = (two.cluster_id(), one.cluster_id());
    two.nodes[0].stop().await;
    two.nodes[0].config.origin = Origin::Join(vec![one.nodes[0].address()]);
    let refused = Server::start(Env::real(), two.nodes[0].config.clone()).await;
    let refused = refused.err().expect("is refused");
    assert!(matches!(refused, StartError::Foreign { .. }), "{refused}");
    let message = refused.to_string();
    assert!(message.contains(&ours.to_string()), "{message}");
    assert!(message.contains(&theirs.to_string()), "{message}");
    let call = call(&one.env, &one.nodes[0].address(), ours, &GetMap { known: Epoch(0) }).await;
    let refused = call.expect_err("is refused");
    assert_eq!(refused.kind, Kind::Foreign);
    assert!(refused.message.contains(&ours.to_string()), "{refused}");
    assert!(refused.message.contains(&theirs.to_string()), "{refused}");
}

/// Two servers never run on one directory, and a directory without a cluster is not served.
#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_served_once_and_only_for_a_cluster() {
    let cluster = TestCluster::start(1, 1).await;
    let mut config = cluster.nodes[0].config.clone();
    config.listen = "127.0.0.1:0".into();
    let twice = Server::start(Env::real(), config).await.err().expect("is refused");
    assert!(matches!(twice, StartError::InUse { .. }), "{twice}");
    let fresh = TestNode::new(9, Origin::Existing);
    let alone = Server::start(Env::real(), fresh.config).await.err().expect("is refused");
    assert!(matches!(alone, StartError::NoCluster { .. }), "{alone}");
}

/// A node tells what it is, also to callers that are no leader's business.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_describes_itself() {
    let cluster = TestCluster::start(1, 1).await;
    let address = cluster.nodes[0].address();
    let ask = call(&cluster.env, &address, cluster.cluster_id(), &GetNodeStatus {});
    let status = ask.await.expect("answers");
    assert_eq!(status.raft_role, "leader");
    assert_eq!(status.disks.len(), 1);
    assert!(status.resident_bytes > 0 && status.cpu_seconds > 0.0);
    assert_ne!(cluster.cluster_id(), ClusterId::default());
}
