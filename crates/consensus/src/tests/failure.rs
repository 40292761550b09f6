//! Power losses and failing disks.

use super::*;
use everhold_env::disk::Fault;

/// All machines lose power at once, again and again, while commands are under way: whatever was
/// acknowledged is there, exactly once, on all of them.
#[test]
fn a_power_loss_of_all_loses_nothing_acknowledged() {
    for seed in seeds(8) {
        run(async {
            let mut group = Group::of(3, small(), 100 + seed).await;
            let acknowledged: Arc<Mutex<BTreeSet<String>>> = Arc::default();
            for round in 0..4u64 {
                let leader = group.leader().await;
                let proposals = (0..60u64).map(|i| {
                    let (leader, acknowledged) = (leader.clone(), acknowledged.clone());
                    async move {
                        tokio::time::sleep(Duration::from_millis(i % 17)).await;
                        let command = format!("r{round}-{i}-{:0200}", 0);
                        if leader.propose(command.clone().into(), soon()).await.is_ok() {
                            acknowledged.lock().insert(command);
                        }
                    }
                });
                let proposals = tokio::spawn(futures_util::future::join_all(proposals));
                tokio::time::sleep(Duration::from_millis(12 + 3 * (seed % 30))).await;
                proposals.abort();
                drop(leader);
                for number in 1..=3 {
                    group.crash(number, Some(seed * 10 + round));
                }
                for number in 1..=3 {
                    group.reopen(number).await;
                }
                group.leader().await;
            }
            let last = group.propose("end").await;
            group.applied(last).await;
            let expected = contents(&group.replica(1));
            assert!(expected.values().all(|count| *count == 1));
            assert!(!acknowledged.lock().is_empty(), "the test must acknowledge something");
            for command in acknowledged.lock().iter() {
                assert!(
                    expected.contains_key(command),
                    "seed {seed}: {command} was acknowledged and is lost"
                );
            }
            assert_eq!(contents(&group.replica(2)), expected);
            assert_eq!(contents(&group.replica(3)), expected);
        });
    }
}

/// One replica after the other loses power and comes back while the group goes on.
#[test]
fn rolling_power_losses() {
    for seed in seeds(4) {
        run(async {
            let mut group = Group::of(3, small(), 200 + seed).await;
            let mut proposed = 0;
            for round in 0..9 {
                for _ in 0..30 {
                    group.propose(&format!("{proposed:0200}")).await;
                    proposed += 1;
                }
                let victim = round % 3 + 1;
                group.crash(victim, Some(seed + round));
                group.propose(&format!("{proposed:0200}")).await;
                proposed += 1;
                group.reopen(victim).await;
            }
            let last = group.propose("end").await;
            group.applied(last).await;
            let expected = contents(&group.replica(1));
            assert_eq!(expected.len(), proposed + 1);
            for number in 2..=3 {
                assert_eq!(contents(&group.replica(number)), expected);
            }
        });
    }
}

#[test]
fn a_failed_disk_ends_the_replica_and_not_the_group() {
    run(async {
        let group = Group::of(3, small(), 300).await;
        let leader = group.leader().await;
        let number = leader.identity().raft_id.0;
        group.nodes[&number].disk.inject(Fault::WriteErrorAt(1));
        // Whatever it answers, it must not acknowledge what it could not write.
        let outcome =
            leader.propose(Bytes::from_static(b"c"), Instant::now() + Duration::from_secs(5)).await;
        let reason = tokio::time::timeout(PATIENCE, leader.fatal()).await.expect("an announcement");
        assert!(reason.contains("simulated write error"), "{reason}");
        assert_eq!(
            leader.propose(Bytes::from_static(b"d"), soon()).await.unwrap_err().kind,
            Kind::Internal
        );
        group.cut(number);
        let index = group.propose("e").await;
        group.applied(index).await;
        if outcome.is_ok() {
            assert!(contents(&*group.leader().await).contains_key("c"));
        }
    });
}

/// The state is lost, its log is purged: such a replica must not start as if it were empty.
#[test]
fn a_state_that_ends_before_the_log_begins_is_refused() {
    run(async {
        let mut group = Group::of(1, small(), 301).await;
        for i in 0..200 {
            group.propose(&format!("{i:0900}")).await;
        }
        tokio::time::sleep(Duration::from_secs(3)).await;
        group.stop(1).await;
        let disk = group.nodes[&1].disk.clone();
        let dir = Path::new("/raft/state");
        for file in everhold_env::Disk::list(&disk, dir).await.unwrap() {
            everhold_env::Disk::remove(&disk, &file).await.unwrap();
        }
        let opening = Opening::Existing { cluster: CLUSTER, node: NodeId(1) };
        let refused = group.start(1, opening).await;
        assert!(matches!(refused, Err(ConsensusError::Incomplete { .. })));
    });
}
