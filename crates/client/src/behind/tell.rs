//! Telling the leader what was done: one batch after the other, so that it happens in the same order.

use super::fill::{self, Block, Rewrite};
use super::queue::Pending;
use super::{Behind, State};
use crate::cache::{Cache, Own, Touched, touched};
use crate::client::Client;
use crate::error::ClientError;
use crate::meta::Doubt;
use crate::session::Session;
use everhold_proto::fs::{Behind as Then, FsError, FsOp, FsReply, SessionBatch, SessionRequest};
use everhold_proto::rpc::{Execute, Executed};
use everhold_proto::{BlockId, Error, Kind};
use std::collections::BTreeSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

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
    let Some(batch) = behind.next(client, &session) else {
        // The session is about to be replaced, and what waits is lost with it.
        return client.env.clock.sleep(PAUSE).await;
    };
    if batch.is_empty() {
        return; // what was first is lost
    }
    let Some(results) = call(client, &session, batch).await else { return };
    let done = results.iter().take_while(|result| result.is_ok()).count();
    behind.told_in(&session, done);
    match results.into_iter().nth(done) {
        None => {}
        Some(Err(FsError::BlocksRefused(blocks))) => {
            let refused = blocks.into_iter().map(|(id, _)| id).collect();
            write_again(client, behind, &session, &refused).await;
        }
        Some(Err(FsError::Fenced)) => behind.lose_first(client, &session, fenced()),
        Some(Err(e)) => behind.lose_first(client, &session, e.into()),
        Some(Ok(_)) => unreachable!("it is not among those that are done"),
    }
}

impl Behind {
    /// The next batch, if it was done in this session. Empty: the first change was lost instead.
    fn next(&self, client: &Client, session: &Session) -> Option<Vec<(FsOp, Option<Then>)>> {
        let failed = {
            let mut state = self.state.lock();
            if state.session != session.id {
                return None;
            }
            match state.queue.failed() {
                Some(e) => e.clone(),
                None => {
                    let batch = state.queue.batch();
                    if batch.is_empty() {
                        state.told(0);
                        self.told.notify_waiters();
                    }
                    return Some(batch);
                }
            }
        };
        self.lose_first(client, session, failed);
        Some(Vec::new())
    }

    /// So many of the first changes were told.
    fn told_in(&self, session: &Session, count: usize) {
        let mut state = self.state.lock();
        if state.session == session.id {
            state.told(count);
        }
        drop(state);
        self.told.notify_waiters();
    }

    /// The first change can never be told.
    fn lose_first(&self, client: &Client, session: &Session, error: ClientError) {
        let mut state = self.state.lock();
        if state.session != session.id {
            return; // all was lost with the session
        }
        let lost = state.lose_first(error, &client.losses, client.env.clock.now());
        // What is lost waits no more.
        state.told(0);
        drop(state);
        self.told.notify_waiters();
        client.forget_lost(lost);
    }

    /// The blocks of the first change, if it is of this session.
    fn rewrite_of(&self, session: &Session) -> Option<Rewrite> {
        let mut state = self.state.lock();
        if state.session == session.id { state.queue.take_rewrite() } else { None }
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
        chained: true,
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

/// The blocks of the first change did not count: they are written under other ids, however long it takes, and the
/// change is told anew with all that comes after it.
async fn write_again(
    client: &Arc<Client>,
    behind: &Behind,
    session: &Arc<Session>,
    refused: &BTreeSet<BlockId>,
) {
    let Some(Rewrite { policy, written, make, rounds }) = behind.rewrite_of(session) else {
        let error = FsError::BlocksRefused(Vec::new()).into();
        return behind.lose_first(client, session, error);
    };
    if rounds >= ROUNDS_MAX {
        let text = "blocks were refused again and again; see `everhold status`";
        return behind.lose_first(client, session, ClientError::new(Kind::Retry, text));
    }
    let blocks: Vec<Block> = written.iter().map(Block::of).collect();
    let deadline = client.deadline();
    let mut rewritten = client.rewrite_refused(policy, written, refused, deadline).await;
    loop {
        if client.session_id() != session.id {
            return; // all was lost with the session
        }
        match rewritten {
            Ok(written) => {
                let rewrite = Rewrite { policy, written, make, rounds: rounds + 1 };
                let mut state = behind.state.lock();
                if state.session == session.id {
                    state.queue.rewritten(rewrite);
                }
                return;
            }
            Err(e) if e.fs().is_some() => return behind.lose_first(client, session, e),
            Err(e) => tracing::info!(error = %e, "refused blocks could not be written again yet"),
        }
        client.env.clock.sleep(fill::PAUSE).await;
        rewritten = fill::write_all(client, policy, &blocks).await;
    }
}

impl State {
    /// So many of the first changes were told.
    fn told(&mut self, count: usize) {
        let told = self.queue.told(count);
        self.settle_told(&told);
    }

    /// Nothing waits any more of some inodes that these changes touched.
    fn settle_told(&mut self, told: &[Pending]) {
        for pending in told {
            let queue = &self.queue;
            let settled = pending.bears.on.iter().filter(|inode| queue.last(&[**inode]).is_none());
            self.holdings.told(&settled.copied().collect::<Vec<_>>());
        }
    }
}

fn fenced() -> ClientError {
    let text =
        "changes were lost: the client was cut off for so long that others went on without it";
    ClientError::new(Kind::Fenced, text)
}
