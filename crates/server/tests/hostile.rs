//! Whatever is sent to the port, the node goes on serving.

mod common;

use common::{TestCluster, call, pattern};
use everhold_proto::rpc::{GetNodeStatus, Hello, Rpc};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sends `bytes`, reads what comes back for a moment, and closes.
async fn send(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.expect("the port accepts");
    // The server may close as soon as it has seen enough.
    let _ = stream.write_all(bytes).await;
    let mut answer = vec![0; 64 << 10];
    let reading = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut answer));
    let length = reading.await.ok().and_then(Result::ok).unwrap_or(0);
    answer.truncate(length);
    answer
}

async fn still_serves(cluster: &TestCluster) {
    let address = cluster.nodes[0].address();
    let asked = call(&cluster.env, &address, cluster.cluster_id(), &GetNodeStatus {}).await;
    assert_eq!(asked.expect("still serves").raft_role, "leader");
}

/// Random bytes, cut-off requests, impossible lengths and malformed bodies are answered or cut off.
#[tokio::test(flavor = "multi_thread")]
async fn hostile_bytes_do_no_harm() {
    let cluster = TestCluster::start(1, 1).await;
    let address = cluster.nodes[0].address();
    for seed in 0..20 {
        send(&address, &pattern(seed, 1 + (seed as usize * 337) % 5000)).await;
    }
    still_serves(&cluster).await;
    let id = cluster.cluster_id();
    let head = |method: &str, path: &str, length: &str, more: &str| {
        format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\neverhold-cluster: {id}\r\n\
             everhold-format: 1\r\ncontent-length: {length}\r\n{more}\r\n"
        )
    };
    let postcard = "content-type: application/x-postcard\r\n";
    let mut requests = vec![
        head("POST", Hello::PATH, "99999999999999", postcard),
        head("POST", Hello::PATH, "99999999999999999999999999", postcard),
        head("POST", "/everhold.v1.Meta/Execute", "8388609", postcard),
        head("POST", "/everhold.v1.Raft/append", "16", postcard) + "xxxxxxxxxxxxxxxx",
        head("POST", "/everhold.v1.Raft/nothing", "0", postcard),
        head("POST", "/nothing", "0", ""),
        head("PATCH", "/status", "0", ""),
        head(
            "PUT",
            "/blocks/d1/pg1/b1-1",
            "5000000",
            "everhold-crc32c: 0\r\neverhold-generation: 1\r\n",
        ),
        head("PUT", "/blocks/d1/pg1/b1-1", "0", "everhold-crc32c: 0\r\neverhold-generation: 1\r\n"),
        head("PUT", "/blocks/d1/pg1/b1-1", "4", "everhold-generation: 1\r\n") + "abcd",
        head("PUT", "/blocks/../pg1/b1-1", "4", "") + "abcd",
        head("GET", "/blocks/d1/pg1/b1-1", "0", "range: bytes=7-3\r\n"),
        "GET / HTTP/1.1\r\n".to_string() + &"x: y\r\n".repeat(1000) + "\r\n",
        "GET /".to_string() + &"a".repeat(2 << 20),
    ];
    for path in ["Meta/Execute", "Meta/Query", "Cluster/Heartbeat", "Admin/ChangeMap"] {
        let path = format!("/everhold.v1.{path}");
        requests.push(head("POST", &path, "5", postcard) + "\u{7f}\u{7f}\u{7f}\u{7f}\u{7f}");
        requests.push(head("POST", &path, "500", postcard) + "cut");
        requests.push(head("POST", &path, "7", "content-type: application/json\r\n") + "{\"a\":[}");
    }
    for request in &requests {
        let answer = send(&address, request.as_bytes()).await;
        assert!(!answer.starts_with(b"HTTP/1.1 200"), "{request:.200} was taken");
    }
    still_serves(&cluster).await;
}

/// Connections that never finish a request hold nobody else up.
#[tokio::test(flavor = "multi_thread")]
async fn slow_senders_hold_nobody_up() {
    let cluster = TestCluster::start(1, 1).await;
    let address = cluster.nodes[0].address();
    let mut slow = Vec::new();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&address).await.expect("the port accepts");
        stream.write_all(b"POST /everhold.v1.Meta/Query HTTP/1.1\r\nx:").await.expect("sends");
        slow.push(stream);
    }
    still_serves(&cluster).await;
    drop(slow);
}

/// People with curl get JSON and text without knowing any header.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_for_everyone() {
    let cluster = TestCluster::start(1, 1).await;
    let address = cluster.nodes[0].address();
    for (path, wanted) in [
        ("/health", "ok"),
        ("/readyz", "ready"),
        ("/status", "\"raft_role\":\"leader\""),
        ("/metrics", "everhold_blocks"),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = send(&address, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(wanted), "{answer}");
    }
    let body = "{\"limit\":5}";
    let request = format!(
        "POST /everhold.v1.Admin/GetEvents HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = send(&address, request.as_bytes()).await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
}

/// Who reaches the port can neither take a node out of Raft, nor give it a seat under an id that was never given.
#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_decide_about_seats() {
    let cluster = TestCluster::start(1, 1).await;
    let address = cluster.nodes[0].address();
    for (call, raft) in [("RetireLearner", 1), ("PrepareLearner", u64::MAX)] {
        let body = format!("{{\"raft\":{raft}}}");
        let request = format!(
            "POST /everhold.v1.Node/{call} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = send(&address, request.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(answer.starts_with("HTTP/1.1 409"), "{call}: {answer}");
    }
    still_serves(&cluster).await;
}
