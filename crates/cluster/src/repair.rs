//! The repair planner: what should change in the placement groups, given the map.
//!
//! A pure function, called again whenever the map changed: it keeps no memory, so a new leader goes on
//! where the old one stopped. Each action names the generation it was planned on; what a rule forbids is
//! refused where it is applied, and planned again from what is there then. It proposes, in this order
//! for each PG, the riskiest first: members whose disk is lost go out (and stay formers); a former that is
//! back takes its place back, or else a replacement joins; a surplus member leaves once the others are
//! full; formers end. Then come new PGs for new disks, and moves for evenness, a few at a time.

mod moves;
#[cfg(test)]
mod tests;

pub(crate) use moves::leaver;

use crate::placement::{self, Placement, replacement};
use everhold_proto::command::{MapCommand, PgChange};
use everhold_proto::map::{ClusterMap, DiskState, Fullness, Member, NodeState, Pg};
use everhold_proto::planted::{self, Bug};
use everhold_proto::{DiskId, Generation};

/// How even the disks are to be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Evenness {
    /// A move is made when it is worth its cost: the source has a fifth more for its capacity than the target would have.
    #[default]
    Worthwhile,
    /// Every move that makes the disks evener is made.
    Exact,
}

/// What bounds a plan.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The brake is on: only PGs with one verified copy left are repaired, nothing is moved.
    pub braked: bool,
    /// Actions of one plan.
    pub actions_max: usize,
    /// PGs in motion for evenness at a time.
    pub moves_max: usize,
    /// How even the disks are to be.
    pub evenness: Evenness,
    /// Log time.
    pub now_ms: u64,
    /// A disk whose node went Out, or came back, so lately keeps its places as former although the PGs are full
    /// without it: what it holds is worth more than what a move to it would cost.
    pub former_keep_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        let (now_ms, former_keep_ms) = (u64::MAX, 120_000);
        let evenness = Evenness::default();
        Limits { braked: false, actions_max: 64, moves_max: 4, evenness, now_ms, former_keep_ms }
    }
}

/// What should be proposed now, the most urgent first. Empty when all is well or has to wait.
pub fn plan(map: &ClusterMap, limits: &Limits) -> Vec<MapCommand> {
    let mut planner = Planner { map, limits, placement: Placement::of(map), actions: Vec::new() };
    let mut pgs: Vec<&Pg> = map.pgs.values().collect();
    pgs.sort_by_key(|pg| (reachable_full(map, pg), pg.id));
    for pg in pgs {
        if planner.actions.len() >= limits.actions_max {
            return planner.bounded(limits);
        }
        if !limits.braked || reachable_full(map, pg) <= 1 {
            planner.tend(pg);
        }
    }
    if !limits.braked {
        // New PGs fill new disks; what is uneven after that is worth a move. Where members just change for another
        // reason, what is even shows when they have: a node that is back takes its places back first.
        let tended = !planner.actions.is_empty();
        if !planner.create_pgs() && !tended {
            planner.even_out(limits.moves_max);
        }
    }
    planner.bounded(limits)
}

struct Planner<'a> {
    map: &'a ClusterMap,
    limits: &'a Limits,
    placement: Placement<'a>,
    actions: Vec<MapCommand>,
}

impl Planner<'_> {
    fn bounded(mut self, limits: &Limits) -> Vec<MapCommand> {
        self.actions.truncate(limits.actions_max);
        self.actions
    }

    /// Plans the changes of one PG; each counts on the one before.
    fn tend(&mut self, pg: &Pg) {
        let mut next = pg.clone();
        self.give_up_lost(&mut next);
        self.take_back(&mut next);
        self.replace(&mut next);
        // Below here the decision rests on who is full: on nothing that was only just planned.
        if next.generation == pg.generation {
            self.let_leave(pg);
        }
    }

    fn propose(&mut self, pg: &mut Pg, change: PgChange) {
        self.actions.push(MapCommand::ChangePg { pg: pg.id, generation: pg.generation, change });
        pg.generation = Generation(pg.generation.0 + 1);
    }

    fn give_up_lost(&mut self, pg: &mut Pg) {
        let lost: Vec<DiskId> =
            pg.members.iter().map(|m| m.disk).filter(|disk| is_lost(self.map, *disk)).collect();
        for disk in lost {
            if pg.members.len() == 1 {
                // The last member stays one, even so; a replacement comes first.
                return;
            }
            self.propose(pg, PgChange::GoneOut(disk));
            pg.members.retain(|member| member.disk != disk);
            pg.formers.push(disk);
            self.placement.remove(disk);
        }
    }

    /// A former that is back lacks only what was written meanwhile: it joins again, also beside a
    /// replacement that is not full yet. Whoever is full first stays. If it is back soon it joins also where
    /// nothing is lacking: then the most loaded leaves, and the disks are even again for the price of what it
    /// missed.
    fn take_back(&mut self, pg: &mut Pg) {
        let copies = copies(self.map, pg);
        let back: Vec<DiskId> =
            pg.formers.iter().copied().filter(|disk| self.is_in_service(*disk)).collect();
        for disk in back {
            if pg.members.len() > copies {
                return;
            }
            if pg.full_members() >= copies && !self.is_recent(disk) {
                continue;
            }
            self.propose(pg, PgChange::TakeBack(disk));
            pg.formers.retain(|former| *former != disk);
            let beside: Vec<DiskId> = pg.members.iter().map(|m| m.disk).collect();
            self.placement.add(&beside, disk);
            pg.members.push(new_member(disk));
        }
    }

    /// One replacement at a time for members that are lost, drained or misplaced.
    fn replace(&mut self, pg: &mut Pg) {
        let copies = copies(self.map, pg);
        let kept: Vec<DiskId> = settled(self.map, pg).map(|m| m.disk).collect();
        if kept.len() >= copies || pg.members.len() > copies {
            return;
        }
        if let Some(disk) = replacement(&self.placement, pg, &kept) {
            self.propose(pg, PgChange::Join(disk));
            self.placement.add(&kept, disk);
            pg.members.push(new_member(disk));
        }
    }

    fn let_leave(&mut self, pg: &Pg) {
        let copies = copies(self.map, pg);
        let mut pg = pg.clone();
        if pg.members.len() > copies {
            let leaver = moves::leaver(self.map, &self.placement, &pg);
            let others = |disk| pg.members.iter().filter(move |m: &&Member| m.disk != disk);
            let ready = |disk| {
                let counts = |m: &Member| {
                    m.is_full() || (m.complete && planted::has(Bug::LeaveCountsComplete))
                };
                let full = |m: &&Member| counts(m) && self.map.is_reachable(m.disk);
                others(disk).filter(full).count() >= copies
            };
            if let Some(disk) = leaver.filter(|disk| ready(*disk)) {
                self.propose(&mut pg, PgChange::Leave(disk));
                pg.members.retain(|member| member.disk != disk);
                self.placement.remove(disk);
            }
        }
        if reachable_full(self.map, &pg) >= copies {
            for disk in pg.formers.clone() {
                if !self.is_recent(disk) {
                    self.propose(&mut pg, PgChange::EndFormer(disk));
                }
            }
        }
    }

    /// Whether the disk is to stay, and the state of its node changed lately.
    fn is_recent(&self, disk: DiskId) -> bool {
        let stays = self.map.disks.get(&disk).is_some_and(|disk| disk.state == DiskState::In);
        stays
            && self.map.node_of(disk).is_some_and(|node| {
                self.limits.now_ms.saturating_sub(node.since_ms) < self.limits.former_keep_ms
            })
    }

    fn create_pgs(&mut self) -> bool {
        let before = self.actions.len();
        for policy in self.map.policies.values() {
            let members = placement::plan_pgs(self.map, policy);
            if !members.is_empty() {
                let existing = self.map.pgs.values().filter(|pg| pg.policy == policy.id).count();
                let existing = existing as u64;
                self.actions.push(MapCommand::CreatePgs { policy: policy.id, members, existing });
            }
        }
        self.actions.len() > before
    }

    fn is_in_service(&self, disk: DiskId) -> bool {
        self.map.disks.get(&disk).is_some_and(|disk| disk.state == DiskState::In)
            && self.map.node_of(disk).is_some_and(|node| node.state == NodeState::Up)
    }
}

fn new_member(disk: DiskId) -> Member {
    let (joined, range_recorded) = (everhold_proto::LogIndex(u64::MAX), Default::default());
    Member { disk, joined, complete: false, missing_blocks: 0, range_recorded }
}

fn copies(map: &ClusterMap, pg: &Pg) -> usize {
    map.policies.get(&pg.policy).map_or(1, |policy| usize::from(policy.copies))
}

fn reachable_full(map: &ClusterMap, pg: &Pg) -> usize {
    pg.members.iter().filter(|m| m.is_full() && map.is_reachable(m.disk)).count()
}

/// Given up: the disk failed, or its node is Out.
fn is_lost(map: &ClusterMap, disk: DiskId) -> bool {
    map.disks.get(&disk).is_none_or(|disk| disk.state == DiskState::Failed)
        || map.node_of(disk).is_none_or(|node| node.state == NodeState::Out)
}

/// Members that are to stay: not lost, not drained, and not the second one on a node.
fn settled<'a>(map: &'a ClusterMap, pg: &'a Pg) -> impl Iterator<Item = &'a Member> {
    pg.members.iter().filter(move |member| {
        let draining = |disk| map.disks.get(&disk).is_some_and(|d| d.state == DiskState::Draining);
        !is_lost(map, member.disk) && !draining(member.disk) && !is_misplaced(map, pg, member)
    })
}

/// Whether a member that joined before it stands on the same node (a disk was carried to another one).
fn is_misplaced(map: &ClusterMap, pg: &Pg, member: &Member) -> bool {
    let node = |disk| map.disks.get(&disk).map(|disk| disk.node);
    pg.members.iter().any(|other| {
        other.disk != member.disk
            && node(other.disk) == node(member.disk)
            && (other.joined, other.disk) < (member.joined, member.disk)
    })
}

fn is_overfull(map: &ClusterMap, disk: DiskId) -> bool {
    map.disks.get(&disk).is_some_and(|disk| disk.fullness == Fullness::Full)
}
