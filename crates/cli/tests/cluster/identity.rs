//! Nodes of other clusters and of other formats are refused by name.

use crate::common::{Cluster, everhold, noise};
use everhold_proto::codec::FORMAT_VERSION;
use serde_json::Value;
use std::process::Output;

fn server(cluster: &Cluster, number: u32, arguments: &[&str]) -> Output {
    let mut command = everhold(cluster.scratch());
    command.args(["server", "--listen", "127.0.0.1:0", "--dir"]).arg(cluster.node_dir(number));
    command.args(arguments).output().expect("the binary runs")
}

/// A directory of one cluster does not join another one; a format of another version is refused.
/// Both messages name both sides.
#[test]
fn foreign_nodes_and_formats_are_refused() {
    let cluster = Cluster::up(3, &[]);
    let ours = cluster.json(&["status"])["cluster"].as_str().unwrap().to_string();
    cluster.ok(&["node", "stop", "3"]);
    let file = cluster.node_dir(3).join("node.json");
    let original: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    let address = cluster.addresses()[&1].clone();

    let mut foreign = original.clone();
    let theirs = "0123456789abcdef0123456789abcdef";
    foreign["cluster"] = theirs.into();
    foreign["peers"] = Value::Array(vec![]);
    std::fs::write(&file, foreign.to_string()).unwrap();
    let output = server(&cluster, 3, &["--join", &address]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{text}");
    assert!(text.contains(theirs) && text.contains(&ours), "{text}");

    let mut older = original.clone();
    older["format"] = 0.into();
    std::fs::write(&file, older.to_string()).unwrap();
    let output = server(&cluster, 3, &["--join", &address]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(9), "{text}");
    assert!(
        text.contains("format 0") && text.contains(&format!("format {FORMAT_VERSION}")),
        "{text}"
    );

    std::fs::write(&file, original.to_string()).unwrap();
    cluster.start(&[3]);
    cluster.wait_redundant();
}

/// A client that speaks for another cluster, or in another format, is told so by any node.
#[test]
fn foreign_callers_are_refused() {
    use std::io::{Read, Write};
    let cluster = Cluster::up(3, &[]);
    let ours = cluster.json(&["status"])["cluster"].as_str().unwrap().to_string();
    let ask = |headers: &str| {
        let address = cluster.addresses()[&1].clone();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        let request = format!(
            "POST /everhold.v1.Meta/GetMap HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\n{headers}content-length: 11\r\n\r\n{{\"known\":0}}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    let theirs = "fedcba9876543210fedcba9876543210";
    let answer =
        ask(&format!("everhold-cluster: {theirs}\r\neverhold-format: {FORMAT_VERSION}\r\n"));
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(answer.contains(theirs) && answer.contains(&ours), "{answer}");
    let answer = ask(&format!("everhold-cluster: {ours}\r\neverhold-format: 77\r\n"));
    assert!(answer.starts_with("HTTP/1.1 421"), "{answer}");
    assert!(
        answer.contains("format 77") && answer.contains(&format!("format {FORMAT_VERSION}")),
        "{answer}"
    );
    let local = cluster.scratch().join("local");
    std::fs::write(&local, noise(1, 1000)).unwrap();
    cluster.ok(&["fs", "put", &local.display().to_string(), "/f"]);
}
