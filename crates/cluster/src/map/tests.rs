//! Each rule of the map, and that it refuses what it should.

use crate::testing::{World, refusal};
use everhold_proto::command::{Answer, DiskUsage, MapCommand, PgChange, TableCommand};
use everhold_proto::map::{DiskState, Fullness, Labels, NodeState, Policy};
use everhold_proto::{DiskId, Generation, Kind, LogIndex, NodeId, PolicyId, RaftId};

const ZONES: [&str; 4] = ["a", "b", "c", "d"];

/// A cluster is created once, and an impossible policy creates none.
#[test]
fn creation_happens_once() {
    let mut world = World::new(3, &[]);
    let policy = Policy::replicated(PolicyId(0), "default", 3);
    let again = world.apply(|ctx| crate::create(ctx, Default::default(), &policy).unwrap());
    assert_eq!(refusal(&again), Some(Kind::Conflict));
    let impossible = Policy { write_quorum: 4, ..policy };
    let answer = world.map_command(MapCommand::SetPolicy(impossible));
    assert_eq!(refusal(&answer), Some(Kind::Invalid));
}

/// A known uuid keeps its id and counts boots; a verdict about an older boot is refused.
#[test]
fn a_node_that_registers_again_keeps_its_id() {
    let mut world = World::new(3, &ZONES);
    assert_eq!(world.register_node(2, "b"), (NodeId(2), 2));
    let late = MapCommand::SetNodeState {
        node: NodeId(2),
        boot: 1,
        state: NodeState::Down,
        reason: "late".into(),
    };
    assert_eq!(refusal(&world.map_command(late)), Some(Kind::Conflict));
    assert_eq!(world.map().nodes[&NodeId(2)].state, NodeState::Up);
}

/// A data directory that was restored from an old copy does not know the mark that its node registered
/// with last, and is refused, however often it asks; the true one is taken.
#[test]
fn a_node_restored_from_an_old_copy_is_refused() {
    let mut world = World::new(3, &ZONES);
    let mut register = |marks: &[u64]| {
        world.map_command(MapCommand::RegisterNode {
            uuid: [2; 16],
            address: "127.0.0.1:2".into(),
            labels: Labels::default(),
            marks: marks.to_vec(),
        })
    };
    let boot = |answer| match answer {
        Answer::Node { boot, .. } => boot,
        other => panic!("{other:?}"),
    };
    assert_eq!(boot(register(&[7])), 2);
    assert_eq!(boot(register(&[7])), 3, "the same process, or one that crashed before it heard");
    assert_eq!(boot(register(&[7, 8])), 4);
    for old in [&[7][..], &[7, 9], &[]] {
        assert_eq!(refusal(&register(old)), Some(Kind::Foreign), "{old:?}");
    }
    assert_eq!(boot(register(&[8, 9])), 5);
    assert_eq!(refusal(&register(&[1, 2, 9])), Some(Kind::Invalid));
}

/// Out comes only after Down, and never in maintenance.
#[test]
fn node_states_follow_their_order() {
    let mut world = World::new(3, &ZONES);
    assert_eq!(refusal(&world.set_node(1, NodeState::Out)), Some(Kind::Conflict));
    assert_eq!(world.set_node(1, NodeState::Down), Answer::Done);
    let on = MapCommand::SetMaintenance { node: NodeId(1), on: true };
    assert_eq!(world.map_command(on), Answer::Done);
    assert_eq!(refusal(&world.set_node(1, NodeState::Out)), Some(Kind::Conflict));
    let off = MapCommand::SetMaintenance { node: NodeId(1), on: false };
    assert_eq!(world.map_command(off), Answer::Done);
    assert_eq!(world.set_node(1, NodeState::Out), Answer::Done);
    assert_eq!(refusal(&world.set_node(1, NodeState::Suspect)), Some(Kind::Conflict));
    assert_eq!(world.set_node(1, NodeState::Up), Answer::Done);
}

/// A disk's id belongs to its uuid; an unknown one with an id comes from another cluster.
#[test]
fn a_disk_is_known_by_its_uuid() {
    let mut world = World::new(3, &ZONES);
    let register = |uuid, disk| MapCommand::RegisterDisk {
        uuid: [uuid; 16],
        disk,
        node: NodeId(1),
        capacity_bytes: 1,
        used_bytes: 0,
    };
    let foreign = world.map_command(register(99, Some(DiskId(1))));
    assert_eq!(refusal(&foreign), Some(Kind::NotFound));
    let swapped = world.map_command(register(1, Some(DiskId(2))));
    assert_eq!(refusal(&swapped), Some(Kind::Invalid));
    let before = world.session_of(1);
    assert!(matches!(world.map_command(register(1, None)), Answer::Disk { disk: DiskId(1), .. }));
    assert!(world.session_of(1) > before);
}

/// Registration ends completeness until the next comparison, and keeps the records.
#[test]
fn registration_ends_completeness() {
    let mut world = World::new(3, &ZONES);
    let pg = world.create_pg(&[1, 2, 3]);
    world.commit(&world.block(pg, 1, &[1, 2]));
    assert_eq!(world.pg(pg).full_members(), 2);
    world.register_disk(1, Some(DiskId(1)));
    world.register_disk(3, Some(DiskId(3)));
    assert_eq!(world.pg(pg).full_members(), 1);
    assert_eq!(world.missing(pg, 3).len(), 1);
    assert_eq!(world.compare(pg, 1, &[]), Answer::Done);
    assert_eq!(world.pg(pg).full_members(), 2);
}

/// Each change names the generation it was planned on.
#[test]
fn a_change_of_an_old_generation_is_refused() {
    let mut world = World::new(3, &ZONES);
    let pg = world.create_pg(&[1, 2, 3]);
    assert_eq!(world.change(pg, PgChange::Join(DiskId(4))), Answer::Done);
    let change = PgChange::Leave(DiskId(1));
    let old = MapCommand::ChangePg { pg, generation: Generation(1), change };
    assert_eq!(refusal(&world.map_command(old)), Some(Kind::Conflict));
}

/// A late duplicate of a creation creates nothing, and no PG has two members on a node.
#[test]
fn groups_are_created_once() {
    let mut world = World::new(3, &ZONES);
    world.create_pg(&[1, 2, 3]);
    let create = |disks: &[u32], existing| MapCommand::CreatePgs {
        policy: PolicyId(0),
        members: vec![disks.iter().map(|disk| DiskId(*disk)).collect()],
        existing,
    };
    assert_eq!(refusal(&world.map_command(create(&[1, 2, 3], 0))), Some(Kind::Conflict));
    assert_eq!(refusal(&world.map_command(create(&[1, 1], 1))), Some(Kind::Invalid));
    assert_eq!(refusal(&world.map_command(create(&[9], 1))), Some(Kind::NotFound));
    assert_eq!(refusal(&world.map_command(create(&[1, 2, 3, 4], 1))), Some(Kind::Invalid));
}

/// A `leave` counts full members among the others: not joiners, not those that lack something.
#[test]
fn leave_counts_full_members() {
    let mut world = World::new(3, &ZONES);
    let pg = world.create_pg(&[1, 2, 3]);
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    let leave = PgChange::Leave(DiskId(1));
    assert_eq!(refusal(&world.change(pg, leave)), Some(Kind::Conflict));
    world.change(pg, PgChange::Join(DiskId(4)));
    assert_eq!(refusal(&world.change(pg, leave)), Some(Kind::Conflict), "not compared");
    world.compare(pg, 4, &[1]);
    assert_eq!(refusal(&world.change(pg, leave)), Some(Kind::Conflict), "one missing");
    let (_, recorded) = world.missing(pg, 4)[0];
    world.repaired(pg, 4, 1, recorded);
    assert_eq!(world.change(pg, leave), Answer::Done);
    assert_eq!(world.may_delete(pg, 1, 1), (false, true));
}

/// A member goes out only when its node is Out or its disk failed; it stays as a former that serves and
/// may not delete, and is forgotten only when the PG has its full number of full members.
#[test]
fn formers_are_kept_until_the_group_is_full() {
    let mut world = World::new(3, &ZONES);
    let pg = world.create_pg(&[1, 2, 3]);
    world.commit(&world.block(pg, 1, &[1, 2]));
    let out = PgChange::GoneOut(DiskId(3));
    assert_eq!(refusal(&world.change(pg, out)), Some(Kind::Conflict));
    world.node_out(3);
    assert_eq!(world.change(pg, out), Answer::Done);
    assert_eq!(world.pg(pg).formers, vec![DiskId(3)]);
    assert!(world.missing(pg, 3).is_empty(), "its membership has ended");
    assert_eq!(world.may_delete(pg, 3, 1), (false, false));
    let end = PgChange::EndFormer(DiskId(3));
    assert_eq!(refusal(&world.change(pg, end)), Some(Kind::Conflict));
    world.change(pg, PgChange::Join(DiskId(4)));
    assert_eq!(refusal(&world.change(pg, end)), Some(Kind::Conflict));
    world.compare(pg, 4, &[]);
    assert_eq!(world.may_delete(pg, 3, 1), (false, false), "still a former");
    assert_eq!(world.change(pg, end), Answer::Done);
    assert_eq!(world.may_delete(pg, 3, 1), (false, true));
}

/// The last member never goes: there would be nobody to judge a commit against.
#[test]
fn the_last_member_stays() {
    let mut world = World::new(1, &["a", "b"]);
    let pg = world.create_pg(&[1]);
    world.node_out(1);
    let out = PgChange::GoneOut(DiskId(1));
    assert_eq!(refusal(&world.change(pg, out)), Some(Kind::Conflict));
}

/// A former comes back as a joiner, and only when it is in service.
#[test]
fn a_former_comes_back_as_a_joiner() {
    let mut world = World::new(3, &ZONES);
    let pg = world.create_pg(&[1, 2, 3]);
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    world.node_out(3);
    world.change(pg, PgChange::GoneOut(DiskId(3)));
    let back = PgChange::TakeBack(DiskId(3));
    assert_eq!(refusal(&world.change(pg, back)), Some(Kind::Conflict));
    assert_eq!(refusal(&world.change(pg, PgChange::Join(DiskId(3)))), Some(Kind::Conflict));
    world.set_node(3, NodeState::Up);
    assert_eq!(world.change(pg, back), Answer::Done);
    let pg = world.pg(pg);
    assert!(pg.formers.is_empty());
    assert!(!pg.member(DiskId(3)).unwrap().complete);
    assert_eq!(pg.member(DiskId(3)).unwrap().joined, LogIndex(world.index));
}

/// A failed disk counts as lost at once: it does not carry a `leave` as a full member.
#[test]
fn a_failed_disk_is_not_full() {
    let mut world = World::new(3, &ZONES);
    let pg = world.create_pg(&[1, 2, 3]);
    let fail =
        MapCommand::SetDiskState { disk: DiskId(1), state: DiskState::Failed, reason: "x".into() };
    let ack = world.block(pg, 1, &[1, 2]);
    assert_eq!(world.map_command(fail), Answer::Done);
    assert_eq!(world.pg(pg).full_members(), 2);
    assert!(world.judge(&ack).is_some());
    assert_eq!(world.change(pg, PgChange::GoneOut(DiskId(1))), Answer::Done);
}

/// Raft ids are never handed out twice; the first is 1; another one than named is not cleared.
#[test]
fn raft_ids_are_never_reused() {
    let mut world = World::new(3, &ZONES);
    let allocate = |world: &mut World, node| {
        world.map_command(MapCommand::AllocateRaftId { node: NodeId(node) })
    };
    assert_eq!(allocate(&mut world, 1), Answer::Raft(RaftId(1)));
    assert_eq!(allocate(&mut world, 2), Answer::Raft(RaftId(2)));
    let clear = |raft| MapCommand::ClearRaftId { node: NodeId(2), raft: RaftId(raft) };
    world.map_command(clear(1));
    assert_eq!(world.map().nodes[&NodeId(2)].raft, Some(RaftId(2)));
    world.map_command(clear(2));
    assert_eq!(world.map().nodes[&NodeId(2)].raft, None);
    assert_eq!(allocate(&mut world, 2), Answer::Raft(RaftId(3)));
}

/// Small moves of usage make no epoch, relevant ones do.
#[test]
fn usage_makes_an_epoch_when_it_matters() {
    let mut world = World::new(3, &ZONES);
    let usage = |used_bytes, fullness| {
        let capacity_bytes = crate::testing::CAPACITY;
        let disk = DiskId(1);
        MapCommand::SetDiskUsage(vec![DiskUsage { disk, used_bytes, capacity_bytes, fullness }])
    };
    let epoch = world.map().epoch;
    world.map_command(usage(1000, Fullness::Normal));
    assert_eq!(world.map().epoch, epoch);
    world.map_command(usage(100 << 20, Fullness::Normal));
    assert!(world.map().epoch > epoch);
    let epoch = world.map().epoch;
    world.map_command(usage(100 << 20, Fullness::Full));
    assert!(world.map().epoch > epoch);
}

/// The event log is bounded, keeps the newest and tells them oldest first.
#[test]
fn events_are_bounded() {
    let mut world = World::new(3, &["a"]);
    for _ in 0..600 {
        world.set_node(1, NodeState::Suspect);
        world.set_node(1, NodeState::Up);
    }
    let events = crate::reads::events(&world.kv, usize::MAX).unwrap();
    assert_eq!(events.len() as u64, crate::state::EVENTS_MAX);
    assert!(events.is_sorted_by_key(|event| event.index));
    assert_eq!(events.last().unwrap().index, LogIndex(world.index));
    assert_eq!(crate::reads::events(&world.kv, 3).unwrap().len(), 3);
}

/// A sweep of nothing is nothing.
#[test]
fn an_empty_table_sweeps_to_nothing() {
    let mut world = World::new(3, &["a"]);
    assert_eq!(world.table_command(TableCommand::Sweep { limit: 10 }), Answer::Swept(0));
}
