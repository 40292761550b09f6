//! The brake: many machines that look dead at once are a network fault, not as many dead machines.
//!
//! While it is on, nothing is given up, moved or deleted; only what has one verified copy left is copied.

use everhold_proto::map::{ClusterMap, Node, NodeState};
use std::collections::BTreeMap;

/// Whole zones that may look dead before the brake is on, where there are three or more.
const ZONES_DEAD_MAX: usize = 1;
const ZONES_MIN: usize = 3;

/// Why the brake is on, if it is: more than half of the nodes, or two of three or more labelled zones,
/// are Down. Nodes that are Out were given up one by one before, and those in maintenance were stopped on
/// purpose: neither counts as dead now.
pub fn reason(map: &ClusterMap) -> Option<String> {
    let nodes: Vec<&Node> = map.nodes.values().filter(|n| n.state != NodeState::Out).collect();
    let dead = nodes.iter().filter(|node| looks_dead(node)).count();
    if dead * 2 > nodes.len() {
        return Some(format!("{dead} of {} nodes look dead at once", nodes.len()));
    }
    // Nodes without a label are each a zone of their own: for them the share of nodes decides.
    let mut zones: BTreeMap<String, bool> = BTreeMap::new();
    for node in nodes.iter().filter(|node| !node.labels.zone.is_empty()) {
        let all_dead = zones.entry(node.zone()).or_insert(true);
        *all_dead &= looks_dead(node);
    }
    let dead: Vec<&str> =
        zones.iter().filter(|(_, dead)| **dead).map(|(zone, _)| zone.as_str()).collect();
    (zones.len() >= ZONES_MIN && dead.len() > ZONES_DEAD_MAX)
        .then(|| format!("zones {} look dead at once", dead.join(", ")))
}

fn looks_dead(node: &Node) -> bool {
    node.state == NodeState::Down && !node.maintenance
}
