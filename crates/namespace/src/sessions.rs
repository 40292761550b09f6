//! Sessions: clients' leases. A session's row is what the block table and the request window go by.
//!
//! **Invariant:** `floor` and `acked_below` only rise, and an ended session never comes back: its id is
//! made of the log index that opened it. `seen_ms` is at most a second behind the last sign of life in the log, so
//! whoever leads next knows how old a session is.

use crate::delegations::Rule;
use crate::limits::{CLIENT_BYTES_MAX, END_HANDLES_MAX};
use crate::rows;
use crate::tree::{self, Grant};
use everhold_proto::apply::Apply;
use everhold_proto::fs::FsError;
use everhold_proto::ids::*;
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end, put_row, scan_rows};
use everhold_proto::table::SessionRow;
use everhold_proto::tables::{self, Table};
use std::collections::BTreeSet;
use std::ops::ControlFlow;

/// A sign of life that is so much newer than the recorded one is recorded. A batch writes the row of its session only
/// where it has to.
const SEEN_STEP_MS: u64 = 1000;

/// Opens a session; its id is `nonce` and the low half of the index of the entry. At most one per entry. One that `follows` may keep a
/// cache by the change feed.
///
/// Two sessions have one id only if their entries are a multiple of 2^32 apart and the nonces are equal: as rare as two equal
/// numbers of 64 bits that were drawn.
pub fn open(ctx: &mut Apply<'_>, client: &str, follows: bool, nonce: u32) -> KvResult<SessionId> {
    let id = SessionId((u64::from(nonce) << 32) | (ctx.index.0 & u64::from(u32::MAX)));
    let client = client[..client.floor_char_boundary(CLIENT_BYTES_MAX)].to_string();
    let seen_ms = ctx.stamp.log_ms;
    let row =
        SessionRow { floor: 0, acked_below: 1, client, follows, numbers: Vec::new(), seen_ms };
    put_row(ctx.kv, &tables::session(id), &row)?;
    Ok(id)
}

/// Raises a session's floor and window, records that it lives, and drops the answers that it has acknowledged.
/// `NoSession` when it has ended.
pub fn renew(
    ctx: &mut Apply<'_>,
    session: SessionId,
    acked_below: u64,
    floor: u64,
) -> KvResult<Result<(), FsError>> {
    let row = raise(ctx, session, acked_below, floor)?;
    Ok(row.map(|_| ()).ok_or(FsError::NoSession))
}

/// Ends a session: its floor becomes infinite, its kept answers go, its locks are void at once, and the
/// rows of these and of its open handles are dropped
/// (those that are too many for one entry by `reap`). Ending an ended session does nothing.
pub fn end(ctx: &mut Apply<'_>, session: SessionId) -> KvResult<()> {
    let key = tables::session(session);
    let Some(row) = get_row::<SessionRow>(&*ctx.kv, &key)? else { return Ok(()) };
    let answers = prefix_end(&rows::kept_answers_of(session));
    drop_answers(ctx, session, row.acked_below, &answers)?;
    ctx.kv.delete(&key)?;
    if forget_held(
        ctx,
        Grant { rule: Rule::Ignore, ..Grant::of(session, u64::MAX) },
        END_HANDLES_MAX,
    )? >= END_HANDLES_MAX
    {
        put_row(ctx.kv, &rows::ended_session(session), &())?;
    }
    Ok(())
}

/// Open sessions after `after`, in the order of their ids, at most `limit`.
pub fn list(
    kv: &dyn KvRead,
    after: Option<SessionId>,
    limit: usize,
) -> KvResult<Vec<(SessionId, SessionRow)>> {
    let table = rows::table(Table::Session);
    let from = match after {
        Some(SessionId(id)) => tables::session(SessionId(id.saturating_add(1))),
        None => table.clone(),
    };
    scan_rows(kv, &from, &prefix_end(&table), limit, |key, row| {
        Some((SessionId(rows::last_u64(key)?), row))
    })
}

/// Open sessions that may follow the change feed.
pub fn following(kv: &dyn KvRead) -> KvResult<BTreeSet<SessionId>> {
    let table = rows::table(Table::Session);
    let following =
        scan_rows(kv, &table, &prefix_end(&table), usize::MAX, |key, row: SessionRow| {
            rows::last_u64(key).map(SessionId).filter(|_| row.follows)
        })?;
    Ok(following.into_iter().collect())
}

/// The row of an open session with both bounds raised, and with the time at which it was seen.
pub(crate) fn raise(
    ctx: &mut Apply<'_>,
    session: SessionId,
    acked_below: u64,
    floor: u64,
) -> KvResult<Option<SessionRow>> {
    let key = tables::session(session);
    let Some(mut row) = get_row::<SessionRow>(&*ctx.kv, &key)? else { return Ok(None) };
    let now_ms = ctx.stamp.log_ms;
    let is_older = now_ms >= row.seen_ms.saturating_add(SEEN_STEP_MS);
    if acked_below > row.acked_below || floor > row.floor || is_older {
        let acknowledged = rows::kept_answer(session, acked_below);
        drop_answers(ctx, session, row.acked_below, &acknowledged)?;
        row.acked_below = row.acked_below.max(acked_below);
        row.floor = row.floor.max(floor);
        row.seen_ms = row.seen_ms.max(now_ms);
        put_row(ctx.kv, &key, &row)?;
    }
    Ok(Some(row))
}

/// Drops the kept answers from request `from` to the key `to`, of which there are at most a window.
fn drop_answers(ctx: &mut Apply<'_>, session: SessionId, from: u64, to: &[u8]) -> KvResult<()> {
    let from = rows::kept_answer(session, from);
    let mut keys = Vec::new();
    ctx.kv.scan(&from, to, &mut |key, _| {
        keys.push(key.to_vec());
        ControlFlow::Continue(())
    })?;
    keys.iter().try_for_each(|key| ctx.kv.delete(key))
}

/// Forgets up to `limit` open handles and locks of an ended session; answers how many. Fewer than
/// `limit`: there are no more.
pub(crate) fn forget_held(ctx: &mut Apply<'_>, grant: Grant, limit: usize) -> KvResult<usize> {
    let mut forgotten = forget_handles(ctx, grant, limit)?;
    while forgotten < limit {
        let dropped = forget_locks(ctx, grant, limit - forgotten)?;
        if dropped == 0 {
            break;
        }
        forgotten += dropped;
    }
    Ok(forgotten)
}

/// Drops up to `limit` locks of an ended session on one inode; answers how many, and 0 only if it has
/// no locks any more.
fn forget_locks(ctx: &mut Apply<'_>, grant: Grant, limit: usize) -> KvResult<usize> {
    let prefix = rows::session_locks_of(grant.session);
    let inodes: Vec<InodeId> = scan_rows(&*ctx.kv, &prefix, &prefix_end(&prefix), 1, |key, ()| {
        rows::last_u64(key).map(InodeId)
    })?;
    let Some(inode) = inodes.into_iter().next() else { return Ok(0) };
    let outcome =
        tree::run(ctx, grant, |tree| Ok(tree.drop_locks(grant.session, inode, limit)?))?;
    debug_assert!(outcome.is_ok(), "dropping locks answers no client: {outcome:?}");
    Ok(outcome.unwrap_or(0).max(1))
}

/// Forgets up to `limit` open handles of an ended session; answers how many.
fn forget_handles(ctx: &mut Apply<'_>, grant: Grant, limit: usize) -> KvResult<usize> {
    let prefix = rows::session_handles_of(grant.session);
    let inodes: Vec<InodeId> =
        scan_rows(&*ctx.kv, &prefix, &prefix_end(&prefix), limit, |key, ()| {
            rows::last_u64(key).map(InodeId)
        })?;
    let outcome = tree::run(ctx, grant, |tree| {
        inodes.iter().try_for_each(|inode| tree.forget_handles(grant.session, *inode))
    })?;
    debug_assert!(outcome.is_ok(), "an open handle without its inode: {outcome:?}");
    Ok(inodes.len())
}
