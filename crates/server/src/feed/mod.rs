//! The change feed towards caches: who follows it, and which answers wait for whom (ADR 0008).
//!
//! `rules` decides, `page` reads; this file is the tasks' side: answers wait here, and are woken by
//! acknowledgements. **Invariant:** only the answer waits. The change is made, other batches go on, and no wait is
//! longer than a lease or the caller's deadline.

mod page;
mod recalls;
mod rules;

pub(crate) use page::{Page, end, read};

use crate::metadata::done;
use crate::node::Node;
use everhold_env::Clock;
use everhold_namespace as namespace;
use everhold_proto::command::Command;
use everhold_proto::kv::{KvRead, get_row};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::SessionRow;
use everhold_proto::{Error, InodeId, Kind, SessionId, tables};
use parking_lot::Mutex;
pub(crate) use recalls::Overdue;
use recalls::{Next, Recalls};
use rules::{Rules, Verdict};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A process that is there takes a connection within this time, or nothing is known of it.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// What a leader knows of the caches that follow it. One that does not lead keeps what it knew: answers
/// that wait go by it.
pub(crate) struct Feed {
    rules: Mutex<Rules>,
    recalls: Mutex<Recalls>,
    /// Held while the rules of a new term are begun.
    beginning: tokio::sync::Mutex<()>,
    /// The highest position that an answer is about to show; followers wait for it.
    noticed: watch::Sender<u64>,
    /// Raised whenever an answer that waits may have become free.
    progress: watch::Sender<u64>,
}

/// What an answer shows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shows {
    /// The change records below this position.
    pub(crate) position: u64,
    /// To this session.
    pub(crate) own: Option<SessionId>,
    /// The session has made the records from there on, and the answer tells it all that they did.
    pub(crate) made_from: Option<u64>,
}

impl Feed {
    /// Knows nothing of anybody.
    pub(crate) fn new(now: Instant) -> Self {
        let (noticed, progress) = (watch::Sender::new(0), watch::Sender::new(0));
        Feed {
            rules: Mutex::default(),
            recalls: Mutex::new(Recalls::new(now)),
            beginning: tokio::sync::Mutex::default(),
            noticed,
            progress,
        }
    }
}

impl Feed {
    fn begin(&self, term: u64, now: Instant, following: BTreeSet<SessionId>) {
        self.rules.lock().begin(term, now, following);
        // What was called back in an earlier term says nothing of leases that others have given since.
        *self.recalls.lock() = Recalls::new(now);
        self.moved();
    }

    /// A session asks for records and acknowledges those below `acked_below`; the feed has come to `end`.
    /// From now on answers wait for it. `Busy`: there are too many followers.
    pub(crate) fn register(
        &self,
        session: SessionId,
        acked_below: u64,
        end: u64,
        received: Instant,
    ) -> Result<(), Error> {
        let registered = self.rules.lock().register(session, acked_below, end, received);
        self.moved();
        registered.map_err(|_| Error::new(Kind::Busy, "too many sessions follow the change feed"))
    }

    /// How long the lease lasts, from `received` on, that goes with records read after this call.
    pub(crate) fn grant(&self, session: SessionId, received: Instant) -> Duration {
        let lease = self.rules.lock().grant(session, received);
        // Who owes a delegation gets no lease beyond the call.
        let end = self.recalls.lock().lease_end(session);
        end.map_or(lease, |end| lease.min(end.saturating_duration_since(received)))
    }

    /// A holder of delegations follows: it lives.
    pub(crate) fn lives(&self, session: SessionId, now: Instant) {
        self.recalls.lock().followed(session, now);
    }

    /// A holder of delegations says, in a call that came at `received`, whether it may have changes to tell.
    pub(crate) fn activity(&self, session: SessionId, activity: u64, received: Instant) {
        self.recalls.lock().activity(session, activity, received);
    }

    /// Who keeps others waiting for long.
    pub(crate) fn overdue(&self, now: Instant) -> Vec<Overdue> {
        self.recalls.lock().overdue(now)
    }

    /// Whether the session has not heard of a delegation that is called back.
    pub(crate) fn has_recalls(&self, session: SessionId) -> bool {
        self.recalls.lock().has_news(session)
    }

    /// The delegations that the session is to give back.
    pub(crate) fn tell_recalls(&self, session: SessionId) -> Vec<InodeId> {
        self.recalls.lock().tell(session)
    }

    /// The session has given a delegation back, or it was taken.
    pub(crate) fn delegation_ended(&self, session: SessionId, inode: InodeId) {
        self.recalls.lock().ended(session, inode);
        self.moved();
    }

    /// Calls a delegation back; who follows is woken.
    fn call_back(&self, holder: SessionId, inode: InodeId, now: Instant) -> Result<(), Error> {
        let called = self.recalls.lock().call(holder, inode, now);
        if called.map_err(|_| Error::new(Kind::Busy, "too many delegations are called back"))? {
            self.noticed.send_modify(|_| {});
        }
        Ok(())
    }

    /// The session has ended by its own will: it answers nothing from its cache any more.
    pub(crate) fn forget(&self, session: SessionId) {
        self.rules.lock().forget(session);
        self.recalls.lock().forget(session);
        self.moved();
    }

    /// Follows the highest position that answers are about to show.
    pub(crate) fn noticed(&self) -> watch::Receiver<u64> {
        self.noticed.subscribe()
    }

    /// Waits until no cache but that of the answer's own session can show less than its position. `false`: the
    /// deadline came first.
    async fn settled(&self, clock: &Clock, shows: Shows, deadline: Instant) -> bool {
        let Shows { position, own, made_from } = shows;
        {
            let (mut rules, now) = (self.rules.lock(), clock.now());
            if rules.is_quiet() {
                return true;
            }
            rules.notice(position, now);
            let knows =
                own.zip(made_from).is_some_and(|(own, first)| rules.made(own, first, position));
            if knows && rules.may_answer(position, own, now) == Verdict::Now {
                return true; // nobody waits for its follower, which hears of its own changes soon enough
            }
        }
        self.noticed.send_if_modified(|noticed| {
            let is_news = position > *noticed;
            *noticed = position.max(*noticed);
            is_news
        });
        if planted::has(Bug::AnswerBeforeAck) {
            return true;
        }
        let mut progress = self.progress.subscribe();
        loop {
            let now = clock.now();
            let verdict = self.rules.lock().may_answer(position, own, now);
            let Verdict::NotBefore(until) = verdict else { return true };
            if now >= deadline {
                return false;
            }
            // Either somebody acknowledged or the time is up: both are judged in the next round. The
            // sender lives as long as this does.
            let _ = clock.until(until.min(deadline), progress.changed()).await;
        }
    }

    fn moved(&self) {
        self.progress.send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Node {
    /// Waits until an answer may be given: until no cache but that of its own session can still show what was before.
    /// Leaders only; the state that the answer shows was read or changed in this leadership.
    pub(crate) async fn settle(&self, shows: Shows, deadline: Instant) -> Result<(), Error> {
        self.begin_term(deadline).await?;
        match self.feed.settled(&self.env.clock, shows, deadline).await {
            true => Ok(()),
            false => {
                let text = "other clients' caches may still show what was before";
                Err(Error::new(Kind::Retry, text))
            }
        }
    }

    /// Waits until a delegation that is in the way has ended, but not beyond `patience`: given back, or taken from a
    /// holder that has nothing to tell or is gone. The caller sees by trying again which it was.
    pub(crate) async fn call_back(
        &self,
        inode: InodeId,
        holder: SessionId,
        patience: Instant,
        deadline: Instant,
    ) -> Result<(), Error> {
        // Leases of earlier leaders were given before this term, so before the call.
        self.begin_term(deadline).await?;
        self.feed.call_back(holder, inode, self.env.clock.now())?;
        let mut progress = self.feed.progress.subscribe();
        loop {
            let now = self.env.clock.now();
            if !self.is_open(holder)? {
                self.feed.forget(holder);
                return Ok(());
            }
            let next = {
                let mut recalls = self.feed.recalls.lock();
                if recalls.is_long(holder, inode, now) {
                    self.name_holder(holder, inode);
                }
                recalls.next(holder, inode, now)
            };
            match next {
                Next::Try => return Ok(()),
                Next::Revoke => {
                    tracing::info!(%inode, session = %holder, "a delegation ends without its holder");
                    let revoke = Command::Revoke { inode, session: holder };
                    done(self.propose(revoke, deadline).await?)?;
                    self.feed.delegation_ended(holder, inode);
                    return Ok(());
                }
                Next::Look(address) => {
                    if self.is_gone(address).await {
                        tracing::info!(session = %holder, %address, "the process of a session is gone");
                        return self.end_silent(holder, deadline).await;
                    }
                }
                Next::End => {
                    let client = self.client_of(holder);
                    tracing::warn!(session = %holder, client, "a session for which others wait ends: it is silent");
                    return self.end_silent(holder, deadline).await;
                }
                Next::Wait(_) if now >= patience => return Ok(()),
                Next::Wait(until) => {
                    // Judged anew in the next round, whatever ended the wait.
                    let _ = self.env.clock.until(until.min(patience), progress.changed()).await;
                }
            }
        }
    }

    /// Ends a session for which others wait.
    async fn end_silent(&self, session: SessionId, deadline: Instant) -> Result<(), Error> {
        done(self.propose(Command::EndSession { session }, deadline).await?)?;
        self.feed.forget(session);
        Ok(())
    }

    /// Whether a session has not ended.
    fn is_open(&self, session: SessionId) -> Result<bool, Error> {
        let row = |kv: &dyn KvRead, _| get_row::<SessionRow>(kv, &tables::session(session));
        Ok(self.leading()?.read(row)?.is_some())
    }

    /// Says in the log who keeps others waiting.
    fn name_holder(&self, session: SessionId, inode: InodeId) {
        let client = self.client_of(session);
        tracing::warn!(%session, client, %inode, "others wait for a client that has not given a directory back");
    }

    /// What the client of a session calls itself.
    pub(crate) fn client_of(&self, session: SessionId) -> String {
        let row = |kv: &dyn KvRead, _| get_row::<SessionRow>(kv, &tables::session(session));
        let row = self.leading().and_then(|consensus| consensus.read(row));
        row.ok().flatten().map(|row| row.client).unwrap_or_default()
    }

    /// Whether nobody listens at an address any more where a process did: the system of that machine says so.
    async fn is_gone(&self, address: SocketAddr) -> bool {
        let connected = self.env.net.connect(&address.to_string(), PROBE_LIMIT).await;
        matches!(connected, Err(e) if e.kind() == std::io::ErrorKind::ConnectionRefused)
    }

    /// A session says where its process can be connected to. That is tried once: only an address that could be
    /// reached says anything when it cannot be later.
    pub(crate) fn note_presence(self: &Arc<Self>, session: SessionId, address: Option<SocketAddr>) {
        let Some(address) = address else { return };
        if !self.feed.recalls.lock().presence(session, address) {
            return;
        }
        let node = self.clone();
        self.env.tasks.detach(async move {
            match node.env.net.connect(&address.to_string(), PROBE_LIMIT).await {
                Ok(_) => node.feed.recalls.lock().was_reached(session, address),
                Err(e) => tracing::debug!(%session, %address, error = %e, "a client's process cannot be reached"),
            }
        });
    }

    /// Makes sure that the feed's rules are those of the term that this node leads now.
    pub(crate) async fn begin_term(&self, deadline: Instant) -> Result<(), Error> {
        let consensus = self.leading()?;
        let led = || consensus.term_led().ok_or_else(|| self.not_leader());
        if self.feed.rules.lock().term() == led()? {
            return Ok(());
        }
        let late = |_| Error::new(Kind::Retry, "the leadership was not confirmed in time");
        let beginning = self.env.clock.until(deadline, self.feed.beginning.lock());
        let _beginning = beginning.await.map_err(late)?;
        let term = led()?;
        if self.feed.rules.lock().term() == term {
            return Ok(());
        }
        // Sessions that an earlier leader gave a lease were opened before this term began.
        consensus.barrier(deadline).await?;
        let following = consensus.read(|kv, _| namespace::sessions::following(kv))?;
        if led()? != term {
            return Err(self.not_leader());
        }
        if !following.is_empty() {
            tracing::info!(
                term,
                sessions = following.len(),
                "answers wait for the caches that follow"
            );
        }
        self.feed.begin(term, self.env.clock.now(), following);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
