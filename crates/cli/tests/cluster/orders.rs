//! What an operator orders: health, policies, labels, scrubs, and a node that leaves.

use crate::common::{Cluster, noise};
use serde_json::Value;

fn refused(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.run(arguments);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(8), "{arguments:?}: {text}");
    assert!(text.contains("\nhint: "), "{text}");
    text
}

fn state_of(disks: &Value, number: u32) -> Value {
    disks.as_array().unwrap().iter().find(|disk| disk["node"] == number).unwrap()["state"].clone()
}

/// What the topology cannot keep is refused with the reason; what it can is done; a drained node leaves, and
/// what was stored is there.
#[test]
fn orders_are_carried_out_or_refused_with_the_reason() {
    let cluster = Cluster::up(4, &[]);
    let local = cluster.scratch().join("local");
    std::fs::write(&local, noise(1, 3 << 20)).unwrap();
    cluster.ok(&["fs", "put", &local.display().to_string(), "/f"]);
    assert_eq!(cluster.json(&["health"])["healthy"], true);

    let text = refused(&cluster, &["policy", "set", "--replicas", "4", "--spread", "zone"]);
    assert!(text.contains("4 copies over as many zones, and there are 3"), "{text}");
    cluster.ok(&["policy", "set", "--replicas", "3", "--spread", "zone"]);
    assert_eq!(cluster.json(&["policy", "ls"])[0]["spread"], "zone");

    // Nodes 1 and 4 share a zone; without node 2 there are two zones for three copies.
    let text = refused(&cluster, &["node", "drain", "2"]);
    assert!(text.contains("n2 cannot be drained") && text.contains("zones"), "{text}");
    refused(&cluster, &["node", "label", "2", "--zone", "z3"]);
    refused(&cluster, &["node", "remove", "4"]);
    cluster.ok(&["node", "label", "4", "--rack", "r4"]);

    let scrubbed = cluster.json(&["scrub", "start", "--wait"]);
    assert_eq!(scrubbed.as_array().unwrap().len(), 4);
    for disk in scrubbed.as_array().unwrap() {
        assert_eq!((&disk["urgent_passes"], &disk["bad_blocks"]), (&1.into(), &0.into()));
    }

    cluster.ok(&["node", "drain", "4", "--wait"]);
    assert_eq!(state_of(&cluster.json(&["disk", "ls"]), 4), "draining");
    cluster.ok(&["node", "remove", "4"]);
    let nodes = cluster.json(&["node", "ls"]);
    assert_eq!(nodes.as_array().unwrap().len(), 3);
    let told = cluster.json(&["events", "--of", "n4"]);
    let told: Vec<&str> =
        told.as_array().unwrap().iter().map(|event| event["text"].as_str().unwrap()).collect();
    assert!(told.last().unwrap().contains("removed by an operator"), "{told:?}");
    assert!(cluster.ok(&["fs", "cat", "/f"]) == noise(1, 3 << 20));

    cluster.kill_at_once(&[2]);
    let health = crate::common::eventually("health warns of the killed node", || {
        let output = cluster.run(&["health", "--json"]);
        output.status.code().filter(|code| [10, 11].contains(code)).map(|_| output.stdout)
    });
    let health: Value = serde_json::from_slice(&health).unwrap();
    assert_eq!(health["healthy"], false);
    let findings = health["findings"].as_array().unwrap();
    assert!(findings.iter().all(|f| !f["remedy"].as_str().unwrap().is_empty()), "{findings:?}");
}
