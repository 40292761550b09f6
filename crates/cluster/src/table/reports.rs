//! What disks report: comparisons, repairs, bad copies, lost blocks.
//!
//! An index names the state *after* its entry: a table read at the index of a join, a registration or a
//! range record has seen everything that was committed without that disk.

use crate::map::end_disk_session;
use crate::state::{
    self, conflict, full_members, invalid, put_pg, put_pg_since, raise_epoch, refused, unknown,
};
use crate::table::{is_below_floor, is_live, records, row};
use everhold_proto::apply::Apply;
use everhold_proto::command::Answer;
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end, put_row, scan_rows};
use everhold_proto::limits::{MISSING_PER_MEMBER_MAX, PAGE_ENTRIES_MAX};
use everhold_proto::map::{Disk, Pg};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::Repaired;
use everhold_proto::tables::{self, Key, Table};
use everhold_proto::{BlockId, DiskId, DiskSession, Generation, Kind, LogIndex, PgId};
use std::collections::BTreeSet;

/// Who reports, and about which PG.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) disk: DiskId,
    pub(crate) session: DiskSession,
    pub(crate) pg: PgId,
}

/// The reporting disk's PG and its place among the members, if the session is the current one.
fn member(kv: &dyn KvRead, place: Place) -> KvResult<Result<(Pg, usize), Answer>> {
    let fenced = |text: String| Ok(Err(refused(Kind::Fenced, text)));
    if current_disk(kv, place)?.is_none() {
        return fenced(format!("session {} of {} has ended", place.session, place.disk));
    }
    let Some(pg) = state::pg(kv, place.pg)? else {
        return Ok(Err(unknown(place.pg)));
    };
    match pg.members.iter().position(|m| m.disk == place.disk) {
        Some(at) => Ok(Ok((pg, at))),
        None => fenced(format!("{} is no member of {}", place.disk, place.pg)),
    }
}

fn current_disk(kv: &dyn KvRead, place: Place) -> KvResult<Option<Disk>> {
    Ok(state::disk(kv, place.disk)?.filter(|disk| disk.session == place.session))
}

pub(crate) fn compared(
    ctx: &mut Apply<'_>,
    place: Place,
    joined: LogIndex,
    table_read: LogIndex,
    missing: &[BlockId],
) -> KvResult<Answer> {
    if missing.len() as u64 > MISSING_PER_MEMBER_MAX || table_read > ctx.index {
        return Ok(invalid(format!("a comparison names at most {MISSING_PER_MEMBER_MAX} blocks")));
    }
    let (mut pg, at) = match member(ctx.kv, place)? {
        Ok(found) => found,
        Err(refusal) => return Ok(refusal),
    };
    let its = &pg.members[at];
    let since = its.joined.0.max(place.session.0).max(its.range_recorded.0);
    if its.joined != joined || table_read.0 < since {
        let text = format!("the table of {} was read at {table_read}, before x{since}", pg.id);
        return Ok(refused(Kind::Fenced, text));
    }
    let full = full_members(&pg);
    let missing: BTreeSet<BlockId> = missing.iter().copied().collect();
    let lost = lost_blocks(ctx.kv, pg.id)?;
    let (mut wanted, mut fresh) = (Vec::new(), 0);
    for id in missing.iter().filter(|id| !lost.iter().any(|(lost, _)| lost == *id)) {
        if is_live(ctx.kv, pg.id, *id)? {
            let known = ctx.kv.get(&tables::missing(pg.id, place.disk, *id))?.is_some();
            fresh += u64::from(!known);
            wanted.push(*id);
        }
    }
    if its.missing_blocks + fresh > MISSING_PER_MEMBER_MAX {
        let text = "more copies are missing than are recorded one by one: fetch some first";
        return Ok(refused(Kind::Busy, text));
    }
    pg.members[at].complete = true;
    for id in wanted {
        records::add(ctx, &mut pg, at, id)?;
    }
    assert!(pg.members[at].complete, "the records of a comparison fit");
    // A lost block that was in the table when it was read, and that the disk does not lack: found.
    for (id, recorded) in lost {
        if recorded <= table_read && !missing.contains(&id) {
            found(ctx, &mut pg, at, id)?;
        }
    }
    put_pg_since(ctx, &pg, &full)?;
    Ok(Answer::Done)
}

/// The lost blocks of a PG and the index at which they were recorded.
fn lost_blocks(kv: &dyn KvRead, pg: PgId) -> KvResult<Vec<(BlockId, LogIndex)>> {
    let from = Key::new(Table::Lost).u32(pg.0).done();
    scan_rows(kv, &from, &prefix_end(&from), usize::MAX, |key, index| {
        Some((tables::block_id_of(key)?, index))
    })
}

/// A block that counted as lost is there again, on the member at `at`: the others want it.
fn found(ctx: &mut Apply<'_>, pg: &mut Pg, at: usize, id: BlockId) -> KvResult<()> {
    ctx.kv.delete(&tables::lost(pg.id, id))?;
    if !is_live(ctx.kv, pg.id, id)? {
        return Ok(());
    }
    for other in (0..pg.members.len()).filter(|other| *other != at) {
        records::add(ctx, pg, other, id)?;
    }
    let holder = pg.members[at].disk;
    state::event(ctx, pg.id, format!("lost block {id} is whole again, from {holder}"))
}

pub(crate) fn repaired(ctx: &mut Apply<'_>, place: Place, blocks: &[Repaired]) -> KvResult<Answer> {
    if blocks.len() > PAGE_ENTRIES_MAX {
        return Ok(invalid(format!("at most {PAGE_ENTRIES_MAX} blocks are reported at once")));
    }
    let (mut pg, at) = match member(ctx.kv, place)? {
        Ok(found) => found,
        Err(refusal) => return Ok(refusal),
    };
    let full = full_members(&pg);
    for block in blocks {
        records::remove(ctx, &mut pg, at, block.id, |record| {
            record.recorded == block.recorded || planted::has(Bug::LateRepairDone)
        })?;
        if ctx.kv.get(&tables::lost(pg.id, block.id))?.is_some() {
            found(ctx, &mut pg, at, block.id)?;
        }
    }
    put_pg_since(ctx, &pg, &full)?;
    Ok(Answer::Done)
}

pub(crate) fn bad(ctx: &mut Apply<'_>, place: Place, blocks: &[BlockId]) -> KvResult<Answer> {
    if blocks.len() > PAGE_ENTRIES_MAX {
        return Ok(invalid(format!("at most {PAGE_ENTRIES_MAX} blocks are reported at once")));
    }
    let Some(disk) = current_disk(ctx.kv, place)? else {
        // Its memberships are compared anew after the registration that it owes.
        return Ok(Answer::Bad { session_ended: true });
    };
    let Some(mut pg) = state::pg(ctx.kv, place.pg)? else {
        return Ok(unknown(place.pg));
    };
    let at = pg.members.iter().position(|m| m.disk == place.disk);
    let full = full_members(&pg);
    let mut session_ends = false;
    for id in blocks {
        match (row(ctx.kv, pg.id, *id)?, at) {
            (Some(row), Some(at)) if row.references > 0 => records::add(ctx, &mut pg, at, *id)?,
            (Some(_), _) => {}
            // A commit may be under way that counts on this copy. Below the floor there is none.
            (None, _) => session_ends |= !is_below_floor(ctx.kv, *id)?,
        }
    }
    put_pg_since(ctx, &pg, &full)?;
    if session_ends {
        state::event(ctx, disk.id, "session ends: a copy of an uncommitted block is bad")?;
        end_disk_session(ctx, disk)?;
        raise_epoch(ctx);
    }
    Ok(Answer::Bad { session_ended: session_ends })
}

pub(crate) fn lost(
    ctx: &mut Apply<'_>,
    pg: PgId,
    generation: Generation,
    blocks: &[BlockId],
) -> KvResult<Answer> {
    if blocks.len() > PAGE_ENTRIES_MAX {
        return Ok(invalid(format!("at most {PAGE_ENTRIES_MAX} blocks are reported at once")));
    }
    let Some(mut pg) = state::pg(ctx.kv, pg)? else {
        return Ok(unknown(pg));
    };
    if pg.generation != generation {
        return Ok(conflict(format!("{} is at {}, not {generation}", pg.id, pg.generation)));
    }
    let mut count = 0;
    for id in blocks {
        // A member that is compared and has no record of it holds it: the asker was too early.
        if !is_live(ctx.kv, pg.id, *id)? || is_held(ctx.kv, &pg, *id)? {
            continue;
        }
        if get_row::<LogIndex>(&*ctx.kv, &tables::lost(pg.id, *id))?.is_none() {
            put_row(ctx.kv, &tables::lost(pg.id, *id), &ctx.index)?;
            count += 1;
        }
        // It blocks no `leave`: what no disk has, no member can be asked to have.
        for place in 0..pg.members.len() {
            records::remove(ctx, &mut pg, place, *id, |_| true)?;
        }
    }
    if count > 0 {
        put_pg(ctx, &pg)?;
        raise_epoch(ctx);
        state::event(ctx, pg.id, format!("{count} blocks have no copy left"))?;
    }
    Ok(Answer::Done)
}

/// Whether the state machine itself takes the block to be on some member.
fn is_held(kv: &dyn KvRead, pg: &Pg, id: BlockId) -> KvResult<bool> {
    for member in pg.members.iter().filter(|member| member.complete) {
        if kv.get(&tables::missing(pg.id, member.disk, id))?.is_none() {
            return Ok(true);
        }
    }
    Ok(false)
}
