//! The block table: which blocks each placement group must hold, and which copies are missing.
//!
//! A commit is judged against the newest map ([`judge`]); accepted blocks enter the table together with
//! the records of the copies they lack ([`admit`]), in the same entry. **Invariant 6:** a member that
//! counts as complete and lacks a live block has a missing record for it (or the block is lost).

mod admit;
mod judge;
mod records;
mod references;
mod reports;
mod sweep;
#[cfg(test)]
mod tests;

pub use admit::admit;
pub use judge::judge;
pub use references::reference;

use everhold_proto::apply::Apply;
use everhold_proto::command::{Answer, TableCommand};
use everhold_proto::kv::{KvRead, KvResult, get_row};
use everhold_proto::table::{BlockRow, SessionRow};
use everhold_proto::{BlockId, PgId, tables};

/// Applies one change of the block table.
pub fn apply(ctx: &mut Apply<'_>, command: &TableCommand) -> KvResult<Answer> {
    match command {
        TableCommand::Compared { disk, session, pg, joined, table_read, missing } => {
            let place = reports::Place { disk: *disk, session: *session, pg: *pg };
            reports::compared(ctx, place, *joined, *table_read, missing)
        }
        TableCommand::Repaired { disk, session, pg, blocks } => {
            let place = reports::Place { disk: *disk, session: *session, pg: *pg };
            reports::repaired(ctx, place, blocks)
        }
        TableCommand::Bad { disk, session, pg, blocks } => {
            let place = reports::Place { disk: *disk, session: *session, pg: *pg };
            reports::bad(ctx, place, blocks)
        }
        TableCommand::Lost { pg, generation, blocks } => {
            reports::lost(ctx, *pg, *generation, blocks)
        }
        TableCommand::Sweep { limit } => sweep::sweep(ctx, *limit),
    }
}

/// The row of a block that is in the table, dead or alive.
pub(crate) fn row(kv: &dyn KvRead, pg: PgId, id: BlockId) -> KvResult<Option<BlockRow>> {
    get_row(kv, &tables::block(pg, id))
}

/// Whether files refer to the block.
pub(crate) fn is_live(kv: &dyn KvRead, pg: PgId, id: BlockId) -> KvResult<bool> {
    Ok(row(kv, pg, id)?.is_some_and(|row| row.references > 0))
}

/// Whether no commit can ever bring the id into the table any more: it is below its session's floor, or
/// the session has ended, which makes its floor infinite.
pub(crate) fn is_below_floor(kv: &dyn KvRead, id: BlockId) -> KvResult<bool> {
    let session: Option<SessionRow> = get_row(kv, &tables::session(id.session))?;
    Ok(session.is_none_or(|session| id.counter < session.floor))
}
