//! Dead blocks leave the table after a grace period, in which readers of an older version finish, and
//! below their session's floor, so that no late commit can bring the id back.

use crate::state;
use crate::table::{is_below_floor, row};
use everhold_proto::apply::Apply;
use everhold_proto::command::Answer;
use everhold_proto::kv::{KvRead, KvResult};
use everhold_proto::limits::DEAD_GRACE_MS;
use everhold_proto::tables::{self, Key, Table};
use everhold_proto::{BlockId, PgId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// Most dead blocks that one entry looks at.
const SWEEP_MAX: u32 = 4096;

pub(crate) fn sweep(ctx: &mut Apply<'_>, limit: u32) -> KvResult<Answer> {
    let mut swept: BTreeMap<PgId, u64> = BTreeMap::new();
    for key in due(ctx.kv, ctx.stamp.log_ms, limit.min(SWEEP_MAX) as usize)? {
        let Some((pg, id)) = split(&key) else { continue };
        ctx.kv.delete(&key)?;
        match row(ctx.kv, pg, id)? {
            Some(row) if row.references == 0 => {}
            // It was referred to again in the entry in which it died.
            _ => continue,
        }
        if is_below_floor(ctx.kv, id)? {
            ctx.kv.delete(&tables::block(pg, id))?;
            ctx.kv.delete(&tables::lost(pg, id))?;
            *swept.entry(pg).or_default() += 1;
        } else {
            // To the end of the queue: one slow session holds up nobody else's blocks.
            ctx.kv.put(&tables::dead(ctx.stamp.log_ms, pg, id), &[])?;
        }
    }
    for (id, count) in &swept {
        let mut pg = state::pg(ctx.kv, *id)?.expect("a block in the table has a PG");
        pg.blocks = pg.blocks.checked_sub(*count).expect("a PG counts the blocks in its table");
        state::put_pg(ctx, &pg)?;
    }
    Ok(Answer::Swept(swept.values().sum::<u64>() as u32))
}

/// Keys of the blocks whose grace period is over, the oldest first.
fn due(kv: &dyn KvRead, now_ms: u64, limit: usize) -> KvResult<Vec<Vec<u8>>> {
    let Some(last) = now_ms.checked_sub(DEAD_GRACE_MS) else {
        return Ok(Vec::new());
    };
    let from = Key::new(Table::Dead).done();
    let to = Key::new(Table::Dead).u64(last + 1).done();
    let mut keys = Vec::new();
    kv.scan(&from, &to, &mut |key, _| {
        if keys.len() < limit {
            keys.push(key.to_vec());
        }
        if keys.len() < limit { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    Ok(keys)
}

fn split(key: &[u8]) -> Option<(PgId, BlockId)> {
    let pg = key.get(9..13)?.try_into().ok()?;
    Some((PgId(u32::from_be_bytes(pg)), tables::block_id_of(key)?))
}
