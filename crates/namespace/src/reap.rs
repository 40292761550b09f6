//! What deletions and ended sessions left behind, dropped in bounded steps.

use crate::changes;
use crate::delegations::Rule;
use crate::extents;
use crate::failure::Outcome;
use crate::lifetime;
use crate::limits::{CHANGES_KEPT, REAP_MAX};
use crate::rows::{self, DoomedRow, Part};
use crate::sessions;
use crate::tree::{self, Grant, Tree};
use everhold_proto::apply::Apply;
use everhold_proto::fs::ChangeKind;
use everhold_proto::ids::*;
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end, scan_rows};
use everhold_proto::tables::{self, Header, Table};

/// Drops up to `limit` rows: open handles and locks of ended sessions, inodes that have lingered, doomed
/// extents, and change records beyond those that are kept; answers how many.
/// `limit` (capped by [`REAP_MAX`]) or more means that there may be more to do. Every sweep of the block table calls it in the
/// same entry: what is dropped here is what the table's blocks die by.
pub fn reap(ctx: &mut Apply<'_>, limit: u32) -> KvResult<u32> {
    let of_nobody = Grant::of(SessionId(0), u64::MAX);
    let grant = Grant { drops: 0, rule: Rule::Ignore, ..of_nobody };
    let limit = limit.min(REAP_MAX);
    let mut done = 0;
    while done < limit
        && let Some(session) = first_ended(&*ctx.kv)?
    {
        let left = (limit - done) as usize;
        let forgotten = sessions::forget_held(ctx, Grant { session, ..grant }, left)?;
        if forgotten < left {
            ctx.kv.delete(&rows::ended_session(session))?;
        }
        done += (forgotten as u32).max(1);
    }
    while done < limit
        && let Some((unlinked_ms, inode)) = first_lingered(&*ctx.kv, ctx.stamp.log_ms)?
    {
        let freed = tree::run(ctx, grant, |tree| {
            tree.end_lingering(unlinked_ms, inode)?;
            Ok(tree.dropped)
        })?;
        debug_assert!(freed.is_ok(), "a lingering inode answers no client: {freed:?}");
        done += 1 + freed.unwrap_or(0) as u32;
    }
    while done < limit
        && let Some((fork, from, row)) = first_doomed(&*ctx.kv)?
    {
        let left = (limit - done) as usize;
        let dropped = tree::run(ctx, grant, |tree| drop_doomed(tree, fork, from, row, left))?;
        debug_assert!(dropped.is_ok(), "a doomed range answers no client: {dropped:?}");
        done += dropped.unwrap_or(0).max(1);
    }
    let surplus = ctx.header.next_change.saturating_sub(CHANGES_KEPT);
    done += changes::trim(ctx, surplus, limit.saturating_sub(done) as usize)? as u32;
    Ok(done)
}

/// Whether [`reap`] in an entry of this log time would find something to do.
pub fn is_reapable(kv: &dyn KvRead, log_ms: u64) -> KvResult<bool> {
    let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
    let surplus = header.next_change.saturating_sub(CHANGES_KEPT);
    Ok(first_ended(kv)?.is_some()
        || first_doomed(kv)?.is_some()
        || first_lingered(kv, log_ms)?.is_some()
        || changes::read(kv, 0, 1)?.first().is_some_and(|(first, _)| *first < surplus))
}

fn first_lingered(kv: &(impl KvRead + ?Sized), log_ms: u64) -> KvResult<Option<(u64, InodeId)>> {
    Ok(lifetime::lingered(kv, log_ms, 1)?.into_iter().next())
}

fn first_doomed(kv: &(impl KvRead + ?Sized)) -> KvResult<Option<(u64, u64, DoomedRow)>> {
    let table = rows::table(Table::Doomed);
    let found = scan_rows(kv, &table, &prefix_end(&table), 1, |key, row| {
        let fork = rows::last_u64(key.get(..rows::NAME_AT)?)?;
        Some((fork, rows::last_u64(key)?, row))
    })?;
    Ok(found.into_iter().next())
}

fn first_ended(kv: &(impl KvRead + ?Sized)) -> KvResult<Option<SessionId>> {
    let table = rows::table(Table::EndedSession);
    let found = scan_rows(kv, &table, &prefix_end(&table), 1, |key, ()| {
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
