//! What an operator should know, and what to do about it.

use everhold_proto::map::{ClusterMap, DiskState, Fullness, Node, NodeState, Pg, Policy};
use everhold_proto::rpc::{BreakerState, BreakerStatus, Finding, RepairStatus, Severity};
use everhold_proto::{DiskId, NodeId};
use std::collections::{BTreeMap, BTreeSet};

/// Everything that is not as it should be, the most severe first; empty when all is well.
pub fn findings(
    map: &ClusterMap,
    repair: &RepairStatus,
    brake: Option<&str>,
    voters: &BTreeSet<NodeId>,
    breakers: &[BreakerStatus],
) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    if let Some(why) = brake {
        findings.add(
            Severity::Critical,
            format!("the brake is on: {why}; bulk repair, moves and deletions wait"),
            "check the network between the nodes; if they are lost for good, start enough of them again",
        );
    }
    findings.redundancy(map, repair);
    findings.nodes(map);
    findings.breakers(map, breakers);
    findings.disks(map);
    findings.metadata(map, voters);
    findings.0.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings.0
}

/// Whether two members in service share a domain of the policy's level.
fn shares_a_domain(map: &ClusterMap, policy: &Policy, pg: &Pg) -> bool {
    let disks: Vec<DiskId> =
        pg.members.iter().map(|m| m.disk).filter(|disk| map.is_reachable(*disk)).collect();
    let wanted = disks.len().min(usize::from(policy.copies));
    pg.policy == policy.id && map.domains_of(policy.spread, disks.iter().copied()) < wanted
}

/// What to do about a node that does not answer: it is waited for, unless another one has its place.
fn remedy_of_lost(map: &ClusterMap, lost: &Node) -> String {
    let id = lost.id;
    let has_its_place = |node: &&Node| {
        node.id != id && node.address == lost.address && node.state <= NodeState::Suspect
    };
    if let Some(other) = map.nodes.values().find(has_its_place) {
        return format!(
            "it does not come back: {} has its address, with another directory; `everhold node replace {id}` removes it, and \
             its copies are made elsewhere",
            other.id
        );
    }
    let wait = if lost.state == NodeState::Down && !lost.maintenance {
        "; it is waited for before its copies are made elsewhere"
    } else {
        ""
    };
    format!(
        "start it again; what it missed is copied to it{wait}; if it is lost for good, `everhold node replace {id}`"
    )
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, severity: Severity, text: String, remedy: &str) {
        self.0.push(Finding { severity, text, remedy: remedy.into() });
    }

    fn redundancy(&mut self, map: &ClusterMap, repair: &RepairStatus) {
        if repair.blocks_lost > 0 {
            self.add(
                Severity::Critical,
                format!("{} blocks have no copy left", repair.blocks_lost),
                "bring back a disk that was taken away: it is compared, and the blocks become whole",
            );
        }
        if repair.pgs_at_risk > 0 {
            self.add(
                Severity::Critical,
                format!("{} placement groups have at most one full copy", repair.pgs_at_risk),
                "repair runs by itself; start nodes that are down and do not stop others",
            );
        }
        if repair.pgs_degraded > repair.pgs_at_risk {
            self.add(
                Severity::Warning,
                format!("{} placement groups lack copies", repair.pgs_degraded),
                "repair runs by itself; it needs enough nodes and free space",
            );
        }
        for policy in map.policies.values() {
            let in_service = map.nodes.values().filter(|n| n.state <= NodeState::Suspect).count();
            let shared = map.pgs.values().filter(|pg| shares_a_domain(map, policy, pg)).count();
            if in_service >= usize::from(policy.copies) && shared > 0 {
                let (name, level) = (&policy.name, policy.spread);
                self.add(
                    Severity::Warning,
                    format!("{shared} placement groups of policy {name} have copies that share a {level}"),
                    "bring back the nodes that are away, or add some elsewhere; copies then move by themselves",
                );
            }
            if in_service < usize::from(policy.copies) {
                self.add(
                    Severity::Warning,
                    format!(
                        "policy {} wants {} copies and {in_service} nodes are in service",
                        policy.name, policy.copies
                    ),
                    "start or add nodes",
                );
            }
        }
    }

    fn nodes(&mut self, map: &ClusterMap) {
        if map.nodes.is_empty() {
            self.add(
                Severity::Critical,
                "no node is registered: nothing can be stored".into(),
                "read the logs of the nodes: each says why it does not register",
            );
        }
        for node in map.nodes.values() {
            let (id, state, reason) = (node.id, node.state, &node.reason);
            match state {
                NodeState::Up if node.maintenance => self.add(
                    Severity::Info,
                    format!("{id} is in maintenance"),
                    "end it with `everhold node maintenance off` when the work is done",
                ),
                NodeState::Up => {}
                NodeState::Suspect => self.add(
                    Severity::Info,
                    format!("{id} is suspect: {reason}"),
                    "none yet; if it stays, look at the node and its network",
                ),
                NodeState::Down | NodeState::Out => self.add(
                    Severity::Warning,
                    format!("{id} ({}) is {state}: {reason}", node.address),
                    &remedy_of_lost(map, node),
                ),
            }
        }
    }

    /// Clients that go round a node or a disk, one finding for each. A client alone may have its own trouble. One that
    /// is half-open passed its probe, or is being probed: only more traffic closes it, and there is nothing to do.
    /// What is removed from the cluster concerns nobody.
    fn breakers(&mut self, map: &ClusterMap, breakers: &[BreakerStatus]) {
        let mut suspects: BTreeMap<(NodeId, Option<DiskId>), Vec<&BreakerStatus>> = BTreeMap::new();
        let is_there = |breaker: &&BreakerStatus| {
            map.nodes.contains_key(&breaker.node)
                && breaker.disk.is_none_or(|disk| map.disks.contains_key(&disk))
        };
        let open = |breaker: &&BreakerStatus| breaker.state == BreakerState::Open;
        for breaker in breakers.iter().filter(open).filter(is_there) {
            suspects.entry((breaker.node, breaker.disk)).or_default().push(breaker);
        }
        for ((node, disk), open) in suspects {
            let Some(longest) = open.iter().max_by_key(|breaker| breaker.for_ms) else { continue };
            let BreakerStatus { of, state, for_ms, reason, .. } = longest;
            let more = match open.len() - 1 {
                0 => String::new(),
                n => format!(" (and {n} more)"),
            };
            let (suspect, remedy) = match disk {
                None => (node.to_string(), "look at the node and at the network to it"),
                Some(disk) => (format!("{disk} of {node}"), "look at the disk"),
            };
            self.add(
                Severity::Info,
                format!(
                    "{of:?}{more} goes round {suspect}: breaker {state} for {:.1} s: {reason}",
                    *for_ms as f64 / 1000.0
                ),
                &format!("none as long as it closes again; else {remedy}"),
            );
        }
    }

    /// A node all of whose disks are far slower than those of others is named once, as a node.
    fn slow_nodes(&mut self, map: &ClusterMap) {
        for node in map.nodes.values() {
            if map.is_slow(node.id) {
                self.add(
                    Severity::Warning,
                    format!(
                        "{} ({}) is far slower than its peers, with all its disks; reads and writes go round it",
                        node.id, node.address
                    ),
                    "look at its network, processor and disks; `everhold node drain` empties it, and it counts again \
                     once it is as fast",
                );
            }
        }
    }

    fn disks(&mut self, map: &ClusterMap) {
        self.slow_nodes(map);
        for disk in map.disks.values() {
            let what = format!("{} on {}", disk.id, disk.node);
            match disk.state {
                DiskState::Failed => self.add(
                    Severity::Warning,
                    format!("{what} has failed"),
                    "replace it and start the node with an empty one",
                ),
                DiskState::Draining => {
                    self.add(Severity::Info, format!("{what} is being emptied"), "wait");
                }
                DiskState::Slow => self.add(
                    Severity::Warning,
                    format!("{what} is far slower than its peers; reads and writes go round it"),
                    "`everhold events --of` the disk tells what was slow; look at the device, or at its node; `everhold disk drain` empties it, and it counts again once it is as fast",
                ),
                DiskState::In => {}
            }
            match disk.fullness {
                Fullness::Full => self.add(
                    Severity::Critical,
                    format!("{what} is full and takes no writes"),
                    "add disks or nodes, or delete files",
                ),
                Fullness::Nearfull => self.add(
                    Severity::Warning,
                    format!("{what} is nearly full"),
                    "add disks or nodes before it is full",
                ),
                Fullness::Normal => {}
            }
        }
    }

    fn metadata(&mut self, map: &ClusterMap, voters: &BTreeSet<NodeId>) {
        let nodes: Vec<&Node> = voters.iter().filter_map(|node| map.nodes.get(node)).collect();
        let away = nodes.iter().filter(|node| node.state > NodeState::Suspect).count();
        if away > 0 {
            let left = nodes.len().saturating_sub(away).saturating_sub(nodes.len() / 2 + 1);
            self.add(
                if left == 0 { Severity::Critical } else { Severity::Warning },
                format!(
                    "{away} of {} voters are away; the metadata survives {left} more losses",
                    nodes.len()
                ),
                "start them again, or add nodes that can take their place",
            );
        }
        if voters.len() == 1 && map.nodes.len() > 1 {
            self.add(
                Severity::Warning,
                "a single node holds the metadata".into(),
                "run three nodes or more",
            );
        }
        let mut zones: BTreeMap<String, usize> = BTreeMap::new();
        for node in &nodes {
            *zones.entry(node.zone()).or_default() += 1;
        }
        let majority = voters.len() / 2 + 1;
        if let Some((zone, _)) = zones.iter().find(|(_, n)| voters.len() > 1 && **n >= majority) {
            self.add(
                Severity::Warning,
                format!("the metadata does not survive the loss of zone {zone}"),
                "run nodes in three zones or more",
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u32, address: &str, state: NodeState) -> (NodeId, Node) {
        let node = Node {
            id: NodeId(id),
            uuid: [0; 16],
            address: address.into(),
            labels: Default::default(),
            state,
            since_ms: 0,
            reason: "late".into(),
            boot: 1,
            raft: None,
            maintenance: false,
            labels_fixed: false,
            mark: 0,
        };
        (node.id, node)
    }

    /// What only new traffic can end is no finding, nor what is about a node that was removed; what an operator may look into
    /// is.
    #[test]
    fn only_an_open_breaker_for_a_node_is_a_finding() {
        let map =
            ClusterMap { nodes: [node(3, "a:1", NodeState::Up)].into(), ..Default::default() };
        let found = |node, state| {
            let breaker = BreakerStatus {
                of: "mount /m".into(),
                node: NodeId(node),
                disk: None,
                state,
                for_ms: 900_000,
                reason: "late".into(),
            };
            let mut findings = Findings(Vec::new());
            findings.breakers(&map, &[breaker]);
            findings.0.len()
        };
        assert_eq!(found(3, BreakerState::Open), 1);
        assert_eq!(found(3, BreakerState::HalfOpen), 0);
        assert_eq!(found(4, BreakerState::Open), 0);
    }

    /// A cluster without nodes is not healthy.
    #[test]
    fn no_node_is_a_finding() {
        let nothing = (RepairStatus::default(), BTreeSet::new());
        let found = findings(&ClusterMap::default(), &nothing.0, None, &nothing.1, &[]);
        assert_eq!(found[0].severity, Severity::Critical);
        assert!(found[0].text.contains("no node"), "{found:?}");
    }

    /// Who waits for a node whose address another one has waits in vain.
    #[test]
    fn a_node_that_was_set_up_anew_is_replaced() {
        let remedy = |others: NodeState| {
            let nodes = [node(2, "a:1", NodeState::Down), node(7, "a:1", others)];
            let map = ClusterMap { nodes: nodes.into(), ..Default::default() };
            remedy_of_lost(&map, &map.nodes[&NodeId(2)])
        };
        assert!(remedy(NodeState::Up).contains("node replace n2"), "{}", remedy(NodeState::Up));
        assert!(remedy(NodeState::Up).contains("n7 has its address"));
        assert!(remedy(NodeState::Out).starts_with("start it again"));
    }
}
