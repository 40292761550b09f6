//! How much would move until the disks are even: the planner itself, run to its end on a copy of the map.
//!
//! Moves for evenness go on by themselves, once a disk has a fifth more for its capacity than another would have after
//! the move: less is not worth its cost. An operator may ask for more: then every move that makes the disks evener is
//! made, and never one that does not, so that no more moves than has to.

use crate::placement::Placement;
use crate::repair::{Evenness, Limits, leaver, plan};
use everhold_proto::command::{MapCommand, PgChange};
use everhold_proto::map::{ClusterMap, DiskState, Member, NodeState, Pg};
use everhold_proto::rpc::DiskShare;
use everhold_proto::{DiskId, Generation, LogIndex, PgId};
use std::collections::BTreeMap;

/// What a rebalance would do.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Forecast {
    /// Groups that would be created first.
    pub created: u64,
    /// Places that would move.
    pub moves: u64,
    /// Bytes that would be copied for it.
    pub bytes: u64,
    /// What it is like now, and what it would be like after.
    pub shares: Vec<DiskShare>,
}

/// What would be moved if nothing else happened. Whatever is to be repaired is taken as repaired: a rebalance waits for
/// it anyway.
pub fn forecast(map: &ClusterMap, evenness: Evenness) -> Forecast {
    let mut after = settled(map);
    let before = places(&after);
    let limits =
        Limits { evenness, actions_max: usize::MAX, moves_max: usize::MAX, ..Limits::default() };
    let mut forecast = Forecast::default();
    // Each round moves at most one place of each group; evenness grows with each, so this ends. The bound is only for
    // a defect to show as a wrong number and not as a leader that hangs.
    for _ in 0..after.pgs.len().max(1) * 4 {
        let plan = plan(&after, &limits);
        // New groups come first, on new disks above all: what is uneven then is moved.
        let created: u64 = plan.iter().map(|command| create(&mut after, command)).sum();
        forecast.created += created;
        let moved = plan.iter().filter(|command| step(&mut after, command, &mut forecast)).count();
        if moved == 0 && created == 0 {
            break;
        }
    }
    let now = places(&after);
    forecast.shares = map
        .disks
        .values()
        .map(|disk| DiskShare {
            disk: disk.id,
            node: disk.node,
            capacity_bytes: disk.capacity_bytes,
            places: before.get(&disk.id).copied().unwrap_or(0),
            places_after: now.get(&disk.id).copied().unwrap_or(0),
        })
        .collect();
    forecast
}

/// Adds the groups that a plan would create to the copy; says how many.
fn create(map: &mut ClusterMap, command: &MapCommand) -> u64 {
    let MapCommand::CreatePgs { policy, members, .. } = command else { return 0 };
    for disks in members {
        let id = PgId(map.pgs.keys().next_back().map_or(0, |last| last.0) + 1);
        let members = disks.iter().map(|disk| full(*disk)).collect();
        let (generation, formers) = (Generation(1), Vec::new());
        let policy = *policy;
        let pg = Pg { id, policy, generation, members, formers, blocks: 0, live_bytes: 0 };
        map.pgs.insert(id, pg);
    }
    members.len() as u64
}

/// Applies one action of a plan to the copy; `true` if something moved.
fn step(map: &mut ClusterMap, command: &MapCommand, forecast: &mut Forecast) -> bool {
    let MapCommand::ChangePg { pg, generation, change: PgChange::Join(disk) } = command else {
        return false;
    };
    let Some(row) = map.pgs.get_mut(pg).filter(|row| row.generation == *generation) else {
        return false;
    };
    let newest = row.members.iter().map(|member| member.joined.0).max().unwrap_or(0);
    row.members.push(Member { joined: LogIndex(newest + 1), ..full(*disk) });
    row.generation = Generation(row.generation.0 + 1);
    let row = row.clone();
    let leaves = leaver(map, &Placement::of(map), &row);
    let Some(target) = map.pgs.get_mut(pg) else { return false };
    target.members.retain(|member| Some(member.disk) != leaves);
    if leaves == Some(*disk) {
        return false;
    }
    forecast.moves += 1;
    forecast.bytes += target.live_bytes;
    true
}

/// The map with every copy where it belongs.
fn settled(map: &ClusterMap) -> ClusterMap {
    let mut map = map.clone();
    for pg in map.pgs.values_mut() {
        pg.formers.clear();
        for member in &mut pg.members {
            *member = Member { joined: member.joined, ..full(member.disk) };
        }
    }
    map
}

fn full(disk: DiskId) -> Member {
    let (joined, range_recorded) = (LogIndex(0), LogIndex(0));
    Member { disk, joined, complete: true, missing_blocks: 0, range_recorded }
}

fn places(map: &ClusterMap) -> BTreeMap<DiskId, u64> {
    let mut places = BTreeMap::new();
    for member in map.pgs.values().flat_map(|pg| &pg.members) {
        *places.entry(member.disk).or_default() += 1;
    }
    places
}

/// Groups that have a member too many: they are on the move, for whatever reason.
pub fn in_motion(map: &ClusterMap) -> u64 {
    let copies = |policy| map.policies.get(&policy).map_or(1, |policy| usize::from(policy.copies));
    let moving = map.pgs.values().filter(|pg| pg.members.len() > copies(pg.policy));
    moving.count() as u64
}

/// Disks that could take places: a rebalance spreads over these.
pub fn usable(map: &ClusterMap) -> usize {
    let usable = map.disks.values().filter(|disk| {
        disk.state == DiskState::In
            && map.nodes.get(&disk.node).is_some_and(|node| node.state == NodeState::Up)
    });
    usable.count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::World;

    /// A cluster of `old` nodes that has all its groups, and `new` empty nodes beside it.
    fn grown(old: usize, new: usize) -> ClusterMap {
        let zones: Vec<String> = (0..old + new).map(|n| format!("z{n}")).collect();
        let zones: Vec<&str> = zones.iter().map(String::as_str).collect();
        let mut map = World::new(3, &zones).map();
        let old_disks: Vec<DiskId> = map.disks.keys().copied().take(old).collect();
        map.pgs = map.pgs.into_iter().take(0).collect();
        let policy = map.policies.keys().next().copied().expect("there is one");
        for n in 0..40u32 {
            let members = (0..3).map(|i| full(old_disks[(n as usize + i) % old])).collect();
            let id = PgId(n + 1);
            let pg = Pg {
                id,
                policy,
                generation: Generation(1),
                members,
                formers: Vec::new(),
                blocks: 10,
                live_bytes: 1 << 20,
            };
            map.pgs.insert(id, pg);
        }
        map
    }

    /// No more moves than has to: with four nodes of which one is new, at most its fair share, and after that nothing.
    #[test]
    fn moves_no_more_than_needed() {
        let map = grown(4, 1);
        let exact = forecast(&map, Evenness::Exact);
        assert!((20..=24).contains(&exact.moves), "a fifth of 120 places is 24: {}", exact.moves);
        assert_eq!(exact.bytes, exact.moves << 20);
        let after: Vec<u64> = exact.shares.iter().map(|share| share.places_after).collect();
        assert!(after.iter().all(|places| (22..=26).contains(places)), "{after:?}");
        let worthwhile = forecast(&map, Evenness::Worthwhile);
        assert!(worthwhile.moves <= exact.moves, "{} {}", worthwhile.moves, exact.moves);
    }

    /// A second disk of a node gets its part of that node's places; a newcomer is not sent away before it is full, and
    /// then the disk that it relieves leaves.
    #[test]
    fn places_move_between_disks_of_a_node() {
        let mut map = grown(3, 0);
        let (old, new) = (DiskId(1), DiskId(99));
        let disk = everhold_proto::map::Disk { id: new, uuid: [99; 16], ..map.disks[&old].clone() };
        map.disks.insert(new, disk);
        let exact = forecast(&map, Evenness::Exact);
        let after = |id| exact.shares.iter().find(|share| share.disk == id).map(|s| s.places_after);
        assert_eq!((after(old), after(new), exact.moves), (Some(20), Some(20), 20));

        let pg = map.pgs.keys().next().copied().expect("there are some");
        let leaves = |map: &ClusterMap| {
            plan(map, &Limits::default()).into_iter().find_map(|command| match command {
                MapCommand::ChangePg { pg: of, change: PgChange::Leave(disk), .. } if of == pg => {
                    Some(disk)
                }
                _ => None,
            })
        };
        let joined = LogIndex(50);
        let newcomer = Member { joined, complete: false, ..full(new) };
        map.pgs.get_mut(&pg).expect("it is there").members.push(newcomer);
        assert_eq!(leaves(&map), None);
        let members = &mut map.pgs.get_mut(&pg).expect("it is there").members;
        members.last_mut().expect("it joined").complete = true;
        assert_eq!(leaves(&map), Some(old));
    }

    /// Groups that are still to be created for new disks do not hide what is to be moved to these.
    #[test]
    fn new_groups_come_before_moves() {
        let map = World::new(3, &["z1", "z2", "z3", "z1"]).map();
        let mut map = ClusterMap { pgs: Default::default(), ..map };
        let policy = map.policies.keys().next().copied().expect("there is one");
        for n in 1..=8 {
            let members = (1..=3).map(|disk| full(DiskId(disk))).collect();
            let (generation, formers) = (Generation(1), Vec::new());
            let (blocks, live_bytes) = (10, 1 << 20);
            let id = PgId(n);
            map.pgs.insert(id, Pg { id, policy, generation, members, formers, blocks, live_bytes });
        }
        let created = plan(&map, &Limits::default());
        assert!(created.iter().any(|c| matches!(c, MapCommand::CreatePgs { .. })), "{created:?}");
        let exact = forecast(&map, Evenness::Exact);
        assert!(exact.created > 0, "{exact:?}");
        assert!(exact.shares.iter().all(|share| share.places_after > 0), "{exact:?}");
    }

    /// What is even stays as it is.
    #[test]
    fn even_disks_are_left_alone() {
        let map = grown(5, 0);
        assert_eq!(forecast(&map, Evenness::Exact).moves, 0);
        assert_eq!(in_motion(&map), 0);
        assert_eq!(usable(&map), 5);
    }
}
