//! A block enters the table, and each copy it lacks is recorded in the same entry.

use crate::state;
use crate::table::{judge, records};
use everhold_proto::apply::Apply;
use everhold_proto::kv::{KvResult, put_row};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::{BlockRow, NewBlock};
use everhold_proto::tables;

/// Admits a block that [`judge()`](super::judge()) passed in this entry. It has no references yet: the caller adds
/// them with [`reference`](super::reference) in this entry, so that it is never in the table for nothing.
pub fn admit(ctx: &mut Apply<'_>, block: &NewBlock) -> KvResult<()> {
    let mut pg = state::pg(ctx.kv, block.pg)?.expect("the block's PG was judged in this entry");
    let full = state::full_members(&pg);
    let counted = judge::counted(ctx.kv, &pg, block)?;
    let row = BlockRow { length: block.length, crc: block.crc, references: 0, live_bytes: 0 };
    put_row(ctx.kv, &tables::block(block.pg, block.id), &row)?;
    pg.blocks += 1;
    pg.live_bytes += u64::from(block.length);
    for place in 0..pg.members.len() {
        let lacks = !counted.contains(&pg.members[place].disk);
        if lacks && !planted::has(Bug::MissingNotRecorded) {
            records::add(ctx, &mut pg, place, block.id)?;
        }
    }
    state::put_pg_since(ctx, &pg, &full)
}
