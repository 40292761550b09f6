//! Which placement group a block is written to: the healthiest there are, at random by free space.

use crate::client::Client;
use crate::health::Target;
use everhold_proto::map::{ClusterMap, DiskState, Fullness, NodeState, Pg};
use everhold_proto::{DiskId, Epoch, PgId, PolicyId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Placement groups to choose from, for one map and one state of the breakers. Choosing is then a
/// binary search, however many groups there are.
#[derive(Default)]
pub(crate) struct Choices(Mutex<Option<Arc<Cached>>>);

struct Cached {
    key: (Epoch, u64),
    policies: BTreeMap<PolicyId, Weighted>,
}

/// Groups with cumulative weights.
#[derive(Debug, Default, PartialEq)]
struct Weighted(Vec<(PgId, u64)>);

/// How good a group is to write to; the first is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    /// All members take it.
    Whole,
    /// All members take it, one is nearly full.
    Nearfull,
    /// Enough members take it.
    Degraded,
    /// Too few look healthy; they may still answer.
    Desperate,
}

impl Client {
    /// A placement group for a new block, other than `avoid`. `None`: there is no other.
    pub(crate) fn choose_pg(
        &self,
        map: &ClusterMap,
        policy: PolicyId,
        avoid: &[PgId],
    ) -> Option<PgId> {
        let key = (map.epoch, self.peers.version());
        let cached = {
            let mut cached = self.choices.0.lock();
            match &*cached {
                Some(c) if c.key == key => c.clone(),
                _ => {
                    let policies = weigh(map, |target| self.peers.allows(target));
                    cached.insert(Arc::new(Cached { key, policies })).clone()
                }
            }
        };
        if let Some(pg) = self.trial(map, policy, avoid) {
            return Some(pg);
        }
        let draw = |bound| self.env.entropy.below(bound);
        cached.policies.get(&policy)?.choose(avoid, draw)
    }
}

impl Client {
    /// A group that all members take, one of which is coming back and is to be tried: it is not drawn otherwise.
    fn trial(&self, map: &ClusterMap, policy: PolicyId, avoid: &[PgId]) -> Option<PgId> {
        let tried = self.peers.to_be_tried()?;
        let allows = |target| tried.covers(target) || self.peers.allows(target);
        let is_tried = |disk| target_of(map, disk).is_some_and(|target| tried.covers(target));
        let tries = |pg: &&Pg| {
            let member = pg.members.iter().any(|m| is_tried(m.disk));
            let whole = || judge(map, pg, &allows).is_some_and(|(tier, _)| tier <= Tier::Nearfull);
            pg.policy == policy && !avoid.contains(&pg.id) && member && whole()
        };
        let groups: Vec<PgId> = map.pgs.values().filter(tries).map(|pg| pg.id).collect();
        let at = self.env.entropy.below(groups.len().max(1) as u64) as usize;
        groups.get(at).copied()
    }
}

impl Weighted {
    fn choose(&self, avoid: &[PgId], draw: impl Fn(u64) -> u64) -> Option<PgId> {
        let total = self.0.last()?.1;
        for _ in 0..8 {
            let at = draw(total);
            let (pg, _) = self.0[self.0.partition_point(|(_, end)| *end <= at)];
            if !avoid.contains(&pg) {
                return Some(pg);
            }
        }
        self.0.iter().map(|(pg, _)| *pg).find(|pg| !avoid.contains(pg))
    }
}

/// For each policy the groups of its best tier with their weights. When the best tier has few groups,
/// the next ones follow with little weight, so that a refused block finds somewhere else to go.
fn weigh(map: &ClusterMap, allows: impl Fn(Target) -> bool) -> BTreeMap<PolicyId, Weighted> {
    let mut tiers: BTreeMap<PolicyId, BTreeMap<Tier, Vec<(PgId, u64)>>> = BTreeMap::new();
    for pg in map.pgs.values() {
        if let Some((tier, weight)) = judge(map, pg, &allows) {
            let tiers = tiers.entry(pg.policy).or_default();
            tiers.entry(tier).or_default().push((pg.id, weight));
        }
    }
    tiers.into_iter().map(|(policy, tiers)| (policy, accumulate(tiers))).collect()
}

fn accumulate(tiers: BTreeMap<Tier, Vec<(PgId, u64)>>) -> Weighted {
    let mut sum = 0u64;
    let mut weighted = Vec::new();
    let best = tiers.keys().next().copied();
    for (tier, pgs) in tiers {
        for (pg, weight) in pgs {
            // One unit is 1 MiB of free space, so a weight of 1 is next to never drawn.
            sum += if Some(tier) == best { weight } else { 1 };
            weighted.push((pg, sum));
        }
    }
    Weighted(weighted)
}

/// `None`: a write there cannot succeed.
fn judge(map: &ClusterMap, pg: &Pg, allows: &impl Fn(Target) -> bool) -> Option<(Tier, u64)> {
    let policy = map.policies.get(&pg.policy)?;
    let takes: Vec<DiskId> =
        pg.members.iter().map(|m| m.disk).filter(|disk| takes_writes(map, *disk)).collect();
    if takes.len() < usize::from(policy.write_quorum) {
        return None;
    }
    let healthy = |disk: &DiskId| {
        let node = map.node_of(*disk).filter(|_| !is_slow(map, *disk));
        node.is_some_and(|n| n.state == NodeState::Up && allows(Target { disk: *disk, node: n.id }))
    };
    let well: Vec<DiskId> = takes.iter().copied().filter(healthy).collect();
    let disks = || well.iter().filter_map(|disk| map.disks.get(disk));
    let free = disks().map(|d| d.capacity_bytes.saturating_sub(d.used_bytes) >> 20).min();
    let enough = well.len() >= usize::from(policy.write_quorum)
        && (map.zones_of(well.iter().copied()) >= 2 || map.zones_of(takes.iter().copied()) < 2);
    let tier = if well.len() >= usize::from(policy.copies) && well.len() == pg.members.len() {
        let nearfull = disks().any(|d| d.fullness != Fullness::Normal);
        if nearfull { Tier::Nearfull } else { Tier::Whole }
    } else if enough {
        Tier::Degraded
    } else {
        Tier::Desperate
    };
    Some((tier, free.unwrap_or(0).clamp(1, 1 << 40)))
}

/// A disk with its node; `None`: the map does not have it.
pub(super) fn target_of(map: &ClusterMap, disk: DiskId) -> Option<Target> {
    Some(Target { disk, node: map.node_of(disk)?.id })
}

/// Whether the cluster found the disk far slower than its peers.
pub(super) fn is_slow(map: &ClusterMap, disk: DiskId) -> bool {
    map.disks.get(&disk).is_some_and(|disk| disk.state == DiskState::Slow)
}

/// Whether a disk may be sent blocks, by the map.
pub(super) fn takes_writes(map: &ClusterMap, disk: DiskId) -> bool {
    map.is_reachable(disk)
        && map
            .disks
            .get(&disk)
            .is_some_and(|d| d.state != DiskState::Failed && d.fullness != Fullness::Full)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use everhold_proto::map::{Disk, Labels, Member, Node, Policy};
    use everhold_proto::{DiskSession, Generation, LogIndex, NodeId};

    /// `zones` nodes, each its own zone with one disk, and one PG of three for each start.
    pub(crate) fn map(nodes: u32) -> ClusterMap {
        let mut map = ClusterMap { epoch: Epoch(1), ..ClusterMap::default() };
        map.policies.insert(PolicyId(0), Policy::replicated(PolicyId(0), "default", 3));
        for n in 1..=nodes {
            let node = Node {
                id: NodeId(n),
                uuid: [n as u8; 16],
                address: format!("host{n}:1"),
                labels: Labels::default(),
                state: NodeState::Up,
                since_ms: 0,
                reason: String::new(),
                boot: 1,
                raft: None,
                maintenance: false,
                labels_fixed: false,
                mark: 0,
            };
            let disk = Disk {
                id: DiskId(n),
                uuid: [n as u8; 16],
                node: NodeId(n),
                session: DiskSession(1),
                capacity_bytes: 100 << 20,
                used_bytes: 0,
                fullness: Fullness::Normal,
                state: DiskState::In,
            };
            map.nodes.insert(node.id, node);
            map.disks.insert(disk.id, disk);
            let member = |i: u32| Member {
                disk: DiskId((n - 1 + i) % nodes + 1),
                joined: LogIndex(1),
                complete: true,
                missing_blocks: 0,
                range_recorded: LogIndex(0),
            };
            let pg = Pg {
                id: PgId(n),
                policy: PolicyId(0),
                generation: Generation(1),
                members: (0..3).map(member).collect(),
                formers: Vec::new(),
                blocks: 0,
                live_bytes: 0,
            };
            map.pgs.insert(pg.id, pg);
        }
        map
    }

    fn drawn(map: &ClusterMap, allows: impl Fn(Target) -> bool) -> BTreeMap<PgId, usize> {
        let weighted = weigh(map, allows);
        let mut counts = BTreeMap::new();
        let total = weighted[&PolicyId(0)].0.last().unwrap().1;
        for at in 0..total {
            let pg = weighted[&PolicyId(0)].choose(&[], |_| at).unwrap();
            *counts.entry(pg).or_default() += 1;
        }
        counts
    }

    fn has(map: &ClusterMap, pg: PgId, disk: DiskId) -> bool {
        map.pgs[&pg].member(disk).is_some()
    }

    #[test]
    fn groups_are_drawn_by_free_space() {
        let mut map = map(5);
        map.disks.get_mut(&DiskId(1)).unwrap().used_bytes = 90 << 20;
        for (pg, count) in drawn(&map, |_| true) {
            assert_eq!(count, if has(&map, pg, DiskId(1)) { 10 } else { 100 }, "{pg}");
        }
    }

    #[test]
    fn groups_with_a_sick_member_are_the_last_resort() {
        let map = map(5);
        for (pg, count) in drawn(&map, |target| target.node != NodeId(2)) {
            assert_eq!(count, if has(&map, pg, DiskId(2)) { 1 } else { 100 }, "{pg}");
        }
        let mut down = map.clone();
        down.nodes.get_mut(&NodeId(2)).unwrap().state = NodeState::Down;
        assert_eq!(drawn(&down, |_| true), drawn(&map, |target| target.node != NodeId(2)));
    }

    #[test]
    fn three_nodes_with_one_down_still_take_writes_and_with_two_down_do_not() {
        let mut map = map(3);
        map.nodes.get_mut(&NodeId(2)).unwrap().state = NodeState::Down;
        assert_eq!(drawn(&map, |_| true).len(), 3);
        map.nodes.get_mut(&NodeId(3)).unwrap().state = NodeState::Down;
        assert!(weigh(&map, |_| true).is_empty());
    }

    #[test]
    fn full_disks_take_nothing() {
        let mut map = map(3);
        for disk in [1, 2] {
            map.disks.get_mut(&DiskId(disk)).unwrap().fullness = Fullness::Full;
        }
        assert!(weigh(&map, |_| true).is_empty());
    }

    #[test]
    fn avoided_groups_are_not_chosen() {
        let map = map(4);
        let weighted = weigh(&map, |_| true);
        let weighted = &weighted[&PolicyId(0)];
        let avoid = [PgId(1), PgId(2), PgId(3)];
        assert_eq!(weighted.choose(&avoid, |_| 0), Some(PgId(4)));
        assert_eq!(weighted.choose(&[PgId(1), PgId(2), PgId(3), PgId(4)], |_| 0), None);
    }
}
