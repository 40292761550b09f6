//! What a request says before its body, and the file that says who a node is.

use crate::directory;
use crate::http::Encoding;
use crate::raft::rpc_of;
use crate::router::check_head;
use crate::services::check_block;
use http::{HeaderMap, HeaderName, HeaderValue};
use std::path::Path;

/// `node.json`, or the path and the headers of a request, one a line: `name: value`.
pub fn decode_head(bytes: &[u8]) {
    directory::check_node_file(Path::new("/d"), bytes);
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let path = String::from_utf8_lossy(lines.next().unwrap_or_default());
    let headers: HeaderMap = lines.filter_map(header).collect();
    check_head(&headers);
    check_block(&path, &headers);
    let _ = rpc_of(&path);
    let _ = Encoding::of(&headers);
}

fn header(line: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = HeaderName::from_bytes(&line[..colon]).ok()?;
    Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
}

/// Heads as our own programs send them, and a node's file.
pub fn samples_of_heads() -> Vec<Vec<u8>> {
    let cluster = "0123456789abcdef".repeat(2);
    let common = format!(
        "\neverhold-cluster: {cluster}\neverhold-format: 1\neverhold-timeout-ms: 250\n\
         content-type: application/x-postcard"
    );
    let node = format!(
        r#"{{"format":1,"uuid":"{cluster}","cluster":"{cluster}","node":3,"bootstrap":null,"disk_uuid":"{cluster}","disk":7,"raft":1,"raft_used":1,"peers":["a:1"]}}"#
    );
    let heads = [
        format!("/blocks/d3/pg7/b5-9\nrange: bytes=100-299{common}"),
        format!(
            "/blocks/d3/pg7/b5-9\neverhold-crc32c: 0a0b0c0d\neverhold-generation: 6\ncontent-length: 4096{common}"
        ),
        format!("/everhold.v1.Raft/append{common}"),
        format!("/everhold.v1.Meta/Execute{common}"),
        node,
    ];
    heads.map(String::into_bytes).to_vec()
}
