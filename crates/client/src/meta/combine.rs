//! Gathers concurrent requests into batches: while some are under way, others gather. A lone request
//! goes out at once; a crowd shares calls and log entries.
//!
//! A queue that stands is served from its end, and what is past its deadline not at all, as in
//! `admission::queue`: whoever waited long has probably given up.

use crate::admission::Standing;
use crate::error::{ClientError, Result};
use everhold_proto::Kind;
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
    standing: Standing,
}

impl<I, O> Default for Combiner<I, O> {
    fn default() -> Self {
        let state = State { queue: VecDeque::new(), runners: 0, standing: Standing::default() };
        Combiner { state: Mutex::new(state), door: Semaphore::new(ADMITTED_MAX) }
    }
}

impl<I, O> Combiner<I, O> {
    /// Queues a request. `true`: the caller must start a runner, which takes batches until there
    /// is none.
    #[must_use]
    pub(crate) fn push(&self, waiting: Waiting<I, O>, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.standing.filled(now);
        state.queue.push_back(waiting);
        let crowded = state.queue.len() >= WAITING_PER_RUNNER * state.runners;
        let start = state.runners < RUNNERS_MAX && crowded;
        state.runners += usize::from(start);
        start
    }

    /// The next batch; it is empty when all that waited were past their deadlines. `None`: the runner that asked
    /// must end.
    pub(crate) fn take(&self, now: Instant) -> Option<Vec<Waiting<I, O>>> {
        let mut state = self.state.lock();
        let expired = state.drop_expired(now);
        if state.queue.is_empty() && expired.is_empty() {
            state.runners -= 1;
            return None;
        }
        let batch = state.next(now);
        if state.queue.is_empty() {
            state.standing.emptied();
        }
        drop(state);
        let nothing_done = "it waited in the client until its deadline; nothing was done";
        fail_all(expired, &ClientError::new(Kind::Retry, nothing_done));
        Some(batch)
    }
}

impl<I, O> State<I, O> {
    /// Takes those from the queue that are past their deadlines, wherever they are.
    fn drop_expired(&mut self, now: Instant) -> Vec<Waiting<I, O>> {
        let is_expired = |waiting: &Waiting<I, O>| waiting.deadline <= now;
        if !self.queue.iter().any(is_expired) {
            return Vec::new();
        }
        let queue = std::mem::take(&mut self.queue).into_iter();
        let (expired, rest): (VecDeque<_>, VecDeque<_>) = queue.partition(is_expired);
        self.queue = rest;
        expired.into()
    }

    /// As many as make a batch: the oldest, or the newest when the queue stands.
    fn next(&mut self, now: Instant) -> Vec<Waiting<I, O>> {
        let newest = self.standing.is_for_newest(now);
        let length = self.queue.len();
        let (mut count, mut bytes) = (0, 0);
        while count < length.min(BATCH_OPS_MAX) {
            let at = if newest { length - 1 - count } else { count };
            bytes += self.queue[at].bytes;
            if count > 0 && bytes > BATCH_BYTES_MAX {
                break;
            }
            count += 1;
        }
        if newest {
            self.queue.split_off(length - count).into()
        } else {
            self.queue.drain(..count).collect()
        }
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
    use crate::admission::STANDING;
    use std::time::Duration;

    fn waiting(item: u32, bytes: usize, deadline: Instant) -> Waiting<u32, ()> {
        Waiting { item, bytes, deadline, answer: oneshot::channel().0 }
    }

    struct Case {
        combiner: Combiner<u32, ()>,
        now: Instant,
    }

    impl Case {
        fn new() -> Self {
            Case { combiner: Combiner::default(), now: Instant::now() }
        }

        fn push(&self, item: u32, bytes: usize) -> bool {
            let deadline = self.now + Duration::from_secs(60);
            self.combiner.push(waiting(item, bytes, deadline), self.now)
        }

        fn take(&self) -> Option<Vec<u32>> {
            let batch = self.combiner.take(self.now)?;
            Some(batch.into_iter().map(|waiting| waiting.item).collect())
        }
    }

    #[test]
    fn a_lone_request_starts_a_runner_and_others_gather() {
        let case = Case::new();
        assert!(case.push(0, 1));
        assert_eq!(case.take(), Some(vec![0]));
        let started: Vec<bool> = (1..=20).map(|n| case.push(n, 1)).collect();
        assert_eq!(started.iter().filter(|s| **s).count(), 2, "one at 8 waiting, one at 16");
        assert_eq!(case.take(), Some((1..=20).collect()));
        for _ in 0..3 {
            assert!(case.take().is_none());
        }
        assert!(case.push(0, 1), "all runners have ended");
    }

    #[test]
    fn batches_are_bounded_by_count_and_bytes() {
        let case = Case::new();
        for n in 0..300 {
            let _ = case.push(n, 1);
        }
        let lengths = [(); 3].map(|()| case.take().map(|batch| batch.len()));
        assert_eq!(lengths, [Some(BATCH_OPS_MAX), Some(300 - BATCH_OPS_MAX), None]);
        for n in 0..3 {
            let _ = case.push(n, 300 << 10);
        }
        let _ = case.push(3, 2 << 20);
        for n in 0..4 {
            assert_eq!(case.take(), Some(vec![n]));
        }
    }

    /// Under overload the newest are served, the oldest get a turn now and then, and when it is over all is in order.
    #[test]
    fn a_queue_that_stands_is_served_from_its_end() {
        let mut case = Case::new();
        let many = 20 * BATCH_OPS_MAX as u32;
        for n in 0..many {
            let _ = case.push(n, 1);
        }
        case.now += STANDING;
        let firsts: Vec<u32> = (0..16).filter_map(|_| case.take()).map(|batch| batch[0]).collect();
        let batch = BATCH_OPS_MAX as u32;
        let newest = (1..16).map(|turn| many - turn * batch);
        assert_eq!(firsts, newest.chain([0]).collect::<Vec<_>>());
        (16..20).for_each(|_| assert!(case.take().is_some()));
        for n in 0..2 {
            let _ = case.push(n, 300 << 10);
        }
        case.now += STANDING / 2;
        assert_eq!(case.take(), Some(vec![0]), "it was empty: the overload is over");
    }

    /// What is past its deadline is answered, and not sent.
    #[test]
    fn nothing_is_done_for_those_who_gave_up() {
        let mut case = Case::new();
        let (tell, mut told) = oneshot::channel();
        let due = case.now + Duration::from_secs(1);
        let _ = case.combiner.push(Waiting { answer: tell, ..waiting(0, 1, due) }, case.now);
        let _ = case.push(1, 1);
        let _ = case.combiner.push(waiting(3, 1, due), case.now);
        let _ = case.push(4, 1);
        case.now = due;
        assert_eq!(case.take(), Some(vec![1, 4]));
        let answered = told.try_recv().expect("it is answered");
        assert!(matches!(answered, Err(ClientError::Cluster(e)) if e.kind == Kind::Retry));
        let _ = case.combiner.push(waiting(2, 1, due), case.now);
        assert_eq!((case.take(), case.take()), (Some(vec![]), None));
    }
}
