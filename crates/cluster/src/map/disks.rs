//! Disks: registration, sessions, usage, states.
//!
//! **Invariant 7:** an acknowledgement from an old disk session never counts. A session number is the
//! index of an entry, so no two are equal and a later one is greater.

use crate::state::{self, conflict, event, invalid, put_disk, put_pg, raise_epoch, unknown};
use crate::{reads, topology};
use everhold_proto::apply::Apply;
use everhold_proto::command::{Answer, DiskUsage};
use everhold_proto::kv::KvResult;
use everhold_proto::limits::NODES_MAX;
use everhold_proto::map::{Disk, DiskState, Fullness, Pg};
use everhold_proto::planted::{self, Bug};
use everhold_proto::tables::Table;
use everhold_proto::{DiskId, DiskSession, NodeId};

/// Disks in a cluster: a few dozen on the largest nodes, or a few on each of many.
const DISKS_MAX: usize = 4 * NODES_MAX;
/// Usage is worth a new epoch when it moved by this part of the capacity.
const USAGE_STEP: u64 = 64;

pub(crate) struct Space {
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
}

pub(crate) fn register(
    ctx: &mut Apply<'_>,
    uuid: [u8; 16],
    formatted: Option<DiskId>,
    node: NodeId,
    space: Space,
) -> KvResult<Answer> {
    if state::node(ctx.kv, node)?.is_none() {
        return Ok(unknown(node));
    }
    let disks: Vec<Disk> = state::all(ctx.kv, Table::Disk)?;
    let known = disks.iter().find(|disk| disk.uuid == uuid);
    let id = match (known, formatted) {
        (Some(disk), Some(id)) if disk.id != id => {
            return Ok(invalid(format!("the disk formatted as {id} is known as {}", disk.id)));
        }
        (Some(disk), _) => disk.id,
        (None, Some(id)) => return Ok(unknown(format!("the disk formatted as {id}"))),
        (None, None) if disks.len() >= DISKS_MAX => {
            return Ok(invalid(format!("the cluster has {DISKS_MAX} disks")));
        }
        (None, None) => {
            ctx.header.next_disk += 1;
            DiskId(ctx.header.next_disk - 1)
        }
    };
    let session = DiskSession(ctx.index.0);
    let disk = Disk {
        id,
        uuid,
        node,
        session,
        capacity_bytes: space.capacity_bytes,
        used_bytes: space.used_bytes,
        fullness: known.map_or(Fullness::Normal, |disk| disk.fullness),
        state: known.map_or(DiskState::In, |disk| disk.state),
    };
    put_disk(ctx, &disk)?;
    if !planted::has(Bug::RegistrationKeepsCompleteness) {
        end_completeness(ctx, id)?;
    }
    raise_epoch(ctx);
    event(ctx, id, format!("registered on {node} (session {session})"))?;
    Ok(Answer::Disk { disk: id, session })
}

/// Every registration, and every end of a session, ends completeness until the next comparison: what
/// the disk lost meanwhile is not known. Records of missing copies stay.
fn end_completeness(ctx: &mut Apply<'_>, disk: DiskId) -> KvResult<()> {
    for mut pg in state::all::<Pg>(ctx.kv, Table::Pg)? {
        if let Some(member) = pg.members.iter_mut().find(|m| m.disk == disk && m.complete) {
            member.complete = false;
            put_pg(ctx, &pg)?;
        }
    }
    Ok(())
}

/// Ends the disk's session: its number becomes one that nobody was given, so that nothing that was
/// acknowledged counts and the disk has to register anew. The caller raises the epoch.
pub(crate) fn end_disk_session(ctx: &mut Apply<'_>, mut disk: Disk) -> KvResult<()> {
    disk.session = DiskSession(ctx.index.0);
    put_disk(ctx, &disk)?;
    end_completeness(ctx, disk.id)
}

pub(crate) fn set_usage(ctx: &mut Apply<'_>, usage: &[DiskUsage]) -> KvResult<Answer> {
    let mut changed = false;
    for new in usage {
        let Some(mut disk) = state::disk(ctx.kv, new.disk)? else {
            continue;
        };
        if !is_relevant(&disk, new) {
            continue;
        }
        if disk.fullness != new.fullness {
            event(ctx, disk.id, format!("{:?} -> {:?}", disk.fullness, new.fullness))?;
        }
        disk.fullness = new.fullness;
        disk.used_bytes = new.used_bytes;
        disk.capacity_bytes = new.capacity_bytes;
        put_disk(ctx, &disk)?;
        changed = true;
    }
    if changed {
        raise_epoch(ctx);
    }
    Ok(Answer::Done)
}

/// Small moves are not even stored, so that one epoch names one content of the map.
fn is_relevant(disk: &Disk, new: &DiskUsage) -> bool {
    let step = (new.capacity_bytes / USAGE_STEP).max(1);
    disk.fullness != new.fullness
        || disk.capacity_bytes != new.capacity_bytes
        || disk.used_bytes.abs_diff(new.used_bytes) >= step
}

pub(crate) fn set_state(
    ctx: &mut Apply<'_>,
    id: DiskId,
    to: DiskState,
    reason: &str,
) -> KvResult<Answer> {
    let Some(mut disk) = state::disk(ctx.kv, id)? else {
        return Ok(unknown(id));
    };
    let from = disk.state;
    if from == to {
        return Ok(Answer::Done);
    }
    if from == DiskState::Failed && matches!(to, DiskState::Draining | DiskState::Slow) {
        return Ok(conflict(format!("{id} has failed and does not become {to}")));
    }
    if from == DiskState::Draining && to == DiskState::Slow {
        return Ok(conflict(format!("{id} is being emptied already")));
    }
    if to == DiskState::Draining
        && let Err(why) = topology::check_drain(&reads::load_map(ctx.kv)?, &[id])
    {
        return Ok(conflict(why));
    }
    disk.state = to;
    if to == DiskState::Failed {
        // A failed disk counts as lost at once: as a full member it could carry a `leave`.
        end_disk_session(ctx, disk)?;
    } else {
        put_disk(ctx, &disk)?;
    }
    raise_epoch(ctx);
    event(ctx, id, format!("{from} -> {to}: {reason}"))?;
    Ok(Answer::Done)
}
