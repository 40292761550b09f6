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
//! pure), `heat` (which directories are worth it), `activity` (whether the leader must wait for this client),
//! `route` (changes and questions), `fill` (files in blocks), `take`, `tell`.

mod activity;
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
use crate::losses::Losses;
use activity::Activity;
use everhold_proto::fs::{Attr, ChangeKind, ChangeRecord, FsOp, Name};
use everhold_proto::rpc::Followed;
use everhold_proto::{InodeId, Kind, SessionId};
use heat::Heat;
use holdings::Holdings;
use parking_lot::Mutex;
use queue::{Bears, Lost, Queue};
use std::sync::Arc;
use tokio::sync::{Notify, RwLock, Semaphore};
use tokio::time::Instant;

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
    /// Held while the leader is told that changes begin.
    announcing: tokio::sync::Mutex<()>,
    /// Files whose blocks are written.
    filling: Semaphore,
}

struct State {
    session: SessionId,
    holdings: Holdings,
    queue: Queue,
    heat: Heat,
    activity: Activity,
    /// Raised when anything may have been lost that is being taken just now.
    disturbed: u64,
}

impl Behind {
    pub(crate) fn new() -> Self {
        let state = State {
            session: SessionId(0),
            holdings: Holdings::new(SessionId(0)),
            queue: Queue::default(),
            heat: Heat::default(),
            activity: Activity::default(),
            disturbed: 0,
        };
        Behind {
            state: Mutex::new(state),
            told: Notify::new(),
            work: Notify::new(),
            gate: RwLock::new(()),
            reserving: tokio::sync::Mutex::default(),
            announcing: tokio::sync::Mutex::default(),
            filling: Semaphore::new(fill::FILES_MAX),
        }
    }

    /// Another session was opened: what the one before held is gone, and what it did not tell is lost.
    pub(crate) fn session_opened(&self, session: SessionId, losses: &Losses) -> Lost {
        let mut state = self.state.lock();
        let lost = state.queue.lose_all();
        if lost.changes > 0 {
            tracing::error!(
                changes = lost.changes,
                first = lost.first,
                "the session ended before all of its changes were told"
            );
            let text = "changes were lost: the client was cut off from the cluster until its session ended";
            losses.add(lost.inodes.iter().copied(), &ClientError::new(Kind::Fenced, text));
        }
        state.session = session;
        state.holdings = Holdings::new(session);
        state.activity = Activity::default();
        state.disturbed += 1;
        drop(state);
        self.told.notify_waiters();
        lost
    }

    /// What the leader may know of this client: whether it has changes to tell, or may have some any moment.
    pub(crate) fn activity(&self, now: Instant) -> u64 {
        let mut state = self.state.lock();
        let is_idle = state.queue.is_empty();
        state.activity.report(is_idle, now)
    }

    /// How many changes wait to be told.
    pub(crate) fn untold(&self) -> usize {
        self.state.lock().queue.len()
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
            others_walk |= state.heat.recalled(*inode, now);
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
    /// Nothing more is done behind a directory; it is given back after what was done.
    fn give_back(&mut self, inode: InodeId, now: Instant) {
        self.give_back_after(inode, false, now);
    }

    /// The same; `lost`: some of what was done behind it will not be told.
    fn give_back_after(&mut self, inode: InodeId, lost: bool, now: Instant) {
        self.holdings.drop_directory(inode);
        if lost || !self.queue.gives_back(inode) {
            let bears = Bears { on: vec![inode], within: Vec::new() };
            self.queue.push(FsOp::Undelegate { inode, lost }, None, bears, now);
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
                self.heat.wanted(inode, now);
                self.give_back(inode, now);
            }
        }
        self.holdings.forget(record.inode);
    }

    /// The first change that waits cannot be told: it is lost, with all that depends on it. What is held of these is
    /// not what the replicas have, and is given back.
    fn lose_first(&mut self, error: ClientError, losses: &Losses, now: Instant) -> Lost {
        let lost = self.queue.lose_first();
        tracing::error!(
            changes = lost.changes,
            first = lost.first,
            %error,
            "changes that were answered were lost"
        );
        losses.add(lost.inodes.iter().copied(), &error);
        self.disturbed += 1;
        for inode in &lost.broken {
            // It may be held no more here, and by the replicas all the same.
            if self.holdings.has(*inode) || lost.directories.contains(inode) {
                self.give_back_after(*inode, true, now);
            }
            self.holdings.forget(*inode);
        }
        lost
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
        self.until_settled(inode).await?;
        self.losses.take(inode)
    }

    /// The same for everything that this client did.
    pub async fn settle_all(self: &Arc<Self>) -> Result<()> {
        if let Some(behind) = &self.behind {
            let last = behind.state.lock().queue.newest();
            self.told(behind, last).await?;
        }
        self.losses.take_any()
    }

    /// Waits until nothing that this client did to an inode is still to be told. What of it was lost is in
    /// [`Client::losses`] by then.
    pub async fn until_settled(self: &Arc<Self>, inode: InodeId) -> Result<()> {
        let Some(behind) = &self.behind else { return Ok(()) };
        let last = behind.state.lock().queue.last(&[inode]);
        self.told(behind, last).await
    }

    /// What this client lost after it had been answered.
    pub fn losses(&self) -> &Losses {
        &self.losses
    }

    async fn told(&self, behind: &Behind, last: Option<u64>) -> Result<()> {
        match last {
            Some(last) => behind.until_told(&self.env.clock, last, self.deadline()).await,
            None => Ok(()),
        }
    }

    /// Lets whoever keeps copies forget what was lost.
    pub(crate) fn forget_lost(&self, lost: Lost) {
        let hook = self.cache.as_ref().and_then(|cache| cache.hook());
        let Some(hook) = hook.filter(|_| lost.changes > 0) else { return };
        let tasks = self.env.tasks;
        self.env.tasks.detach(async move {
            let forget = move || {
                lost.inodes.iter().for_each(|inode| hook.inode(*inode, true));
                lost.names.iter().for_each(|(parent, name)| hook.entry(*parent, name));
            };
            tasks.blocking(forget).await;
        });
    }
}
