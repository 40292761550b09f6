//! Gathers concurrent requests into batches: while some are under way, others gather. A lone request
//! goes out at once; a crowd shares calls and log entries.

use crate::error::{ClientError, Result};
use everhold_proto::limits::BATCH_OPS_MAX;
use parking_lot::Mutex;
use std::collections::VecDeque;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

/// Batches under way at once: two fill the leader's pipeline, more let a slow one be overtaken.
const RUNNERS_MAX: usize = 4;
/// A further batch sets out when so many requests wait per batch under way.
const WAITING_PER_RUNNER: usize = 8;
/// Bytes of one batch, well below `limits::COMMAND_BYTES_MAX`.
const BATCH_BYTES_MAX: usize = 512 << 10;
/// Requests that wait or are under way; more callers wait at the door.
const ADMITTED_MAX: usize = 4096;

/// One caller's request.
pub(crate) struct Waiting<I, O> {
    pub(crate) item: I,
    /// Estimate of its encoded length.
    pub(crate) bytes: usize,
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Result<O>>,
}

/// The queue, and the number of runners that take batches from it.
pub(crate) struct Combiner<I, O> {
    state: Mutex<State<I, O>>,
    /// Bounds the callers.
    pub(crate) door: Semaphore,
}

struct State<I, O> {
    queue: VecDeque<Waiting<I, O>>,
    runners: usize,
}

impl<I, O> Default for Combiner<I, O> {
    fn default() -> Self {
        let state = State { queue: VecDeque::new(), runners: 0 };
        Combiner { state: Mutex::new(state), door: Semaphore::new(ADMITTED_MAX) }
    }
}

impl<I, O> Combiner<I, O> {
    /// Queues a request. `true`: the caller must start a runner, which takes batches until there
    /// is none.
    #[must_use]
    pub(crate) fn push(&self, waiting: Waiting<I, O>) -> bool {
        let mut state = self.state.lock();
        state.queue.push_back(waiting);
        let crowded = state.queue.len() >= WAITING_PER_RUNNER * state.runners;
        let start = state.runners < RUNNERS_MAX && crowded;
        state.runners += usize::from(start);
        start
    }

    /// The next batch. `None`: the runner that asked must end.
    pub(crate) fn take(&self) -> Option<Vec<Waiting<I, O>>> {
        let mut state = self.state.lock();
        if state.queue.is_empty() {
            state.runners -= 1;
            return None;
        }
        let mut bytes = 0;
        let fits = |waiting: &Waiting<I, O>| {
            bytes += waiting.bytes;
            bytes <= BATCH_BYTES_MAX
        };
        let count = state.queue.iter().take(BATCH_OPS_MAX).take_while({
            let mut fits = fits;
            move |waiting| fits(waiting)
        });
        let count = count.count().max(1);
        Some(state.queue.drain(..count).collect())
    }
}

/// Gives each caller the error.
pub(crate) fn fail_all<I, O>(batch: Vec<Waiting<I, O>>, error: &ClientError) {
    for waiting in batch {
        answer(waiting.answer, Err(error.clone()));
    }
}

/// Answers a caller. One that has gone away (its deadline passed, or it was cancelled) needs none.
pub(crate) fn answer<O>(to: oneshot::Sender<Result<O>>, result: Result<O>) {
    if to.send(result).is_err() {
        tracing::trace!("nobody waits for this answer any more");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(item: u32, bytes: usize) -> Waiting<u32, ()> {
        Waiting { item, bytes, deadline: Instant::now(), answer: oneshot::channel().0 }
    }

    fn items(batch: Option<Vec<Waiting<u32, ()>>>) -> Vec<u32> {
        batch.unwrap_or_default().into_iter().map(|w| w.item).collect()
    }

    #[test]
    fn a_lone_request_starts_a_runner_and_others_gather() {
        let combiner = Combiner::default();
        assert!(combiner.push(waiting(0, 1)));
        assert_eq!(items(combiner.take()), [0]);
        let started: Vec<bool> = (1..=20).map(|n| combiner.push(waiting(n, 1))).collect();
        assert_eq!(started.iter().filter(|s| **s).count(), 2, "one at 8 waiting, one at 16");
        assert_eq!(items(combiner.take()).len(), 20);
        for _ in 0..3 {
            assert!(combiner.take().is_none());
        }
        assert!(combiner.push(waiting(0, 1)), "all runners have ended");
    }

    #[test]
    fn batches_are_bounded_by_count_and_bytes() {
        let combiner = Combiner::default();
        for n in 0..300 {
            let _ = combiner.push(waiting(n, 1));
        }
        assert_eq!(items(combiner.take()).len(), BATCH_OPS_MAX);
        assert_eq!(items(combiner.take()).len(), 300 - BATCH_OPS_MAX);
        for n in 0..3 {
            let _ = combiner.push(waiting(n, 300 << 10));
        }
        let _ = combiner.push(waiting(3, 2 << 20));
        for n in 0..4 {
            assert_eq!(items(combiner.take()), [n]);
        }
    }
}
