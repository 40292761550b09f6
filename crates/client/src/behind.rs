//! Changes that are made here and told later, behind delegations of directories (ADR 0009).
//!
//! A client that changes a directory again and again asks the leader to hold it. As long as it does, nobody else
//! changes the directory or is shown it, so the client answers its own changes and questions by itself, by the same
//! code as the replicas, and tells the leader in batches soon after. When somebody else comes to the directory, the
//! leader calls it back: the client tells what it has not told, and gives it back.
//!
//! **Invariants:** what is told happens in the order in which it was done, and only if the delegation still runs. A
//! change or question that goes to the leader waits for what was done before it and may bear on it. Nothing is
//! done or answered here without the lease of the cache. What waits is bounded, in number and in bytes.
//!
//! Reading order: `holdings` (what is held, pure), `plan` (what can be done with it), `queue` (what is to be told,
//! pure), `heat` (which directories are worth it), `route` (changes and questions), `fill` (files in blocks), `take`, `tell`.

mod fill;
mod heat;
mod holdings;
mod plan;
mod queue;
mod route;
mod take;
mod tell;

pub(crate) use fill::{Block, Filling, Make};
pub(crate) use tell::run;

use crate::client::Client;
use crate::error::{ClientError, Result};
use everhold_proto::fs::{Attr, Behind as Then, ChangeKind, ChangeRecord, FsOp, Name};
use everhold_proto::rpc::Followed;
use everhold_proto::{InodeId, SessionId};
use heat::Heat;
use holdings::Holdings;
use parking_lot::Mutex;
use queue::Queue;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio::time::Instant;

/// A directory that somebody else wanted is left to the leader for so long.
const COOL: Duration = Duration::from_secs(10);
/// Inodes that are held at once: some hundred megabytes at most. Beyond it, all are given back.
const HELD_MAX: usize = 200_000;

/// What one client does behind delegations.
pub(crate) struct Behind {
    state: Mutex<State>,
    /// Something was told.
    told: Notify,
    /// Something is to be told, or soon.
    work: Notify,
    /// Changes by the leader hold it shared; while a directory is taken, there are none.
    gate: RwLock<()>,
    /// Held while numbers are asked for.
    reserving: tokio::sync::Mutex<()>,
    /// Files whose blocks are written.
    filling: Semaphore,
}

struct State {
    session: SessionId,
    holdings: Holdings,
    queue: Queue,
    heat: Heat,
    /// Raised when anything may have been lost that is being taken just now.
    disturbed: u64,
    /// What was done and cannot be told any more: the next one who asks for durability hears of it.
    lost: Option<ClientError>,
}

impl Behind {
    pub(crate) fn new() -> Self {
        let state = State {
            session: SessionId(0),
            holdings: Holdings::new(SessionId(0)),
            queue: Queue::default(),
            heat: Heat::default(),
            disturbed: 0,
            lost: None,
        };
        Behind {
            state: Mutex::new(state),
            told: Notify::new(),
            work: Notify::new(),
            gate: RwLock::new(()),
            reserving: tokio::sync::Mutex::default(),
            filling: Semaphore::new(fill::FILES_MAX),
        }
    }

    /// Another session was opened: what the one before held is gone, and what it did not tell is lost.
    pub(crate) fn session_opened(&self, session: SessionId) {
        let mut state = self.state.lock();
        let untold = state.queue.lose();
        if untold > 0 {
            tracing::error!(
                changes = untold,
                "the session ended before all of its changes were told"
            );
            state.lost = Some(FsLost::session());
        }
        state.session = session;
        state.holdings = Holdings::new(session);
        state.disturbed += 1;
        drop(state);
        self.told.notify_waiters();
    }

    /// What the feed says: which directories are called back, and what somebody else changed all the same.
    pub(crate) fn heard(&self, followed: &Followed, own: SessionId, now: Instant) {
        let mut state = self.state.lock();
        if followed.reset {
            state.give_back_all(now);
        }
        for (_, record) in &followed.records {
            if record.session != own {
                state.changed_by_another(record, now);
            }
        }
        let mut others_walk = false;
        for inode in &followed.recalls {
            tracing::debug!(%inode, "a delegation is called back");
            state.disturbed += 1;
            others_walk |= state.heat.recalled(*inode, now, now + COOL);
            state.give_back(*inode, now);
        }
        if others_walk {
            state.give_back_all(now);
        }
        if !followed.recalls.is_empty() {
            state.queue.hurry_all();
        }
        drop(state);
        self.work.notify_one();
    }

    /// Whether something that was done to an inode is still to be told.
    pub(crate) fn has_untold(&self, inode: InodeId) -> bool {
        self.state.lock().queue.last(&[inode]).is_some()
    }

    /// The attributes of an inode that is held.
    pub(crate) fn peek_attr(&self, inode: InodeId) -> Option<Attr> {
        self.state.lock().holdings.attr(inode)
    }

    /// What a name stands for in a directory that is held.
    pub(crate) fn peek_entry(&self, parent: InodeId, name: &Name) -> Peeked {
        let state = self.state.lock();
        if !state.holdings.has(parent) {
            return Peeked::NotHeld;
        }
        match state.holdings.entry(parent, name) {
            None => Peeked::Absent,
            Some((inode, _)) => match state.holdings.attr(inode) {
                Some(attr) => Peeked::Is(attr),
                None => Peeked::Inode(inode),
            },
        }
    }

    /// Whether an inode that is held lacks an extended attribute; `None`: not known here.
    pub(crate) fn peek_lacks(&self, inode: InodeId, name: &[u8]) -> Option<bool> {
        self.state.lock().holdings.lacks(inode, name)
    }
}

/// What is known here of a name.
pub(crate) enum Peeked {
    NotHeld,
    Absent,
    Is(Attr),
    /// Of this inode, whose attributes are not known here.
    Inode(InodeId),
}

impl State {
    /// Notes that a change was made here, and is to be told.
    fn push(&mut self, op: FsOp, then: Option<Then>, touched: Vec<InodeId>, now: Instant) -> u64 {
        self.queue.push(op, then, touched, now)
    }

    /// Nothing more is done behind a directory; it is given back after what was done.
    fn give_back(&mut self, inode: InodeId, now: Instant) {
        self.holdings.drop_directory(inode);
        if !self.queue.gives_back(inode) {
            self.push(FsOp::Undelegate { inode }, None, vec![inode], now);
        }
    }

    fn give_back_all(&mut self, now: Instant) {
        self.disturbed += 1;
        for inode in self.holdings.directories() {
            self.give_back(inode, now);
        }
    }

    fn changed_by_another(&mut self, record: &ChangeRecord, now: Instant) {
        let entries = record.entry.iter().chain(&record.old_entry);
        let directories: Vec<InodeId> = entries.map(|(directory, _)| *directory).collect();
        if record.kind == ChangeKind::Delegate {
            self.disturbed += 1;
        }
        for inode in directories.into_iter().chain([record.inode]) {
            if self.holdings.has(inode) {
                tracing::info!(%inode, "a delegation was lost");
                self.heat.cool(inode, now + COOL);
                self.give_back(inode, now);
            }
        }
        self.holdings.forget(record.inode);
    }

    /// Changes were lost that were answered already.
    fn lose(&mut self, error: ClientError, now: Instant) {
        self.lost = Some(error);
        // What is held may not be what the replicas have any more.
        self.give_back_all(now);
    }
}

/// Words for what was lost.
struct FsLost;

impl FsLost {
    fn session() -> ClientError {
        let text =
            "changes were lost: the client was cut off from the cluster until its session ended";
        ClientError::new(everhold_proto::Kind::Fenced, text)
    }
}

impl Client {
    /// Whether what is held may be used now: the lease runs, and the session is that of the holdings.
    pub(crate) fn holds_at(&self, now: Instant) -> bool {
        let until = self.cache.as_ref().and_then(|cache| cache.lease_until());
        until.is_some_and(|until| now < until)
    }

    /// Whether a directory is held: changes of it are made here, and told later.
    pub fn holds_directory(&self, inode: InodeId) -> bool {
        let holds = |behind: &Arc<Behind>| behind.state.lock().holdings.has(inode);
        self.holds_at(self.env.clock.now()) && self.behind.as_ref().is_some_and(holds)
    }

    /// Waits until everything that this client did to an inode is with the cluster: durable, and seen by all.
    pub async fn settle(self: &Arc<Self>, inode: InodeId) -> Result<()> {
        let Some(behind) = &self.behind else { return Ok(()) };
        let last = behind.state.lock().queue.last(&[inode]);
        self.settled(behind, last).await
    }

    /// The same for everything that this client did.
    pub async fn settle_all(self: &Arc<Self>) -> Result<()> {
        let Some(behind) = &self.behind else { return Ok(()) };
        let last = behind.state.lock().queue.newest();
        self.settled(behind, last).await
    }

    async fn settled(&self, behind: &Behind, last: Option<u64>) -> Result<()> {
        if let Some(last) = last {
            behind.until_told(&self.env.clock, last, self.deadline()).await?;
        }
        behind.state.lock().lost.take().map_or(Ok(()), Err)
    }
}
