//! Whether the machines that there are can keep a policy: as many of them as it wants copies, in as many
//! failure domains, with room for what is stored.
//!
//! An order that would make a policy impossible which is kept now is refused with the reason, before
//! anything moves. What fails by itself is not refused: the copies share a domain then, and `health` says so.

use everhold_proto::map::{ClusterMap, Disk, DiskState, Node, NodeState, Policy};
use everhold_proto::{ByteSize, DiskId};
use std::collections::BTreeSet;

/// A disk takes no more when this much of it is in use, in percent: nearly full disks get no new places.
const FILL_PERCENT: u64 = 85;

/// What a policy lacks, in words; `Ok` if it lacks nothing. Nodes that are away for a while count: they
/// are part of the topology until they are given up.
pub(crate) fn check(map: &ClusterMap, policy: &Policy) -> Result<(), String> {
    let nodes = nodes(map);
    let copies = usize::from(policy.copies);
    let (name, level) = (&policy.name, policy.spread);
    if nodes.len() < copies {
        return Err(format!(
            "policy {name} wants {copies} copies on as many nodes, and there are {}",
            nodes.len()
        ));
    }
    let domains: BTreeSet<String> = nodes.iter().map(|node| node.domain(level)).collect();
    if domains.len() < copies {
        let names = domains.iter().map(|name| name.trim_start_matches('/')).collect::<Vec<_>>();
        return Err(format!(
            "policy {name} spreads {copies} copies over as many {level}s, and there are {}: {}",
            domains.len(),
            names.join(", ")
        ));
    }
    Ok(())
}

/// Refuses a change of the map that makes a policy impossible which is possible before it.
pub(crate) fn check_change(before: &ClusterMap, after: &ClusterMap) -> Result<(), String> {
    for policy in after.policies.values() {
        let Err(why) = check(after, policy) else { continue };
        if check(before, policy).is_ok() {
            return Err(format!("after that it could not be kept: {why}"));
        }
        // It is not kept as it should be; but it must not become worse.
        let nodes_after = nodes(after).len();
        if nodes_after < usize::from(policy.copies) && nodes_after < nodes(before).len() {
            return Err(why);
        }
    }
    Ok(())
}

/// Refuses to empty disks when what is left cannot keep the policies, or has no room for their blocks.
pub(crate) fn check_drain(map: &ClusterMap, disks: &[DiskId]) -> Result<(), String> {
    let mut after = map.clone();
    let (mut moved_bytes, mut any) = (0u64, false);
    for id in disks {
        let Some(disk) = after.disks.get_mut(id) else { continue };
        if !matches!(disk.state, DiskState::Draining | DiskState::Failed) {
            disk.state = DiskState::Draining;
            moved_bytes = moved_bytes.saturating_add(disk.used_bytes);
            any = true;
        }
    }
    if !any {
        return Ok(());
    }
    check_change(map, &after)?;
    let takes = |disk: &&Disk| takes_places(disk) && belongs(&after, disk);
    let room: u64 = after.disks.values().filter(takes).map(room).sum();
    if moved_bytes > room {
        return Err(format!(
            "{} would have to move, and the other disks have room for {}",
            ByteSize(moved_bytes),
            ByteSize(room)
        ));
    }
    Ok(())
}

/// Nodes that may keep copies: not given up, with a disk that is to stay.
fn nodes(map: &ClusterMap) -> Vec<&Node> {
    let with_disk: BTreeSet<_> =
        map.disks.values().filter(|disk| takes_places(disk)).map(|disk| disk.node).collect();
    let counts = |node: &&Node| node.state != NodeState::Out && with_disk.contains(&node.id);
    map.nodes.values().filter(counts).collect()
}

fn belongs(map: &ClusterMap, disk: &Disk) -> bool {
    map.nodes.get(&disk.node).is_some_and(|node| node.state != NodeState::Out)
}

fn takes_places(disk: &Disk) -> bool {
    matches!(disk.state, DiskState::In | DiskState::Slow)
}

fn room(disk: &Disk) -> u64 {
    (disk.capacity_bytes / 100 * FILL_PERCENT).saturating_sub(disk.used_bytes)
}
