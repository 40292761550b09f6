//! Telling the leader what was done: one batch after the other, so that it happens in the same order.

use super::fill::Rewrite;
use super::queue::{Deed, Pending};
use super::{Behind, State};
use crate::cache::{Cache, Own, Touched, touched};
use crate::client::Client;
use crate::error::ClientError;
use crate::meta::Doubt;
use crate::session::Session;
use everhold_proto::fs::{Behind as Then, FsError, FsOp, FsReply, SessionBatch, SessionRequest};
use everhold_proto::rpc::{Execute, Executed};
use everhold_proto::{BlockId, Error, InodeId, Kind};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// One call is tried for so long before it is looked whether the session still lives; then it is tried again.
const CALL: Duration = Duration::from_secs(5);
/// Rounds of "refused, written again".
const ROUNDS_MAX: usize = 8;
/// Between tries after an error that no call should have.
const PAUSE: Duration = Duration::from_millis(200);

type Results = Vec<Result<FsReply, FsError>>;

/// Runs for the life of the client.
pub(crate) async fn run(client: Weak<Client>, behind: Arc<Behind>) {
    loop {
        let Some(alive) = client.upgrade() else { return };
        let clock = alive.env.clock;
        let due = behind.state.lock().queue.due();
        match due {
            Some(due) if due <= clock.now() => {
                tell(&alive, &behind).await;
                continue;
            }
            _ => drop(alive),
        }
        let far = clock.now() + CALL;
        // Work, or the time has come: both are looked at in the next round.
        let _ = clock.until(due.unwrap_or(far), behind.work.notified()).await;
    }
}

/// Tells one batch, however long it takes, as long as the session lives.
async fn tell(client: &Arc<Client>, behind: &Behind) {
    let session = client.session();
    if behind.state.lock().lose_failed(client.env.clock.now()) {
        return behind.told.notify_waiters();
    }
    let Some(batch) = behind.batch_of(&session) else {
        // The session is about to be replaced, and what waits is lost with it.
        return client.env.clock.sleep(PAUSE).await;
    };
    if batch.is_empty() {
        return; // what could be told was lost meanwhile
    }
    let Some(mut results) = call(client, &session, batch.clone()).await else { return };
    let mut rewritten = Vec::new();
    for index in 0..results.len() {
        let Err(FsError::BlocksRefused(blocks)) = &results[index] else { continue };
        let refused = blocks.iter().map(|(id, _)| *id).collect();
        let Some(rewrite) = behind.rewrite_of(&session, index) else { continue };
        let again = write_again(client, &session, &batch[index..], rewrite, refused).await;
        let Some(again) = again else { return };
        results[index] = again;
        rewritten.extend(super::holdings::mentioned(&batch[index].0));
    }
    let now = client.env.clock.now();
    let mut state = behind.state.lock();
    if state.session == session.id {
        state.told(&results, now);
        // It was changed more often than is known here.
        rewritten.into_iter().for_each(|inode| state.holdings.forget(inode));
    }
    drop(state);
    behind.told.notify_waiters();
}

impl Behind {
    /// The next batch, if it was done in this session.
    fn batch_of(&self, session: &Session) -> Option<Vec<(FsOp, Option<Then>)>> {
        let mut state = self.state.lock();
        (state.session == session.id).then(|| state.queue.batch())
    }

    /// The blocks of a commit that is being told in this session.
    fn rewrite_of(&self, session: &Session, index: usize) -> Option<Rewrite> {
        let mut state = self.state.lock();
        if state.session == session.id { state.queue.take_rewrite(index) } else { None }
    }
}

/// Makes the calls for some changes, with the same numbers again until they are answered. `None`: the session has
/// ended.
async fn call(
    client: &Arc<Client>,
    session: &Arc<Session>,
    batch: Vec<(FsOp, Option<Then>)>,
) -> Option<Results> {
    let open = loop {
        let settled = session.settled.notified();
        if let Some(open) = session.number(batch.len()) {
            break open;
        }
        if client.session_id() != session.id {
            return None;
        }
        // Answers to other changes make room; whether the session lives is looked at in between.
        let _ = client.env.clock.within(CALL, settled).await;
    };
    let numbered = open.numbers.clone().zip(batch);
    let requests = numbered.map(|(request, (op, behind))| SessionRequest {
        behind,
        ..SessionRequest::new(request, op)
    });
    let mut execute = Execute(SessionBatch {
        session: session.id,
        acked_below: session.acked_below(),
        floor: session.floor(),
        requests: requests.collect(),
    });
    loop {
        let deadline = client.env.clock.now() + CALL;
        match client.ask_leader(&execute, deadline, &mut Doubt::default()).await {
            Ok(executed) if executed.results.len() == execute.0.requests.len() => {
                drop(open);
                if let Some(cache) = &client.cache {
                    note(cache, &execute.0, &executed);
                }
                let has_ended = |result| matches!(result, &Err(FsError::NoSession));
                if !executed.results.iter().any(has_ended) {
                    return Some(executed.results);
                }
                let deadline = client.deadline();
                if let Err(e) = client.replace_session(session, deadline).await {
                    tracing::info!(error = %e, "no session could be opened in place of the one that ended");
                    client.env.clock.sleep(PAUSE).await;
                }
                return None;
            }
            Ok(_) => tracing::error!("the leader answered a batch incompletely"),
            Err(e) if e.kind == Kind::Invalid => return Some(all_failed(&execute.0, &e)),
            Err(e) => tracing::info!(error = %e, "changes could not be told yet"),
        }
        if client.session_id() != session.id {
            return None;
        }
        execute.0.acked_below = session.acked_below();
        execute.0.floor = session.floor();
        client.env.clock.sleep(PAUSE).await;
    }
}

fn all_failed(batch: &SessionBatch, e: &Error) -> Results {
    tracing::error!(error = %e, "the leader does not take what was done");
    batch.requests.iter().map(|_| Err(FsError::Invalid)).collect()
}

/// The cache hears of it like of any other change.
fn note(cache: &Cache, batch: &SessionBatch, executed: &Executed) {
    let all: Vec<Touched> = batch.requests.iter().map(|request| touched(&request.op)).collect();
    cache.made(&Own { first: executed.first, next: executed.next }, &all, &executed.results);
}

/// Blocks did not count: they are written under other ids, and the commit is made anew, with all that was done to
/// the same file after it. `None`: the session has ended.
async fn write_again(
    client: &Arc<Client>,
    session: &Arc<Session>,
    batch: &[(FsOp, Option<Then>)],
    rewrite: Rewrite,
    mut refused: BTreeSet<BlockId>,
) -> Option<Result<FsReply, FsError>> {
    let (first, then) = &batch[0];
    let FsOp::Commit { inode, .. } = first else { return Some(Err(FsError::Invalid)) };
    let after = batch[1..].iter().filter(|(op, _)| changes_file(op, *inode)).cloned();
    let after: Vec<_> = after.collect();
    let Rewrite { policy, mut written, make } = rewrite;
    for _ in 0..ROUNDS_MAX {
        let deadline = client.deadline();
        written = match client.rewrite_refused(policy, written, &refused, deadline).await {
            Ok(written) => written,
            Err(e) => {
                tracing::error!(%inode, error = %e, "refused blocks could not be written again");
                return Some(Err(FsError::NoSpace));
            }
        };
        let commit = (make(crate::file::content_of(&written)), *then);
        let again = std::iter::once(commit).chain(after.iter().cloned()).collect();
        match call(client, session, again).await?.swap_remove(0) {
            Err(FsError::BlocksRefused(blocks)) => {
                refused = blocks.into_iter().map(|(id, _)| id).collect();
            }
            result => return Some(result),
        }
    }
    Some(Err(FsError::Invalid))
}

/// Whether an operation changes a file by its number.
fn changes_file(op: &FsOp, file: InodeId) -> bool {
    match op {
        FsOp::Commit { inode, .. }
        | FsOp::Punch { inode, .. }
        | FsOp::SetAttr { inode, .. }
        | FsOp::SetXattr { inode, .. }
        | FsOp::RemoveXattr { inode, .. } => *inode == file,
        _ => false,
    }
}

impl State {
    /// A batch was answered.
    fn told(&mut self, results: &Results, now: Instant) {
        let told = self.queue.told();
        let mut lost = Vec::new();
        for (pending, result) in told.iter().zip(results) {
            match result {
                Ok(_) => {}
                Err(_) if matches!(pending.deed, Deed::Is(FsOp::Undelegate { .. })) => {}
                Err(e) => lost.push((pending, e)),
            }
        }
        if let Some((pending, e)) = lost.first() {
            tracing::error!(
                changes = lost.len(),
                first = ?name_of(pending),
                error = %e,
                "changes that were answered were lost"
            );
            let error = match e {
                FsError::Fenced => fenced(),
                e => ClientError::Fs((*e).clone()),
            };
            self.lose(error, now);
        }
        self.settle_told(&told);
    }

    /// Nothing waits any more of some inodes that these changes touched.
    pub(super) fn settle_told(&mut self, told: &[Pending]) {
        for pending in told {
            let queue = &self.queue;
            let settled = pending.touched.iter().filter(|inode| queue.last(&[**inode]).is_none());
            self.holdings.told(&settled.copied().collect::<Vec<_>>());
        }
    }
}

fn fenced() -> ClientError {
    let text =
        "changes were lost: the client was cut off for so long that others went on without it";
    ClientError::new(Kind::Fenced, text)
}

/// What kind of change it is, for the log.
fn name_of(pending: &Pending) -> String {
    let Deed::Is(op) = &pending.deed else { return String::new() };
    let text = format!("{op:?}");
    text.split([' ', '{']).next().unwrap_or_default().to_string()
}
