//! The planner, driven against the state machine until it has nothing more to say.

use super::*;
use crate::testing::{World, refusal};
use everhold_proto::Kind;
use everhold_proto::PgId;
use everhold_proto::command::Answer;
use everhold_proto::map::{Labels, Policy, Spread};
use everhold_proto::{NodeId, PolicyId};

fn limits() -> Limits {
    Limits::default()
}

/// Applies plans, with every disk comparing and repairing at once in between, until nothing is planned.
fn settle(world: &mut World) -> usize {
    let mut actions = 0;
    for _ in 0..500 {
        let plan = plan(&world.map(), &limits());
        if plan.is_empty() {
            return actions;
        }
        assert!(plan.len() <= limits().actions_max);
        actions += plan.len();
        for command in plan {
            assert_eq!(world.map_command(command.clone()), Answer::Done, "{command:?}");
        }
        work(world);
    }
    panic!("the planner does not settle");
}

/// What the workers do: members in service compare and fetch everything.
fn work(world: &mut World) {
    let map = world.map();
    for pg in map.pgs.values() {
        for member in pg.members.iter().filter(|m| map.is_reachable(m.disk)) {
            if !member.complete {
                world.compare(pg.id, member.disk.0, &[]);
            }
            for (counter, recorded) in world.missing(pg.id, member.disk.0) {
                world.repaired(pg.id, member.disk.0, counter, recorded);
            }
        }
    }
}

fn with_blocks(world: &mut World) {
    world.open_session(0);
    let map = world.map();
    for (counter, pg) in map.pgs.values().enumerate() {
        let disks: Vec<u32> = pg.members.iter().map(|member| member.disk.0).collect();
        assert_eq!(world.commit(&world.block(pg.id, counter as u64, &disks)), None);
    }
}

fn assert_redundant(world: &World, copies: usize) {
    let map = world.map();
    for pg in map.pgs.values() {
        assert_eq!(pg.members.len(), copies, "{pg:?}");
        assert_eq!(reachable_full(&map, pg), copies, "{pg:?}");
        assert!(pg.formers.is_empty());
    }
    assert!(crate::reads::repair_status(&world.kv, &map).unwrap().redundant);
}

fn memberships(world: &World, disk: u32) -> usize {
    world.map().pgs.values().filter(|pg| pg.member(DiskId(disk)).is_some()).count()
}

/// A fresh cluster gets its PGs and is then left alone.
#[test]
fn a_fresh_cluster_gets_its_groups() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    assert_eq!(settle(&mut world), 1);
    assert_eq!(world.map().pgs.len(), 40);
    assert_redundant(&world, 3);
}

/// A node that is lost is replaced everywhere, evenly, and its places as former end.
#[test]
fn a_lost_node_is_replaced_by_all_others() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    world.node_out(5);
    settle(&mut world);
    assert_redundant(&world, 3);
    let counts: Vec<usize> = (1..=4).map(|disk| memberships(&world, disk)).collect();
    assert_eq!(memberships(&world, 5), 0);
    assert!(counts.iter().all(|count| (27..=33).contains(count)), "{counts:?}");
}

/// Three nodes, three copies, one lost: nothing can replace it; when it is back it takes its places back.
#[test]
fn three_nodes_wait_for_the_third() {
    let mut world = World::new(3, &["a", "b", "c"]);
    settle(&mut world);
    with_blocks(&mut world);
    world.node_out(3);
    settle(&mut world);
    assert!(world.map().pgs.values().all(|pg| pg.formers == vec![DiskId(3)]));
    world.register_node(3, "c");
    world.register_disk(3, Some(DiskId(3)));
    settle(&mut world);
    assert_redundant(&world, 3);
    assert_eq!(memberships(&world, 3), world.map().pgs.len());
}

/// A node that is merely Down moves nothing.
#[test]
fn down_moves_nothing() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    settle(&mut world);
    world.set_node(2, NodeState::Down);
    assert_eq!(plan(&world.map(), &limits()), vec![]);
}

/// A former that is back before its replacement is full joins beside it; the first to be full stays.
#[test]
fn a_returning_former_takes_its_place_back() {
    let mut world = World::new(3, &["", "", "", ""]);
    let pg = world.create_pg(&[1, 2, 3]);
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    world.node_out(3);
    for command in plan(&world.map(), &limits()) {
        if matches!(command, MapCommand::ChangePg { .. }) {
            assert_eq!(world.map_command(command), Answer::Done);
        }
    }
    assert!(world.pg(pg).member(DiskId(4)).is_some());
    world.set_node(3, NodeState::Up);
    let next = first_change(&world, pg);
    assert_eq!(next, Some(PgChange::TakeBack(DiskId(3))));
    world.change(pg, next.unwrap());
    assert_eq!(first_change(&world, pg), None, "nobody is full yet");
    world.compare(pg, 3, &[]);
    assert_eq!(first_change(&world, pg), Some(PgChange::Leave(DiskId(4))));
}

fn first_change(world: &World, pg: PgId) -> Option<PgChange> {
    plan(&world.map(), &limits()).into_iter().find_map(|command| match command {
        MapCommand::ChangePg { pg: id, change, .. } if id == pg => Some(change),
        _ => None,
    })
}

/// New nodes bring new PGs and get their share by moves, a few at a time; every copy stays full.
#[test]
fn growth_evens_out() {
    let mut world = World::new(3, &["", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    world.add_node(4, "");
    world.add_node(5, "");
    let first = plan(&world.map(), &limits());
    assert!(matches!(first[..], [MapCommand::CreatePgs { .. }]), "{first:?}");
    settle(&mut world);
    assert_redundant(&world, 3);
    let counts: Vec<usize> = (1..=5).map(|disk| memberships(&world, disk)).collect();
    assert!(counts.iter().all(|count| (20..=29).contains(count)), "{counts:?}");
}

/// The status counts what is missing while it is, riskiest first, and a move is no lack.
#[test]
fn the_status_tells_what_is_missing() {
    let mut world = World::new(3, &["", "", "", ""]);
    let pg = world.create_pg(&[1, 2, 3]);
    let other = world.create_pg(&[1, 2, 4]);
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    world.commit(&world.block(pg, 2, &[1, 2]));
    world.commit(&world.block(other, 3, &[1, 2, 4]));
    let status = |world: &World| crate::reads::repair_status(&world.kv, &world.map()).unwrap();
    let found = status(&world);
    assert_eq!((found.pgs_degraded, found.copies_missing, found.pgs_at_risk), (1, 1, 0));
    assert_eq!(found.queue[0].targets, vec![DiskId(3)]);
    world.set_node(1, NodeState::Down);
    world.set_node(2, NodeState::Down);
    let found = status(&world);
    assert_eq!((found.pgs_degraded, found.pgs_at_risk), (2, 2));
    assert_eq!((found.queue[0].pg, found.queue[0].full_members), (pg, 0));
    assert!(!found.redundant);
    world.set_node(1, NodeState::Up);
    world.set_node(2, NodeState::Up);
    let (_, recorded) = world.missing(pg, 3)[0];
    world.repaired(pg, 3, 2, recorded);
    world.change(pg, PgChange::Join(DiskId(4)));
    assert!(status(&world).redundant);
}

/// Moves of PGs that hold blocks are bounded.
#[test]
fn moves_are_few_at_a_time() {
    let mut world = World::new(3, &["", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    world.add_node(4, "");
    let create = plan(&world.map(), &limits());
    create.into_iter().for_each(|command| assert_eq!(world.map_command(command), Answer::Done));
    let moving = |world: &World| {
        let pgs = world.map().pgs;
        pgs.values().filter(|pg| pg.blocks > 0 && pg.members.len() > 3).count()
    };
    for _ in 0..5 {
        for command in plan(&world.map(), &limits()) {
            assert_eq!(world.map_command(command), Answer::Done);
        }
        assert!(moving(&world) <= limits().moves_max);
    }
    assert_eq!(moving(&world), limits().moves_max);
}

/// A zone that appears later gets a member of every PG.
#[test]
fn a_new_zone_is_used() {
    let mut world = World::new(3, &["a", "a", "b"]);
    settle(&mut world);
    with_blocks(&mut world);
    world.add_node(4, "c");
    settle(&mut world);
    let map = world.map();
    for pg in map.pgs.values() {
        assert_eq!(map.zones_of(pg.members.iter().map(|m| m.disk)), 3, "{pg:?}");
    }
}

/// A draining disk is emptied, and leaves only when its replacements are full.
#[test]
fn a_draining_disk_is_emptied() {
    let mut world = World::new(3, &["", "", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    let drain = MapCommand::SetDiskState {
        disk: DiskId(2),
        state: DiskState::Draining,
        reason: "test".into(),
    };
    world.map_command(drain);
    settle(&mut world);
    assert_eq!(memberships(&world, 2), 0);
    assert_redundant(&world, 3);
}

/// Where each node must hold a copy, a drained disk gives its places to another disk of its node, and is removed.
#[test]
fn a_disk_is_emptied_within_its_node() {
    let mut world = World::new(3, &["a", "b", "c"]);
    let more = MapCommand::RegisterDisk {
        uuid: [22; 16],
        disk: None,
        node: NodeId(2),
        capacity_bytes: crate::testing::CAPACITY,
        used_bytes: 0,
    };
    assert!(matches!(world.map_command(more), Answer::Disk { disk: DiskId(4), .. }));
    settle(&mut world);
    with_blocks(&mut world);
    let places = (memberships(&world, 2), memberships(&world, 4));
    assert!(places.0 > 0 && places.1 > 0, "{places:?}");
    let drain = MapCommand::SetDiskState {
        disk: DiskId(4),
        state: DiskState::Draining,
        reason: "test".into(),
    };
    assert_eq!(world.map_command(drain), Answer::Done);
    settle(&mut world);
    assert_eq!((memberships(&world, 2), memberships(&world, 4)), (places.0 + places.1, 0));
    assert_redundant(&world, 3);
    let remove = MapCommand::RemoveDisk { disk: DiskId(4) };
    assert_eq!(world.map_command(remove), Answer::Done);
}

/// A failed disk is treated as lost although its node is Up.
#[test]
fn a_failed_disk_is_replaced() {
    let mut world = World::new(3, &["", "", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    let fail = MapCommand::SetDiskState {
        disk: DiskId(2),
        state: DiskState::Failed,
        reason: "test".into(),
    };
    world.map_command(fail);
    settle(&mut world);
    assert_eq!(memberships(&world, 2), 0);
    assert_redundant(&world, 3);
}

/// More or fewer copies in the policy bring members or let them go.
#[test]
fn a_changed_policy_is_followed() {
    let mut world = World::new(2, &["", "", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    for copies in [3, 2] {
        let policy = Policy::replicated(PolicyId(0), "default", copies);
        world.map_command(MapCommand::SetPolicy(policy));
        settle(&mut world);
        assert_redundant(&world, usize::from(copies));
    }
}

/// Under the brake nothing moves, but a PG with one full member left is repaired.
#[test]
fn the_brake_holds_all_but_the_last_copies() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    world.node_out(1);
    let braked = Limits { braked: true, ..limits() };
    assert_eq!(plan(&world.map(), &braked), vec![]);
    world.node_out(2);
    let at_risk: Vec<PgId> = world
        .map()
        .pgs
        .values()
        .filter(|pg| pg.member(DiskId(1)).is_some() && pg.member(DiskId(2)).is_some())
        .map(|pg| pg.id)
        .collect();
    let planned = plan(&world.map(), &braked);
    assert!(!at_risk.is_empty() && !planned.is_empty());
    for command in planned {
        let MapCommand::ChangePg { pg, .. } = command else { panic!("{command:?}") };
        assert!(at_risk.contains(&pg));
    }
}

/// The same map gives the same plan, and a plan that comes twice is refused the second time.
#[test]
fn plans_are_deterministic_and_harmless_when_late() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    settle(&mut world);
    world.node_out(4);
    let actions = plan(&world.map(), &limits());
    assert_eq!(actions, plan(&world.map(), &limits()));
    for command in &actions {
        assert_eq!(world.map_command(command.clone()), Answer::Done);
    }
    for command in actions {
        assert_eq!(refusal(&world.map_command(command)), Some(Kind::Conflict));
    }
}

/// Half of the nodes, or two of three zones, dead at once are a network fault; one zone is not.
#[test]
fn the_brake_knows_a_network_fault() {
    use crate::brake::reason;
    let mut world = World::new(3, &["a", "a", "b", "c", "c", "c", "c"]);
    assert_eq!(reason(&world.map()), None);
    world.set_node(1, NodeState::Down);
    world.set_node(2, NodeState::Down);
    assert_eq!(reason(&world.map()), None, "one zone");
    world.set_node(3, NodeState::Down);
    assert!(reason(&world.map()).unwrap().contains("zones"));
    world.map_command(MapCommand::SetMaintenance { node: NodeId(3), on: true });
    assert_eq!(reason(&world.map()), None, "stopped on purpose");
    world.set_node(4, NodeState::Down);
    world.set_node(5, NodeState::Down);
    assert!(reason(&world.map()).unwrap().contains("nodes"));
    let mut small = World::new(3, &["", "", ""]);
    small.set_node(1, NodeState::Down);
    assert_eq!(reason(&small.map()), None);
}

/// A drained node is emptied, disk by disk, and then it may be removed; what it had is elsewhere.
#[test]
fn a_drained_node_is_emptied_and_removed() {
    let mut world = World::new(3, &["a", "a", "b", "b", "c", "c"]);
    settle(&mut world);
    with_blocks(&mut world);
    let node = NodeId(2);
    assert_eq!(world.map_command(MapCommand::DrainNode { node, on: true }), Answer::Done);
    let early = world.map_command(MapCommand::RemoveNode { node });
    assert_eq!(refusal(&early), Some(Kind::Conflict), "its places come first");
    settle(&mut world);
    assert_redundant(&world, 3);
    assert_eq!(memberships(&world, 2), 0);
    assert_eq!(world.map_command(MapCommand::RemoveNode { node }), Answer::Done);
    let map = world.map();
    assert!(!map.nodes.contains_key(&node) && !map.disks.contains_key(&DiskId(2)));
    assert_eq!(settle(&mut world), 0);
    assert_redundant(&world, 3);
}

/// A node that is Out for good is removed without being drained, once others have what it had.
#[test]
fn a_lost_node_is_removed() {
    let mut world = World::new(3, &["a", "a", "b", "b", "c"]);
    settle(&mut world);
    with_blocks(&mut world);
    world.node_out(5);
    let remove = MapCommand::RemoveNode { node: NodeId(5) };
    assert_eq!(refusal(&world.map_command(remove.clone())), Some(Kind::Conflict));
    settle(&mut world);
    assert_eq!(world.map_command(remove), Answer::Done);
    settle(&mut world);
    assert_redundant(&world, 3);
}

/// A policy that spreads over racks places copies in as many racks, and in as many zones as it can; a change
/// of the level moves what stands wrong.
#[test]
fn copies_follow_the_level_of_the_policy() {
    let mut world = World::new(2, &["a", "a", "b", "b"]);
    settle(&mut world);
    with_blocks(&mut world);
    for (node, rack) in [(1, "r1"), (2, "r2"), (3, "r1"), (4, "r2")] {
        let zone = world.map().nodes[&NodeId(node)].labels.zone.clone();
        let labels = Some(Labels { zone, rack: rack.into(), ..Labels::default() });
        let command = MapCommand::SetLabels { node: NodeId(node), labels };
        assert_eq!(world.map_command(command), Answer::Done);
    }
    let racks = Policy { spread: Spread::Rack, ..Policy::replicated(PolicyId(0), "default", 2) };
    assert_eq!(world.map_command(MapCommand::SetPolicy(racks)), Answer::Done);
    settle(&mut world);
    let map = world.map();
    for pg in map.pgs.values() {
        let disks: Vec<DiskId> = pg.members.iter().map(|m| m.disk).collect();
        assert_eq!(map.domains_of(Spread::Rack, disks.iter().copied()), 2, "{pg:?}");
        assert_eq!(map.zones_of(disks), 2, "{pg:?}");
    }
}

/// More copies are made when the policy wants more, and given up when it wants fewer.
#[test]
fn the_number_of_copies_may_change() {
    let mut world = World::new(2, &["a", "b", "c", "d"]);
    settle(&mut world);
    with_blocks(&mut world);
    for copies in [3, 2] {
        let policy = Policy::replicated(PolicyId(0), "default", copies);
        assert_eq!(world.map_command(MapCommand::SetPolicy(policy)), Answer::Done);
        settle(&mut world);
        assert_redundant(&world, usize::from(copies));
    }
}

/// A slow disk keeps its places and gets no new ones.
#[test]
fn a_slow_disk_gets_no_new_places() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    settle(&mut world);
    let before = memberships(&world, 1);
    let (disk, state) = (DiskId(1), DiskState::Slow);
    world.map_command(MapCommand::SetDiskState { disk, state, reason: "test".into() });
    assert_eq!(settle(&mut world), 0);
    world.node_out(5);
    settle(&mut world);
    assert_redundant(&world, 3);
    assert_eq!(memberships(&world, 1), before);
}

/// A node that is back soon takes its places back although others have replaced it: it compares, the most loaded
/// leave, and all is even again. Formers that do not come back are forgotten after a while.
#[test]
fn a_node_that_is_back_soon_fetches_what_it_missed() {
    let mut world = World::new(3, &["", "", "", "", ""]);
    settle(&mut world);
    with_blocks(&mut world);
    let held: Vec<PgId> = world
        .map()
        .pgs
        .values()
        .filter(|pg| pg.member(DiskId(5)).is_some())
        .map(|pg| pg.id)
        .collect();
    world.log_ms = 1_000;
    world.node_out(5);
    let mut now_ms = 10_000;
    let settle_at = |world: &mut World, now_ms| {
        let limits = Limits { now_ms, ..limits() };
        for _ in 0..500 {
            let plan = plan(&world.map(), &limits);
            if plan.is_empty() {
                return;
            }
            for command in plan {
                assert_eq!(world.map_command(command.clone()), Answer::Done, "{command:?}");
            }
            work(world);
        }
        panic!("the planner does not settle");
    };
    settle_at(&mut world, now_ms);
    let formers =
        |world: &World| world.map().pgs.values().filter(|pg| pg.formers == [DiskId(5)]).count();
    assert_eq!(formers(&world), held.len(), "nothing lacks, and nothing is forgotten");

    let mut gone = World { kv: world.kv.clone(), ..world };
    now_ms += 200_000;
    settle_at(&mut gone, now_ms);
    assert_eq!(formers(&gone), 0);
    assert_redundant(&gone, 3);

    world.log_ms = 60_000;
    world.register_node(5, "");
    world.register_disk(5, Some(DiskId(5)));
    let first = plan(&world.map(), &Limits { now_ms: 61_000, ..limits() });
    let takes_back = |command: &MapCommand| {
        matches!(command, MapCommand::ChangePg { change: PgChange::TakeBack(_), .. })
    };
    assert_eq!(first.len(), held.len(), "no move beside it: {first:?}");
    assert!(first.iter().all(takes_back), "{first:?}");
    settle_at(&mut world, 61_000);
    assert_redundant(&world, 3);
    let back = held.iter().filter(|pg| world.map().pgs[pg].member(DiskId(5)).is_some()).count();
    assert!(
        back * 10 >= held.len() * 9,
        "{back} of {} places are where its blocks are",
        held.len()
    );
    let counts: Vec<usize> = (1..=5).map(|disk| memberships(&world, disk)).collect();
    assert!(counts.iter().all(|count| (22..=26).contains(count)), "{counts:?}");
}
