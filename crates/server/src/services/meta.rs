//! Metadata for clients: sessions, changes and questions of the tree, the map.

use super::{CallContext, Class, Serve};
use crate::feed::{self, Page, Shows};
use crate::metadata::{done, unexpected};
use crate::node::Node;
use everhold_namespace as namespace;
use everhold_proto::command::{Answer, Command};
use everhold_proto::fs::{
    ChangeRecord, FsAnswer, FsError, FsOp, FsQuery, FsReply, SessionBatch, SessionRequest,
};
use everhold_proto::kv::{KvRead, KvResult, get_row};
use everhold_proto::limits::{
    BATCH_OPS_MAX, FEED_WAIT_MS_MAX, PAGE_ENTRIES_MAX, RPC_BYTES_MAX, SESSION_SILENCE_MS,
};
use everhold_proto::rpc::{
    Announce, EndSession, Execute, Executed, Follow, Followed, GetMap, GotMap, OpenSession,
    OpenedSession, Queried, Query, ReadChanges, RenewSession,
};
use everhold_proto::table::SessionRow;
use everhold_proto::tables;
use everhold_proto::{Error, InodeId, Kind, SessionId};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A call waits so long for a client that is to give a directory back; then its caller asks again, so that what else it
/// asks for need not wait.
const HOLDER_PATIENCE: Duration = Duration::from_millis(300);
/// Longest name that a client gives itself.
const CLIENT_NAME_BYTES_MAX: usize = 256;
/// Bytes of a reply beside its answers, and of an answer that is an error; both with much to spare.
const REPLY_BYTES: usize = 256;
const ERROR_BYTES: usize = 64;

impl Serve for OpenSession {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<OpenedSession, Error> {
        if self.client.len() > CLIENT_NAME_BYTES_MAX {
            return Err(Error::new(Kind::Invalid, "the client's name is too long"));
        }
        let nonce = (node.env.entropy.u64() >> 32) as u32;
        let command = Command::OpenSession { client: self.client, follows: self.follows, nonce };
        match node.propose(command, call.deadline).await?.1 {
            Answer::Session(session) => {
                seen(node, session);
                Ok(OpenedSession { session, ttl_ms: SESSION_SILENCE_MS })
            }
            other => Err(unexpected(&other)),
        }
    }
}

impl Serve for RenewSession {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let RenewSession { session, acked_below, floor } = self;
        let command = Command::RenewSession { session, acked_below, floor };
        done(node.propose(command, call.deadline).await?)?;
        seen(node, session);
        Ok(())
    }
}

impl Serve for EndSession {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let command = Command::EndSession { session: self.session };
        done(node.propose(command, call.deadline).await?)?;
        node.feed.forget(self.session);
        Ok(())
    }
}

impl Serve for Execute {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<Executed, Error> {
        let batch = self.0;
        check_batch(batch.requests.len())?;
        let patience = call.deadline.min(node.env.clock.now() + HOLDER_PATIENCE);
        let (mut known_first, mut nothing_done) = (true, true);
        loop {
            let proposed = propose_batch(node, &batch, call.deadline).await;
            let doubtful = |e| if nothing_done { e } else { made(e) };
            let (results, first, next) = proposed.map_err(doubtful)?;
            call.give_place_back();
            given_back(node, &batch, &results);
            let in_the_way = called_back_for(&batch, &results);
            if in_the_way.is_empty() || node.env.clock.now() >= patience {
                // After several rounds the records of this batch are not all in one place.
                let first = if known_first { first } else { next };
                let made_from = tells_all(&batch, &results).then_some(first);
                let shows = Shows { position: next, own: Some(batch.session), made_from };
                node.settle(shows, call.deadline).await.map_err(made)?;
                return Ok(Executed { results, first, next });
            }
            // What was done keeps its answer; what was not is tried again under the same number.
            known_first = false;
            nothing_done &= results.iter().all(|result| delegated(result).is_some());
            let ended = call_all_back(node, in_the_way, patience, call.deadline).await;
            ended.map_err(|e| if nothing_done { e } else { made(e) })?;
        }
    }
}

/// Calls delegations back and waits for that, but not beyond `patience`.
async fn call_all_back(
    node: &Node,
    delegations: BTreeSet<(InodeId, SessionId)>,
    patience: Instant,
    deadline: Instant,
) -> Result<(), Error> {
    let called = delegations.into_iter().map(|(inode, holder)| async move {
        node.call_back(inode, holder, patience, deadline).await
    });
    futures_util::future::try_join_all(called).await.map(|_| ())
}

async fn propose_batch(
    node: &Node,
    batch: &SessionBatch,
    deadline: Instant,
) -> Result<(Vec<Result<FsReply, FsError>>, u64, u64), Error> {
    match node.propose(Command::Fs(batch.clone()), deadline).await?.1 {
        Answer::Fs { results, first, next } if results.len() == batch.requests.len() => {
            seen(node, batch.session);
            Ok((results, first, next))
        }
        other => Err(unexpected(&other)),
    }
}

/// Whether the answers tell all that was changed.
fn tells_all(batch: &SessionBatch, results: &[Result<FsReply, FsError>]) -> bool {
    let made = batch.requests.iter().zip(results).filter(|(_, result)| result.is_ok());
    made.into_iter().all(|(request, _)| request.op.tells_all())
}

/// Who waits for a delegation that this batch gave back may go on.
fn given_back(node: &Node, batch: &SessionBatch, results: &[Result<FsReply, FsError>]) {
    for (request, result) in batch.requests.iter().zip(results) {
        if let (FsOp::Undelegate { inode, .. }, Ok(_)) = (&request.op, result) {
            node.feed.delegation_ended(batch.session, *inode);
        }
    }
}

/// The delegations that are called back for a batch. Who asks for one itself is not worth that.
fn called_back_for(
    batch: &SessionBatch,
    results: &[Result<FsReply, FsError>],
) -> BTreeSet<(InodeId, SessionId)> {
    let asks = |request: &SessionRequest| matches!(request.op, FsOp::Delegate { .. });
    let others = batch.requests.iter().zip(results).filter(|(request, _)| !asks(request));
    others.filter_map(|(_, result)| delegated(result)).collect()
}

/// The delegation that was in the way of a change or a question.
fn delegated<T>(result: &Result<T, FsError>) -> Option<(InodeId, SessionId)> {
    match result {
        Err(FsError::Delegated { inode, holder }) => Some((*inode, *holder)),
        _ => None,
    }
}

impl Serve for Query {
    const CLASS: Class = Class::Metadata;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<Queried, Error> {
        check_batch(self.queries.len())?;
        let patience = call.deadline.min(node.env.clock.now() + HOLDER_PATIENCE);
        let answered = loop {
            let answered = node.read(call.deadline, |kv, _| {
                let answers = answer_first(kv, &self.queries, self.session)?;
                Ok(Queried { answers, next: feed::end(kv)? })
            });
            let answered = answered.await?;
            let in_the_way: BTreeSet<_> = answered.answers.iter().filter_map(delegated).collect();
            if in_the_way.is_empty() || node.env.clock.now() >= patience {
                break answered;
            }
            // The holder's changes need places too.
            call.give_place_back();
            call_all_back(node, in_the_way, patience, call.deadline).await?;
        };
        call.worked();
        // What it shows may not be acknowledged yet. It keeps its place: the answer may be large.
        let shows = Shows { position: answered.next, own: self.session, made_from: None };
        node.settle(shows, call.deadline).await?;
        Ok(answered)
    }
}

/// Answers as many of the questions, from the first on, as have room in one reply.
fn answer_first(
    kv: &dyn KvRead,
    queries: &[FsQuery],
    asker: Option<SessionId>,
) -> KvResult<Vec<Result<FsAnswer, FsError>>> {
    let (mut answers, mut bytes) = (Vec::with_capacity(queries.len()), REPLY_BYTES);
    for query in queries {
        let answer = namespace::query_for(kv, query, asker)?;
        bytes += answer.as_ref().map_or(ERROR_BYTES, FsAnswer::bytes_max);
        if bytes > RPC_BYTES_MAX && !answers.is_empty() {
            break;
        }
        answers.push(answer);
    }
    Ok(answers)
}

impl Serve for ReadChanges {
    const CLASS: Class = Class::Metadata;
    async fn serve(
        self,
        node: &Arc<Node>,
        call: &CallContext,
    ) -> Result<Vec<(u64, ChangeRecord)>, Error> {
        let limit = (self.limit as usize).min(PAGE_ENTRIES_MAX);
        let read = |kv: &dyn KvRead, _| namespace::changes::read(kv, self.from, limit);
        let records = node.read(call.deadline, read).await?;
        if let Some((last, _)) = records.last() {
            let shows = Shows { position: last + 1, own: None, made_from: None };
            node.settle(shows, call.deadline).await?;
        }
        Ok(records)
    }
}

impl Serve for Follow {
    const CLASS: Class = Class::Feed;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<Followed, Error> {
        let received = node.env.clock.now();
        if self.acked_below > self.from {
            let text = "records that were not asked for yet cannot be acknowledged";
            return Err(Error::new(Kind::Invalid, text));
        }
        // A slow confirmation is not the caller's silence.
        node.feed.lives(self.session, received);
        // It also confirms, after the receipt, that nobody else leads: a later leader waits for this lease.
        let confirmed = node.read(call.deadline, |kv, _| {
            let row: Option<SessionRow> = get_row(kv, &tables::session(self.session))?;
            Ok((row, feed::end(kv)?))
        });
        let (row, end) = confirmed.await?;
        check_follows(row.as_ref())?;
        seen(node, self.session);
        node.begin_term(call.deadline).await?;
        node.feed.register(self.session, self.acked_below, end, received)?;
        let presence = call.peer.zip(self.presence).map(|(ip, port)| SocketAddr::new(ip, port));
        node.feed.activity(self.session, self.activity, received);
        node.note_presence(self.session, presence);
        let wait = Duration::from_millis(self.wait_ms.min(FEED_WAIT_MS_MAX).into());
        let until = call.deadline.min(received + wait);
        let mut noticed = node.feed.noticed();
        loop {
            // First the lease, then the records: a change in between waits for this cache.
            let lease = node.feed.grant(self.session, received);
            noticed.mark_unchanged();
            let page =
                node.leading()?.read(|kv, _| feed::read(kv, self.from, self.limit as usize))?;
            let Page { records, next, reset, is_whole } = page;
            let is_news = reset || !records.is_empty() || node.feed.has_recalls(self.session);
            if is_news || node.env.clock.now() >= until {
                let lease_ms = if is_whole { lease.as_millis() as u32 } else { 0 };
                let recalls = node.feed.tell_recalls(self.session);
                return Ok(Followed { records, next, reset, lease_ms, recalls });
            }
            // A record, or the end of the wait: both are looked at in the next round.
            let _ = node.env.clock.until(until, noticed.changed()).await;
        }
    }
}

impl Serve for Announce {
    const CLASS: Class = Class::Feed;
    async fn serve(self, node: &Arc<Node>, call: &CallContext) -> Result<(), Error> {
        let received = node.env.clock.now();
        node.feed.lives(self.session, received);
        // Who leads after this has not heard that the session is idle.
        let open = node
            .read(call.deadline, |kv, _| get_row::<SessionRow>(kv, &tables::session(self.session)));
        check_follows(open.await?.as_ref())?;
        node.begin_term(call.deadline).await?;
        node.feed.activity(self.session, self.activity, received);
        seen(node, self.session);
        Ok(())
    }
}

impl Serve for GetMap {
    const CLASS: Class = Class::Vital;
    async fn serve(self, node: &Arc<Node>, _: &CallContext) -> Result<GotMap, Error> {
        let map = node.local_map()?;
        let map = (map.epoch > self.known).then(|| (*map).clone().told());
        Ok(GotMap { map, leader: node.leader_hint() })
    }
}

/// The error of a change that was made and may not be answered yet.
fn made(e: Error) -> Error {
    Error { kind: Kind::MaybeApplied, leader: None, ..e }
}

fn check_follows(row: Option<&SessionRow>) -> Result<(), Error> {
    match row {
        None => Err(Error::new(Kind::NotFound, "the session has ended")),
        Some(row) if !row.follows => {
            Err(Error::new(Kind::Invalid, "the session was not opened to follow the change feed"))
        }
        Some(_) => Ok(()),
    }
}

fn seen(node: &Node, session: SessionId) {
    node.observations.session_seen(session, node.env.clock.now());
}

fn check_batch(requests: usize) -> Result<(), Error> {
    if requests <= BATCH_OPS_MAX {
        return Ok(());
    }
    let message = format!("{requests} requests in one batch, at most {BATCH_OPS_MAX} are taken");
    Err(Error::new(Kind::Invalid, message))
}
