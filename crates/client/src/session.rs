//! A session: its request numbers, its block counters, and how far both are settled. Pure.
//!
//! **Invariant:** a number that is still open is never below what the cluster was told to forget
//! (`acked_below`, `floor`), so an answer or a block that is still needed is always kept.

use everhold_proto::{BlockId, SessionId};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most that the newest request number may be ahead of the oldest open one. Below
/// `limits::SESSION_WINDOW`, so that the cluster never has to refuse one.
pub(crate) const WINDOW: u64 = 768;

/// A session is certainly alive for its time to live less one part of so many, after the last answer of the log in it:
/// clocks drift, and the log notes a sign of life to within a second.
const MARGIN_PARTS: u32 = 5;

/// Numbers that are given out in order and settled in any order.
#[derive(Debug)]
pub(crate) struct Outstanding {
    next: u64,
    open: BTreeSet<u64>,
}

impl Default for Outstanding {
    fn default() -> Self {
        Outstanding { next: 1, open: BTreeSet::new() }
    }
}

impl Outstanding {
    /// The lowest open number, or the next one: everything below is settled.
    pub(crate) fn low(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// The next `count` numbers, unless the last one would be `window` or more above the lowest open one.
    pub(crate) fn take(&mut self, count: u64, window: u64) -> Option<std::ops::Range<u64>> {
        let end = self.next.checked_add(count)?;
        if end - self.low() > window {
            return None;
        }
        let numbers = self.next..end;
        self.next = end;
        self.open.extend(numbers.clone());
        Some(numbers)
    }

    /// Settles a number.
    pub(crate) fn settle(&mut self, number: u64) {
        let was_open = self.open.remove(&number);
        assert!(was_open, "number {number} was settled twice or never given out");
    }
}

/// A session as its client sees it.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) id: SessionId,
    requests: Mutex<Outstanding>,
    blocks: Mutex<Outstanding>,
    /// How long it lives without a word of its client.
    ttl: Duration,
    /// It has not ended before.
    alive_until: Mutex<Option<Instant>>,
    ended: AtomicBool,
    /// Told when requests are settled.
    pub(crate) settled: Notify,
}

/// A block id that may still be committed; the floor stays below it until this is dropped.
#[derive(Debug)]
pub(crate) struct OpenBlock {
    session: Arc<Session>,
    counter: u64,
}

/// Request numbers that wait for answers; they are settled when this is dropped.
#[derive(Debug)]
pub(crate) struct OpenRequests {
    session: Arc<Session>,
    pub(crate) numbers: std::ops::Range<u64>,
}

impl Session {
    /// A session that nothing is known of.
    pub(crate) fn new(id: SessionId) -> Self {
        Session {
            id,
            requests: Mutex::default(),
            blocks: Mutex::default(),
            ttl: Duration::ZERO,
            alive_until: Mutex::new(None),
            ended: AtomicBool::new(false),
            settled: Notify::new(),
        }
    }

    /// A session that was opened by a question that was sent at `sent`.
    pub(crate) fn opened(id: SessionId, ttl: Duration, sent: Instant) -> Self {
        let session = Session { ttl, ..Session::new(id) };
        session.confirmed(sent);
        session
    }

    /// The log took a question in this session, which was sent at `sent` or later.
    pub(crate) fn confirmed(&self, sent: Instant) {
        let until = sent + self.ttl.saturating_sub(self.ttl / MARGIN_PARTS);
        let mut alive = self.alive_until.lock();
        *alive = (*alive).max(Some(until));
    }

    /// Whether it has certainly not ended by `now`.
    pub(crate) fn lives_at(&self, now: Instant) -> bool {
        !self.has_ended() && self.alive_until.lock().is_some_and(|until| now < until)
    }

    /// The cluster said that it has ended.
    pub(crate) fn ended(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Whether the cluster said that it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Request numbers, if the window allows so many now.
    pub(crate) fn number(self: &Arc<Self>, count: usize) -> Option<OpenRequests> {
        assert!(count as u64 <= WINDOW, "a batch fits into the window");
        let numbers = self.requests.lock().take(count as u64, WINDOW)?;
        Some(OpenRequests { session: self.clone(), numbers })
    }

    /// A fresh block id.
    pub(crate) fn block(self: &Arc<Self>) -> OpenBlock {
        let taken = self.blocks.lock().take(1, u64::MAX);
        let counter = taken.expect("64 bits of block ids do not run out").start;
        OpenBlock { session: self.clone(), counter }
    }

    /// All answers to requests below this number arrived.
    pub(crate) fn acked_below(&self) -> u64 {
        self.requests.lock().low()
    }

    /// The lowest block counter that may still be committed.
    pub(crate) fn floor(&self) -> u64 {
        self.blocks.lock().low()
    }
}

impl OpenBlock {
    pub(crate) fn id(&self) -> BlockId {
        BlockId { session: self.session.id, counter: self.counter }
    }
}

impl Drop for OpenBlock {
    fn drop(&mut self) {
        self.session.blocks.lock().settle(self.counter);
    }
}

impl Drop for OpenRequests {
    fn drop(&mut self) {
        let mut requests = self.session.requests.lock();
        for number in self.numbers.clone() {
            requests.settle(number);
        }
        drop(requests);
        self.session.settled.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_is_the_oldest_open_number() {
        let mut numbers = Outstanding::default();
        assert_eq!(numbers.low(), 1);
        assert_eq!(numbers.take(3, 10), Some(1..4));
        numbers.settle(2);
        assert_eq!(numbers.low(), 1);
        numbers.settle(1);
        assert_eq!(numbers.low(), 3);
        numbers.settle(3);
        assert_eq!(numbers.low(), 4);
    }

    #[test]
    fn the_window_is_measured_from_the_oldest_open_number() {
        let mut numbers = Outstanding::default();
        assert_eq!(numbers.take(4, 4), Some(1..5));
        assert_eq!(numbers.take(1, 4), None);
        numbers.settle(3);
        assert_eq!(numbers.take(1, 4), None, "1 is still open");
        numbers.settle(1);
        assert_eq!(numbers.take(1, 4), Some(5..6));
        assert_eq!(numbers.take(1, 4), None);
    }

    #[test]
    fn the_floor_rises_when_the_oldest_block_is_settled() {
        let session = Arc::new(Session::new(SessionId(9)));
        let (first, second) = (session.block(), session.block());
        assert_eq!(first.id(), BlockId { session: SessionId(9), counter: 1 });
        drop(second);
        assert_eq!(session.floor(), 1);
        drop(first);
        assert_eq!(session.floor(), 3);
    }

    #[test]
    fn a_session_lives_for_less_than_its_time_after_the_last_answer() {
        let (sent, ttl) = (Instant::now(), Duration::from_secs(30));
        let session = Session::opened(SessionId(9), ttl, sent);
        let at = |seconds| sent + Duration::from_secs(seconds);
        assert!(session.lives_at(at(23)) && !session.lives_at(at(24)));
        session.confirmed(at(20));
        session.confirmed(at(10));
        assert!(session.lives_at(at(43)) && !session.lives_at(at(44)), "answers may be late");
        session.ended();
        assert!(!session.lives_at(at(21)));
        assert!(!Session::new(SessionId(9)).lives_at(sent));
    }

    #[test]
    fn requests_are_settled_when_dropped() {
        let session = Arc::new(Session::new(SessionId(9)));
        let batch = session.number(256).unwrap();
        assert_eq!(session.acked_below(), 1);
        let full = (session.number(256), session.number(256));
        assert!(session.number(1).is_none());
        drop(batch);
        assert_eq!(session.acked_below(), 257);
        assert!(session.number(256).is_some());
        drop(full);
    }
}
