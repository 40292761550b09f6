//! Spread and evenness of new placement groups.

use super::*;
use crate::testing::World;
use everhold_proto::PolicyId;

fn plan(world: &World) -> Vec<Vec<DiskId>> {
    let map = world.map();
    plan_pgs(&map, &map.policies[&PolicyId(0)])
}

fn counts(groups: &[Vec<DiskId>]) -> BTreeMap<DiskId, usize> {
    let mut counts = BTreeMap::new();
    groups.iter().flatten().for_each(|disk| *counts.entry(*disk).or_default() += 1);
    counts
}

/// Five nodes, three copies: forty PGs, even, each pair of nodes shares some.
#[test]
fn five_nodes_share_forty_groups_evenly() {
    let world = World::new(3, &["", "", "", "", ""]);
    let groups = plan(&world);
    assert_eq!(groups.len(), 40);
    let counts = counts(&groups);
    assert!(counts.values().all(|count| *count == 24), "{counts:?}");
    for a in 1..=5 {
        for b in a + 1..=5 {
            let both = |g: &&Vec<DiskId>| g.contains(&DiskId(a)) && g.contains(&DiskId(b));
            assert!(groups.iter().filter(both).count() >= 6, "d{a} and d{b}");
        }
    }
}

/// Every PG stands in as many zones as there are, and never twice on a node.
#[test]
fn groups_spread_over_zones_then_nodes() {
    let mut world = World::new(3, &["a", "a", "b", "b", "c"]);
    world.map_command(everhold_proto::command::MapCommand::RegisterDisk {
        uuid: [50; 16],
        disk: None,
        node: NodeId(1),
        capacity_bytes: crate::testing::CAPACITY,
        used_bytes: 0,
    });
    let map = world.map();
    for group in plan(&world) {
        assert_eq!(map.zones_of(group.iter().copied()), 3, "{group:?}");
        let nodes: BTreeSet<NodeId> = group.iter().map(|disk| map.disks[disk].node).collect();
        assert_eq!(nodes.len(), 3);
    }
}

/// Two nodes get PGs of two members for now; one node cannot be written to and gets none.
#[test]
fn fewer_nodes_than_copies() {
    assert!(plan(&World::new(3, &["a"])).is_empty());
    let groups = plan(&World::new(3, &["a", "b"]));
    assert!(!groups.is_empty() && groups.iter().all(|group| group.len() == 2));
    assert!(plan(&World::new(1, &["a"])).iter().all(|group| group.len() == 1));
}

/// A disk of twice the size gets about twice the PGs.
#[test]
fn capacity_weighs() {
    let mut world = World::new(2, &["", "", "", "", ""]);
    world.map_command(everhold_proto::command::MapCommand::RegisterDisk {
        uuid: [1; 16],
        disk: Some(DiskId(1)),
        node: NodeId(1),
        capacity_bytes: 2 * crate::testing::CAPACITY,
        used_bytes: 0,
    });
    let counts = counts(&plan(&world));
    let ratio = counts[&DiskId(1)] as f64 / counts[&DiskId(2)] as f64;
    assert!((1.8..=2.2).contains(&ratio), "{counts:?}");
}

/// When all PGs are there, nothing more is planned; new disks bring new ones.
#[test]
fn groups_only_grow_with_disks() {
    let mut world = World::new(3, &["", "", ""]);
    let members = plan(&world);
    let count = members.len();
    let policy = PolicyId(0);
    world.map_command(everhold_proto::command::MapCommand::CreatePgs {
        policy,
        members,
        existing: 0,
    });
    assert!(plan(&world).is_empty());
    world.add_node(4, "");
    assert_eq!(plan(&world).len(), 4 * MEMBERSHIPS_PER_DISK / 3 - count);
    assert!(plan(&world).iter().all(|group| group.contains(&DiskId(4))));
}
