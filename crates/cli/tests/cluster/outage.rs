//! Nodes that go away and come back.

use crate::common::{Cluster, eventually, noise};
use std::time::Duration;

/// A node that was away for 20 s fetches what was written meanwhile, and little else.
#[test]
fn a_node_that_returns_fetches_only_what_it_missed() {
    const BEFORE: u64 = 12;
    const AWAY: u64 = 4;
    const FILE_BYTES: usize = 4 << 20;
    let cluster = Cluster::up(3, &[]);
    let local = cluster.scratch().join("local");
    let put = |seed: u64| {
        std::fs::write(&local, noise(seed, FILE_BYTES)).unwrap();
        cluster.ok(&["fs", "put", &local.display().to_string(), &format!("/f{seed}")]);
    };
    (0..BEFORE).for_each(put);
    let blocks_before = Cluster::node_of(&cluster.wait_redundant(), 3)["blocks"].as_u64();
    cluster.kill_at_once(&[3]);
    // The outage: long enough for the node to be given up (Out) before it returns.
    let returns = std::time::Instant::now() + Duration::from_secs(20);
    (BEFORE..BEFORE + AWAY).for_each(put);
    eventually("20 s to pass", || (std::time::Instant::now() >= returns).then_some(()));
    cluster.start(&[3]);
    let status = cluster.wait_redundant();
    let node = Cluster::node_of(&status, 3);
    let written_away = AWAY * FILE_BYTES as u64;
    let fetched = node["fetched_bytes"].as_u64().unwrap();
    assert!(fetched >= written_away, "it fetched {fetched} of {written_away} bytes");
    assert!(fetched * 2 <= written_away * 3, "it fetched {fetched}, missed {written_away} bytes");
    assert_eq!(node["blocks"].as_u64(), blocks_before.map(|blocks| blocks + AWAY));
    for seed in 0..BEFORE + AWAY {
        let read = cluster.ok(&["fs", "cat", &format!("/f{seed}")]);
        assert!(read == noise(seed, FILE_BYTES), "/f{seed} differs");
    }
}
