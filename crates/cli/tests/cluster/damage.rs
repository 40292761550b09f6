//! Damage at rest: what a disk gives back wrong or not at all.

use crate::common::{Cluster, eventually, noise};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Where `pattern` lies in the segment files of a node.
fn find(cluster: &Cluster, number: u32, pattern: &[u8]) -> Option<(PathBuf, u64)> {
    let segments = cluster.node_dir(number).join("disk0/segments");
    for entry in std::fs::read_dir(segments).ok()? {
        let path = entry.ok()?.path();
        let bytes = std::fs::read(&path).ok()?;
        if let Some(at) = position(&bytes, pattern) {
            return Some((path, at as u64));
        }
    }
    None
}

fn position(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    // Blocks begin on page boundaries of 4 KiB; the pattern is the first of a block.
    (0..bytes.len().saturating_sub(pattern.len()))
        .step_by(4096)
        .find(|at| &bytes[*at..at + pattern.len()] == pattern)
}

fn byte_at(path: &PathBuf, at: u64) -> u8 {
    let mut byte = [0];
    File::open(path).unwrap().read_exact_at(&mut byte, at).unwrap();
    byte[0]
}

/// A bit that flips in a segment file is never returned to a reader; the copy is made good again.
#[test]
fn a_flipped_bit_is_never_read_and_is_repaired() {
    let cluster = Cluster::up(3, &[]);
    let data = noise(5, 1 << 20);
    let local = cluster.scratch().join("local");
    std::fs::write(&local, &data).unwrap();
    cluster.ok(&["fs", "put", &local.display().to_string(), "/f"]);
    cluster.wait_redundant();
    let (path, at) = find(&cluster, 1, &data[..256]).expect("node 1 holds a copy");
    let flipped = at + 70_000;
    let good = byte_at(&path, flipped);
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(&[good ^ 0x10], flipped).unwrap();
    file.sync_all().unwrap();

    // Every read is right, whichever copy it comes from; one of them finds the bad copy. A copy
    // that is good again stands elsewhere in the log, or in its old place.
    eventually("the bad copy to be found and replaced", || {
        let read = cluster.ok(&["fs", "cat", "/f"]);
        assert!(read == data, "a reader was given wrong bytes");
        let status = cluster.try_status()?;
        let found = Cluster::node_of(&status, 1)["checksum_errors"].as_u64()? > 0;
        let whole = status["redundancy"]["redundant"] == true;
        let copy_is_good = || {
            let segments = cluster.node_dir(1).join("disk0/segments");
            let mut files = std::fs::read_dir(segments).ok()?.filter_map(|e| Some(e.ok()?.path()));
            files.find(|path| {
                let bytes = std::fs::read(path).unwrap_or_default();
                (0..bytes.len().saturating_sub(data.len()))
                    .step_by(4096)
                    .any(|at| bytes[at..at + data.len()] == data[..])
            })
        };
        (found && whole && copy_is_good().is_some()).then_some(())
    });
}

/// An index that is gone is rebuilt from the segments: nothing is fetched from other nodes.
#[test]
fn a_lost_index_is_rebuilt() {
    let cluster = Cluster::up(3, &[]);
    let data = noise(6, 12 << 20);
    let local = cluster.scratch().join("local");
    std::fs::write(&local, &data).unwrap();
    cluster.ok(&["fs", "put", &local.display().to_string(), "/f"]);
    let blocks = Cluster::node_of(&cluster.wait_redundant(), 2)["blocks"].clone();
    assert!(blocks.as_u64() > Some(0));
    cluster.ok(&["node", "stop", "2"]);
    std::fs::remove_file(cluster.node_dir(2).join("disk0/index.redb")).expect("it has an index");
    cluster.start(&[2]);
    let status = cluster.wait_redundant();
    let node = Cluster::node_of(&status, 2);
    assert_eq!(node["blocks"], blocks);
    assert_eq!(node["fetched_blocks"], 0, "the blocks were still in the segments");
    assert!(cluster.ok(&["fs", "cat", "/f"]) == data);
}
