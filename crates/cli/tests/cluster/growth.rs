//! A cluster that grows while it runs, and shrinks: disks and nodes are added, the copies spread over them, and a disk is
//! removed.

use crate::common::{Cluster, eventually, everhold, noise};
use serde_json::Value;
use std::process::{Child, Stdio};

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing left to stop.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("it is bound").to_string()
}

fn places(rebalance: &Value) -> Vec<u64> {
    let shares = rebalance["shares"].as_array().expect("shares").iter();
    shares.map(|share| share["places"].as_u64().expect("a number")).collect()
}

/// A disk comes into service without a restart, a directory that is in use is refused, and the disk is there again
/// after its node was killed; drained, it is removed, and stays so. What a dry run says is what a rebalance moves; then nothing is left to move.
#[test]
fn disks_and_nodes_come_and_go_while_it_runs() {
    let cluster = Cluster::up(3, &["--capacity", "512MiB"]);
    let local = cluster.scratch().join("local");
    std::fs::write(&local, noise(7, 8 << 20)).unwrap();
    cluster.ok(&["fs", "put", &local.display().to_string(), "/f"]);

    let mount = cluster.scratch().join("disk");
    std::fs::create_dir(&mount).unwrap();
    std::fs::write(mount.join("photo"), b"mine").unwrap();
    let path = mount.display().to_string();
    let refused = cluster.run(&["disk", "add", "2", &path, "--capacity", "512MiB"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("not empty"));
    std::fs::remove_file(mount.join("photo")).unwrap();
    let added = cluster.json(&["disk", "add", "2", &path, "--capacity", "512MiB"]);
    let again = cluster.json(&["disk", "add", "2", &path, "--capacity", "512MiB"]);
    assert_eq!(added["disk"], again["disk"], "asked again, it is the same disk");
    let disks = cluster.json(&["disk", "ls"]);
    assert_eq!(disks.as_array().unwrap().len(), 4);

    let address = free_address();
    let dir = cluster.scratch().join("node4");
    let words =
        ["node", "add", &address, "--listen", "127.0.0.1", "--zone", "z1", "--capacity", "512MiB"];
    let dir_words = ["--dir", &dir.display().to_string()];
    let told = cluster.json(&[&words[..], &dir_words[..], &["--no-wait"][..]].concat());
    let command: Vec<&str> =
        told["command"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
    let mut server = everhold(&cluster.scratch().join("state"));
    server.args(&command[1..]).args(["--segment-size", "32MiB"]);
    let log = std::fs::File::create(cluster.scratch().join("node4.log")).unwrap();
    let _server = Server(server.stderr(log).stdout(Stdio::null()).spawn().expect("it starts"));
    // Whether it was there before or comes while the command waits: the command ends when it is in service.
    let up = eventually("the node to be up", || {
        let nodes = cluster.json(&["node", "ls"]);
        let node =
            nodes.as_array().unwrap().iter().find(|n| n["address"] == address.as_str())?.clone();
        (node["state"] == "up").then_some(node)
    });
    let refused = cluster.run(&[&words[..], &dir_words[..]].concat());
    assert_eq!(refused.status.code(), Some(8), "{up} is in the cluster already");

    cluster.wait_redundant();
    let dry = cluster.json(&["rebalance", "start", "--dry-run"]);
    assert_eq!(dry["ordered"], false);
    let done = cluster.json(&["rebalance", "start", "--wait"]);
    assert_eq!((&done["exact_moves"], &done["in_motion"]), (&0.into(), &0.into()));
    assert!(places(&done).iter().all(|places| *places > 0), "every disk has places: {done}");

    cluster.kill_at_once(&[2]);
    cluster.start(&[2]);
    cluster.wait_redundant();
    let disks = cluster.json(&["disk", "ls"]);
    let disk =
        disks.as_array().unwrap().iter().find(|disk| disk["id"] == added["disk"]).unwrap().clone();
    assert_eq!((&disk["state"], &disk["node"]), (&"in".into(), &2.into()));
    assert!(cluster.ok(&["fs", "cat", "/f"]) == noise(7, 8 << 20));

    let id = added["disk"].to_string();
    assert_eq!(cluster.run(&["disk", "remove", &id]).status.code(), Some(8), "it is not drained");
    let first = disks.as_array().unwrap().iter().find(|disk| disk["node"] == 2).unwrap();
    assert_ne!(first["id"], added["disk"]);
    let refused = cluster.run(&["disk", "remove", &first["id"].to_string()]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("everhold node remove n2"));
    cluster.ok(&["disk", "drain", &id]);
    let removed = eventually("the disk to be empty and removed", || {
        let removed = cluster.run(&["--json", "disk", "remove", &id]);
        removed.status.success().then(|| serde_json::from_slice::<Value>(&removed.stdout).unwrap())
    });
    assert_eq!(removed["path"], path.as_str());
    assert_eq!(cluster.run(&["disk", "remove", &id]).status.code(), Some(3), "it is gone");
    std::fs::remove_dir_all(mount.join("everhold")).unwrap();
    cluster.kill_at_once(&[2]);
    cluster.start(&[2]);
    cluster.wait_redundant();
    let left = cluster.json(&["disk", "ls"]);
    let left = left.as_array().unwrap();
    assert!(left.iter().all(|disk| disk["id"] != added["disk"]), "{left:?}");
    assert!(cluster.ok(&["fs", "cat", "/f"]) == noise(7, 8 << 20));
    let anew = cluster.json(&["disk", "add", "2", &path, "--capacity", "512MiB"]);
    assert_ne!(anew["disk"], added["disk"], "numbers are given once");
}
