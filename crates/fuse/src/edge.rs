//! What all requests of a mount share, and the one way to answer them.

use crate::coherence::News;
use crate::dirs::Dir;
use crate::failure::{Failure, Outcome};
use crate::files::{self, Files};
use crate::gone::Gone;
use crate::lost_locks::HeldLocks;
use crate::names::Names;
use crate::owners::Owners;
use crate::stats::{self, Op, Stats};
use crate::table::Table;
use crate::waiting::{Call, Waiter, Waiting};
use everhold_client::Client;
use fuser::{Errno, Notifier};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A request that takes longer is worth a word in the log.
const SLOW: Duration = Duration::from_secs(5);

/// A request that was begun and waits.
struct Begun<W> {
    op: Op,
    begun: Instant,
    work: Pin<Box<W>>,
    waiter: Waiter,
}

/// A mount at work.
pub(crate) struct Edge {
    pub(crate) client: Arc<Client>,
    pub(crate) files: Files,
    /// Locks that programs hold.
    pub(crate) locks: HeldLocks<files::Handle>,
    pub(crate) dirs: Table<Dir>,
    pub(crate) stats: Stats,
    /// The way to the kernel's caches, once the mount is there.
    pub(crate) notifier: OnceLock<Notifier>,
    /// What others changed.
    pub(crate) news: News,
    /// What the kernel may hold of directories.
    pub(crate) names: Names,
    /// Directories that may outlive their names.
    pub(crate) gone: Gone,
    /// Requests that wait.
    pub(crate) waiting: Arc<Waiting>,
    /// Who took locks through which handle.
    pub(crate) owners: Owners,
    pub(crate) runtime: Handle,
    /// Each write is durable before it is answered.
    pub(crate) sync: bool,
    /// When the last warning about the cluster was written: one in a while is enough.
    warned: Mutex<Option<Instant>>,
}

impl Edge {
    pub(crate) fn new(client: Arc<Client>, runtime: Handle, sync: bool) -> Arc<Edge> {
        Arc::new(Edge {
            files: Files::new(client.clone()),
            client,
            locks: HeldLocks::default(),
            dirs: Table::default(),
            stats: Stats::default(),
            notifier: OnceLock::new(),
            news: News::default(),
            names: Names::default(),
            gone: Gone::default(),
            waiting: Arc::default(),
            owners: Owners::default(),
            runtime,
            sync,
            warned: Mutex::new(None),
        })
    }

    /// Carries a request out and answers it: in this thread where nobody has to be waited for, which spares two
    /// changes of threads, else on the runtime.
    pub(crate) fn serve<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        op: Op,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.serve_or_undo(call, op, work, answer, drop);
    }

    /// The same. If the program dies first, `undo` gets what nobody was told of any more.
    pub(crate) fn serve_or_undo<T: Send + 'static>(
        self: &Arc<Self>,
        call: Call,
        op: Op,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) {
        let note = |edge: &Edge| edge.waiting.note(call, Instant::now());
        self.serve_noted(op, note, work, answer, undo);
    }

    /// The same for a request that is noted already.
    pub(crate) fn serve_waiter<T: Send + 'static>(
        self: &Arc<Self>,
        waiter: Waiter,
        op: Op,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        self.serve_noted(op, |_| waiter, work, answer, drop);
    }

    fn serve_noted<T: Send + 'static>(
        self: &Arc<Self>,
        op: Op,
        note: impl FnOnce(&Edge) -> Waiter,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
        undo: impl FnOnce(T) + Send + 'static,
    ) {
        let begun = self.stats.begin(op);
        let mut work = Box::pin(work);
        let _runtime = self.runtime.enter();
        let mut nobody = Context::from_waker(Waker::noop());
        // Other requests need this thread. One that panics is answered with an error when it is dropped.
        let begin = || work.as_mut().poll(&mut nobody);
        match catch_unwind(AssertUnwindSafe(begin)) {
            Ok(Poll::Ready(outcome)) => self.finish(op, begun, outcome, answer),
            Ok(Poll::Pending) => {
                let waiter = note(self);
                let (edge, request) = (self.clone(), Begun { op, begun, work, waiter });
                self.runtime.spawn(async move { edge.wait(request, answer, undo).await });
            }
            Err(_panicked) => {}
        }
    }

    /// Waits for the end of a request, or for the death of its program. What only asks is dropped then; what
    /// changes something goes on, so that it is neither lost nor done by halves.
    async fn wait<T>(
        self: Arc<Self>,
        request: Begun<impl Future<Output = Outcome<T>>>,
        answer: impl FnOnce(Result<T, Errno>),
        undo: impl FnOnce(T),
    ) {
        let Begun { op, begun, mut work, waiter } = request;
        let mut signs = waiter.signs();
        let outcome = tokio::select! {
            biased;
            outcome = &mut work => Some(outcome),
            () = signs.fatal() => None,
        };
        if let Some(outcome) = outcome {
            return self.finish(op, begun, outcome, answer);
        }
        if op.only_asks() {
            return self.finish(op, begun, Err(Errno::EINTR.into()), answer);
        }
        let Some(_place) = self.waiting.detach() else {
            let outcome = work.await;
            return self.finish(op, begun, outcome, answer);
        };
        self.finish(op, begun, Err(Errno::EINTR.into()), answer);
        drop(waiter);
        match work.await {
            Ok(unheard) => undo(unheard),
            Err(failure) => self.note(op, &failure, begun.elapsed()),
        }
    }

    fn finish<T>(
        &self,
        op: Op,
        begun: Instant,
        outcome: Outcome<T>,
        answer: impl FnOnce(Result<T, Errno>),
    ) {
        let took = self.stats.end(op, begun, outcome.is_ok());
        if let Err(failure) = &outcome {
            self.note(op, failure, took);
        } else if took > SLOW {
            tracing::warn!(op = stats::name(op), ?took, "a request waited for the cluster");
        }
        answer(outcome.map_err(|failure| failure.errno()));
    }

    /// Answers a request for which nobody has to be asked.
    pub(crate) fn at_once(&self, op: Op, ok: bool, answer: impl FnOnce()) {
        let begun = self.stats.begin(op);
        answer();
        self.stats.end(op, begun, ok);
    }

    fn note(&self, op: Op, failure: &Failure, took: Duration) {
        let Failure::Client(e) = failure else { return };
        if !failure.is_of_cluster() {
            return tracing::debug!(op = stats::name(op), error = %e, "refused");
        }
        let now = Instant::now();
        let mut warned = self.warned.lock();
        if warned.is_none_or(|at| now.duration_since(at) > SLOW) {
            *warned = Some(now);
            tracing::error!(op = stats::name(op), ?took, error = %e, "the cluster failed a request");
        }
    }
}
