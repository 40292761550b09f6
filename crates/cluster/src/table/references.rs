//! Extents that refer to blocks, counted; a block that nothing refers to is dead.

use crate::state;
use crate::table::records;
use everhold_proto::apply::Apply;
use everhold_proto::kv::{KvResult, get_row, put_row};
use everhold_proto::table::BlockRow;
use everhold_proto::{BlockId, PgId, tables};

/// Counts extents that begin (or, negative, cease) to refer to a block, and the bytes they refer to.
///
/// At no references the block is dead: its missing copies are no longer wanted, and it leaves the table
/// after the grace period. Nothing brings it back but a reference made in the very entry in which it
/// died, where an overwrite may drop the last one before it adds the next.
///
/// The caller adds references to live blocks only, or to blocks admitted in this entry.
///
/// # Panics
/// If the block is not in the table, or has fewer references than are taken away: the caller looks at
/// what it refers to, in the same entry.
pub fn reference(
    ctx: &mut Apply<'_>,
    pg: PgId,
    id: BlockId,
    refs_delta: i64,
    bytes_delta: i64,
) -> KvResult<()> {
    let key = tables::block(pg, id);
    let row: Option<BlockRow> = get_row(&*ctx.kv, &key)?;
    let mut row = row.unwrap_or_else(|| panic!("{id} of {pg} is referred to and not in the table"));
    let before = row.references;
    let after = i64::from(before).checked_add(refs_delta).and_then(|n| u32::try_from(n).ok());
    row.references =
        after.unwrap_or_else(|| panic!("{id} of {pg}: {before} references and {refs_delta}"));
    row.live_bytes = row.live_bytes.saturating_add_signed(bytes_delta);
    put_row(ctx.kv, &key, &row)?;
    let died_now = tables::dead(ctx.stamp.log_ms, pg, id);
    if row.references == 0 {
        // Also when it never had a reference: nothing stays in the table for nothing.
        if before > 0 || ctx.kv.get(&died_now)?.is_none() {
            bury(ctx, pg, id, &row)?;
        }
    } else if before == 0 && ctx.kv.get(&died_now)?.is_some() {
        revive(ctx, pg, id, &row)?;
    }
    Ok(())
}

fn bury(ctx: &mut Apply<'_>, pg: PgId, id: BlockId, row: &BlockRow) -> KvResult<()> {
    ctx.kv.put(&tables::dead(ctx.stamp.log_ms, pg, id), &[])?;
    let mut pg = state::pg(ctx.kv, pg)?.expect("a block in the table has a PG");
    let full = state::full_members(&pg);
    pg.live_bytes = pg.live_bytes.saturating_sub(u64::from(row.length));
    for place in 0..pg.members.len() {
        records::remove(ctx, &mut pg, place, id, |_| true)?;
    }
    state::put_pg_since(ctx, &pg, &full)
}

/// The records of its missing copies are gone, so each member is asked anew: those that have the block
/// verify it and say so.
fn revive(ctx: &mut Apply<'_>, pg: PgId, id: BlockId, row: &BlockRow) -> KvResult<()> {
    ctx.kv.delete(&tables::dead(ctx.stamp.log_ms, pg, id))?;
    let mut pg = state::pg(ctx.kv, pg)?.expect("a block in the table has a PG");
    let full = state::full_members(&pg);
    pg.live_bytes += u64::from(row.length);
    for place in 0..pg.members.len() {
        records::add(ctx, &mut pg, place, id)?;
    }
    state::put_pg_since(ctx, &pg, &full)
}
