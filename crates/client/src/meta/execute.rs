//! Changes of the tree, each at most once: numbered requests in batches, repeated with the same
//! numbers to whoever leads until an answer comes.

use super::combine::{Waiting, answer, fail_all};
use super::leader::Doubt;
use crate::cache::{Cache, Own, Touched, touched};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::session::{OpenRequests, Session};
use everhold_proto::fs::{
    Content, FsError, FsOp, FsReply, NewKind, SessionBatch, SessionRequest, Source,
};
use everhold_proto::rpc::{Execute, Executed};
use everhold_proto::{Error, Kind, fs::Attr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A runner answers by the deadline; this much later its caller stops believing in it.
const GRACE: Duration = Duration::from_secs(1);

type Batch = Vec<Waiting<FsOp, FsReply>>;
/// Changes that another client is in the way of, each with what was said of it.
type Blocked = Vec<(Waiting<FsOp, FsReply>, FsError)>;

impl Client {
    /// Makes one change, within the client's default deadline. It happens at most once; an error of
    /// kind `MaybeApplied` leaves open whether it happened.
    pub async fn execute(self: &Arc<Self>, op: FsOp) -> Result<FsReply> {
        self.execute_by(op, self.deadline()).await
    }

    /// As [`Client::execute`], for changes that answer with attributes.
    pub async fn execute_attr(self: &Arc<Self>, op: FsOp) -> Result<Attr> {
        attr_of(self.execute(op).await?)
    }

    /// As [`Client::execute`], with a deadline.
    pub async fn execute_by(self: &Arc<Self>, op: FsOp, deadline: Instant) -> Result<FsReply> {
        let started = self.env.clock.now();
        let result = match &self.behind {
            Some(behind) => behind.execute(self, op, deadline).await,
            None => self.execute_queued(op, deadline).await,
        };
        let elapsed = self.env.clock.now().saturating_duration_since(started);
        let ok = !matches!(&result, Err(ClientError::Cluster(_)));
        self.stats.execute.record(elapsed, ok);
        result
    }

    /// A change by the leader.
    pub(crate) async fn execute_queued(
        self: &Arc<Self>,
        op: FsOp,
        deadline: Instant,
    ) -> Result<FsReply> {
        let clock = self.env.clock;
        let admitted = clock.until(deadline, self.executes.door.acquire()).await?;
        let _admitted = admitted.expect("the door is never closed");
        let (tx, rx) = oneshot::channel();
        let waiting = Waiting { bytes: weight(&op), item: op, deadline, answer: tx };
        if self.executes.push(waiting, clock.now()) {
            let client = self.clone();
            self.env.tasks.detach(async move { client.run_executes().await });
        }
        match clock.until(deadline + GRACE, rx).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(ClientError::maybe_applied("the client is shutting down")),
            Err(_) => Err(ClientError::maybe_applied("no answer in time")),
        }
    }

    /// Changes that wait for another client, which holds a directory, are tried again each by itself: others must not
    /// wait with them.
    fn try_later(self: &Arc<Self>, blocked: Blocked) {
        for (waiting, e) in blocked {
            let client = self.clone();
            self.env.tasks.detach(async move {
                let Some(waiting) = client.wait_for_holder(waiting, e).await else { return };
                if client.executes.push(waiting, client.env.clock.now()) {
                    client.run_executes().await;
                }
            });
        }
    }

    async fn run_executes(self: Arc<Self>) {
        while let Some(batch) = self.executes.take(self.env.clock.now()) {
            self.run_batch(batch).await;
        }
    }

    /// Carries a batch to its answers. Each round is one session; requests that a session which has
    /// ended is known not to have applied are numbered anew in the next one.
    async fn run_batch(self: &Arc<Self>, mut batch: Batch) {
        while !batch.is_empty() {
            let deadline = batch.iter().map(|w| w.deadline).max().expect("not empty");
            let session = self.session();
            batch = self.refuse_bound(batch, &session);
            if batch.is_empty() {
                return;
            }
            let Some(open) = self.number(&session, batch.len(), deadline).await else {
                let busy = "too many changes wait for answers; nothing was done";
                return fail_all(batch, &ClientError::new(Kind::Busy, busy));
            };
            let mut doubt = Doubt::default();
            batch = self.run_round(&session, open, batch, deadline, &mut doubt).await;
            if batch.is_empty() {
                return;
            }
            if doubt.0 {
                let error = ClientError::maybe_applied("the session ended before an answer came");
                return fail_all(batch, &error);
            }
            if let Err(e) = self.replace_session(&session, deadline).await {
                return fail_all(batch, &e.into());
            }
        }
    }

    /// Gives back what may be done in a session, and fails what belongs to another one, which has ended.
    fn refuse_bound(&self, batch: Batch, session: &Session) -> Batch {
        let is_allowed = |w: &Waiting<FsOp, FsReply>| self.bound.allows(&w.item, session.id);
        let (allowed, refused) = batch.into_iter().partition(is_allowed);
        fail_all(refused, &ClientError::Fs(FsError::Fenced));
        allowed
    }

    async fn number(
        &self,
        session: &Arc<Session>,
        count: usize,
        deadline: Instant,
    ) -> Option<OpenRequests> {
        loop {
            // Registered before looking, so that no settling is missed.
            let settled = session.settled.notified();
            if let Some(open) = session.number(count) {
                return Some(open);
            }
            self.env.clock.until(deadline, settled).await.ok()?;
        }
    }

    /// One batch in one session. Gives back the requests to which the answer was `NoSession`.
    async fn run_round(
        self: &Arc<Self>,
        session: &Session,
        open: OpenRequests,
        batch: Batch,
        deadline: Instant,
        doubt: &mut Doubt,
    ) -> Batch {
        let mut callers = Vec::with_capacity(batch.len());
        let mut requests = Vec::with_capacity(batch.len());
        for (request, waiting) in open.numbers.clone().zip(batch) {
            requests.push(SessionRequest::new(request, waiting.item));
            callers.push((waiting.bytes, waiting.deadline, waiting.answer));
        }
        let execute = Execute(SessionBatch {
            session: session.id,
            acked_below: session.acked_below(),
            floor: session.floor(),
            requests,
        });
        let sent = self.env.clock.now();
        let result = self.ask_leader(&execute, deadline, doubt).await;
        if let Ok(executed) = &result
            && !executed.results.contains(&Err(FsError::NoSession))
        {
            session.confirmed(sent);
        }
        drop(open);
        if let Some(cache) = &self.cache {
            note_own(cache, &execute.0, &result, *doubt);
        }
        let again = |(request, caller): (SessionRequest, (usize, Instant, _))| Waiting {
            item: request.op,
            bytes: caller.0,
            deadline: caller.1,
            answer: caller.2,
        };
        let waiting = execute.0.requests.into_iter().zip(callers).map(again);
        let error = match result {
            Ok(Executed { results, .. }) if results.len() == waiting.len() => {
                let (homeless, blocked) = settle(waiting.zip(results));
                self.try_later(blocked);
                return homeless;
            }
            Ok(_) => ClientError::maybe_applied("the leader answered a batch incompletely"),
            Err(e) if doubt.0 => ClientError::maybe_applied(e),
            Err(e) => e.into(),
        };
        fail_all(waiting.collect(), &error);
        Vec::new()
    }
}

/// The cache hears of every change before its caller does, also of one whose outcome is not known.
fn note_own(cache: &Cache, batch: &SessionBatch, result: &Result<Executed, Error>, doubt: Doubt) {
    match result {
        Ok(Executed { results, first, next }) => {
            let touched: Vec<Touched> = batch.requests.iter().map(|r| touched(&r.op)).collect();
            cache.made(&Own { first: *first, next: *next }, &touched, results);
        }
        Err(_) if doubt.0 => cache.doubt(batch.session),
        Err(_) => {}
    }
}

/// Answers whom it can. Gives those that a session which has ended is known not to have applied, and those that wait for
/// another client.
fn settle(
    answers: impl Iterator<Item = (Waiting<FsOp, FsReply>, Result<FsReply, FsError>)>,
) -> (Batch, Blocked) {
    let (mut homeless, mut blocked) = (Vec::new(), Vec::new());
    for (waiting, result) in answers {
        match result {
            Err(FsError::NoSession) => homeless.push(waiting),
            // Who asks for a delegation does not wait for one.
            Err(e @ FsError::Delegated { .. })
                if !matches!(waiting.item, FsOp::Delegate { .. }) =>
            {
                blocked.push((waiting, e));
            }
            result => answer(waiting.answer, result.map_err(ClientError::Fs)),
        }
    }
    (homeless, blocked)
}

/// The attributes in an answer.
pub(crate) fn attr_of(reply: FsReply) -> Result<Attr> {
    match reply {
        FsReply::Attr(attr) => Ok(attr),
        FsReply::Done | FsReply::Numbers(..) => {
            Err(crate::error::unexpected("a change without attributes"))
        }
    }
}

/// Estimate of the encoded length: exact where it can be large.
pub(crate) fn weight(op: &FsOp) -> usize {
    const SMALL: usize = 96;
    let content = |content: &Content| {
        let extent = |source: &Source| match source {
            Source::Inline(bytes) => 24 + bytes.len(),
            Source::Block { .. } => 48,
        };
        let extents: usize = content.extents.iter().map(|e| extent(&e.source)).sum();
        extents + content.blocks.iter().map(|b| 40 + 20 * b.acks.len()).sum::<usize>()
    };
    SMALL
        + match op {
            FsOp::PutFile { name, content: c, .. } => name.as_bytes().len() + content(c),
            FsOp::Commit { content: c, .. } | FsOp::Fold { content: c, .. } => content(c),
            FsOp::Create { name, kind: NewKind::Symlink(target), .. } => {
                name.as_bytes().len() + target.len()
            }
            FsOp::SetXattr { name, value, .. } => name.len() + value.len(),
            FsOp::Create { name, .. }
            | FsOp::Link { name, .. }
            | FsOp::Unlink { name, .. }
            | FsOp::Rmdir { name, .. } => name.as_bytes().len(),
            FsOp::Rename { name, new_name, .. } => {
                name.as_bytes().len() + new_name.as_bytes().len()
            }
            FsOp::RemoveXattr { name, .. } => name.len(),
            FsOp::Punch { .. }
            | FsOp::CloneRange { .. }
            | FsOp::CreateUnnamed { .. }
            | FsOp::Lock { .. }
            | FsOp::Unlock { .. }
            | FsOp::SetAttr { .. }
            | FsOp::Open { .. }
            | FsOp::Release { .. }
            | FsOp::Delegate { .. }
            | FsOp::Undelegate { .. }
            | FsOp::Reserve { .. } => 0,
        }
}
