//! What all requests of a mount share, and the one way to answer them.

use crate::coherence::News;
use crate::dirs::Dir;
use crate::failure::{Failure, Outcome};
use crate::files::{self, Files};
use crate::lost_locks::HeldLocks;
use crate::names::Names;
use crate::stats::{self, Op, Stats};
use crate::table::Table;
use everhold_client::Client;
use fuser::{Errno, Notifier};
use parking_lot::Mutex;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tokio::runtime::Handle;

/// A request that takes longer is worth a word in the log.
const SLOW: Duration = Duration::from_secs(5);

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
    pub(crate) runtime: Handle,
    /// When the last warning about the cluster was written: one in a while is enough.
    warned: Mutex<Option<Instant>>,
}

impl Edge {
    pub(crate) fn new(client: Arc<Client>, runtime: Handle) -> Arc<Edge> {
        Arc::new(Edge {
            files: Files::new(client.clone()),
            client,
            locks: HeldLocks::default(),
            dirs: Table::default(),
            stats: Stats::default(),
            notifier: OnceLock::new(),
            news: News::default(),
            names: Names::default(),
            runtime,
            warned: Mutex::new(None),
        })
    }

    /// Carries a request out and answers it: in this thread where nobody has to be waited for, which spares two
    /// changes of threads, else on the runtime.
    pub(crate) fn serve<T: Send + 'static>(
        self: &Arc<Self>,
        op: Op,
        work: impl Future<Output = Outcome<T>> + Send + 'static,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) {
        let begun = self.stats.begin(op);
        let edge = self.clone();
        let mut request = Box::pin(async move {
            let outcome = work.await;
            let took = edge.stats.end(op, begun, outcome.is_ok());
            if let Err(failure) = &outcome {
                edge.note(op, failure, took);
            } else if took > SLOW {
                tracing::warn!(op = stats::name(op), ?took, "a request waited for the cluster");
            }
            answer(outcome.map_err(|failure| failure.errno()));
        });
        let _runtime = self.runtime.enter();
        let mut nobody = Context::from_waker(Waker::noop());
        // Other requests need this thread. One that panics is answered with an error when it is dropped.
        let begin = || request.as_mut().poll(&mut nobody);
        if let Ok(Poll::Pending) = catch_unwind(AssertUnwindSafe(begin)) {
            self.runtime.spawn(request);
        }
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
