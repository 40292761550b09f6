//! Placement groups: their creation and each change of their members.
//!
//! The rules of `docs/protocol.md` on members: a `leave` and the end of a former count *full*
//! members, a member that goes Out stays as former, a former comes back as a joiner only. Each change
//! names the generation it was planned on.

use crate::state::{self, conflict, event, invalid, put_pg, raise_epoch, unknown};
use everhold_proto::apply::Apply;
use everhold_proto::command::{Answer, PgChange};
use everhold_proto::kv::{KvResult, prefix_end};
use everhold_proto::limits::PG_MEMBERS_MAX;
use everhold_proto::map::{DiskState, Member, NodeState, Pg, Policy};
use everhold_proto::planted::{self, Bug};
use everhold_proto::tables::{self, Table};
use everhold_proto::{DiskId, Generation, LogIndex, PgId, PolicyId};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// Placement groups made by one entry.
const CREATE_MAX: usize = 1024;

type Ruling<T> = KvResult<Result<T, Answer>>;

pub(crate) fn create(
    ctx: &mut Apply<'_>,
    policy: PolicyId,
    groups: &[Vec<DiskId>],
    existing: u64,
) -> KvResult<Answer> {
    let Some(policy) = state::policy(ctx.kv, policy)? else {
        return Ok(unknown(policy));
    };
    let pgs: Vec<Pg> = state::all(ctx.kv, Table::Pg)?;
    let count = pgs.iter().filter(|pg| pg.policy == policy.id).count() as u64;
    if count != existing {
        return Ok(conflict(format!("policy {} has {count} PGs, not {existing}", policy.name)));
    }
    if groups.is_empty() || groups.len() > CREATE_MAX {
        return Ok(invalid(format!("1 to {CREATE_MAX} PGs are created at once")));
    }
    for disks in groups {
        if let Err(refusal) = check_new_group(ctx, &policy, disks)? {
            return Ok(refusal);
        }
    }
    for disks in groups {
        let id = PgId(ctx.header.next_pg);
        ctx.header.next_pg += 1;
        let members = disks.iter().map(|disk| joiner(ctx.index, *disk, true)).collect();
        let (generation, formers) = (Generation(1), Vec::new());
        let pg =
            Pg { id, policy: policy.id, generation, members, formers, blocks: 0, live_bytes: 0 };
        put_pg(ctx, &pg)?;
    }
    raise_epoch(ctx);
    event(ctx, policy.id, format!("{} placement groups created", groups.len()))?;
    Ok(Answer::Done)
}

fn check_new_group(ctx: &Apply<'_>, policy: &Policy, disks: &[DiskId]) -> Ruling<()> {
    if disks.is_empty() || disks.len() > usize::from(policy.copies) {
        return Ok(Err(invalid(format!("a new PG has 1 to {} members", policy.copies))));
    }
    let mut nodes = BTreeSet::new();
    for id in disks {
        let Some(disk) = state::disk(ctx.kv, *id)? else {
            return Ok(Err(unknown(id)));
        };
        if disk.state != DiskState::In {
            return Ok(Err(conflict(format!("{id} is not in service"))));
        }
        if !nodes.insert(disk.node) {
            return Ok(Err(invalid(format!("two members of a PG on {}", disk.node))));
        }
    }
    Ok(Ok(()))
}

/// A member from this entry on. With an empty table there is nothing to compare: it is complete.
fn joiner(index: LogIndex, disk: DiskId, table_is_empty: bool) -> Member {
    Member {
        disk,
        joined: index,
        complete: table_is_empty,
        missing_blocks: 0,
        range_recorded: LogIndex(0),
    }
}

pub(crate) fn change(
    ctx: &mut Apply<'_>,
    id: PgId,
    generation: Generation,
    change: PgChange,
) -> KvResult<Answer> {
    let Some(mut pg) = state::pg(ctx.kv, id)? else {
        return Ok(unknown(id));
    };
    if pg.generation != generation && !planted::has(Bug::OldGenerationPlan) {
        return Ok(conflict(format!("{id} is at {}, not {generation}", pg.generation)));
    }
    let Some(policy) = state::policy(ctx.kv, pg.policy)? else {
        return Ok(unknown(pg.policy));
    };
    let copies = usize::from(policy.copies);
    let text = match change {
        PgChange::Join(disk) => join(ctx, &mut pg, disk)?,
        PgChange::Leave(disk) => leave(ctx, &mut pg, disk, copies)?,
        PgChange::GoneOut(disk) => gone_out(ctx, &mut pg, disk)?,
        PgChange::TakeBack(disk) => take_back(ctx, &mut pg, disk)?,
        PgChange::EndFormer(disk) => end_former(&mut pg, disk, copies),
    };
    let text = match text {
        Ok(text) => text,
        Err(refusal) => return Ok(refusal),
    };
    assert!(!pg.members.is_empty(), "a PG always has a member");
    pg.generation = Generation(generation.0 + 1);
    put_pg(ctx, &pg)?;
    raise_epoch(ctx);
    event(ctx, id, text)?;
    Ok(Answer::Done)
}

fn join(ctx: &mut Apply<'_>, pg: &mut Pg, disk: DiskId) -> Ruling<String> {
    if pg.holders().any(|holder| holder == disk) {
        return Ok(Err(conflict(format!("{disk} is member or former of {} already", pg.id))));
    }
    if pg.members.len() + pg.formers.len() >= PG_MEMBERS_MAX {
        return Ok(Err(conflict(format!("{} has {PG_MEMBERS_MAX} members and formers", pg.id))));
    }
    if let Err(refusal) = check_in_service(ctx, disk)? {
        return Ok(Err(refusal));
    }
    pg.members.push(joiner(ctx.index, disk, pg.blocks == 0));
    Ok(Ok(format!("{disk} joins")))
}

/// A disk that may become a member: not failed, and its node is not given up.
fn check_in_service(ctx: &Apply<'_>, id: DiskId) -> Ruling<()> {
    let Some(disk) = state::disk(ctx.kv, id)? else {
        return Ok(Err(unknown(id)));
    };
    let out = state::node(ctx.kv, disk.node)?.is_none_or(|node| node.state == NodeState::Out);
    if out || disk.state == DiskState::Failed {
        return Ok(Err(conflict(format!("{id} is not in service"))));
    }
    Ok(Ok(()))
}

fn leave(ctx: &mut Apply<'_>, pg: &mut Pg, disk: DiskId, copies: usize) -> Ruling<String> {
    let Some(place) = pg.members.iter().position(|m| m.disk == disk) else {
        return Ok(Err(conflict(format!("{disk} is no member of {}", pg.id))));
    };
    let counts = |m: &Member| m.is_full() || (m.complete && planted::has(Bug::LeaveCountsComplete));
    let others = pg.members.iter().filter(|m| m.disk != disk && counts(m)).count();
    if others < copies {
        let text = format!("{disk} cannot leave {}: {others} of {copies} others are full", pg.id);
        return Ok(Err(conflict(text)));
    }
    pg.members.remove(place);
    forget_missing(ctx, pg.id, disk)?;
    Ok(Ok(format!("{disk} leaves")))
}

fn gone_out(ctx: &mut Apply<'_>, pg: &mut Pg, disk: DiskId) -> Ruling<String> {
    let Some(place) = pg.members.iter().position(|m| m.disk == disk) else {
        return Ok(Err(conflict(format!("{disk} is no member of {}", pg.id))));
    };
    if check_in_service(ctx, disk)?.is_ok() {
        return Ok(Err(conflict(format!("{disk} is in service"))));
    }
    if pg.members.len() == 1 {
        return Ok(Err(conflict(format!("{disk} is the last member of {}", pg.id))));
    }
    pg.members.remove(place);
    if !planted::has(Bug::ForgetFormer) {
        pg.formers.push(disk);
    }
    // Its membership has ended, and with it what was recorded for it; a return starts as a joiner.
    forget_missing(ctx, pg.id, disk)?;
    Ok(Ok(format!("{disk} is out and stays as former")))
}

fn take_back(ctx: &mut Apply<'_>, pg: &mut Pg, disk: DiskId) -> Ruling<String> {
    let Some(place) = pg.formers.iter().position(|former| *former == disk) else {
        return Ok(Err(conflict(format!("{disk} is no former of {}", pg.id))));
    };
    if let Err(refusal) = check_in_service(ctx, disk)? {
        return Ok(Err(refusal));
    }
    pg.formers.remove(place);
    pg.members.push(joiner(ctx.index, disk, pg.blocks == 0));
    Ok(Ok(format!("{disk} takes its place back")))
}

fn end_former(pg: &mut Pg, disk: DiskId, copies: usize) -> Result<String, Answer> {
    let Some(place) = pg.formers.iter().position(|former| *former == disk) else {
        return Err(conflict(format!("{disk} is no former of {}", pg.id)));
    };
    let full = pg.full_members();
    if full < copies {
        let text = format!("{disk} stays former of {}: {full} of {copies} are full", pg.id);
        return Err(conflict(text));
    }
    pg.formers.remove(place);
    Ok(format!("{disk} is no longer needed as former"))
}

/// Deletes every single record of a missing copy of `disk` in `pg` (bounded by the limit per member).
pub(crate) fn forget_missing(ctx: &mut Apply<'_>, pg: PgId, disk: DiskId) -> KvResult<()> {
    let from = tables::missing_of(pg, disk);
    let mut keys = Vec::new();
    ctx.kv.scan(&from, &prefix_end(&from), &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    keys.iter().try_for_each(|key| ctx.kv.delete(key))
}
