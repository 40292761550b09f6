//! Writes the corpus that fuzzing begins with: `cargo run --example seeds`, into `corpus/TARGET/`.

use std::path::Path;
use std::{fs, io};

/// Longer ones slow the search down more than they help it.
const SEED_BYTES_MAX: usize = 4096;

fn main() -> io::Result<()> {
    let all: [(&str, Vec<Vec<u8>>); _] = [
        ("proto_row", everhold_proto::fuzzing::samples_of_rows(2)),
        ("proto_answer", everhold_proto::fuzzing::samples_of_answers(4)),
        (
            "proto_text",
            texts(&["b7-9", "pg17", "n4294967295", "64MiB", "1.5 GiB", "0123456789abcdef"]),
        ),
        ("store_structure", everhold_store::fuzzing::samples_of_structures()),
        ("store_recovery", everhold_store::fuzzing::samples_of_logs()),
        ("store_model", everhold_store::fuzzing::samples_of_models()),
        ("raft_record", everhold_consensus::fuzzing::samples_of_records()),
        ("raft_message", everhold_consensus::fuzzing::samples_of_messages(2)),
        ("raft_recovery", everhold_consensus::fuzzing::samples_of_logs()),
        ("raft_model", everhold_consensus::fuzzing::samples_of_models()),
        ("server_request", everhold_server::fuzzing::samples_of_requests(1)),
        ("server_head", everhold_server::fuzzing::samples_of_heads()),
        ("server_state", everhold_server::fuzzing::samples_of_commands(24)),
        ("client_reply", everhold_client::fuzzing::samples_of_replies(2)),
    ];
    for (target, seeds) in all {
        write(target, seeds)?;
    }
    Ok(())
}

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

fn write(target: &str, seeds: Vec<Vec<u8>>) -> io::Result<()> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    fs::create_dir_all(&dir)?;
    for (number, seed) in seeds.iter().filter(|seed| seed.len() <= SEED_BYTES_MAX).enumerate() {
        fs::write(dir.join(format!("seed-{number:03}")), seed)?;
    }
    Ok(())
}
