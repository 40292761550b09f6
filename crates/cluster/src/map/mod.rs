//! Changes of the cluster map, judged when they are applied.
//!
//! **Invariant:** each accepted change raises the epoch (a note for the event log is none), and what is refused
//! changes nothing.

mod disks;
mod drain;
mod groups;
mod nodes;
#[cfg(test)]
mod tests;

pub(crate) use disks::end_disk_session;
pub(crate) use groups::forget_missing;

use crate::state::{self, conflict, event, invalid, raise_epoch};
use crate::{reads, topology};
use everhold_proto::apply::Apply;
use everhold_proto::command::{Answer, MapCommand};
use everhold_proto::kv::{KvResult, put_row};
use everhold_proto::limits::PG_MEMBERS_MAX;
use everhold_proto::map::Policy;
use everhold_proto::tables;

/// Applies one change of the map.
pub fn apply(ctx: &mut Apply<'_>, command: &MapCommand) -> KvResult<Answer> {
    match command {
        MapCommand::RegisterNode { uuid, address, labels, marks } => {
            nodes::register(ctx, *uuid, address, labels, marks)
        }
        MapCommand::RegisterDisk { uuid, disk, node, capacity_bytes, used_bytes } => {
            let usage = disks::Space { capacity_bytes: *capacity_bytes, used_bytes: *used_bytes };
            disks::register(ctx, *uuid, *disk, *node, usage)
        }
        MapCommand::SetNodeState { node, boot, state, reason } => {
            nodes::set_state(ctx, *node, *boot, *state, reason)
        }
        MapCommand::SetMaintenance { node, on } => nodes::set_maintenance(ctx, *node, *on),
        MapCommand::SetDiskUsage(usage) => disks::set_usage(ctx, usage),
        MapCommand::SetDiskState { disk, state, reason } => {
            disks::set_state(ctx, *disk, *state, reason)
        }
        MapCommand::CreatePgs { policy, members, existing } => {
            groups::create(ctx, *policy, members, *existing)
        }
        MapCommand::ChangePg { pg, generation, change } => {
            groups::change(ctx, *pg, *generation, *change)
        }
        MapCommand::AllocateRaftId { node } => nodes::allocate_raft_id(ctx, *node),
        MapCommand::ClearRaftId { node, raft } => nodes::clear_raft_id(ctx, *node, *raft),
        MapCommand::SetPolicy(policy) => set_policy(ctx, policy),
        MapCommand::DrainNode { node, on } => drain::node(ctx, *node, *on),
        MapCommand::RemoveNode { node } => drain::remove(ctx, *node),
        MapCommand::SetLabels { node, labels } => nodes::set_labels(ctx, *node, labels.as_ref()),
        MapCommand::NoteBrake(reason) => note_brake(ctx, reason.as_deref()),
        MapCommand::RemoveDisk { disk } => drain::remove_disk(ctx, *disk),
    }
}

/// Whether a policy can be kept at all.
pub(crate) fn check_policy(policy: &Policy) -> Result<(), &'static str> {
    if policy.copies == 0 || usize::from(policy.copies) > PG_MEMBERS_MAX / 2 {
        return Err("a policy keeps 1 to 8 copies");
    }
    if policy.write_quorum == 0 || policy.write_quorum > policy.copies {
        return Err("a write quorum is at least 1 and at most the number of copies");
    }
    Ok(())
}

fn set_policy(ctx: &mut Apply<'_>, policy: &Policy) -> KvResult<Answer> {
    if let Err(why) = check_policy(policy) {
        return Ok(invalid(why));
    }
    if state::policy(ctx.kv, policy.id)?.as_ref() == Some(policy) {
        return Ok(Answer::Done);
    }
    if let Err(why) = topology::check(&reads::load_map(ctx.kv)?, policy) {
        return Ok(conflict(why));
    }
    put_row(ctx.kv, &tables::policy(policy.id), policy)?;
    raise_epoch(ctx);
    let Policy { name, copies, write_quorum, spread, .. } = policy;
    let text =
        format!("policy {name}: {copies} copies, spread over {spread}s, quorum {write_quorum}");
    event(ctx, policy.id, text)?;
    Ok(Answer::Done)
}

fn note_brake(ctx: &mut Apply<'_>, reason: Option<&str>) -> KvResult<Answer> {
    let text = match reason {
        Some(why) => format!("on: {why}; bulk repair, moves and deletions wait"),
        None => "off".into(),
    };
    event(ctx, "brake", text)?;
    Ok(Answer::Done)
}
