//! What deletions and ended sessions left behind, dropped in bounded steps.

use crate::extents;
use crate::failure::Outcome;
use crate::limits::REAP_MAX;
use crate::rows::{self, DoomedRow, Part};
use crate::sessions;
use crate::tree::{self, Grant, Tree};
use everhold_proto::apply::Apply;
use everhold_proto::fs::ChangeKind;
use everhold_proto::ids::*;
use everhold_proto::kv::{KvResult, prefix_end, scan_rows};
use everhold_proto::tables::Table;

/// Drops up to `limit` rows of doomed extents and of ended sessions' open handles; answers how many.
/// `limit` (capped by [`REAP_MAX`]) or more means that there may be more to do. Every sweep of the block table calls it in the
/// same entry: what is dropped here is what the table's blocks die by.
pub fn reap(ctx: &mut Apply<'_>, limit: u32) -> KvResult<u32> {
    let grant = Grant { session: SessionId(0), floor: u64::MAX, drops: 0 };
    let limit = limit.min(REAP_MAX);
    let mut done = 0;
    while done < limit
        && let Some((fork, from, row)) = first_doomed(ctx)?
    {
        let left = (limit - done) as usize;
        let dropped = tree::run(ctx, grant, |tree| drop_doomed(tree, fork, from, row, left))?;
        debug_assert!(dropped.is_ok(), "a doomed range answers no client: {dropped:?}");
        done += dropped.unwrap_or(0).max(1);
    }
    while done < limit
        && let Some(session) = first_ended(ctx)?
    {
        let left = (limit - done) as usize;
        let forgotten = sessions::forget_handles(ctx, Grant { session, ..grant }, left)?;
        if forgotten < left {
            ctx.kv.delete(&rows::ended_session(session))?;
        }
        done += (forgotten as u32).max(1);
    }
    Ok(done)
}

fn first_doomed(ctx: &Apply<'_>) -> KvResult<Option<(u64, u64, DoomedRow)>> {
    let table = rows::table(Table::Doomed);
    let found = scan_rows(&*ctx.kv, &table, &prefix_end(&table), 1, |key, row| {
        let fork = rows::last_u64(key.get(..rows::NAME_AT)?)?;
        Some((fork, rows::last_u64(key)?, row))
    })?;
    Ok(found.into_iter().next())
}

fn first_ended(ctx: &Apply<'_>) -> KvResult<Option<SessionId>> {
    let table = rows::table(Table::EndedSession);
    let found = scan_rows(&*ctx.kv, &table, &prefix_end(&table), 1, |key, ()| {
        rows::last_u64(key).map(SessionId)
    })?;
    Ok(found.into_iter().next())
}

/// Drops up to `limit` extents of a doomed range, and the range itself once it is empty.
fn drop_doomed(
    tree: &mut Tree<'_, '_>,
    fork: u64,
    from: u64,
    row: DoomedRow,
    limit: usize,
) -> Outcome<u32> {
    let found = extents::collect(&*tree.ctx.kv, Part { fork, from, to: row.to }, limit)?;
    let mut bytes = 0;
    for extent in &found {
        tree.drop_row(fork, extent)?;
        bytes += extent.length;
    }
    if let Some(inode) = row.counted_in
        && rows::get_inode(&*tree.ctx.kv, inode)?.is_some()
    {
        let file = tree.inode_mut(inode)?;
        file.allocated = file.allocated.saturating_sub(bytes);
        tree.ctx.header.bytes = tree.ctx.header.bytes.saturating_sub(bytes);
    }
    if found.len() < limit {
        if let Some(inode) = row.counted_in
            && rows::get_inode(&*tree.ctx.kv, inode)?.is_some()
        {
            // Who caches its attributes must hear that it takes less room now.
            tree.record(ChangeKind::Attributes, inode, None, None)?;
        }
        tree.ctx.kv.delete(&rows::doomed(fork, from))?;
    }
    Ok(found.len() as u32)
}
