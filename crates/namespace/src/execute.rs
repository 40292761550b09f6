//! Batches of numbered requests, each carried out at most once.
//!
//! **Invariant:** a request number below the session's `acked_below` is never executed, one that has a
//! kept answer gets that answer, and one too far ahead is refused: so the answers kept for a session
//! are at most its window, and no request takes effect twice.

use crate::ops;
use crate::rows::{self, KeptAnswer};
use crate::sessions;
use crate::tree::{self, Grant};
use everhold_proto::apply::Apply;
use everhold_proto::fs::{FsError, FsReply, SessionBatch, SessionRequest};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvResult, get_row, put_row};
use everhold_proto::limits::{BATCH_OPS_MAX, SESSION_WINDOW};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::SessionRow;

/// Carries out a batch: one result per request, in order. A failed request changes nothing but its
/// own kept answer. `Err` only when the store failed.
pub fn apply(ctx: &mut Apply<'_>, batch: &SessionBatch) -> KvResult<Vec<Result<FsReply, FsError>>> {
    let Some(session) = sessions::raise(ctx, batch.session, batch.acked_below, batch.floor)? else {
        return Ok(batch.requests.iter().map(|_| Err(FsError::NoSession)).collect());
    };
    let answer = |(i, request)| {
        if i < BATCH_OPS_MAX {
            execute(ctx, batch.session, &session, request)
        } else {
            Ok(Err(FsError::WindowExceeded))
        }
    };
    batch.requests.iter().enumerate().map(answer).collect()
}

fn execute(
    ctx: &mut Apply<'_>,
    id: SessionId,
    session: &SessionRow,
    request: &SessionRequest,
) -> KvResult<KeptAnswer> {
    let number = request.request;
    if number < session.acked_below && !planted::has(Bug::ExecuteForgotten) {
        return Ok(Err(FsError::MaybeApplied));
    }
    if number.saturating_sub(session.acked_below) >= SESSION_WINDOW {
        return Ok(Err(FsError::WindowExceeded));
    }
    let key = rows::kept_answer(id, number);
    if let Some(kept) = get_row::<KeptAnswer>(&*ctx.kv, &key)?
        && !planted::has(Bug::ExecuteTwice)
    {
        return Ok(kept);
    }
    let grant = Grant::of(id, session.floor);
    let answer = tree::run(ctx, grant, |tree| ops::perform(tree, &request.op))?;
    put_row(ctx.kv, &key, &answer)?;
    Ok(answer)
}
