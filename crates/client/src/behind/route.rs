//! Changes and questions: here, or by the leader.

use super::holdings::{Done, mentioned};
use super::plan::{Plan, Reply, asked, is_vague};
use super::{Behind, HELD_MAX, State};
use crate::client::Client;
use crate::error::{ClientError, Result, unexpected};
use crate::meta::Doubt;
use everhold_env::Clock;
use everhold_proto::fs::{Attr, FsAnswer, FsError, FsOp, FsQuery, FsReply, Name};
use everhold_proto::rpc::Announce;
use everhold_proto::{InodeId, Kind};
use std::sync::Arc;
use tokio::time::Instant;

/// Directories that are taken for one change, one after the other.
const TAKES_MAX: usize = 2;

/// What was decided on a change.
enum Step {
    Made(Result<FsReply, FsError>),
    /// The leader makes it, once this is told.
    Ask(Option<u64>),
    Take(InodeId),
    Numbers,
    /// The leader must know first that changes begin.
    Announce,
}

impl Behind {
    /// Makes a change, here or by the leader.
    pub(crate) async fn execute(
        &self,
        client: &Arc<Client>,
        op: FsOp,
        deadline: Instant,
    ) -> Result<FsReply> {
        let clock = &client.env.clock;
        let mut takes = 0;
        loop {
            self.until_room(clock, deadline).await?;
            let gate = clock.until(deadline, self.gate.read()).await?;
            match self.step(client, &op, takes < TAKES_MAX) {
                Step::Made(result) => {
                    self.work.notify_one();
                    return result.map_err(ClientError::Fs);
                }
                Step::Ask(wait) => {
                    self.told_for(client, &op, wait, deadline).await?;
                    let from = loses_directory(&op);
                    let result = client.execute_queued(op, deadline).await;
                    if !matches!(result, Err(ClientError::Fs(_))) {
                        self.removed(from, clock.now());
                    }
                    let reply = result?;
                    self.moved(&reply, clock.now());
                    return Ok(reply);
                }
                Step::Take(directory) => {
                    drop(gate);
                    takes += 1;
                    self.take(client, directory, deadline).await;
                }
                Step::Numbers => {
                    drop(gate);
                    self.reserve(client, deadline).await?;
                }
                Step::Announce => {
                    drop(gate);
                    self.announce(client, deadline).await?;
                }
            }
        }
    }

    /// Waits until what the leader must know before a change was told. Fails if some of that was lost: the change would
    /// take effect without what was done before it.
    async fn told_for(
        &self,
        client: &Client,
        op: &FsOp,
        wait: Option<u64>,
        deadline: Instant,
    ) -> Result<()> {
        let Some(wait) = wait else { return Ok(()) };
        let (mark, concerned) = {
            let state = self.state.lock();
            (client.losses.mark(), state.holdings.concerned(op))
        };
        self.until_told(&client.env.clock, wait, deadline).await?;
        match is_vague(op) {
            true => client.losses.since(&mark, None),
            false => client.losses.since(&mark, Some(&concerned)),
        }
    }

    fn step(&self, client: &Client, op: &FsOp, may_take: bool) -> Step {
        let now = client.env.clock.now();
        let mut state = self.state.lock();
        let holds = client.holds_at(now);
        let plan = match holds {
            true => state.holdings.plan(op),
            false => state.holdings.plan_without_lease(op),
        };
        match plan {
            Plan::Here if !client.bound.allows(op, state.session) => {
                Step::Made(Err(FsError::Fenced))
            }
            Plan::Here if needs_number(op) && !state.holdings.has_number() => Step::Numbers,
            Plan::Here if !state.activity.is_active() => Step::Announce,
            Plan::Here => Step::Made(state.make(op, client.env.clock.wall(), now)),
            Plan::Take(directory) => match may_take && state.heat.may_take(directory, now) {
                true => Step::Take(directory),
                false => {
                    let parents = mentioned(op);
                    parents.into_iter().for_each(|parent| state.give_back(parent, now));
                    Step::Ask(state.wait_for(op))
                }
            },
            Plan::Elsewhere => {
                let directory = changed_directory(op).filter(|_| holds && may_take);
                match directory.filter(|directory| state.heat.warm(*directory, now)) {
                    Some(directory) => Step::Take(directory),
                    None => Step::Ask(state.wait_for(op)),
                }
            }
            Plan::Leader { give_back, forget } => {
                let wait = state.wait_for(op);
                for inode in give_back {
                    state.heat.begin_anew(inode);
                    state.give_back(inode, now);
                }
                let given_back = state.wait_for(op);
                forget.into_iter().for_each(|inode| state.holdings.forget(inode));
                Step::Ask(wait.max(given_back))
            }
        }
    }

    /// Tells the leader that changes begin, so that it does not take what is held when this client falls silent.
    async fn announce(&self, client: &Arc<Client>, deadline: Instant) -> Result<()> {
        let _one = client.env.clock.until(deadline, self.announcing.lock()).await?;
        let (session, activity) = {
            let state = self.state.lock();
            if state.activity.is_active() {
                return Ok(());
            }
            (state.session, state.activity.next())
        };
        let announce = Announce { session, activity };
        match client.ask_leader(&announce, deadline, &mut Doubt::default()).await {
            Ok(()) => {
                let mut state = self.state.lock();
                if state.session == session {
                    state.activity.begin(activity, client.env.clock.now());
                }
                Ok(())
            }
            Err(e) if e.kind == Kind::NotFound => {
                let old = client.session();
                match old.id == session {
                    true => Ok(client.replace_session(&old, deadline).await?),
                    false => Ok(()),
                }
            }
            Err(e) => Err(e.into()),
        }
    }

    /// A directory that the leader moved for this client is not where it is known to be.
    fn moved(&self, reply: &FsReply, now: Instant) {
        let FsReply::Attr(attr) = reply else { return };
        let mut state = self.state.lock();
        if state.holdings.has(attr.inode) {
            state.give_back(attr.inode, now);
        }
    }

    /// The leader removed a directory from this one, which is not held: nobody here knows which, so all that are held in
    /// it are given back.
    fn removed(&self, from: Option<InodeId>, now: Instant) {
        let Some(from) = from else { return };
        let mut state = self.state.lock();
        let mut below = state.holdings.directories();
        below.retain(|inode| state.holdings.parent(*inode) == Some(from));
        below.into_iter().for_each(|inode| state.give_back(inode, now));
    }

    /// Answers a question, here or by the leader.
    pub(crate) async fn query(
        &self,
        client: &Arc<Client>,
        question: FsQuery,
        deadline: Instant,
    ) -> Result<FsAnswer> {
        let now = client.env.clock.now();
        let reply = match client.holds_at(now) {
            true => self.state.lock().holdings.reply(&question),
            false => Reply::Elsewhere,
        };
        match reply {
            Reply::Here(answer) => answer.map_err(ClientError::Fs),
            Reply::Elsewhere => self.ask(client, question, deadline).await,
            Reply::Instead(question) => self.ask(client, question, deadline).await,
            Reply::Listing { entries, more } => {
                self.complete(client, entries, more, deadline).await
            }
        }
    }

    /// Asks the leader, after it was told what may bear on the answer.
    async fn ask(
        &self,
        client: &Arc<Client>,
        question: FsQuery,
        deadline: Instant,
    ) -> Result<FsAnswer> {
        let wait = {
            let state = self.state.lock();
            match asked(&question) {
                Some(inodes) => state.queue.last(&inodes),
                None => state.queue.newest(),
            }
        };
        if let Some(wait) = wait {
            self.until_told(&client.env.clock, wait, deadline).await?;
        }
        let mut answer = client.query_queued(question, deadline).await?;
        if client.holds_at(client.env.clock.now()) {
            self.state.lock().holdings.amend(&mut answer);
        }
        Ok(answer)
    }

    /// A listing whose missing attributes are asked for. What is gone by then is left out.
    async fn complete(
        &self,
        client: &Arc<Client>,
        entries: Vec<(Name, InodeId, Option<Attr>)>,
        more: bool,
        deadline: Instant,
    ) -> Result<FsAnswer> {
        let missing = entries.iter().filter(|(_, _, attr)| attr.is_none());
        let asked = missing
            .map(|(_, inode, _)| self.ask(client, FsQuery::Attr { inode: *inode }, deadline));
        let mut answers = futures_util::future::join_all(asked).await.into_iter();
        let mut complete = Vec::with_capacity(entries.len());
        for (name, _, attr) in entries {
            match attr {
                Some(attr) => complete.push((name, attr)),
                None => match answers.next() {
                    Some(Ok(FsAnswer::Attr(attr))) => complete.push((name, attr)),
                    Some(Err(e)) if e.is_not_found() => {}
                    Some(Err(e)) => return Err(e),
                    Some(Ok(_)) | None => return Err(unexpected("a question for attributes")),
                },
            }
        }
        Ok(FsAnswer::Entries { entries: complete, more })
    }

    /// Waits until a change was told, or is lost.
    pub(super) async fn until_told(
        &self,
        clock: &Clock,
        number: u64,
        deadline: Instant,
    ) -> Result<()> {
        loop {
            // Registered before looking, so that nothing is missed.
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.queue.is_settled(number) {
                    return Ok(());
                }
                state.queue.hurry(number);
            }
            self.work.notify_one();
            let late = |_| {
                ClientError::new(
                    Kind::Retry,
                    "earlier changes could not be told to the cluster in time",
                )
            };
            clock.until(deadline, told).await.map_err(late)?;
        }
    }

    pub(super) async fn until_room(&self, clock: &Clock, deadline: Instant) -> Result<()> {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable();
            if !self.state.lock().queue.is_full() {
                return Ok(());
            }
            self.work.notify_one();
            let late = |_| ClientError::new(Kind::Retry, "too many changes wait for the cluster");
            clock.until(deadline, told).await.map_err(late)?;
        }
    }
}

impl State {
    /// Makes a change here, and notes it to be told.
    fn make(
        &mut self,
        op: &FsOp,
        wall: everhold_proto::units::Timestamp,
        now: Instant,
    ) -> Result<FsReply, FsError> {
        let Done { reply, then, bears } = self.holdings.perform(op, wall)?;
        self.activity.changed(now);
        self.queue.push(op.clone(), Some(then), bears, now);
        if self.holdings.len() > HELD_MAX {
            self.give_back_all(now);
        }
        let queue = &self.queue;
        self.holdings.trim(|inode| queue.last(&[inode]).is_some());
        Ok(reply)
    }

    /// What must be told before the leader makes a change.
    fn wait_for(&self, op: &FsOp) -> Option<u64> {
        match is_vague(op) {
            true => self.queue.newest(),
            false => self.queue.last(&mentioned(op)),
        }
    }
}

fn needs_number(op: &FsOp) -> bool {
    matches!(op, FsOp::Create { .. })
}

/// The directory from which such a change may remove another one.
fn loses_directory(op: &FsOp) -> Option<InodeId> {
    match op {
        FsOp::Rmdir { parent, .. } => Some(*parent),
        FsOp::Rename { new_parent, .. } => Some(*new_parent),
        _ => None,
    }
}

/// The directory that it would be good to hold for such a change.
fn changed_directory(op: &FsOp) -> Option<InodeId> {
    match op {
        FsOp::Create { parent, .. }
        | FsOp::Unlink { parent, .. }
        | FsOp::Rmdir { parent, .. }
        | FsOp::Rename { parent, .. } => Some(*parent),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::losses::Losses;
    use everhold_proto::fs::{FileKind, RenameMode};
    use everhold_proto::units::Timestamp;
    use everhold_proto::{PolicyId, SessionId};

    fn directory(inode: u64, parent: u64) -> Attr {
        let zero = Timestamp(0);
        Attr {
            inode: InodeId(inode),
            kind: FileKind::Directory,
            mode: 0o755,
            uid: 0,
            gid: 0,
            nlink: 2,
            size: 0,
            allocated: 0,
            atime: zero,
            mtime: zero,
            ctime: zero,
            btime: zero,
            rdev: 0,
            version: 1,
            policy: PolicyId(0),
            consistency: Default::default(),
            xattrs: 0,
            parent: InodeId(parent),
        }
    }

    /// What the leader removes from a directory that is not held may be one that is: it must not be listed any more.
    #[test]
    fn what_the_leader_removed_is_not_held() {
        let (parent, name) = (InodeId(5), Name::new(b"d".to_vec()).expect("a name"));
        let (new_parent, new_name, mode) = (InodeId(6), name.clone(), RenameMode::Replace);
        let removing = [
            FsOp::Rmdir { parent, name: name.clone() },
            FsOp::Rename { parent, name, new_parent, new_name, mode },
        ];
        for (op, gone, stays) in [(&removing[0], 10, 11), (&removing[1], 11, 10)] {
            let behind = Behind::new();
            drop(behind.session_opened(SessionId(1), &Losses::default()));
            for (inode, parent) in [(10, 5), (11, 6)] {
                behind.state.lock().holdings.take_in(&directory(inode, parent), &[]);
            }
            behind.removed(loses_directory(op), Instant::now());
            let state = behind.state.lock();
            assert!(!state.holdings.has(InodeId(gone)), "{op:?}");
            assert!(state.holdings.has(InodeId(stays)), "{op:?}");
            assert!(state.queue.gives_back(InodeId(gone)), "{op:?}");
        }
    }
}
