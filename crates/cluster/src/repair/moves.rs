//! Moves for evenness: a disk joins, and when it is full another one leaves.

use super::{Evenness, Planner, copies, is_lost, is_misplaced, is_overfull, settled};
use crate::placement::{Placement, level, replacement};
use everhold_proto::DiskId;
use everhold_proto::command::PgChange;
use everhold_proto::map::{ClusterMap, DiskState, Member, Pg, Spread};

/// PGs without blocks in motion at a time: moving them costs nothing.
const EMPTY_MOVES_MAX: usize = 32;
/// A move is worth its cost when the source has this much more for its capacity than the target
/// would have: 6/5, a fifth more.
const WORTHWHILE: (u64, u64) = (6, 5);
/// Whatever makes the disks evener: the source has more than the target would have.
const EXACT: (u64, u64) = (1, 1);

impl Planner<'_> {
    /// Plans moves, unless something is being repaired: that comes first.
    pub(super) fn even_out(&mut self, moves_max: usize) {
        let map = self.map;
        let (mut in_motion, mut empty_in_motion) = (0, 0);
        for pg in map.pgs.values() {
            match pg.members.len().cmp(&copies(map, pg)) {
                std::cmp::Ordering::Greater if pg.blocks == 0 => empty_in_motion += 1,
                std::cmp::Ordering::Greater => in_motion += 1,
                std::cmp::Ordering::Less if self.could_grow(pg) => return,
                _ => continue,
            }
            // A move under way counts as done, or it would be planned twice.
            if let Some(leaver) = leaver(map, &self.placement, pg) {
                self.placement.remove(leaver);
            }
        }
        for pg in map.pgs.values() {
            let (count, most) = if pg.blocks == 0 {
                (&mut empty_in_motion, EMPTY_MOVES_MAX)
            } else {
                (&mut in_motion, moves_max)
            };
            if *count < most && self.is_quiet(pg) && self.move_one(pg) {
                *count += 1;
            }
        }
    }

    fn could_grow(&self, pg: &Pg) -> bool {
        let kept: Vec<DiskId> = settled(self.map, pg).map(|member| member.disk).collect();
        replacement(&self.placement, pg, &kept).is_some()
    }

    fn is_quiet(&self, pg: &Pg) -> bool {
        let in_place = settled(self.map, pg).count();
        let all_full = pg.members.iter().all(|m| m.is_full() && self.map.is_reachable(m.disk));
        in_place == copies(self.map, pg)
            && pg.members.len() == in_place
            && all_full
            && pg.formers.is_empty()
    }

    fn move_one(&mut self, pg: &Pg) -> bool {
        let map = self.map;
        let disks: Vec<DiskId> = pg.members.iter().map(|member| member.disk).collect();
        let spread = |disks: &[DiskId]| domains(map, pg, disks);
        let before = spread(&disks);
        let over = match self.limits.evenness {
            Evenness::Worthwhile => WORTHWHILE,
            Evenness::Exact => EXACT,
        };
        let mut sources = disks.clone();
        sources.sort_by_key(|disk| {
            (!is_overfull(map, *disk), std::cmp::Reverse(self.placement.load_with(*disk, 0)), *disk)
        });
        for source in sources {
            let kept: Vec<DiskId> = disks.iter().copied().filter(|disk| *disk != source).collect();
            let Some(target) = replacement(&self.placement, pg, &kept) else { continue };
            let after = spread(&[kept.clone(), vec![target]].concat());
            let from = self.placement.load_with(source, 0);
            let to = self.placement.load_with(target, 1);
            let evener = from.saturating_mul(over.1) > to.saturating_mul(over.0);
            let worth_it = evener || is_overfull(map, source);
            if after > before || (after == before && worth_it) {
                let mut next = pg.clone();
                self.propose(&mut next, PgChange::Join(target));
                self.placement.add(&kept, target);
                self.placement.remove(source);
                return true;
            }
        }
        false
    }
}

/// In how many domains of the policy's level, and in how many zones, these disks stand: more is better.
fn domains(map: &ClusterMap, pg: &Pg, disks: &[DiskId]) -> (usize, usize) {
    let of = |level| map.domains_of(level, disks.iter().copied());
    (of(level(map, pg)), of(Spread::Zone))
}

/// Who should leave a PG that has a member too many: one that is drained, misplaced or on a full disk;
/// then one whose going costs no domain of the policy's level, and no zone; then one that lags behind a member that came later (a former took
/// its place back beside it); then the one on the most loaded disk. The newest member is still to prove
/// itself and stays, as long as its disk is in order. If it came to another disk of a node that was in the PG already, the
/// two are a move within that node: once the newest is full, one of them leaves, the drained one if there is one.
pub(crate) fn leaver(map: &ClusterMap, placement: &Placement<'_>, pg: &Pg) -> Option<DiskId> {
    let newest = pg.members.iter().max_by_key(|member| (member.joined, member.disk));
    let is_newest = |member: &Member| newest.is_some_and(|newest| newest.joined == member.joined);
    let within = newest.filter(|newest| {
        is_misplaced(map, pg, newest) && !is_lost(map, newest.disk) && !is_leaving(map, newest.disk)
    });
    let moves_within = |member: &Member| {
        let node = |disk| map.disks.get(&disk).map(|disk| disk.node);
        within.is_some_and(|newest| node(newest.disk) == node(member.disk))
    };
    let is_settled = |disk| settled(map, pg).any(|member| member.disk == disk);
    let domains_without = |member: &Member| {
        let others = pg.members.iter().map(|m| m.disk).filter(|disk| *disk != member.disk);
        domains(map, pg, &others.collect::<Vec<_>>())
    };
    pg.members
        .iter()
        .filter(|member| {
            let disorderly = !is_settled(member.disk) && !moves_within(member);
            member.is_full() || !is_newest(member) || disorderly
        })
        .max_by_key(|member| {
            let unwanted = !is_settled(member.disk) || moves_within(member);
            (
                unwanted || is_overfull(map, member.disk),
                moves_within(member) && is_leaving(map, member.disk),
                domains_without(member),
                !member.is_full(),
                placement.load_with(member.disk, 0),
                member.disk,
            )
        })
        .map(|member| member.disk)
}

fn is_leaving(map: &ClusterMap, disk: DiskId) -> bool {
    map.disks.get(&disk).is_none_or(|disk| disk.state == DiskState::Draining)
}
