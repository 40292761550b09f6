//! What an operator may order, and the reasons of the refusals.

use crate::testing::{World, refusal};
use everhold_proto::command::{Answer, DiskUsage, MapCommand, PgChange};
use everhold_proto::map::{DiskState, Fullness, Labels, NodeState, Policy, Spread};
use everhold_proto::{DiskId, Kind, NodeId, PolicyId, RaftId};

const ZONES: [&str; 4] = ["a", "b", "c", "c"];

fn why(answer: &Answer) -> String {
    match answer {
        Answer::Refused(error) => error.message.clone(),
        other => panic!("not refused: {other:?}"),
    }
}

fn drain(world: &mut World, node: u32, on: bool) -> Answer {
    world.map_command(MapCommand::DrainNode { node: NodeId(node), on })
}

fn remove(world: &mut World, node: u32) -> Answer {
    world.map_command(MapCommand::RemoveNode { node: NodeId(node) })
}

fn label(world: &mut World, node: u32, zone: &str) -> Answer {
    let labels = Some(Labels { zone: zone.into(), ..Labels::default() });
    world.map_command(MapCommand::SetLabels { node: NodeId(node), labels })
}

/// Draining is refused where too few nodes, or too few zones, would be left, and says so.
#[test]
fn draining_keeps_the_policies_possible() {
    let mut world = World::new(3, &ZONES);
    assert!(why(&drain(&mut world, 1, true)).contains("3 copies over as many zones"));
    assert_eq!(drain(&mut world, 3, true), Answer::Done, "zone c has another node");
    assert!(world.map().is_draining(NodeId(3)));
    assert_eq!(drain(&mut world, 3, true), Answer::Done, "again is no change");
    assert!(why(&drain(&mut world, 4, true)).contains("there are 2"));
    let disk = MapCommand::SetDiskState {
        disk: DiskId(4),
        state: DiskState::Draining,
        reason: "test".into(),
    };
    assert_eq!(refusal(&world.map_command(disk)), Some(Kind::Conflict), "a disk alone, too");
    assert_eq!(drain(&mut world, 3, false), Answer::Done);
    assert_eq!(world.map().disks[&DiskId(3)].state, DiskState::In);
    assert_eq!(refusal(&drain(&mut world, 9, true)), Some(Kind::NotFound));
}

/// A policy that is not kept as it is does not hold up a node that can be spared.
#[test]
fn a_policy_that_is_not_kept_refuses_less() {
    let mut world = World::new(3, &["a", "a", "a", "b"]);
    assert_eq!(drain(&mut world, 3, true), Answer::Done);
    assert!(why(&drain(&mut world, 2, true)).contains("3 copies on as many nodes"));
}

/// Draining is refused when the others have no room for the blocks.
#[test]
fn draining_needs_room() {
    let mut world = World::new(2, &["a", "b", "c"]);
    let capacity_bytes = crate::testing::CAPACITY;
    let usage = |disk, percent| DiskUsage {
        disk: DiskId(disk),
        used_bytes: capacity_bytes / 100 * percent,
        capacity_bytes,
        fullness: Fullness::Normal,
    };
    let full = vec![usage(1, 60), usage(2, 60), usage(3, 60)];
    assert_eq!(world.map_command(MapCommand::SetDiskUsage(full)), Answer::Done);
    assert!(why(&drain(&mut world, 1, true)).contains("have room for"));
}

/// A node leaves only without places, without a seat in Raft, and drained or given up.
#[test]
fn a_node_is_removed_last() {
    let mut world = World::new(2, &["a", "b", "c", "d"]);
    let pg = world.create_pg(&[1, 2]);
    assert!(why(&remove(&mut world, 1)).contains("not drained"));
    assert_eq!(drain(&mut world, 1, true), Answer::Done);
    assert!(why(&remove(&mut world, 1)).contains("places in 1 placement groups"));
    assert_eq!(world.change(pg, PgChange::Join(DiskId(3))), Answer::Done);
    assert_eq!(world.change(pg, PgChange::Leave(DiskId(1))), Answer::Done);
    let raft = world.map_command(MapCommand::AllocateRaftId { node: NodeId(1) });
    assert_eq!(raft, Answer::Raft(RaftId(1)));
    assert!(why(&remove(&mut world, 1)).contains("in Raft"));
    world.map_command(MapCommand::ClearRaftId { node: NodeId(1), raft: RaftId(1) });
    assert_eq!(remove(&mut world, 1), Answer::Done);
    assert_eq!(refusal(&remove(&mut world, 1)), Some(Kind::NotFound));
}

/// A disk leaves only drained and without places, and its number is not given again.
#[test]
fn a_disk_is_removed_when_it_is_empty() {
    let mut world = World::new(2, &["a", "b", "c", "d"]);
    let pg = world.create_pg(&[1, 2]);
    let remove = MapCommand::RemoveDisk { disk: DiskId(1) };
    assert!(why(&world.map_command(remove.clone())).contains("not drained"));
    let drain = MapCommand::SetDiskState {
        disk: DiskId(1),
        state: DiskState::Draining,
        reason: "test".into(),
    };
    assert_eq!(world.map_command(drain), Answer::Done);
    assert!(why(&world.map_command(remove.clone())).contains("places in 1 placement groups"));
    assert_eq!(world.change(pg, PgChange::Join(DiskId(3))), Answer::Done);
    assert_eq!(world.change(pg, PgChange::Leave(DiskId(1))), Answer::Done);
    assert_eq!(world.map_command(remove.clone()), Answer::Done);
    assert_eq!(refusal(&world.map_command(remove)), Some(Kind::NotFound));
    assert!(!world.map().disks.contains_key(&DiskId(1)));
    assert!(world.map().nodes.contains_key(&NodeId(1)), "its node stays");
    let again = |uuid, disk| MapCommand::RegisterDisk {
        uuid: [uuid; 16],
        disk,
        node: NodeId(1),
        capacity_bytes: 1 << 30,
        used_bytes: 0,
    };
    let back = world.map_command(again(1, Some(DiskId(1))));
    assert_eq!(refusal(&back), Some(Kind::NotFound), "as what it was it does not come back");
    assert!(matches!(world.map_command(again(11, None)), Answer::Disk { disk: DiskId(5), .. }));
}

/// A member of a group that went out is a former there: its node stays until the group is full without it.
#[test]
fn formers_keep_their_node() {
    let mut world = World::new(2, &["a", "b", "c"]);
    let pg = world.create_pg(&[1, 2]);
    world.open_session(0);
    assert_eq!(world.commit(&world.block(pg, 1, &[1, 2])), None);
    world.node_out(1);
    assert_eq!(world.change(pg, PgChange::GoneOut(DiskId(1))), Answer::Done);
    assert!(why(&remove(&mut world, 1)).contains("places in 1"));
    assert_eq!(world.change(pg, PgChange::Join(DiskId(3))), Answer::Done);
    world.compare(pg, 3, &[]);
    assert_eq!(world.change(pg, PgChange::EndFormer(DiskId(1))), Answer::Done);
    assert_eq!(remove(&mut world, 1), Answer::Done);
}

/// A removed node may not register again, nor its disk; a new directory on the same machine may.
#[test]
fn a_removed_node_does_not_come_back() {
    let mut world = World::new(2, &["a", "b", "c"]);
    drain(&mut world, 3, true);
    assert_eq!(remove(&mut world, 3), Answer::Done);
    let register = |uuid| MapCommand::RegisterNode {
        uuid: [uuid; 16],
        address: "127.0.0.1:3".into(),
        labels: Labels::default(),
        marks: Vec::new(),
    };
    let refused = world.map_command(register(3));
    assert_eq!(refusal(&refused), Some(Kind::Foreign));
    assert!(why(&refused).contains("n3 was removed"));
    assert!(matches!(world.map_command(register(33)), Answer::Node { node: NodeId(4), .. }));
    let disk = MapCommand::RegisterDisk {
        uuid: [3; 16],
        disk: Some(DiskId(3)),
        node: NodeId(4),
        capacity_bytes: 1 << 30,
        used_bytes: 0,
    };
    assert_eq!(refusal(&world.map_command(disk)), Some(Kind::NotFound));
}

/// A policy is refused, with the reason, where the topology cannot keep it.
#[test]
fn impossible_policies_are_refused() {
    let mut world = World::new(2, &ZONES);
    let policy = |copies, spread| {
        MapCommand::SetPolicy(Policy {
            spread,
            ..Policy::replicated(PolicyId(0), "default", copies)
        })
    };
    assert_eq!(world.map_command(policy(3, Spread::Zone)), Answer::Done);
    let refused = why(&world.map_command(policy(4, Spread::Zone)));
    assert!(refused.contains("4 copies over as many zones, and there are 3: a, b, c"), "{refused}");
    assert_eq!(world.map_command(policy(4, Spread::Host)), Answer::Done);
    assert!(why(&world.map_command(policy(5, Spread::Host))).contains("5 copies on as many nodes"));
}

/// Labels that an operator gives stay when the process registers with others, until they are given back.
#[test]
fn labels_of_an_operator_stay() {
    let mut world = World::new(2, &ZONES);
    assert_eq!(label(&mut world, 4, "d"), Answer::Done);
    world.register_node(4, "c");
    assert_eq!(world.map().nodes[&NodeId(4)].labels.zone, "d");
    let back = MapCommand::SetLabels { node: NodeId(4), labels: None };
    assert_eq!(world.map_command(back), Answer::Done);
    world.register_node(4, "c");
    assert_eq!(world.map().nodes[&NodeId(4)].labels.zone, "c");
}

/// Labels that would take a policy its zones are refused.
#[test]
fn labels_keep_the_policies_possible() {
    let mut world = World::new(3, &ZONES);
    assert!(why(&label(&mut world, 1, "b")).contains("there are 2: b, c"));
    assert_eq!(label(&mut world, 4, "b"), Answer::Done);
    world.set_node(2, NodeState::Down);
    assert_eq!(label(&mut world, 3, "x"), Answer::Done);
}

/// The brake is noted in the event log and changes nothing else.
#[test]
fn the_brake_is_noted() {
    let mut world = World::new(3, &ZONES);
    let before = world.map();
    assert_eq!(world.map_command(MapCommand::NoteBrake(Some("3 of 5".into()))), Answer::Done);
    assert_eq!(world.map_command(MapCommand::NoteBrake(None)), Answer::Done);
    assert_eq!(world.map(), before);
    let events = crate::reads::events(&world.kv, 2).unwrap();
    assert!(events[0].subject == "brake" && events[0].text.starts_with("on: 3 of 5"));
    assert_eq!(events[1].text, "off");
}
