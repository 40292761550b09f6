//! Snapshots to members whose entries are gone.

use super::*;
use everhold_env::disk::Fault;

async fn fill(group: &Group, from: usize, upto: usize) -> LogIndex {
    let mut last = LogIndex(0);
    for i in from..upto {
        last = group.propose(&format!("{i:0900}")).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    last
}

#[test]
fn a_new_member_gets_a_snapshot() {
    run(async {
        let mut group = Group::of(1, small(), 400).await;
        fill(&group, 0, 300).await;
        let leader = group.leader().await;
        assert!(leader.status().durable_applied > LogIndex(200));
        let learner = group.create(2).await;
        leader.add_learner(RaftId(2), raft_node(2), soon()).await.unwrap();
        let last = group.propose("after").await;
        wait_until(&learner, |s| s.applied >= last).await;
        assert_eq!(contents(&learner), contents(&leader));
        // What was installed is durable: it survives a power loss right away.
        group.crash(2, None);
        let learner = group.reopen(2).await;
        wait_until(&learner, |s| s.applied >= last).await;
        leader.change_voters(BTreeSet::from([RaftId(1), RaftId(2)]), soon()).await.unwrap();
        let last = group.propose("voters").await;
        group.applied(last).await;
        assert_eq!(contents(&learner), contents(&leader));
    });
}

/// A snapshot shows what is in memory only, too.
#[test]
fn a_snapshot_has_what_is_in_memory() {
    run(async {
        let mut group = Group::of(1, lazy(), 402).await;
        fill(&group, 0, 300).await;
        let leader = group.leader().await;
        let mut last = LogIndex(0);
        for i in 0..40 {
            last = group.propose(&format!("late {i}")).await;
        }
        assert!(leader.status().durable_applied < last, "it is not durable");
        let learner = group.create(2).await;
        leader.add_learner(RaftId(2), raft_node(2), soon()).await.unwrap();
        wait_until(&learner, |s| s.applied >= last).await;
        assert_eq!(contents(&learner), contents(&leader));
        group.crash(2, Some(1));
        let learner = group.reopen(2).await;
        wait_until(&learner, |s| s.applied >= last).await;
        assert_eq!(contents(&learner), contents(&leader));
    });
}

#[test]
fn a_lagging_member_gets_a_snapshot() {
    run(async {
        let mut group = Group::of(3, small(), 401).await;
        let last = fill(&group, 0, 20).await;
        group.applied(last).await;
        let leader = group.leader().await.identity().raft_id.0;
        let lagging = leader % 3 + 1;
        group.cut(lagging);
        fill(&group, 20, 400).await;
        group.heal();
        let last = group.propose("healed").await;
        group.applied(last).await;
        let expected = contents(&*group.leader().await);
        assert_eq!(contents(&group.replica(lagging)), expected);
        group.stop(lagging).await;
        let reopened = group.reopen(lagging).await;
        group.applied(last).await;
        assert_eq!(contents(&reopened), expected);
    });
}

/// Power is lost at every step of receiving and installing: the member comes back with the old state
/// or the new one, and catches up.
#[test]
fn an_installation_survives_power_loss() {
    for changes in (1..60).step_by(4) {
        run(async {
            let mut group = Group::of(1, small(), 500 + changes).await;
            fill(&group, 0, 200).await;
            group.create(2).await;
            group.nodes[&2].disk.inject(Fault::PowerAt(changes));
            let leader = group.leader().await;
            leader.add_learner(RaftId(2), raft_node(2), soon()).await.unwrap();
            tokio::time::sleep(Duration::from_secs(2)).await;
            group.crash(2, Some(changes));
            let learner = group.reopen(2).await;
            let last = group.propose("after").await;
            wait_until(&learner, |s| s.applied >= last).await;
            assert_eq!(contents(&learner), contents(&leader));
        });
    }
}
