//! Files that are open here, registered with the cluster, so that they outlive their last name.
//!
//! Most openings do not last and cost the cluster nothing. One that does is registered after
//! [`REGISTER_AFTER`], many at once, and before others when the file was changed by somebody else: it may have lost
//! its name, and lingers for `UNLINKED_LINGER_MS` only. With a new session all of them are registered again.
//!
//! **Invariants:** an opening is registered in the current session, or about to be, or *gone*: then the inode is no
//! more, and whoever uses it is told. There is one call under way for each file, and [`CALLS_MAX`] for all.

use crate::client::Client;
use crate::error::ClientError;
use everhold_proto::fs::FsOp;
use everhold_proto::planted::{self, Bug};
use everhold_proto::{InodeId, Kind, SessionId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

/// An opening that lasts longer is registered.
const REGISTER_AFTER: Duration = Duration::from_millis(500);
/// Calls under way: they travel in batches, and leave room for other changes.
const CALLS_MAX: usize = 512;
/// One call is tried for so long.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// After one that failed.
const PAUSE: Duration = Duration::from_millis(200);
/// The queue may hold so many more than there are files before those that are closed are dropped from it.
const CLOSED_MAX: usize = 4096;
/// Only when so many wait must a file that may have lost its name go before others: a second or two are soon enough.
const HURRY_FROM: usize = 1000;
/// A file that may be registered more often than is known is released so often at most.
const RELEASES_MAX: u32 = 3;

/// All open files of a client.
pub(crate) struct Openings {
    state: Mutex<State>,
    /// There is something to do.
    work: Notify,
    calls: Arc<Semaphore>,
    /// Some file was gone: mostly none ever is, and nobody has to look.
    any_gone: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Bounded by the files that programs have open, and by the calls under way.
    files: BTreeMap<InodeId, Opening>,
    /// What is to be looked at now.
    urgent: VecDeque<InodeId>,
    /// What was opened, and when: ascending.
    fresh: VecDeque<(Instant, InodeId)>,
}

#[derive(Debug)]
struct Opening {
    since: Instant,
    /// It is open here.
    open: bool,
    registered: Option<SessionId>,
    /// A call is under way.
    busy: bool,
    /// Calls whose outcome nobody knows: it may be registered so many times more.
    doubts: u32,
    gone: bool,
}

/// What is to be done for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Register,
    Release,
    Nothing,
}

impl Opening {
    fn new(now: Instant) -> Self {
        let (open, registered, busy) = (true, None, false);
        Opening { since: now, open, registered, busy, doubts: 0, gone: false }
    }

    fn step(&self, session: SessionId) -> Step {
        match (self.open, self.registered) {
            _ if self.busy => Step::Nothing,
            (true, None) if !self.gone => Step::Register,
            (true, Some(other)) if other != session => {
                match planted::has(Bug::HandleNotRegisteredAgain) {
                    true => Step::Nothing,
                    false => Step::Register,
                }
            }
            (false, Some(own)) if own == session => Step::Release,
            _ => Step::Nothing,
        }
    }
}

impl State {
    /// What is due: the urgent first, then what was opened first.
    fn next(&mut self, now: Instant) -> Option<InodeId> {
        if let Some(inode) = self.urgent.pop_front() {
            return Some(inode);
        }
        while let Some((since, inode)) = self.fresh.front().copied() {
            if now.saturating_duration_since(since) < REGISTER_AFTER {
                return None;
            }
            self.fresh.pop_front();
            if self.files.get(&inode).is_some_and(|file| file.since == since) {
                return Some(inode);
            }
        }
        None
    }

    /// Begins what is to be done for a file.
    fn begin(&mut self, inode: InodeId, session: SessionId) -> Step {
        let Some(file) = self.files.get_mut(&inode) else { return Step::Nothing };
        let step = file.step(session);
        file.busy |= step != Step::Nothing;
        if step == Step::Nothing && !file.busy && !file.open {
            self.files.remove(&inode); // its session took the registration with it
        }
        step
    }

    /// A call has ended. `true`: there is more to do for the file.
    fn ended(&mut self, inode: InodeId, step: Step, session: SessionId, outcome: Outcome) -> bool {
        let Some(file) = self.files.get_mut(&inode) else { return false };
        file.busy = false;
        match (step, outcome) {
            (Step::Register, Outcome::Done) => file.registered = Some(session),
            (Step::Register, Outcome::NotFound) => (file.registered, file.gone) = (None, true),
            (Step::Register, Outcome::Doubt) => file.doubts += 1,
            (Step::Release, Outcome::Done) if file.doubts > 0 => {
                file.doubts = file.doubts.min(RELEASES_MAX) - 1;
            }
            (Step::Release, Outcome::Done | Outcome::NotFound) => {
                (file.registered, file.doubts) = (None, 0);
            }
            (_, Outcome::Failed) | (Step::Release, Outcome::Doubt) | (Step::Nothing, _) => {}
        }
        if !file.open && file.registered.is_none() {
            self.files.remove(&inode);
            return false;
        }
        let is_settled = file.gone || (file.open && file.registered == Some(session));
        if !is_settled {
            self.urgent.push_back(inode);
        }
        !is_settled
    }
}

/// How a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    NotFound,
    /// It may have been done, in one session or another.
    Doubt,
    Failed,
}

impl Outcome {
    fn of<T>(result: &Result<T, ClientError>, same_session: bool) -> Outcome {
        match result {
            Ok(_) if same_session => Outcome::Done,
            Ok(_) => Outcome::Doubt,
            Err(e) if e.is_not_found() => Outcome::NotFound,
            Err(e) if e.kind() == Kind::MaybeApplied => Outcome::Doubt,
            Err(_) => Outcome::Failed,
        }
    }
}

impl Openings {
    pub(crate) fn new() -> Self {
        let calls = Arc::new(Semaphore::new(CALLS_MAX));
        let any_gone = AtomicBool::new(false);
        Openings { state: Mutex::default(), work: Notify::new(), calls, any_gone }
    }

    fn opened(&self, inode: InodeId, now: Instant) {
        let mut state = self.state.lock();
        let state = &mut *state;
        match state.files.get_mut(&inode) {
            Some(file) if file.gone => *file = Opening::new(now),
            Some(file) => (file.open, file.since) = (true, now),
            None => drop(state.files.insert(inode, Opening::new(now))),
        }
        state.fresh.push_back((now, inode));
        if state.fresh.len() > state.files.len() + CLOSED_MAX {
            let files = &state.files;
            state
                .fresh
                .retain(|(since, inode)| files.get(inode).is_some_and(|file| file.since == *since));
        }
        let is_first = state.fresh.len() == 1;
        if is_first {
            self.work.notify_one();
        }
    }

    fn closed(&self, inode: InodeId) {
        let mut state = self.state.lock();
        let Some(file) = state.files.get_mut(&inode) else { return };
        file.open = false;
        if file.busy {
            return; // looked at when the call ends
        }
        if file.registered.is_none() {
            state.files.remove(&inode);
            return;
        }
        state.urgent.push_back(inode);
        self.work.notify_one();
    }

    /// A file may have lost its name: if many wait it is registered before them.
    pub(crate) fn hurry(&self, inode: InodeId) {
        let mut state = self.state.lock();
        if state.urgent.len() + state.fresh.len() < HURRY_FROM {
            return; // its turn comes soon, if it lasts
        }
        let may_wait = |file: &Opening| file.open && !file.busy && !file.gone;
        if state.files.get(&inode).is_some_and(may_wait) {
            state.urgent.push_front(inode);
            self.work.notify_one();
        }
    }

    /// Another session was opened: what was registered in the one before is not any more.
    pub(crate) fn session_opened(&self) {
        let mut state = self.state.lock();
        let registered = state.files.iter().filter(|(_, file)| file.registered.is_some());
        let again: Vec<InodeId> = registered.map(|(inode, _)| *inode).collect();
        if !again.is_empty() {
            tracing::info!(files = again.len(), "open files are registered again");
        }
        state.urgent.extend(again);
        self.work.notify_one();
    }

    fn ended(&self, inode: InodeId, step: Step, session: SessionId, outcome: Outcome) -> bool {
        if (step, outcome) == (Step::Register, Outcome::NotFound) {
            self.any_gone.store(true, Ordering::Release);
        }
        self.state.lock().ended(inode, step, session, outcome)
    }

    fn is_gone(&self, inode: InodeId) -> bool {
        self.any_gone.load(Ordering::Acquire)
            && self.state.lock().files.get(&inode).is_some_and(|file| file.gone)
    }

    /// When the next one is due.
    fn due(&self, now: Instant) -> Option<Instant> {
        let state = self.state.lock();
        match state.urgent.is_empty() {
            true => state.fresh.front().map(|(since, _)| *since + REGISTER_AFTER),
            false => Some(now),
        }
    }
}

impl Client {
    /// A file is open here from now on, until [`Client::closed`]. If that lasts it is registered with the cluster, and
    /// with each further session, and then outlives its last name.
    pub fn opened(&self, inode: InodeId) {
        self.openings.opened(inode, self.env.clock.now());
    }

    /// A file is not open here any more. The cluster hears of it soon, if it has to.
    pub fn closed(&self, inode: InodeId) {
        self.openings.closed(inode);
    }

    /// An open file may be about to lose its last name.
    pub fn may_lose_name(&self, inode: InodeId) {
        self.openings.hurry(inode);
    }

    /// Whether a file that is open here is no more: it lost its last name while it could not be registered. Its number
    /// is never another file's.
    pub fn is_gone(&self, inode: InodeId) -> bool {
        self.openings.is_gone(inode)
    }

    async fn step(self: &Arc<Self>, inode: InodeId, step: Step, session: SessionId) {
        let op = match step {
            Step::Register => FsOp::Open { inode },
            Step::Release => FsOp::Release { inode },
            Step::Nothing => return,
        };
        let result = self.execute_by(op, self.env.clock.now() + CALL_LIMIT).await;
        let outcome = Outcome::of(&result, self.session_id() == session);
        match &result {
            Err(e) if outcome == Outcome::NotFound && step == Step::Register => {
                tracing::warn!(%inode, error = %e, "an open file is gone");
            }
            Err(e) => tracing::debug!(%inode, error = %e, "an open file could not be registered"),
            Ok(_) => {}
        }
        if matches!(outcome, Outcome::Failed | Outcome::Doubt) {
            self.env.clock.sleep(PAUSE).await;
        }
        if self.openings.ended(inode, step, session, outcome) {
            self.openings.work.notify_one();
        }
    }
}

/// Runs for the life of the client.
pub(crate) async fn run(client: Weak<Client>, openings: Arc<Openings>) {
    loop {
        let Some(alive) = client.upgrade() else { return };
        let (clock, now) = (alive.env.clock, alive.env.clock.now());
        let due = openings.due(now);
        if due.is_none_or(|due| due > now) {
            drop(alive);
            let far = now + CALL_LIMIT;
            // Work, or the time has come: both are looked at in the next round.
            let _ = clock.until(due.unwrap_or(far), openings.work.notified()).await;
            continue;
        }
        // Those under way end by their deadlines.
        let place = openings.calls.clone().acquire_owned().await;
        let place = place.expect("the semaphore is never closed");
        let session = alive.session_id();
        let (inode, step) = {
            let mut state = openings.state.lock();
            let Some(inode) = state.next(alive.env.clock.now()) else { continue };
            (inode, state.begin(inode, session))
        };
        if step == Step::Nothing {
            continue;
        }
        let tasks = alive.env.tasks;
        tasks.detach(async move {
            alive.step(inode, step, session).await;
            drop(place);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: InodeId = InodeId(7);
    const FIRST: SessionId = SessionId(1);
    const SECOND: SessionId = SessionId(2);

    fn due(openings: &Openings, now: Instant, session: SessionId) -> Option<(InodeId, Step)> {
        let mut state = openings.state.lock();
        let inode = state.next(now)?;
        Some((inode, state.begin(inode, session)))
    }

    fn ended(openings: &Openings, step: Step, session: SessionId, outcome: Outcome) -> bool {
        openings.ended(FILE, step, session, outcome)
    }

    #[test]
    fn what_lasts_is_registered_and_released() {
        let (openings, now) = (Openings::new(), Instant::now());
        openings.opened(FILE, now);
        assert_eq!(due(&openings, now, FIRST), None, "it may not last");
        let later = now + REGISTER_AFTER;
        assert_eq!(due(&openings, later, FIRST), Some((FILE, Step::Register)));
        assert!(!ended(&openings, Step::Register, FIRST, Outcome::Done));
        assert_eq!(due(&openings, later, FIRST), None);
        openings.closed(FILE);
        assert_eq!(due(&openings, later, FIRST), Some((FILE, Step::Release)));
        assert!(!ended(&openings, Step::Release, FIRST, Outcome::Done));
        assert!(openings.state.lock().files.is_empty());
    }

    #[test]
    fn what_does_not_last_costs_nothing_and_leaves_nothing() {
        let (openings, now) = (Openings::new(), Instant::now());
        for i in 0..10 * CLOSED_MAX as u64 {
            openings.opened(InodeId(i), now);
            openings.closed(InodeId(i));
        }
        assert!(openings.state.lock().files.is_empty());
        assert!(openings.state.lock().fresh.len() <= CLOSED_MAX + 1);
        assert_eq!(due(&openings, now + REGISTER_AFTER, FIRST), None);
    }

    #[test]
    fn a_new_session_has_all_of_them_again() {
        let (openings, now) = (Openings::new(), Instant::now());
        openings.opened(FILE, now);
        let later = now + REGISTER_AFTER;
        assert_eq!(due(&openings, later, FIRST), Some((FILE, Step::Register)));
        assert!(!ended(&openings, Step::Register, FIRST, Outcome::Done));
        openings.session_opened();
        assert_eq!(due(&openings, later, SECOND), Some((FILE, Step::Register)));
        // Nobody knows in which session that was.
        assert!(ended(&openings, Step::Register, SECOND, Outcome::Doubt));
        assert_eq!(due(&openings, later, SECOND), Some((FILE, Step::Register)));
        assert!(!ended(&openings, Step::Register, SECOND, Outcome::Done));
        openings.closed(FILE);
        assert_eq!(due(&openings, later, SECOND), Some((FILE, Step::Release)));
        assert!(ended(&openings, Step::Release, SECOND, Outcome::Done), "it may be there twice");
        assert_eq!(due(&openings, later, SECOND), Some((FILE, Step::Release)));
        assert!(!ended(&openings, Step::Release, SECOND, Outcome::NotFound));
        assert!(openings.state.lock().files.is_empty());
    }

    #[test]
    fn a_file_that_is_no_more_is_gone_until_it_is_opened_again() {
        let (openings, now) = (Openings::new(), Instant::now());
        openings.opened(FILE, now);
        openings.hurry(FILE);
        assert_eq!(due(&openings, now, FIRST), None, "its turn comes soon");
        (1000..1000 + HURRY_FROM as u64).for_each(|i| openings.opened(InodeId(i), now));
        openings.hurry(FILE);
        assert_eq!(due(&openings, now, FIRST), Some((FILE, Step::Register)), "before the others");
        assert!(!ended(&openings, Step::Register, FIRST, Outcome::NotFound));
        assert!(openings.is_gone(FILE));
        assert_eq!(due(&openings, now, FIRST), None);
        openings.closed(FILE);
        assert!(!openings.is_gone(FILE) && !openings.state.lock().files.contains_key(&FILE));
    }

    #[test]
    fn a_file_that_is_closed_and_opened_under_a_call_keeps_its_registration() {
        let (openings, now) = (Openings::new(), Instant::now());
        openings.opened(FILE, now);
        let later = now + REGISTER_AFTER;
        assert_eq!(due(&openings, later, FIRST), Some((FILE, Step::Register)));
        openings.closed(FILE);
        openings.opened(FILE, later);
        assert!(!ended(&openings, Step::Register, FIRST, Outcome::Done));
        assert_eq!(openings.state.lock().files[&FILE].registered, Some(FIRST));
        assert_eq!(due(&openings, later + REGISTER_AFTER, FIRST), Some((FILE, Step::Nothing)));
    }
}
