//! The change feed: one record for every mutation, in the order in which they happened.
//!
//! **Invariant:** sequence numbers have no gaps; a reader that finds the first record after its cursor
//! to be a later one knows that records were trimmed.

use crate::rows;
use everhold_proto::apply::Apply;
use everhold_proto::fs::ChangeRecord;
use everhold_proto::kv::{KvRead, KvResult, prefix_end, scan_rows};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::tables::Table;
use std::ops::ControlFlow;

/// Records from sequence number `from` on, at most `limit` ([`PAGE_ENTRIES_MAX`] caps it).
pub fn read(kv: &dyn KvRead, from: u64, limit: usize) -> KvResult<Vec<(u64, ChangeRecord)>> {
    let end = prefix_end(&rows::table(Table::Change));
    scan_rows(kv, &rows::change(from), &end, limit.min(PAGE_ENTRIES_MAX), |key, record| {
        Some((rows::last_u64(key)?, record))
    })
}

/// Removes up to `limit` records below sequence number `below`, oldest first; answers how many.
pub fn trim(ctx: &mut Apply<'_>, below: u64, limit: usize) -> KvResult<usize> {
    let mut keys = Vec::new();
    ctx.kv.scan(&rows::change(0), &rows::change(below), &mut |key, _| {
        if keys.len() < limit {
            keys.push(key.to_vec());
        }
        if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    keys.iter().try_for_each(|key| ctx.kv.delete(key))?;
    Ok(keys.len())
}
