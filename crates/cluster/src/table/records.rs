//! Records of missing copies: the durable repair queue.
//!
//! Kept one by one up to a bound for each member of each PG; beyond it the member is to compare
//! everything, so the queue stays small and nothing is forgotten.

use crate::map::forget_missing;
use everhold_proto::apply::Apply;
use everhold_proto::kv::{KvResult, get_row, put_row};
use everhold_proto::limits::MISSING_PER_MEMBER_MAX;
use everhold_proto::map::Pg;
use everhold_proto::table::Missing;
use everhold_proto::{BlockId, tables};

/// Records that the member at `place` lacks a block, or renews the record. The caller writes the PG.
pub(crate) fn add(ctx: &mut Apply<'_>, pg: &mut Pg, place: usize, id: BlockId) -> KvResult<()> {
    let (pg_id, member) = (pg.id, &mut pg.members[place]);
    let key = tables::missing(pg_id, member.disk, id);
    if ctx.kv.get(&key)?.is_none() {
        if member.missing_blocks >= MISSING_PER_MEMBER_MAX {
            forget_missing(ctx, pg_id, member.disk)?;
            member.missing_blocks = 0;
            member.range_recorded = ctx.index;
            member.complete = false;
            return Ok(());
        }
        member.missing_blocks += 1;
    }
    put_row(ctx.kv, &key, &Missing { recorded: ctx.index })
}

/// Removes the record of a block, if there is one and `condition` holds for it. The caller writes the PG.
pub(crate) fn remove(
    ctx: &mut Apply<'_>,
    pg: &mut Pg,
    place: usize,
    id: BlockId,
    condition: impl FnOnce(Missing) -> bool,
) -> KvResult<bool> {
    let (pg_id, member) = (pg.id, &mut pg.members[place]);
    if member.missing_blocks == 0 {
        return Ok(false);
    }
    let key = tables::missing(pg_id, member.disk, id);
    match get_row::<Missing>(&*ctx.kv, &key)? {
        Some(record) if condition(record) => {
            member.missing_blocks -= 1;
            ctx.kv.delete(&key)?;
            Ok(true)
        }
        _ => Ok(false),
    }
}
