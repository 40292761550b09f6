//! Several replicas: replication, leadership, membership, linearizable reads.

use super::*;

#[test]
fn three_replicas_survive_the_loss_of_their_leader() {
    run(async {
        let mut group = Group::of(3, small(), 10).await;
        let mut last = LogIndex(0);
        for i in 0..40 {
            last = group.propose(&format!("a{i}")).await;
        }
        group.applied(last).await;
        let leader = group.leader().await.identity().raft_id.0;
        group.stop(leader).await;
        for i in 0..40 {
            last = group.propose(&format!("b{i}")).await;
        }
        assert_ne!(group.leader().await.identity().raft_id.0, leader);
        group.reopen(leader).await;
        group.applied(last).await;
        let expected = contents(&*group.leader().await);
        assert_eq!(expected.len(), 80);
        assert!(expected.values().all(|count| *count == 1), "each exactly once: {expected:?}");
        for number in 1..=3 {
            assert_eq!(contents(&group.replica(number)), expected);
        }
    });
}

/// A change costs one message to each follower; of the last one they hear soon.
#[test]
fn commits_travel_with_what_follows_them() {
    run(async {
        let timing = crate::RaftTiming {
            heartbeat: Duration::from_secs(5),
            election_min: Duration::from_secs(11),
            election_max: Duration::from_secs(20),
        };
        let group = Group::of(3, ConsensusConfig { timing, ..small() }, 13).await;
        let leader = group.leader().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = group.mesh.appends.load(Ordering::Relaxed);
        let mut last = LogIndex(0);
        for i in 0..50u8 {
            last = leader.propose(Bytes::from(vec![i]), soon()).await.unwrap().0;
        }
        let told = Instant::now();
        group.applied(last).await;
        assert!(told.elapsed() < Duration::from_millis(100), "{:?}", told.elapsed());
        let sent = group.mesh.appends.load(Ordering::Relaxed) - before;
        assert!((100..110).contains(&sent), "{sent} messages for 50 changes");
    });
}

#[test]
fn a_follower_names_the_leader() {
    run(async {
        let group = Group::of(3, small(), 11).await;
        let leader = group.leader().await.identity().raft_id.0;
        let follower = group.replica(leader % 3 + 1);
        wait_until(&follower, |s| s.leader.is_some()).await;
        let refused = follower.propose(Bytes::from_static(b"c"), soon()).await.unwrap_err();
        assert_eq!((refused.kind, refused.leader), (Kind::NotLeader, Some(address(leader))));
        let refused = follower.barrier(soon()).await.unwrap_err();
        assert_eq!((refused.kind, refused.leader), (Kind::NotLeader, Some(address(leader))));
        let refused = follower.transfer_leader(RaftId(1)).await.unwrap_err();
        assert_eq!(refused.kind, Kind::NotLeader);
    });
}

#[test]
fn a_leader_without_a_quorum_neither_confirms_reads_nor_writes() {
    run(async {
        let group = Group::of(3, small(), 12).await;
        let leader = group.leader().await;
        group.cut(leader.identity().raft_id.0);
        let (read, write) = tokio::join!(
            leader.barrier(Instant::now() + Duration::from_secs(2)),
            leader.propose(Bytes::from_static(b"lost"), Instant::now() + Duration::from_secs(1)),
        );
        assert!(matches!(read.unwrap_err().kind, Kind::Retry | Kind::NotLeader));
        assert_eq!(write.unwrap_err().kind, Kind::MaybeApplied);
        let index = group.propose("kept").await;
        group.heal();
        group.applied(index).await;
        wait_until(&leader, |s| s.role == Role::Follower).await;
        assert!(!contents(&leader).contains_key("lost"));
        assert!(contents(&leader).contains_key("kept"));
    });
}

/// Concurrent barriers are all answered, and each read after one sees what was acknowledged before it.
#[test]
fn concurrent_reads_are_linearizable() {
    run(async {
        let group = Group::of(3, small(), 13).await;
        let leader = group.leader().await;
        for i in 0..30 {
            let command = format!("c{i}");
            let index = group.propose(&command).await;
            let barriers = (0..20).map(|_| leader.barrier(soon()));
            for covered in futures_util::future::join_all(barriers).await {
                assert!(covered.unwrap() >= index);
            }
            assert!(contents(&leader).contains_key(&command));
        }
    });
}

#[test]
fn leadership_moves_on_request() {
    run(async {
        let group = Group::of(3, small(), 14).await;
        let index = group.propose("c").await;
        group.applied(index).await;
        let leader = group.leader().await;
        let to = leader.step_down().await.unwrap();
        wait_until(&group.replica(to.0), |s| s.role == Role::Leader).await;
        assert_eq!(group.leader().await.identity().raft_id, to);
        let unknown = group.leader().await.transfer_leader(RaftId(77)).await;
        assert_eq!(unknown.unwrap_err().kind, Kind::Invalid);
    });
}

#[test]
fn voters_are_replaced() {
    run(async {
        let mut group = Group::of(3, small(), 15).await;
        group.create(4).await;
        let leader = group.leader().await;
        leader.add_learner(RaftId(4), raft_node(4), soon()).await.unwrap();
        wait_until(&leader, |s| s.member(RaftId(4)).is_some_and(|m| m.lag == Some(0))).await;
        let me = leader.identity().raft_id;
        let gone = RaftId(me.0 % 3 + 1);
        let voters: BTreeSet<RaftId> = (1..=4).map(RaftId).filter(|id| *id != gone).collect();
        leader.change_voters(voters.clone(), soon()).await.unwrap();
        let status = wait_until(&leader, |s| !s.changing && s.member(gone).is_none()).await;
        assert_eq!(status.voters().map(|m| m.raft_id).collect::<BTreeSet<_>>(), voters);
        let missing = leader.change_voters(BTreeSet::from([me, RaftId(9)]), soon()).await;
        assert_eq!(missing.unwrap_err().kind, Kind::NotFound);
        let index = group.propose("after").await;
        wait_until(&group.replica(4), |s| s.applied >= index).await;
    });
}

#[test]
fn a_learner_is_moved_and_removed() {
    run(async {
        let mut group = Group::of(1, small(), 16).await;
        group.create(2).await;
        let leader = group.leader().await;
        leader.add_learner(RaftId(2), raft_node(9), soon()).await.unwrap();
        leader.set_node(RaftId(2), raft_node(2), soon()).await.unwrap();
        wait_until(&leader, |s| s.member(RaftId(2)).is_some_and(|m| m.lag == Some(0) && !m.voter))
            .await;
        leader.remove_learner(RaftId(2), soon()).await.unwrap();
        wait_until(&leader, |s| s.members.len() == 1).await;
    });
}

#[test]
fn the_watch_follows_the_leader() {
    run(async {
        let mut group = Group::of(3, small(), 17).await;
        let leader = group.leader().await.identity().raft_id;
        let other = RaftId(leader.0 % 3 + 1);
        let mut watch = group.replica(other.0).watch();
        watch.wait_for(|s| s.leader_id == Some(leader)).await.unwrap();
        group.crash(leader.0, None);
        let changed = watch.wait_for(|s| s.leader_id.is_some_and(|id| id != leader));
        tokio::time::timeout(PATIENCE, changed).await.expect("a new leader").unwrap();
    });
}
