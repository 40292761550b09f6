//! Batches of numbered requests, each carried out at most once.
//!
//! **Invariant:** a request number below the session's `acked_below` is never executed, one that has a
//! kept answer gets that answer, and one too far ahead is refused: so the answers kept for a session
//! are at most its window, and no request takes effect twice.
//!
//! **Invariant:** of chained requests a prefix takes effect: after the first one that fails none is carried out.

use crate::delegations::Rule;
use crate::numbers;
use crate::ops;
use crate::rows::{self, KeptAnswer};
use crate::sessions;
use crate::tree::{self, Grant};
use everhold_proto::apply::Apply;
use everhold_proto::fs::{Behind, FsError, FsOp, FsReply, SessionBatch, SessionRequest};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvResult, get_row, put_row};
use everhold_proto::limits::{BATCH_OPS_MAX, SESSION_WINDOW};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::SessionRow;
use everhold_proto::tables;

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Executed {
    /// One result per request, in order.
    pub results: Vec<Result<FsReply, FsError>>,
    /// A result is a kept answer: it tells of an earlier moment, and what changed since then is not known to who asks.
    pub has_repeated: bool,
}

/// Carries out a batch. A failed request changes nothing but its own kept answer, and one that was skipped has none. `Err` only when the store failed.
pub fn apply(ctx: &mut Apply<'_>, batch: &SessionBatch) -> KvResult<Executed> {
    let id = batch.session;
    let mut has_repeated = false;
    let Some(mut session) = sessions::raise(ctx, id, batch.acked_below, batch.floor)? else {
        let results = batch.requests.iter().map(|_| Err(FsError::NoSession)).collect();
        return Ok(Executed { results, has_repeated });
    };
    let numbers = session.numbers.clone();
    let mut results = Vec::with_capacity(batch.requests.len());
    let mut chain_ended = false;
    for (i, request) in batch.requests.iter().enumerate() {
        let answer = match request.chained && chain_ended {
            _ if i >= BATCH_OPS_MAX => Err(FsError::WindowExceeded),
            true => Err(FsError::Skipped),
            false => execute(ctx, id, &mut session, request, &mut has_repeated)?,
        };
        let ends = request.chained && answer.is_err() && !planted::has(Bug::BatchGoesOn);
        chain_ended |= ends;
        results.push(answer);
    }
    if session.numbers != numbers {
        put_row(ctx.kv, &tables::session(id), &session)?;
    }
    Ok(Executed { results, has_repeated })
}

fn execute(
    ctx: &mut Apply<'_>,
    id: SessionId,
    session: &mut SessionRow,
    request: &SessionRequest,
    has_repeated: &mut bool,
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
        *has_repeated = true;
        return Ok(kept);
    }
    let answer = match (&request.op, &request.behind) {
        (FsOp::Reserve { count }, _) => Ok(numbers::reserve(&mut ctx.header, session, *count)),
        (op, Some(behind)) => perform_behind(ctx, id, session, op, behind),
        (op, None) => tree::run(ctx, Grant::of(id, session.floor), |t| ops::perform(t, op)),
    }?;
    // These say what was in the way, and nothing was done: the same request is tried again.
    if !matches!(answer, Err(FsError::Delegated { .. } | FsError::Fenced)) {
        put_row(ctx.kv, &key, &answer)?;
    }
    Ok(answer)
}

/// What the session has done already, with the time and the number that it had then.
fn perform_behind(
    ctx: &mut Apply<'_>,
    id: SessionId,
    session: &mut SessionRow,
    op: &FsOp,
    behind: &Behind,
) -> KvResult<KeptAnswer> {
    if behind.inode.is_some_and(|number| !numbers::has(session, number)) {
        return Ok(Err(FsError::Invalid));
    }
    let of_session = Grant::of(id, session.floor);
    let grant = Grant { rule: Rule::Need, number: behind.inode, ..of_session };
    let wall = std::mem::replace(&mut ctx.stamp.wall, behind.at);
    let answer = tree::run(ctx, grant, |tree| ops::perform(tree, op));
    ctx.stamp.wall = wall;
    let answer = answer?;
    if let (Ok(_), Some(number)) = (&answer, behind.inode) {
        numbers::used(session, number);
    }
    Ok(answer)
}
