//! Choosing voters, one step at a time.

use super::*;
use crate::testing::World;

/// Follows the plan until it settles or waits; learners catch up at once.
fn follow(map: &ClusterMap, now: &mut Membership, away: &BTreeMap<NodeId, Duration>) -> VoterPlan {
    for _ in 0..50 {
        let step = choose(map, now, away, REPLACE_AFTER);
        match &step {
            VoterPlan::Settled | VoterPlan::Waiting(_) => return step,
            VoterPlan::AddLearner(node) => {
                assert!(now.learners.insert(*node, true).is_none());
            }
            VoterPlan::ChangeVoters(voters) => {
                for node in voters.difference(&now.voters) {
                    assert_eq!(now.learners.remove(node), Some(true));
                }
                let gone: Vec<NodeId> = now.voters.difference(voters).copied().collect();
                now.learners.extend(gone.into_iter().map(|node| (node, true)));
                now.voters = voters.clone();
                now.joint = false;
            }
            VoterPlan::RetireLearner(node) => {
                assert!(now.learners.remove(node).is_some());
            }
        }
    }
    panic!("does not settle: {now:?}");
}

fn first() -> Membership {
    Membership { voters: [NodeId(1)].into(), ..Membership::default() }
}

fn voters(now: &Membership) -> Vec<u32> {
    now.voters.iter().map(|node| node.0).collect()
}

fn settled(zones: &[&str]) -> (World, Membership) {
    let world = World::new(1, zones);
    let mut now = first();
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
    (world, now)
}

/// One voter up to two nodes, three up to four, five from five on.
#[test]
fn the_number_follows_the_nodes() {
    for (nodes, wanted) in [(1, 1), (2, 1), (3, 3), (4, 3), (5, 5), (9, 5)] {
        let (_, now) = settled(&vec![""; nodes]);
        assert_eq!(now.voters.len(), wanted, "{nodes} nodes");
        assert!(now.learners.is_empty());
    }
}

/// No zone of three or more holds a majority; if five cannot be had that way, three can.
#[test]
fn no_zone_holds_a_majority() {
    let (_, now) = settled(&["a", "a", "a", "b", "c"]);
    assert_eq!(voters(&now), vec![1, 4, 5]);
    let (_, now) = settled(&["a", "b", "c", "a", "b"]);
    assert_eq!(now.voters.len(), 5);
    let (_, now) = settled(&["a", "a", "b", "c"]);
    assert_eq!(voters(&now), vec![1, 3, 4]);
}

/// A change that was begun by a leader that is gone is ended, though the voters are those there should be:
/// as long as it lasts, the loss of an old voter can be the loss of the metadata. Found by the simulator.
#[test]
fn a_change_that_was_begun_is_ended() {
    let (world, mut now) = settled(&["a", "b", "c"]);
    now.joint = true;
    let step = choose(&world.map(), &now, &BTreeMap::new(), REPLACE_AFTER);
    assert_eq!(step, VoterPlan::ChangeVoters(now.voters.clone()));
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
}

/// Voters change only when all the new ones have caught up.
#[test]
fn a_learner_has_to_catch_up() {
    let world = World::new(1, &["", "", ""]);
    let mut now = first();
    now.learners = [(NodeId(2), true), (NodeId(3), false)].into();
    let step = choose(&world.map(), &now, &BTreeMap::new(), REPLACE_AFTER);
    assert!(matches!(step, VoterPlan::Waiting(_)), "{step:?}");
}

/// A voter that stays away is replaced, the others stay; a short absence changes nothing.
#[test]
fn a_voter_that_stays_away_is_replaced() {
    let (mut world, mut now) = settled(&["", "", "", ""]);
    assert_eq!(voters(&now), vec![1, 2, 3]);
    world.set_node(2, NodeState::Down);
    let short = [(NodeId(2), Duration::from_secs(2))].into();
    assert_eq!(follow(&world.map(), &mut now, &short), VoterPlan::Settled);
    let long = [(NodeId(2), Duration::from_secs(11))].into();
    assert_eq!(follow(&world.map(), &mut now, &long), VoterPlan::Settled);
    assert_eq!(voters(&now), vec![1, 3, 4]);
    assert!(now.learners.is_empty());
    // When it is back, nothing changes again.
    world.set_node(2, NodeState::Up);
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
    assert_eq!(voters(&now), vec![1, 3, 4]);
}

/// The replacement waits rather than put a majority into one zone, and never shrinks three to one.
#[test]
fn a_replacement_waits_for_its_zone() {
    let (mut world, mut now) = settled(&["a", "b", "c", "a"]);
    assert_eq!(voters(&now), vec![1, 2, 3]);
    world.node_out(3);
    assert!(matches!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Waiting(_)));
    assert_eq!(voters(&now), vec![1, 2, 3]);
    let (mut world, mut now) = settled(&["", "", ""]);
    world.node_out(3);
    assert!(matches!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Waiting(_)));
    assert_eq!(voters(&now), vec![1, 2, 3]);
}

/// Of five nodes one is given up: three healthy voters instead of five with a dead one.
#[test]
fn five_shrink_to_three_healthy_ones() {
    let (mut world, mut now) = settled(&["", "", "", "", ""]);
    world.node_out(1);
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
    assert_eq!(voters(&now), vec![2, 3, 4]);
}

/// A voter in maintenance comes back: it is not replaced.
#[test]
fn maintenance_keeps_a_voter() {
    let (mut world, mut now) = settled(&["", "", "", ""]);
    let node = NodeId(2);
    world.map_command(everhold_proto::command::MapCommand::SetMaintenance { node, on: true });
    world.set_node(2, NodeState::Down);
    let long = [(node, Duration::from_secs(999))].into();
    assert_eq!(follow(&world.map(), &mut now, &long), VoterPlan::Settled);
    assert_eq!(voters(&now), vec![1, 2, 3]);
}

/// Findings name what is wrong with voters and nodes, and a healthy cluster has none.
#[test]
fn health_tells_what_is_wrong() {
    let (mut world, now) = settled(&["a", "b", "c", "d"]);
    let status = |world: &World| {
        let map = world.map();
        let repair = crate::reads::repair_status(&world.kv, &map).unwrap();
        crate::health::findings(&map, &repair, None, &now.voters, &[])
    };
    assert_eq!(status(&world), vec![]);
    world.set_node(2, NodeState::Down);
    let findings = status(&world);
    assert!(findings.iter().any(|finding| finding.text.contains("n2")), "{findings:?}");
    assert!(findings.iter().any(|finding| finding.text.contains("voters")), "{findings:?}");
}

/// A voter that is drained gives its seat to another node; where there is no other, it keeps it.
#[test]
fn a_drained_voter_is_replaced() {
    use everhold_proto::command::{Answer, MapCommand};
    let (mut world, mut now) = settled(&["a", "a", "b", "b", "c", "c"]);
    let before = now.voters.clone();
    let drained = *before.first().expect("there are five");
    let drain = MapCommand::DrainNode { node: drained, on: true };
    assert_eq!(world.map_command(drain), Answer::Done);
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
    assert_eq!(now.voters.len(), 5);
    assert!(!now.voters.contains(&drained) && now.learners.is_empty());

    let (mut world, mut now) = settled(&["a", "b", "c", "d", "e"]);
    let drain = MapCommand::DrainNode { node: NodeId(5), on: true };
    assert_eq!(world.map_command(drain), Answer::Done);
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
    assert_eq!(voters(&now).len(), 3, "four nodes that stay have three voters");
    assert!(!now.voters.contains(&NodeId(5)));

    let (mut world, mut now) = settled(&["a", "b", "c"]);
    let drain = MapCommand::DrainNode { node: NodeId(3), on: true };
    assert_eq!(world.map_command(drain), Answer::Done);
    assert_eq!(follow(&world.map(), &mut now, &BTreeMap::new()), VoterPlan::Settled);
    assert_eq!(voters(&now), [1, 2, 3], "two are too few");
}
