//! One replica alone.

use super::*;

#[test]
fn applies_answers_and_remembers() {
    run(async {
        let mut group = Group::of(1, small(), 1).await;
        for i in 0..50 {
            group.propose(&format!("c{i}")).await;
        }
        let before = contents(&group.replica(1));
        assert_eq!(before.len(), 50);
        assert!(before.values().all(|count| *count == 1));
        assert_eq!(group.replica(1).identity().boot_counter, 1);
        group.stop(1).await;
        let reopened = group.reopen(1).await;
        assert_eq!(reopened.identity().boot_counter, 2);
        group.leader().await;
        assert_eq!(contents(&reopened), before);
    });
}

/// An index that a read is given belongs to the very state that it sees.
#[test]
fn a_read_knows_its_position() {
    run(async {
        let group = Group::of(1, small(), 2).await;
        let replica = group.replica(1);
        let index = group.propose("c").await;
        let covered = replica.barrier(soon()).await.unwrap();
        assert!(covered >= index);
        let (seen, found) = replica.read(|kv, at| Ok((at, kv.get(b"c")?))).unwrap();
        assert!(seen >= covered && found.is_some());
        assert_eq!(replica.status().applied, seen);
    });
}

#[test]
fn proposals_are_bounded_in_size_number_and_time() {
    run(async {
        let group = Group::of(1, ConsensusConfig { proposals_max: 1, ..small() }, 3).await;
        let replica = group.replica(1);
        let large = Bytes::from(vec![0; group.config.command_bytes_max() + 1]);
        assert_eq!(replica.propose(large, soon()).await.unwrap_err().kind, Kind::Invalid);
        let (first, second) = tokio::join!(
            replica.propose(Bytes::from_static(b"a"), soon()),
            replica.propose(Bytes::from_static(b"b"), soon()),
        );
        assert!(first.is_ok());
        assert_eq!(second.unwrap_err().kind, Kind::Busy);
        let late = replica.propose(Bytes::from_static(b"c"), Instant::now()).await;
        assert_eq!(late.unwrap_err().kind, Kind::Retry);
        assert_eq!(contents(&replica).len(), 1);
    });
}

#[test]
fn the_largest_command_fits() {
    run(async {
        let group = Group::of(1, small(), 4).await;
        let largest = Bytes::from(vec![b'x'; group.config.command_bytes_max()]);
        group.replica(1).propose(largest, soon()).await.unwrap();
    });
}

/// The log is trimmed as it grows, never beyond what is durable elsewhere.
#[test]
fn the_log_is_purged_by_bytes() {
    run(async {
        let mut group = Group::of(1, small(), 5).await;
        for i in 0..600 {
            group.propose(&format!("{i:0300}")).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        let files = group.nodes[&1].disk.clone();
        let files = everhold_env::Disk::list(&files, Path::new("/raft/log")).await.unwrap();
        assert!(files.len() < 20, "{} files for 600 pages of frames", files.len());
        group.crash(1, Some(9));
        let reopened = group.reopen(1).await;
        group.leader().await;
        assert_eq!(contents(&reopened).len(), 600);
    });
}

#[test]
fn founding_twice_is_a_conflict() {
    run(async {
        let group = Group::of(1, small(), 6).await;
        let again = group.replica(1).initialize(raft_node(1)).await;
        assert_eq!(again.unwrap_err().kind, Kind::Conflict);
    });
}

/// What was applied and is in memory only, or committed without a sync, is read, and applied again after a power loss.
#[test]
fn what_is_in_memory_survives_a_power_loss() {
    run(async {
        let config = ConsensusConfig { snapshot_log_bytes: 1 << 30, ..lazy() };
        let mut group = Group::of(1, config, 7).await;
        for i in 0..80 {
            group.propose(&format!("{i:020000}")).await; // 1.6 MB, more than may gather
        }
        let replica = group.replica(1);
        let status = replica.status();
        assert!(
            status.durable_applied < LogIndex(10) && status.applied >= LogIndex(80),
            "{status:?}"
        );
        let before = contents(&replica);
        assert!(before.len() == 80 && before.values().all(|count| *count == 1));
        drop(replica);
        group.crash(1, Some(3));
        let reopened = group.reopen(1).await;
        group.leader().await;
        assert_eq!(contents(&reopened), before);
    });
}

/// A command that fails half done ends the replica: nothing of it is read, and nothing is applied after it.
#[test]
fn a_failed_command_leaves_no_trace() {
    run(async {
        let group = Group::of(1, lazy(), 8).await;
        let last = group.propose("before").await;
        let replica = group.replica(1);
        let broken = replica.propose(Bytes::from_static(BROKEN.as_bytes()), soon());
        let after = replica.propose(Bytes::from_static(b"after"), soon());
        let (broken, after) = tokio::join!(broken, after);
        assert!(broken.is_err() && after.is_err());
        assert!(replica.fatal().await.contains("as asked for"));
        assert_eq!(contents(&replica).into_keys().collect::<Vec<_>>(), ["before"]);
        assert_eq!(replica.status().applied, last);
    });
}
