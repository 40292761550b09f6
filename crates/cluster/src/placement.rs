//! Which disks hold a placement group: spread over the domains of the policy's level (zones, unless it says
//! otherwise), then zones, then nodes, then even by capacity.
//!
//! Each choice takes, among the disks allowed, the one in the least used domain, then with the fewest
//! memberships for its capacity, then on the node that shares the fewest PGs with those chosen (so every
//! pair of nodes shares some, and every node helps to rebuild any other), then by a rendezvous hash.
//! Small clusters come out even, where pure hashing would be off by a quarter. **Invariant:** never two
//! members of a PG on one node.

#[cfg(test)]
mod tests;

use everhold_proto::map::{ClusterMap, Disk, DiskState, Fullness, NodeState, Pg, Policy, Spread};
use everhold_proto::{DiskId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Memberships wanted on each disk: enough that a lost disk is rebuilt by all others and that moving
/// one PG moves a twentieth of a disk; few enough that the map stays small.
pub const MEMBERSHIPS_PER_DISK: usize = 24;
/// Fewest PGs of a policy.
pub const PGS_MIN: usize = 8;
/// Most PGs of a policy.
pub const PGS_MAX: usize = 4096;
/// Most PGs that one plan creates.
const CREATE_MAX: usize = 256;

/// The PGs that a policy should get now: their members, in the order of creation. Their number follows the
/// number of disks and only grows. Empty while there are fewer nodes than a write needs.
pub fn plan_pgs(map: &ClusterMap, policy: &Policy) -> Vec<Vec<DiskId>> {
    let existing = map.pgs.values().filter(|pg| pg.policy == policy.id).count();
    let mut placement = Placement::of(map);
    let nodes: BTreeSet<NodeId> = placement.usable().map(|disk| disk.node).collect();
    if nodes.len() < usize::from(policy.write_quorum) {
        return Vec::new();
    }
    let copies = usize::from(policy.copies).min(nodes.len());
    let wanted =
        (placement.usable().count() * MEMBERSHIPS_PER_DISK / copies).clamp(PGS_MIN, PGS_MAX);
    (existing..wanted)
        .take(CREATE_MAX)
        .map(|salt| {
            let mut members = Vec::with_capacity(copies);
            while let Some(disk) = (members.len() < copies)
                .then(|| placement.choose(policy.spread, &members, &[], salt as u64))
                .flatten()
            {
                placement.add(&members, disk);
                members.push(disk);
            }
            members
        })
        .collect()
}

/// How memberships are spread at present, and as planned.
#[derive(Clone, Debug)]
pub(crate) struct Placement<'a> {
    map: &'a ClusterMap,
    memberships: BTreeMap<DiskId, u64>,
    pairs: BTreeMap<(NodeId, NodeId), u64>,
}

impl<'a> Placement<'a> {
    pub(crate) fn of(map: &'a ClusterMap) -> Self {
        let mut placement = Placement { map, memberships: BTreeMap::new(), pairs: BTreeMap::new() };
        for pg in map.pgs.values() {
            let mut before = Vec::with_capacity(pg.members.len());
            for member in &pg.members {
                placement.add(&before, member.disk);
                before.push(member.disk);
            }
        }
        placement
    }

    /// Disks that may get new members.
    pub(crate) fn usable(&self) -> impl Iterator<Item = &'a Disk> + use<'a> {
        let map = self.map;
        map.disks.values().filter(move |disk| {
            disk.state == DiskState::In
                && disk.fullness == Fullness::Normal
                && map
                    .nodes
                    .get(&disk.node)
                    .is_some_and(|node| node.state == NodeState::Up && !node.maintenance)
        })
    }

    /// The best disk to go with `members`; none of `excluded`, and no second one on a node.
    pub(crate) fn choose(
        &self,
        level: Spread,
        members: &[DiskId],
        excluded: &[DiskId],
        salt: u64,
    ) -> Option<DiskId> {
        let nodes: Vec<NodeId> = members.iter().filter_map(|disk| self.node(*disk)).collect();
        let domains = self.crowds(level, members);
        let zones = self.crowds(Spread::Zone, members);
        let crowd = |crowds: &BTreeMap<String, usize>, level, disk| {
            self.domain(level, disk).and_then(|name| crowds.get(&name)).copied().unwrap_or(0)
        };
        self.usable()
            .filter(|disk| !nodes.contains(&disk.node))
            .filter(|disk| !members.contains(&disk.id) && !excluded.contains(&disk.id))
            .min_by_key(|disk| {
                let crowds =
                    (crowd(&domains, level, disk.id), crowd(&zones, Spread::Zone, disk.id));
                let shared: u64 = nodes.iter().map(|node| self.shared(*node, disk.node)).sum();
                (crowds, self.load_with(disk.id, 1), shared, rendezvous(salt, disk.id))
            })
            .map(|disk| disk.id)
    }

    /// Notes that `disk` becomes a member beside `members`.
    pub(crate) fn add(&mut self, members: &[DiskId], disk: DiskId) {
        *self.memberships.entry(disk).or_default() += 1;
        let Some(node) = self.node(disk) else { return };
        for other in members.iter().filter_map(|other| self.node(*other)).collect::<Vec<_>>() {
            *self.pairs.entry((node.min(other), node.max(other))).or_default() += 1;
        }
    }

    /// Notes that `disk` gives a membership up.
    pub(crate) fn remove(&mut self, disk: DiskId) {
        if let Some(count) = self.memberships.get_mut(&disk) {
            *count = count.saturating_sub(1);
        }
    }

    /// Memberships for the capacity, with `more` of them, in parts of a million per MiB.
    pub(crate) fn load_with(&self, disk: DiskId, more: i64) -> u64 {
        let count = self.memberships.get(&disk).copied().unwrap_or(0).saturating_add_signed(more);
        let capacity = self.map.disks.get(&disk).map_or(0, |disk| disk.capacity_bytes >> 20);
        let load = u128::from(count) * 1_000_000_000 / u128::from(capacity.max(1));
        u64::try_from(load).unwrap_or(u64::MAX)
    }

    fn node(&self, disk: DiskId) -> Option<NodeId> {
        self.map.disks.get(&disk).map(|disk| disk.node)
    }

    fn domain(&self, level: Spread, disk: DiskId) -> Option<String> {
        self.map.node_of(disk).map(|node| node.domain(level))
    }

    /// How many of `members` stand in each domain.
    fn crowds(&self, level: Spread, members: &[DiskId]) -> BTreeMap<String, usize> {
        let mut crowds = BTreeMap::new();
        for name in members.iter().filter_map(|disk| self.domain(level, *disk)) {
            *crowds.entry(name).or_default() += 1;
        }
        crowds
    }

    fn shared(&self, a: NodeId, b: NodeId) -> u64 {
        self.pairs.get(&(a.min(b), a.max(b))).copied().unwrap_or(0)
    }
}

/// The level that the policy of a PG spreads its copies over.
pub(crate) fn level(map: &ClusterMap, pg: &Pg) -> Spread {
    map.policies.get(&pg.policy).map(|policy| policy.spread).unwrap_or_default()
}

/// The disk that should replace a lost or leaving member: `kept` are those that stay.
pub(crate) fn replacement(placement: &Placement<'_>, pg: &Pg, kept: &[DiskId]) -> Option<DiskId> {
    let holders: Vec<DiskId> = pg.holders().collect();
    placement.choose(level(placement.map, pg), kept, &holders, u64::from(pg.id.0))
}

/// A well mixed number of (salt, disk): the same everywhere, different for each PG.
fn rendezvous(salt: u64, disk: DiskId) -> u64 {
    let mut x = salt.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ u64::from(disk.0).rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    x ^ (x >> 31)
}
