//! `up` of a cluster that is there already, and orders to one of several local clusters.

use crate::common::{Cluster, eventually};
use rustix::process::test_kill_process;

/// A cluster comes back without a node that was drained, and without one that was removed.
#[test]
fn a_cluster_is_started_again_without_a_removed_node() {
    let mut cluster = Cluster::up(5, &["--zones", "5"]);
    cluster.wait_redundant();
    cluster.ok(&["node", "drain", "5", "--wait"]);
    cluster.ok(&["node", "remove", "5"]);
    cluster.ok(&["node", "drain", "4"]);
    cluster.up_again();
    let status = cluster.try_status().expect("it has a leader when `up` says so");
    let nodes = status["nodes"].as_array().expect("nodes");
    assert_eq!(nodes.len(), 4, "{status}");
    assert!(nodes.iter().all(|node| node["state"] == "up"), "{status}");
    orders_go_to_the_cluster_that_is_named(&cluster);
}

/// The cluster that is named is meant: its node is stopped and started, or nothing is done.
fn orders_go_to_the_cluster_that_is_named(cluster: &Cluster) {
    let addresses = cluster.addresses();
    let order = |named: &str, arguments: &[&str]| {
        let mut command = cluster.command(&["--cluster", named, "node"]);
        command.args(arguments).output().expect("it runs")
    };
    let refused = order("127.0.0.1:9", &["stop", "2"]);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("127.0.0.1:9"), "{said}");
    let pid = crate::common::process(cluster.pid(2));
    assert!(test_kill_process(pid).is_ok(), "node 2 runs");
    let stopped = order(&addresses[&1], &["stop", "2", "--kill"]);
    assert!(stopped.status.success(), "{}", String::from_utf8_lossy(&stopped.stderr));
    eventually("node 2 to end", || (!cluster.serves(2)).then_some(()));
    let started = order(&addresses[&3], &["start", "2"]);
    assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
    assert!(cluster.serves(2));
}
