//! Questions about the tree, linearizable, gathered into batches.

use super::combine::{Waiting, answer, fail_all};
use super::leader::Doubt;
use crate::client::Client;
use crate::error::{ClientError, Result, unexpected};
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Extent, FsAnswer, FsError, FsQuery};
use everhold_proto::rpc::{Queried, Query};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// A runner answers by the deadline; this much later its caller stops believing in it.
const GRACE: Duration = Duration::from_secs(1);
/// Bytes of a question beside its path.
const QUERY_BYTES: usize = 64;

impl Client {
    /// Asks one question, within the client's default deadline.
    pub async fn query(self: &Arc<Self>, query: FsQuery) -> Result<FsAnswer> {
        self.query_by(query, self.deadline()).await
    }

    /// As [`Client::query`], with a deadline.
    pub async fn query_by(self: &Arc<Self>, query: FsQuery, deadline: Instant) -> Result<FsAnswer> {
        let started = self.env.clock.now();
        let result = match &self.behind {
            Some(behind) => behind.query(self, query, deadline).await,
            None => self.query_queued(query, deadline).await,
        };
        let elapsed = self.env.clock.now().saturating_duration_since(started);
        let ok = !matches!(&result, Err(ClientError::Cluster(_)));
        self.stats.query.record(elapsed, ok);
        result
    }

    /// The attributes of an inode.
    pub async fn attr(self: &Arc<Self>, inode: InodeId) -> Result<Attr> {
        match self.query(FsQuery::Attr { inode }).await? {
            FsAnswer::Attr(attr) => Ok(attr),
            _ => Err(unexpected("a question for attributes")),
        }
    }

    /// Extents that overlap `[from, to)`, the attributes of the same version, and whether there are
    /// more before `to`.
    pub(crate) async fn extents(
        self: &Arc<Self>,
        inode: InodeId,
        from: u64,
        to: u64,
        deadline: Instant,
    ) -> Result<(Attr, Vec<Extent>, bool)> {
        let limit = everhold_proto::limits::PAGE_ENTRIES_MAX as u32;
        let query = FsQuery::Extents { inode, from, to, limit };
        match self.query_by(query, deadline).await? {
            FsAnswer::Extents { attr, extents, more } => Ok((attr, extents, more)),
            _ => Err(unexpected("a question for extents")),
        }
    }

    /// A question to the leader.
    pub(crate) async fn query_queued(
        self: &Arc<Self>,
        query: FsQuery,
        deadline: Instant,
    ) -> Result<FsAnswer> {
        let clock = self.env.clock;
        let admitted = clock.until(deadline, self.queries.door.acquire()).await?;
        let _admitted = admitted.expect("the door is never closed");
        let bytes = QUERY_BYTES
            + match &query {
                FsQuery::Resolve { path, .. } => path.len(),
                _ => 0,
            };
        let (tx, rx) = oneshot::channel();
        let waiting = Waiting { item: query, bytes, deadline, answer: tx };
        if self.queries.push(waiting, clock.now()) {
            let client = self.clone();
            self.env.tasks.detach(async move { client.run_queries().await });
        }
        let late = || ClientError::new(everhold_proto::Kind::Retry, "no answer in time");
        clock.until(deadline + GRACE, rx).await.map_err(|_| late())?.map_err(|_| late())?
    }

    async fn run_queries(self: Arc<Self>) {
        while let Some(batch) = self.queries.take(self.env.clock.now()) {
            let mut rest = VecDeque::from(batch);
            // A reply answers the first questions, as many as have room in it.
            while !rest.is_empty() {
                self.ask_first(&mut rest).await;
            }
        }
    }

    /// A question that waits for another client, which holds a directory, is asked again by itself: others must not
    /// wait with it.
    fn ask_later(self: &Arc<Self>, waiting: Waiting<FsQuery, FsAnswer>, e: FsError) {
        let client = self.clone();
        self.env.tasks.detach(async move {
            let Some(waiting) = client.wait_for_holder(waiting, e).await else { return };
            if client.queries.push(waiting, client.env.clock.now()) {
                client.run_queries().await;
            }
        });
    }

    /// Asks some questions and answers whom it can; the others stay. At least one is answered.
    async fn ask_first(self: &Arc<Self>, waiting: &mut VecDeque<Waiting<FsQuery, FsAnswer>>) {
        let deadline = waiting.iter().map(|w| w.deadline).max().expect("never empty");
        let queries: Vec<FsQuery> = waiting.iter().map(|w| w.item.clone()).collect();
        let mut doubt = Doubt::default(); // a question changes nothing
        let session = self.cache.is_some().then(|| self.session().id);
        let query = Query { queries, session };
        match self.ask_leader(&query, deadline, &mut doubt).await {
            Ok(Queried { answers, next }) if (1..=waiting.len()).contains(&answers.len()) => {
                if let Some(cache) = &self.cache {
                    cache.learn(&query.queries, &answers, next);
                }
                for (waiting, result) in waiting.drain(..answers.len()).zip(answers) {
                    match result {
                        Err(e @ FsError::Delegated { .. }) => self.ask_later(waiting, e),
                        result => answer(waiting.answer, result.map_err(ClientError::Fs)),
                    }
                }
            }
            Ok(_) => fail_all(waiting.drain(..).collect(), &unexpected("a batch of questions")),
            Err(e) => fail_all(waiting.drain(..).collect(), &e.into()),
        }
    }
}
