//! Who votes: the nodes that keep the metadata.
//!
//! Three voters, five from five nodes on, one where there are fewer than three. Spread over zones: where
//! there are three or more, no zone holds a majority of the voters. A voter that stays away is replaced by
//! a learner that has caught up; if none may take its place, the replacement waits.

#[cfg(test)]
mod tests;

use everhold_proto::NodeId;
use everhold_proto::map::{ClusterMap, Node, NodeState};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Who is in Raft now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Voters.
    pub voters: BTreeSet<NodeId>,
    /// Learners, and whether each has caught up.
    pub learners: BTreeMap<NodeId, bool>,
    /// A change has begun and not ended: the old voters and the new ones must both agree, so each of the old
    /// ones is still needed.
    pub joint: bool,
}

/// The next step towards the voters that there should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VoterPlan {
    /// All is as it should be.
    Settled,
    /// A step is under way or has to wait, with the reason.
    Waiting(String),
    /// The node should become a learner.
    AddLearner(NodeId),
    /// These should be the voters; each is one already or has caught up.
    ChangeVoters(BTreeSet<NodeId>),
    /// The learner is not needed.
    RetireLearner(NodeId),
}

/// A voter that is Down for this long is replaced.
pub const REPLACE_AFTER: Duration = Duration::from_secs(10);

/// Chooses the next step. `down_for` says how long nodes have been Down or Out, as far as is known.
pub fn choose(
    map: &ClusterMap,
    now: &Membership,
    down_for: &BTreeMap<NodeId, Duration>,
    replace_after: Duration,
) -> VoterPlan {
    let election = Election { map, now, down_for, replace_after };
    let Some(wanted) = election.wanted() else {
        return VoterPlan::Waiting("no node may take the place of a voter that is away".into());
    };
    for node in &wanted {
        if !now.voters.contains(node) && !now.learners.contains_key(node) {
            return VoterPlan::AddLearner(*node);
        }
    }
    // Whoever led the change may be gone: the next leader ends it.
    if wanted != now.voters || now.joint {
        let caught_up = |node| now.voters.contains(node) || now.learners.get(node) == Some(&true);
        return match wanted.iter().find(|node| !caught_up(node)) {
            Some(node) => VoterPlan::Waiting(format!("{node} is catching up")),
            None => VoterPlan::ChangeVoters(wanted),
        };
    }
    let surplus = now.learners.keys().find(|node| !wanted.contains(node));
    surplus.map_or(VoterPlan::Settled, |node| VoterPlan::RetireLearner(*node))
}

struct Election<'a> {
    map: &'a ClusterMap,
    now: &'a Membership,
    down_for: &'a BTreeMap<NodeId, Duration>,
    replace_after: Duration,
}

impl Election<'_> {
    /// The voters that there should be; `None` if a voter ought to be replaced and cannot.
    fn wanted(&self) -> Option<BTreeSet<NodeId>> {
        let current = self.now.voters.len();
        let counts = |node: &&Node| node.state != NodeState::Out && !self.map.is_draining(node.id);
        let present = self.map.nodes.values().filter(counts).count();
        let target = match present {
            0..=2 => 1,
            3..=4 => 3,
            _ => 5,
        };
        // Failures alone never lower the number below three: it is the number of copies of the metadata.
        let target = target.max(current.min(3));
        for size in [5, 3, 1] {
            if size > target {
                continue;
            }
            if let Some(chosen) = self.pick(size) {
                return Some(chosen);
            }
            if size <= current {
                break;
            }
        }
        let all_stay = self.now.voters.iter().all(|node| self.stays(*node));
        all_stay.then(|| self.now.voters.clone())
    }

    /// `size` voters in good health: those there are, as far as the zones allow, then others.
    fn pick(&self, size: usize) -> Option<BTreeSet<NodeId>> {
        let zones: BTreeSet<String> = self.map.nodes.values().map(Node::zone).collect();
        let per_zone = if zones.len() >= 3 && size >= 3 { (size - 1) / 2 } else { size };
        let mut chosen = BTreeSet::new();
        let mut used: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let best = self
                .map
                .nodes
                .values()
                .filter(|node| !chosen.contains(&node.id))
                .filter(|node| used.get(&node.zone()).unwrap_or(&0) < &per_zone)
                .filter_map(|node| Some((self.rank(node, &used)?, node)))
                .min_by_key(|(rank, _)| *rank);
            let Some((_, node)) = best.filter(|_| chosen.len() < size) else { break };
            chosen.insert(node.id);
            *used.entry(node.zone()).or_default() += 1;
        }
        (chosen.len() == size).then_some(chosen)
    }

    /// Lower is better; `None`: not to be a voter. Voters first, the healthy ones before those that are
    /// away for a moment; then others, in the zone least used; learners before the rest. A voter that is being
    /// emptied is the last resort.
    fn rank(&self, node: &Node, used: &BTreeMap<String, usize>) -> Option<(u8, usize, u8, NodeId)> {
        let crowd = used.get(&node.zone()).copied().unwrap_or(0);
        let draining = self.map.is_draining(node.id);
        if self.now.voters.contains(&node.id) {
            let away = u8::from(node.state > NodeState::Suspect);
            let class = if draining { 2 } else { 0 };
            return self.stays(node.id).then_some((class, 0, away, node.id));
        }
        if draining {
            return None;
        }
        let fit = node.state == NodeState::Up && !node.maintenance;
        let fresh = u8::from(!self.now.learners.contains_key(&node.id));
        fit.then_some((1, crowd, fresh, node.id))
    }

    /// Whether a voter may stay one: it is not given up, and not away for long. Maintenance is no reason
    /// to replace it: it comes back.
    fn stays(&self, node: NodeId) -> bool {
        let Some(found) = self.map.nodes.get(&node) else { return false };
        match found.state {
            NodeState::Up | NodeState::Suspect => true,
            NodeState::Down => {
                found.maintenance
                    || self.down_for.get(&node).is_none_or(|away| *away < self.replace_after)
            }
            NodeState::Out => false,
        }
    }
}
