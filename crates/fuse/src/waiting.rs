//! Requests that wait for the cluster, and what ends the wait: interrupts of the kernel's, and programs that die.
//!
//! The kernel sends one interrupt for each request, when the first signal comes. A wait for a lock ends with it. Any
//! other request ends early only when its program dies: programs do not expect `EINTR` from a regular file. Whether
//! it dies is looked up when the interrupt comes, and again and again while the request waits: the signal that ends
//! a program may be a later one, and a program that is ending sends no interrupts for the files that it closes.

use crate::caller::{self, Fate};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, SemaphorePermit, watch};

/// A request that waits longer has its caller looked after, so often.
const LOOK_AFTER: Duration = Duration::from_millis(300);
/// How often that is done.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Callers that are looked after in one turn; the others have their turn next.
const LOOKS_MAX: usize = 512;
/// A program that ends by itself waits so long for a file that it closes; the kernel tells nobody of a SIGKILL then.
const EXIT_PATIENCE: Duration = Duration::from_secs(30);
/// An interrupt counts as fatal after so long if the caller cannot be looked up.
const UNKNOWN_PATIENCE: Duration = Duration::from_secs(10);
/// Requests that can be interrupted at a time; the others wait until they are answered.
const REQUESTS_MAX: usize = 65_536;
/// Interrupts that came before their request, or after its answer. Between reading a request and noting it, no more than
/// a few come.
const EARLY_MAX: usize = 256;
/// Requests that go on after their program was told that they ended.
const DETACHED_MAX: usize = 4096;

/// A request of the kernel's: its number, and the thread that waits for it (0: unknown, or nobody does).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) unique: u64,
    pub(crate) caller: u32,
}

/// What has come for a request. It only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Sign {
    /// Nothing.
    Quiet,
    /// A signal, which may have been for another thread.
    Signal,
    /// The program dies.
    Fatal,
}

/// All requests that wait.
pub(crate) struct Waiting {
    table: Mutex<Table>,
    detached: Semaphore,
}

#[derive(Default)]
struct Table {
    requests: HashMap<u64, Request>,
    early: VecDeque<u64>,
    /// Where the last turn of looks ended.
    looked: u64,
}

struct Request {
    caller: u32,
    since: Instant,
    signalled: Option<Instant>,
    sign: watch::Sender<Sign>,
}

/// A request that waits, until it is dropped.
pub(crate) struct Waiter {
    waiting: Arc<Waiting>,
    unique: u64,
    signs: Signs,
}

/// What comes for one request.
#[derive(Clone)]
pub(crate) struct Signs(watch::Receiver<Sign>);

impl Default for Waiting {
    fn default() -> Self {
        Waiting { table: Mutex::default(), detached: Semaphore::new(DETACHED_MAX) }
    }
}

impl Waiting {
    /// Notes a request that waits. An interrupt that overtook it counts.
    pub(crate) fn note(self: &Arc<Self>, call: Call, now: Instant) -> Waiter {
        let (sign, signs) = watch::channel(Sign::Quiet);
        let mut table = self.table.lock();
        let overtaken = table.early.iter().position(|unique| *unique == call.unique);
        if table.requests.len() < REQUESTS_MAX {
            let Call { unique, caller } = call;
            let request = Request { caller, since: now, signalled: None, sign };
            table.requests.insert(unique, request);
        }
        let early = overtaken.map(|at| table.early.remove(at));
        drop(table);
        if early.is_some() {
            self.interrupt(call.unique, now, caller::fate);
        }
        Waiter { waiting: self.clone(), unique: call.unique, signs: Signs(signs) }
    }

    /// The kernel says that a signal came for the program that waits for a request.
    pub(crate) fn interrupt(&self, unique: u64, now: Instant, fate: impl FnOnce(u32) -> Fate) {
        let caller = {
            let mut table = self.table.lock();
            let Some(request) = table.requests.get_mut(&unique) else {
                if table.early.len() >= EARLY_MAX {
                    table.early.pop_front();
                }
                table.early.push_back(unique);
                return;
            };
            request.signalled.get_or_insert(now);
            request.caller
        };
        let fate = fate(caller);
        if let Some(request) = self.table.lock().requests.get(&unique) {
            request.raise(request.verdict(fate, now).max(Sign::Signal));
        }
    }

    /// Looks after the callers of requests that wait long. To be called every [`LOOK_EVERY`].
    pub(crate) fn look(&self, now: Instant, fate: impl Fn(u32) -> Fate) {
        for (unique, caller) in self.long_waits(now) {
            let fate = fate(caller);
            if let Some(request) = self.table.lock().requests.get(&unique) {
                request.raise(request.verdict(fate, now));
            }
        }
    }

    /// Those whose turn it is, in the order of their numbers.
    fn long_waits(&self, now: Instant) -> Vec<(u64, u32)> {
        let mut table = self.table.lock();
        let is_long = |request: &Request| now.duration_since(request.since) >= LOOK_AFTER;
        let long = table.requests.iter().filter(|(_, request)| is_long(request));
        let mut long: Vec<_> = long.map(|(unique, request)| (*unique, request.caller)).collect();
        long.sort_unstable();
        let first = long.partition_point(|(unique, _)| *unique <= table.looked);
        long.rotate_left(first);
        long.truncate(LOOKS_MAX);
        table.looked = long.last().map_or(0, |(unique, _)| *unique);
        long
    }

    /// A place for a request that goes on without anybody who waits; `None`: there are too many.
    pub(crate) fn detach(&self) -> Option<SemaphorePermit<'_>> {
        self.detached.try_acquire().ok()
    }
}

impl Request {
    fn verdict(&self, fate: Fate, now: Instant) -> Sign {
        let is_over = match fate {
            Fate::Lives => false,
            Fate::Dies => true,
            Fate::Exits => now.duration_since(self.since) >= EXIT_PATIENCE,
            Fate::Unknown => {
                self.signalled.is_some_and(|at| now.duration_since(at) >= UNKNOWN_PATIENCE)
            }
        };
        if is_over { Sign::Fatal } else { Sign::Quiet }
    }

    fn raise(&self, sign: Sign) {
        self.sign.send_if_modified(|now| {
            let grows = sign > *now;
            *now = sign.max(*now);
            grows
        });
    }
}

impl Waiter {
    /// What comes for it.
    pub(crate) fn signs(&self) -> Signs {
        self.signs.clone()
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.waiting.table.lock().requests.remove(&self.unique);
    }
}

impl Signs {
    /// Waits until the program dies.
    pub(crate) async fn fatal(&mut self) {
        self.at_least(Sign::Fatal).await;
    }

    /// Waits until the program has a signal.
    pub(crate) async fn signal(&mut self) {
        self.at_least(Sign::Signal).await;
    }

    /// Whether the program dies.
    pub(crate) fn is_fatal(&self) -> bool {
        *self.0.borrow() == Sign::Fatal
    }

    async fn at_least(&mut self, sign: Sign) {
        // Who is not in the table is never told anything.
        if self.0.wait_for(|now| *now >= sign).await.is_err() && *self.0.borrow() < sign {
            std::future::pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const CALL: Call = Call { unique: 8, caller: 7 };

    fn lives(_: u32) -> Fate {
        Fate::Lives
    }

    fn seen(signs: &Signs) -> Sign {
        *signs.0.borrow()
    }

    #[test]
    fn a_signal_is_fatal_only_for_who_dies() {
        let (waiting, now) = (Arc::new(Waiting::default()), Instant::now());
        let waiter = waiting.note(CALL, now);
        let mut signs = waiter.signs();
        assert_eq!(signs.signal().now_or_never(), None);
        waiting.interrupt(8, now, lives);
        assert_eq!(signs.signal().now_or_never(), Some(()));
        assert_eq!(signs.fatal().now_or_never(), None);
        waiting.look(now + LOOK_AFTER, |caller| {
            assert_eq!(caller, 7);
            Fate::Dies
        });
        assert!(signs.is_fatal());
        waiting.look(now + LOOK_AFTER, lives);
        assert!(signs.is_fatal(), "for ever");
    }

    #[test]
    fn an_interrupt_may_overtake_its_request() {
        let (waiting, now) = (Arc::new(Waiting::default()), Instant::now());
        waiting.interrupt(8, now, lives);
        let waiter = waiting.note(CALL, now);
        assert!(seen(&waiter.signs()) >= Sign::Signal);
        drop(waiter);
        // What came after the answer is forgotten one day.
        for unique in 0..2 * EARLY_MAX as u64 {
            waiting.interrupt(1000 + 2 * unique, now, lives);
        }
        assert_eq!(waiting.table.lock().early.len(), EARLY_MAX);
        assert_eq!(seen(&waiting.note(CALL, now).signs()), Sign::Quiet);
    }

    #[test]
    fn who_cannot_be_looked_up_is_given_time() {
        let (waiting, now) = (Arc::new(Waiting::default()), Instant::now());
        let (one, other) =
            (waiting.note(CALL, now), waiting.note(Call { unique: 10, ..CALL }, now));
        let later = now + Duration::from_secs(5);
        waiting.interrupt(8, later, |_| Fate::Unknown);
        waiting.look(later + UNKNOWN_PATIENCE - Duration::from_millis(1), |_| Fate::Unknown);
        assert_eq!((seen(&one.signs), seen(&other.signs)), (Sign::Signal, Sign::Quiet));
        waiting.look(later + UNKNOWN_PATIENCE, |_| Fate::Unknown);
        assert_eq!((seen(&one.signs), seen(&other.signs)), (Sign::Fatal, Sign::Quiet));
    }

    #[test]
    fn who_ends_by_itself_waits_for_its_files_but_not_for_ever() {
        let (waiting, now) = (Arc::new(Waiting::default()), Instant::now());
        let waiter = waiting.note(CALL, now);
        waiting.look(now + EXIT_PATIENCE - Duration::from_millis(1), |_| Fate::Exits);
        assert_eq!(seen(&waiter.signs), Sign::Quiet);
        waiting.look(now + EXIT_PATIENCE, |_| Fate::Exits);
        assert_eq!(seen(&waiter.signs), Sign::Fatal);
    }

    #[test]
    fn everybody_has_a_turn() {
        let (waiting, now) = (Arc::new(Waiting::default()), Instant::now());
        let all = (1..=LOOKS_MAX as u64 + 5).map(|unique| Call { unique, caller: 7 });
        let waiters: Vec<_> = all.map(|call| waiting.note(call, now)).collect();
        let later = now + LOOK_AFTER;
        assert!(waiting.long_waits(now).is_empty(), "none has waited long");
        assert_eq!(waiting.long_waits(later).len(), LOOKS_MAX);
        assert_eq!(waiting.long_waits(later).first(), Some(&(LOOKS_MAX as u64 + 1, 7)));
        drop(waiters);
        assert!(waiting.table.lock().requests.is_empty());
    }

    #[test]
    fn a_full_table_interrupts_nobody() {
        let (waiting, now) = (Arc::new(Waiting::default()), Instant::now());
        let all = (1..=REQUESTS_MAX as u64).map(|unique| Call { unique, caller: 7 });
        let waiters: Vec<_> = all.map(|call| waiting.note(call, now)).collect();
        let mut signs = waiting.note(Call { unique: 1 << 40, caller: 7 }, now).signs();
        waiting.interrupt(1 << 40, now, |_| Fate::Dies);
        assert_eq!(signs.signal().now_or_never(), None);
        drop(waiters);
    }
}
