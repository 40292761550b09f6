//! The everyday commands.

use crate::common::{Cluster, noise};

/// Files and trees go in, are listed, moved, linked and come out the same; errors have their codes.
#[test]
fn files_go_in_and_come_out() {
    let cluster = Cluster::up(3, &[]);
    let scratch = cluster.scratch();
    let tree = scratch.join("tree");
    std::fs::create_dir_all(tree.join("sub/empty")).unwrap();
    let files = [("small", 10), ("inline", 8 << 10), ("sub/block", 300_000), ("sub/big", 9 << 20)];
    for (seed, (name, size)) in (1..).zip(files) {
        std::fs::write(tree.join(name), noise(seed, size)).unwrap();
    }
    std::fs::write(tree.join("zero"), "").unwrap();
    std::os::unix::fs::symlink("small", tree.join("link")).unwrap();
    let local = tree.display().to_string();

    cluster.ok(&["fs", "put", &local, "/tree"]);
    let listed = String::from_utf8(cluster.ok(&["fs", "ls", "/tree"])).unwrap();
    assert_eq!(listed, "inline\nlink\nsmall\nsub\nzero\n");
    for (seed, (name, size)) in (1..).zip(files) {
        let bytes = cluster.ok(&["fs", "cat", &format!("/tree/{name}")]);
        assert!(bytes == noise(seed, size), "{name} differs");
    }
    let back = scratch.join("back");
    cluster.ok(&["fs", "get", "/tree", &back.display().to_string()]);
    for (seed, (name, size)) in (1..).zip(files) {
        assert!(std::fs::read(back.join(name)).unwrap() == noise(seed, size), "{name} differs");
    }
    assert!(back.join("sub/empty").is_dir());
    assert_eq!(std::fs::read(back.join("zero")).unwrap(), b"");
    assert_eq!(std::fs::read_link(back.join("link")).unwrap().to_str(), Some("small"));

    cluster.ok(&["fs", "cp", "-r", "/tree", "/copy"]);
    cluster.ok(&["fs", "mv", "/copy/small", "/copy/renamed"]);
    cluster.ok(&["fs", "ln", "/copy/renamed", "/copy/hard"]);
    assert_eq!(cluster.ok(&["fs", "cat", "/copy/hard"]), noise(1, 10));
    cluster.ok(&["fs", "set", "--consistency", "strict", "/copy/hard"]);
    let stat = cluster.json(&["fs", "stat", "/copy/hard"]);
    assert_eq!(stat[0]["consistency"], "strict");
    assert_eq!((stat[0]["size"].as_u64(), stat[0]["nlink"].as_u64()), (Some(10), Some(2)));
    cluster.ok(&["fs", "tree", "/"]);
    cluster.ok(&["fs", "du", "/"]);
    cluster.ok(&["fs", "df"]);
    assert_eq!(cluster.run(&["fs", "rm", "/copy"]).status.code(), Some(1), "a directory needs -r");
    cluster.ok(&["fs", "rm", "-r", "/copy"]);
    assert_eq!(cluster.run(&["fs", "stat", "/copy"]).status.code(), Some(3));
    cluster.ok(&["fs", "mkdir", "/d"]);
    assert_eq!(cluster.run(&["fs", "mkdir", "/d"]).status.code(), Some(8));
    cluster.ok(&["fs", "mkdir", "-p", "/d/e/f"]);
}

/// Standard input and output, and what the status commands print.
#[test]
fn pipes_and_status() {
    use std::io::Write;
    use std::process::Stdio;
    let cluster = Cluster::up(3, &[]);
    let data = noise(9, 5 << 20);
    let mut put = cluster.command(&["fs", "put", "-", "/piped"]);
    let mut put = put.stdin(Stdio::piped()).spawn().unwrap();
    put.stdin.take().unwrap().write_all(&data).unwrap();
    assert!(put.wait().unwrap().success());
    assert!(cluster.ok(&["fs", "get", "/piped", "-"]) == data);

    let status = cluster.json(&["status"]);
    let nodes = status["nodes"].as_array().unwrap();
    assert_eq!(nodes.len(), 3);
    assert_eq!(nodes.iter().filter(|node| node["leader"] == true).count(), 1);
    for (number, node) in (1..).zip(nodes) {
        assert_eq!(node["id"], number);
        assert_eq!(node["zone"], format!("z{number}"));
        assert_eq!(node["pid"], cluster.pid(number));
        assert_eq!(node["state"], "up");
        assert_eq!(node["voter"], true);
        assert_eq!(node["address"], cluster.addresses()[&number]);
    }
    assert_eq!(status["redundancy"]["redundant"], true);
    assert!(!cluster.json(&["pg", "ls"]).as_array().unwrap().is_empty());
    assert!(!cluster.json(&["events"]).as_array().unwrap().is_empty());
    cluster.ok(&["repair", "ls"]);
    cluster.ok(&["node", "ls"]);
    cluster.ok(&["node", "maintenance", "2", "on"]);
    assert_eq!(Cluster::node_of(&cluster.json(&["status"]), 2)["maintenance"], true);
    cluster.ok(&["node", "maintenance", "2", "off"]);
    assert_eq!(cluster.run(&["node", "stop", "9"]).status.code(), Some(3));
}
