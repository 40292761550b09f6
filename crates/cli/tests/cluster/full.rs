//! Disks that fill up.

use crate::common::{Cluster, noise};

/// Full disks refuse new data with a no-space error and lose nothing that they acknowledged;
/// removing works, and so do reads.
#[test]
fn full_disks_refuse_and_lose_nothing() {
    let cluster = Cluster::up(3, &["--capacity", "160MiB"]);
    let local = cluster.scratch().join("local");
    let put = |seed: u64| {
        std::fs::write(&local, noise(seed, 8 << 20)).unwrap();
        cluster.run(&["fs", "put", &local.display().to_string(), &format!("/f{seed}")])
    };
    let mut stored = Vec::new();
    let refused = (1..=40).find_map(|seed| {
        let output = put(seed);
        if output.status.success() {
            stored.push(seed);
            return None;
        }
        Some(output)
    });
    let refused = refused.expect("320 MiB do not fit into 160 MiB");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(7), "{text}");
    assert!(text.contains("space") && text.contains("\nhint: "), "{text}");
    assert!(stored.len() >= 5, "only {} files of 8 MiB fit", stored.len());
    for seed in &stored {
        let read = cluster.ok(&["fs", "cat", &format!("/f{seed}")]);
        assert!(read == noise(*seed, 8 << 20), "/f{seed} differs");
    }
    cluster.ok(&["fs", "rm", "/f1"]);
    cluster.ok(&["fs", "mkdir", "/still-works"]);
}
