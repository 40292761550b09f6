//! What the cluster says about itself while nodes are killed: when it noticed, when repair started,
//! when everything was redundant again. Pure: observations in, lines to tell out.

use crate::output::duration;
use crate::status::redundancy;
use everhold_proto::NodeId;
use everhold_proto::map::NodeState;
use everhold_proto::rpc::ClusterStatus;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// A node that was killed, and what was noticed of it.
#[derive(Clone, Debug)]
pub(crate) struct Killed {
    /// The node.
    pub(crate) node: NodeId,
    /// When.
    pub(crate) at: Instant,
    /// Until the cluster called it Down (or Out).
    pub(crate) detected_after: Option<Duration>,
    /// Until the cluster gave it up.
    pub(crate) out_after: Option<Duration>,
}

/// The observer.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    storage: Option<Killed>,
    leader: Option<Killed>,
    new_leader_after: Option<Duration>,
    /// Bytes that each node fetched; a killed node's last word stays.
    fetched: BTreeMap<NodeId, u64>,
    fetched_at_kill: u64,
    /// Bytes fetched when the killed storage node was last seen as not yet Out.
    fetched_before_out: u64,
    repair_started_after: Option<Duration>,
    restored_at: Option<Instant>,
    copies_missing_max: u64,
    told: String,
}

impl Watch {
    /// The storage node was killed now.
    pub(crate) fn storage_killed(&mut self, node: NodeId, now: Instant) {
        self.fetched_at_kill = self.fetched_total();
        self.fetched_before_out = self.fetched_at_kill;
        self.storage = Some(Killed { node, at: now, detected_after: None, out_after: None });
        self.restored_at = None;
    }

    /// The leader was killed now.
    pub(crate) fn leader_killed(&mut self, node: NodeId, now: Instant) {
        self.leader = Some(Killed { node, at: now, detected_after: None, out_after: None });
        self.restored_at = None;
    }

    /// Takes what one node says it fetched since its start.
    pub(crate) fn fetched(&mut self, node: NodeId, bytes: u64) {
        let known = self.fetched.entry(node).or_default();
        *known = bytes.max(*known);
    }

    /// Takes the leader's view, asked for at `asked`; gives what is new about it.
    pub(crate) fn observe(
        &mut self,
        status: &ClusterStatus,
        asked: Instant,
        now: Instant,
    ) -> Vec<String> {
        let mut news = Vec::new();
        self.observe_leader(status, asked, now, &mut news);
        for killed in [&mut self.storage, &mut self.leader].into_iter().flatten() {
            observe_killed(killed, status, now, &mut news);
        }
        self.observe_repair(status, now, &mut news);
        news
    }

    fn observe_leader(
        &mut self,
        status: &ClusterStatus,
        asked: Instant,
        now: Instant,
        news: &mut Vec<String>,
    ) {
        let Some(killed) = &self.leader else { return };
        let another = status.leader.is_some_and(|leader| leader != killed.node);
        // An answer that was asked for before the kill may still be the old leader's.
        if self.new_leader_after.is_none() && another && asked >= killed.at {
            let after = now - killed.at;
            self.new_leader_after = Some(after);
            let leader = status.leader.map_or(String::new(), |leader| leader.to_string());
            news.push(format!("{leader} leads (after {})", duration(after)));
        }
    }

    fn observe_repair(&mut self, status: &ClusterStatus, now: Instant, news: &mut Vec<String>) {
        let fetched = self.fetched_total();
        let repair = &status.repair;
        let Some(storage) = &self.storage else { return };
        self.copies_missing_max = self.copies_missing_max.max(repair.copies_missing);
        if storage.out_after.is_none() {
            self.fetched_before_out = fetched;
        } else if self.repair_started_after.is_none() && fetched > self.fetched_before_out {
            let after = now - storage.at;
            self.repair_started_after = Some(after);
            news.push(format!(
                "repair of the copies of {} has begun (after {})",
                storage.node,
                duration(after)
            ));
        }
        if self.is_whole(status) {
            self.restored_at.get_or_insert(now);
        } else {
            self.restored_at = None;
        }
        let line = redundancy(repair, &status.map);
        if line != self.told {
            news.push(line.clone());
            self.told = line;
        }
    }

    /// Every group has all its copies on nodes that live.
    fn is_whole(&self, status: &ClusterStatus) -> bool {
        let dead = |node: NodeId| {
            [&self.storage, &self.leader].into_iter().flatten().any(|killed| killed.node == node)
        };
        let map = &status.map;
        status.repair.redundant
            && status.repair.blocks_lost == 0
            && map
                .pgs
                .values()
                .flat_map(|pg| &pg.members)
                .all(|member| map.disks.get(&member.disk).is_some_and(|disk| !dead(disk.node)))
    }

    fn fetched_total(&self) -> u64 {
        self.fetched.values().sum()
    }

    /// The storage node that was killed.
    pub(crate) fn storage(&self) -> Option<&Killed> {
        self.storage.as_ref()
    }

    /// The leader that was killed.
    pub(crate) fn leader(&self) -> Option<&Killed> {
        self.leader.as_ref()
    }

    /// From the leader's kill until another one led.
    pub(crate) fn new_leader_after(&self) -> Option<Duration> {
        self.new_leader_after
    }

    /// From the kill of the storage node until copies moved because of it.
    pub(crate) fn repair_started_after(&self) -> Option<Duration> {
        self.repair_started_after
    }

    /// From the last kill until the present state of full redundancy began.
    pub(crate) fn restored_after(&self) -> Option<Duration> {
        let last = self.leader.as_ref().or(self.storage.as_ref())?;
        Some(self.restored_at? - last.at)
    }

    /// Bytes fetched since the first kill.
    pub(crate) fn repaired_bytes(&self) -> u64 {
        self.fetched_total() - self.fetched_at_kill
    }

    /// Most copies that were missing at a time.
    pub(crate) fn copies_missing_max(&self) -> u64 {
        self.copies_missing_max
    }
}

fn observe_killed(
    killed: &mut Killed,
    status: &ClusterStatus,
    now: Instant,
    news: &mut Vec<String>,
) {
    let Some(node) = status.map.nodes.get(&killed.node) else { return };
    let after = now - killed.at;
    if node.state >= NodeState::Down && killed.detected_after.is_none() {
        killed.detected_after = Some(after);
        news.push(format!(
            "{} is {} (after {}): {}",
            node.id,
            node.state,
            duration(after),
            node.reason
        ));
    }
    if node.state == NodeState::Out && killed.out_after.is_none() {
        killed.out_after = Some(after);
        news.push(format!("{} is given up (after {})", node.id, duration(after)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::LogIndex;
    use everhold_proto::map::{ClusterMap, Labels, Node};
    use everhold_proto::rpc::RepairStatus;

    fn status(state: NodeState, leader: u32, redundant: bool) -> ClusterStatus {
        let mut map = ClusterMap::default();
        let node = Node {
            id: NodeId(2),
            uuid: [0; 16],
            address: String::new(),
            labels: Labels::default(),
            state,
            since_ms: 0,
            reason: "silent".into(),
            boot: 1,
            raft: None,
            maintenance: false,
            labels_fixed: false,
            mark: 0,
        };
        map.nodes.insert(node.id, node);
        ClusterStatus {
            map,
            leader: Some(NodeId(leader)),
            term: 1,
            voters: vec![],
            learners: vec![],
            applied: LogIndex(1),
            repair: RepairStatus { redundant, ..RepairStatus::default() },
            breakers: vec![],
            speeds: vec![],
            brake: None,
            health: vec![],
            inodes: 0,
            bytes: 0,
        }
    }

    #[test]
    fn a_fault_is_followed_to_its_end() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut watch = Watch::default();
        watch.fetched(NodeId(1), 100);
        watch.storage_killed(NodeId(2), at(0));
        watch.observe(&status(NodeState::Up, 1, true), at(1), at(1));
        let news = watch.observe(&status(NodeState::Down, 1, true), at(700), at(700));
        assert!(news[0].contains("n2 is down (after 0.70 s)"), "{news:?}");
        assert_eq!(watch.repair_started_after(), None);
        watch.observe(&status(NodeState::Out, 1, false), at(9000), at(9000));
        assert_eq!(watch.repair_started_after(), None, "nothing moved yet");
        watch.fetched(NodeId(1), 300);
        watch.observe(&status(NodeState::Out, 1, false), at(9500), at(9500));
        assert_eq!(watch.repair_started_after(), Some(Duration::from_millis(9500)));
        watch.leader_killed(NodeId(1), at(10_000));
        watch.observe(&status(NodeState::Out, 3, true), at(9999), at(10_001));
        assert_eq!(watch.new_leader_after(), None, "asked before the kill");
        watch.observe(&status(NodeState::Out, 3, false), at(10_800), at(10_900));
        assert_eq!(watch.new_leader_after(), Some(Duration::from_millis(900)));
        assert_eq!(watch.restored_after(), None);
        watch.observe(&status(NodeState::Out, 3, true), at(12_000), at(12_000));
        watch.observe(&status(NodeState::Out, 3, true), at(13_000), at(13_000));
        assert_eq!(watch.restored_after(), Some(Duration::from_secs(2)));
        assert_eq!(watch.repaired_bytes(), 200);
    }
}
