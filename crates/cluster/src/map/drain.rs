//! How a node leaves for good: its disks are emptied, its seat in Raft goes to another one, and then it is
//! taken out of the map. A disk leaves alone in the same way.
//!
//! **Invariant:** nothing that may hold the last copy of a block is forgotten here: a disk leaves the map only
//! when no placement group names it, neither as a member nor as a former.

#[cfg(test)]
mod tests;

use crate::state::{conflict, event, put_disk, raise_epoch, unknown};
use crate::{reads, topology};
use everhold_proto::apply::Apply;
use everhold_proto::command::Answer;
use everhold_proto::kv::{KvResult, put_row};
use everhold_proto::map::{ClusterMap, Disk, DiskState, NodeState, Pg};
use everhold_proto::{DiskId, NodeId, tables};
use std::fmt::Display;

/// Begins to empty all disks of a node, or ends that.
pub(crate) fn node(ctx: &mut Apply<'_>, id: NodeId, on: bool) -> KvResult<Answer> {
    let map = reads::load_map(ctx.kv)?;
    if !map.nodes.contains_key(&id) {
        return Ok(unknown(id));
    }
    let disks = disks_of(&map, id);
    if on {
        let ids: Vec<DiskId> = disks.iter().map(|disk| disk.id).collect();
        if let Err(why) = topology::check_drain(&map, &ids) {
            return Ok(conflict(format!("{id} cannot be drained: {why}")));
        }
    }
    let to = if on { DiskState::Draining } else { DiskState::In };
    let changes = |disk: &&Disk| match disk.state {
        DiskState::In | DiskState::Slow => on,
        DiskState::Draining => !on,
        DiskState::Failed => false,
    };
    let changed: Vec<Disk> = disks.into_iter().filter(changes).cloned().collect();
    if changed.is_empty() {
        return Ok(Answer::Done);
    }
    for disk in changed {
        put_disk(ctx, &Disk { state: to, ..disk })?;
    }
    raise_epoch(ctx);
    let text = if on { "is being emptied: an operator drains it" } else { "is no longer drained" };
    event(ctx, id, text)?;
    Ok(Answer::Done)
}

/// Takes a node out of the map, with its disks, for ever.
pub(crate) fn remove(ctx: &mut Apply<'_>, id: NodeId) -> KvResult<Answer> {
    let map = reads::load_map(ctx.kv)?;
    let Some(node) = map.nodes.get(&id) else {
        return Ok(unknown(id));
    };
    if let Some(raft) = node.raft {
        return Ok(conflict(format!(
            "{id} is {raft} in Raft; another node must take its seat first"
        )));
    }
    if node.state != NodeState::Out && !map.is_draining(id) && !disks_of(&map, id).is_empty() {
        let text = format!(
            "{id} is {} and not drained; `everhold node drain {id}` comes first",
            node.state
        );
        return Ok(conflict(text));
    }
    let disks: Vec<DiskId> = disks_of(&map, id).into_iter().map(|disk| disk.id).collect();
    if let Some(why) = still_held(&map, id, &disks) {
        return Ok(why);
    }
    ctx.kv.delete(&tables::node(id))?;
    for disk in &disks {
        ctx.kv.delete(&tables::disk(*disk))?;
    }
    put_row(ctx.kv, &tables::removed(node.uuid), &id)?;
    raise_epoch(ctx);
    event(ctx, id, format!("removed by an operator, with {} disks", disks.len()))?;
    Ok(Answer::Done)
}

/// Takes a disk out of the map, for ever: numbers of disks are given once.
pub(crate) fn remove_disk(ctx: &mut Apply<'_>, id: DiskId) -> KvResult<Answer> {
    let map = reads::load_map(ctx.kv)?;
    let Some(disk) = map.disks.get(&id) else {
        return Ok(unknown(id));
    };
    if matches!(disk.state, DiskState::In | DiskState::Slow) {
        let text = format!(
            "{id} is {} and not drained; `everhold disk drain {id}` comes first",
            disk.state
        );
        return Ok(conflict(text));
    }
    if let Some(why) = still_held(&map, id, &[id]) {
        return Ok(why);
    }
    ctx.kv.delete(&tables::disk(id))?;
    raise_epoch(ctx);
    event(ctx, id, format!("removed from {} by an operator", disk.node))?;
    Ok(Answer::Done)
}

/// Why these disks of `what` cannot be forgotten yet, if so.
fn still_held(map: &ClusterMap, what: impl Display, disks: &[DiskId]) -> Option<Answer> {
    let held = |pg: &&Pg| pg.holders().any(|held| disks.contains(&held));
    let places = map.pgs.values().filter(held).count();
    (places > 0).then(|| {
        conflict(format!(
            "{what} still has places in {places} placement groups; they end when others hold their blocks"
        ))
    })
}

fn disks_of(map: &ClusterMap, node: NodeId) -> Vec<&Disk> {
    map.disks.values().filter(|disk| disk.node == node).collect()
}
