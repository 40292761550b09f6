//! Bytes from strangers.

use crate::common::{Cluster, noise};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// Sends bytes and reads whatever comes until the node closes or half a second passes.
fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).expect("the node listens");
    stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    // The node may close while we still write: that is its right.
    let _ = stream.write_all(bytes);
    let _ = stream.read(&mut [0; 4096]);
}

fn post(path: &str, length: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\neverhold-format: 1\r\n\
         content-type: application/x-postcard\r\ncontent-length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Random bytes, truncated messages and impossible lengths, to every port: the nodes stay and serve.
#[test]
fn hostile_bytes_leave_the_nodes_serving() {
    let cluster = Cluster::up(3, &[]);
    let pids: Vec<u32> = (1..=3).map(|n| cluster.pid(n)).collect();
    let paths = [
        "/everhold.v1.Meta/Execute",
        "/everhold.v1.Meta/Query",
        "/everhold.v1.Cluster/Heartbeat",
        "/everhold.v1.Cluster/Compared",
        "/everhold.v1.Node/PrepareLearner",
        "/everhold.v1.Raft/append",
        "/everhold.v1.Raft/vote",
        "/everhold.v1.Raft/snapshot",
        "/blocks/d1/pg1/b1-1",
        "/nowhere",
    ];
    for address in cluster.addresses().values() {
        for seed in 0..10 {
            send(address, &noise(seed, 2000));
        }
        for (seed, path) in (100..).zip(paths) {
            let body = noise(seed, 500);
            send(address, &post(path, "500", &body));
            send(address, &post(path, "5000", &body)[..300.min(body.len())]);
            send(address, &post(path, "18446744073709551615", &body));
            send(address, &post(path, "99999999999999999999999", &body));
            send(address, &post(path, "-1", &body));
            // Lengths inside the message that promise far more than there is.
            send(address, &post(path, "12", &[0xff; 12]));
        }
        for block in
            ["/blocks/", "/blocks/d1", "/blocks/d99999999999/pg1/b1-1", "/blocks/../../etc"]
        {
            let put =
                format!("PUT {block} HTTP/1.1\r\nhost: x\r\ncontent-length: 9999999999\r\n\r\nx");
            send(address, put.as_bytes());
            send(address, format!("GET {block} HTTP/1.1\r\nrange: bytes=9-1\r\n\r\n").as_bytes());
        }
        send(address, &[b"GET / HTTP/1.1\r\nx: "[..].to_vec(), vec![b'y'; 1 << 20]].concat());
        send(address, b"GET /status HTTP/1.1\r\nhost: x\r\n");
    }
    let data = noise(7, 3 << 20);
    let local = cluster.scratch().join("local");
    std::fs::write(&local, &data).unwrap();
    cluster.ok(&["fs", "put", &local.display().to_string(), "/f"]);
    assert!(cluster.ok(&["fs", "cat", "/f"]) == data);
    let status = cluster.wait_redundant();
    for (number, pid) in (1..).zip(pids) {
        assert_eq!(Cluster::node_of(&status, number)["pid"], pid, "node {number} was not replaced");
    }
}
