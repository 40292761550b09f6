//! A replica of the metadata service: openraft over our log, our state machine host and the server's
//! transport, behind a narrow interface.

use crate::answer::{initialize_error, stopped, write_error};
use crate::barrier::Barrier;
use crate::fatal::Fatal;
use crate::log::{Log, LogIdentity, Opening, PurgeLimit};
use crate::network::{Directory, Network, RaftTransport};
use crate::receive::Receiver;
use crate::scope::scoped;
use crate::state::{Host, StateMachine};
use crate::status::{RaftStatus, Role};
use crate::types::{Command, Raft, RaftNode};
use crate::{ConsensusConfig, ConsensusError, upkeep};
use bytes::Bytes;
use everhold_env::{Env, Task};
use everhold_proto::kv::{KvRead, KvResult};
use everhold_proto::{Error, Kind, LogIndex, RaftId};
use openraft::ChangeMembers;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{ClientWriteError, RaftError};
use openraft::raft::ClientWriteResponse;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::Instant;

/// A running replica. It stops working when dropped; [`Consensus::shutdown`] also makes its state durable.
pub struct Consensus {
    pub(crate) env: Env,
    pub(crate) raft: Raft,
    pub(crate) receiver: Receiver,
    pub(crate) command_bytes_max: usize,
    /// Knows the numbers that the cluster gave, beside those in the log.
    pub(crate) known: Arc<dyn RaftTransport>,
    log: Log,
    host: Host,
    barrier: Barrier,
    identity: LogIdentity,
    /// One permit for each proposal in flight, and one for each KiB of them.
    proposals: Semaphore,
    proposal_kib: Semaphore,
    status: watch::Receiver<RaftStatus>,
    fatal: Fatal,
    tasks: Mutex<Vec<Task<()>>>,
}

type WriteResult = Result<
    ClientWriteResponse<crate::types::Types>,
    RaftError<crate::types::Types, ClientWriteError<crate::types::Types>>,
>;

impl Consensus {
    /// Opens the replica in `dir`. It neither votes nor leads before it is a member: by [`Consensus::initialize`], or
    /// because the leader added it as a learner.
    pub async fn open(
        env: &Env,
        dir: &Path,
        config: ConsensusConfig,
        opening: Opening,
        machine: Arc<dyn StateMachine>,
        transport: Arc<dyn RaftTransport>,
    ) -> Result<Arc<Consensus>, ConsensusError> {
        let raft_config = config.raft()?;
        let (fatal, limit) = (Fatal::new(), PurgeLimit::default());
        let (log, identity) =
            Log::open(env, &dir.join("log"), &config, opening, limit.clone(), fatal.clone())
                .await?;
        let host =
            Host::open(env, &dir.join("state"), &config, machine, limit, fatal.clone()).await?;
        check_state(dir, &log, &host, &opening)?;
        let me = identity.raft_id.0;
        let directory = Directory::default();
        let known = transport.clone();
        let network = Network { env: env.clone(), transport, directory: directory.clone(), me };
        let raft = scoped(env, Raft::new(me, raft_config, network, log.clone(), host.clone()))
            .await
            .map_err(|e| ConsensusError::Raft(e.to_string()))?;
        let first = upkeep::current(&raft.metrics().borrow_watched(), &host);
        let (publisher, status) = watch::channel(first);
        let publish = upkeep::Publisher {
            env: env.clone(),
            raft: raft.clone(),
            host: host.clone(),
            directory,
            status: publisher,
            fatal: fatal.clone(),
        };
        let trim = upkeep::trim(env.clone(), raft.clone(), log.clone(), config.clone());
        let tasks = vec![
            env.tasks.spawn(upkeep::flush(
                env.clone(),
                host.clone(),
                log.clone(),
                config.flush_interval,
            )),
            env.tasks.spawn(scoped(env, trim)),
            env.tasks.spawn(scoped(env, publish.run())),
        ];
        Ok(Arc::new(Consensus {
            env: env.clone(),
            receiver: Receiver::new(env.clone(), host.clone(), raft.clone()),
            command_bytes_max: config.command_bytes_max(),
            known,
            log,
            barrier: Barrier::new(env.clone(), raft.clone(), config.timing.election_max * 2),
            raft,
            host,
            identity,
            proposals: Semaphore::new(config.proposals_max),
            proposal_kib: Semaphore::new(config.proposal_bytes_max >> 10),
            status,
            fatal,
            tasks: Mutex::new(tasks),
        }))
    }

    /// Who this replica is, and how often it was opened.
    pub fn identity(&self) -> LogIdentity {
        self.identity
    }

    /// Founds a group with this replica as its only voter. `Conflict` if it is a member of one already.
    pub async fn initialize(&self, me: RaftNode) -> Result<(), Error> {
        let members = BTreeMap::from([(self.identity.raft_id.0, me)]);
        scoped(&self.env, self.raft.initialize(members)).await.map_err(initialize_error)
    }

    /// Proposes a command and waits until it was applied here; gives its index and the state machine's answer.
    ///
    /// `NotLeader`, `Busy` and `Retry` mean that it was not and will not be applied. `MaybeApplied`: it was
    /// proposed, but the deadline passed or the leadership was lost before the outcome was known.
    pub async fn propose(
        &self,
        command: Bytes,
        deadline: Instant,
    ) -> Result<(LogIndex, Vec<u8>), Error> {
        if command.len() > self.command_bytes_max {
            let message = format!(
                "a command of {} bytes; {} are allowed",
                command.len(),
                self.command_bytes_max
            );
            return Err(Error::new(Kind::Invalid, message));
        }
        self.check_alive()?;
        if self.env.clock.now() >= deadline {
            return Err(Error::new(
                Kind::Retry,
                "the deadline had passed before the command was proposed",
            ));
        }
        let _room = self.room(command.len())?;
        let response = self.write(deadline, self.raft.client_write(Command(command))).await?;
        Ok((LogIndex(response.log_id.index), response.data.0))
    }

    /// Waits until reads here show everything that was committed before this call, and gives an index that covers it.
    /// Concurrent callers share rounds of confirmation. On the leader only.
    pub async fn barrier(&self, deadline: Instant) -> Result<LogIndex, Error> {
        self.check_alive()?;
        let wait = async {
            let index = self.barrier.read_index().await?;
            let mut applied = self.host.applied_next();
            let reached = applied.wait_for(|next| *next > index).await;
            reached.map_err(|_| Error::new(Kind::Retry, "the replica is shutting down"))?;
            Ok(LogIndex(index))
        };
        let late = Error::new(Kind::Retry, "the read was not confirmed before its deadline");
        self.env.clock.until(deadline, wait).await.unwrap_or(Err(late))
    }

    /// Reads the local state at one point; `read` is given the index that is applied at that very point.
    /// Linearizable after a [`Consensus::barrier`].
    pub fn read<R>(
        &self,
        read: impl FnOnce(&dyn KvRead, LogIndex) -> KvResult<R>,
    ) -> Result<R, Error> {
        self.host.read(read).map_err(|e| Error::new(Kind::Internal, e.to_string()))
    }

    /// The state of the replica now.
    pub fn status(&self) -> RaftStatus {
        upkeep::current(&self.raft.metrics().borrow_watched(), &self.host)
    }

    /// The term in which this replica leads, as its own Raft knows it at this moment.
    pub fn term_led(&self) -> Option<u64> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        (now.state == openraft::ServerState::Leader).then_some(now.current_term)
    }

    /// Follows the state of the replica: role and leader at once, counters about ten times a second.
    pub fn watch(&self) -> watch::Receiver<RaftStatus> {
        self.status.clone()
    }

    /// Adds a member that receives the log but does not vote; returns when that is committed, not when the member
    /// has caught up (see [`Member::lag`](crate::Member)). Adding it again changes nothing.
    pub async fn add_learner(
        &self,
        raft_id: RaftId,
        node: RaftNode,
        deadline: Instant,
    ) -> Result<LogIndex, Error> {
        self.check_alive()?;
        let response = self.write(deadline, self.raft.add_learner(raft_id.0, node, false)).await?;
        Ok(LogIndex(response.log_id.index))
    }

    /// Removes a member that does not vote.
    pub async fn remove_learner(
        &self,
        raft_id: RaftId,
        deadline: Instant,
    ) -> Result<LogIndex, Error> {
        self.change(ChangeMembers::RemoveNodes(BTreeSet::from([raft_id.0])), deadline).await
    }

    /// Records that a member is reached elsewhere now.
    pub async fn set_node(
        &self,
        raft_id: RaftId,
        node: RaftNode,
        deadline: Instant,
    ) -> Result<LogIndex, Error> {
        self.change(ChangeMembers::SetNodes(BTreeMap::from([(raft_id.0, node)])), deadline).await
    }

    /// Makes exactly these members the voters, by joint consensus; all must be members. Voters that are left out
    /// leave the group.
    pub async fn change_voters(
        &self,
        voters: BTreeSet<RaftId>,
        deadline: Instant,
    ) -> Result<LogIndex, Error> {
        let voters = voters.into_iter().map(|id| id.0).collect();
        self.change(ChangeMembers::ReplaceAllVoters(voters), deadline).await
    }

    async fn change(
        &self,
        change: ChangeMembers<u64, RaftNode>,
        deadline: Instant,
    ) -> Result<LogIndex, Error> {
        self.check_alive()?;
        let response = self.write(deadline, self.raft.change_membership(change, false)).await?;
        Ok(LogIndex(response.log_id.index))
    }

    /// Asks the voter `to` to take the leadership; follow [`Consensus::watch`] to see whether it did.
    pub async fn transfer_leader(&self, to: RaftId) -> Result<(), Error> {
        let status = self.status();
        if status.role != Role::Leader {
            return Err(Error::not_leader(status.leader.map(|node| node.address)));
        }
        if !status.member(to).is_some_and(|member| member.voter) {
            return Err(Error::new(Kind::Invalid, format!("{to} is not a voter")));
        }
        let transfer = scoped(&self.env, async { self.raft.trigger().transfer_leader(to.0).await });
        transfer.await.map_err(|e| stopped(&e, Kind::Retry))
    }

    /// Hands the leadership to the voter that lags least; gives its number.
    pub async fn step_down(&self) -> Result<RaftId, Error> {
        let status = self.status();
        let others = status.voters().filter(|m| m.raft_id != status.raft_id);
        let best = others.min_by_key(|m| (m.lag.unwrap_or(u64::MAX), m.raft_id)).map(|m| m.raft_id);
        let to = best.ok_or_else(|| Error::new(Kind::Conflict, "there is no other voter"))?;
        self.transfer_leader(to).await?;
        Ok(to)
    }

    /// Starts an election now, if a quorum would agree.
    pub async fn elect(&self) -> Result<(), Error> {
        let elect = scoped(&self.env, async { self.raft.trigger().elect(true).await });
        elect.await.map_err(|e| stopped(&e, Kind::Retry))
    }

    /// Resolves with the reason when the log or the state machine has failed. The process must end then.
    pub async fn fatal(&self) -> String {
        self.fatal.wait().await
    }

    /// Stops the replica, makes its state durable and closes its files.
    pub async fn shutdown(&self) -> Result<(), Error> {
        let failed =
            |e: &dyn std::fmt::Display| Error::new(Kind::Internal, format!("shutdown: {e}"));
        // Taken out first: the lock must not be held while the tasks end.
        let tasks = std::mem::take(&mut *self.tasks.lock());
        drop(tasks);
        scoped(&self.env, self.raft.shutdown()).await.map_err(|e| failed(&e))?;
        self.host.flush().await.map_err(|e| failed(&e))?;
        self.log.close().await.map_err(|e| failed(&e))
    }

    /// Waits for the outcome of something that was proposed.
    async fn write(
        &self,
        deadline: Instant,
        proposed: impl Future<Output = WriteResult>,
    ) -> Result<ClientWriteResponse<crate::types::Types>, Error> {
        match self.env.clock.until(deadline, scoped(&self.env, proposed)).await {
            Ok(result) => result.map_err(write_error),
            Err(_) => Err(Error::new(
                Kind::MaybeApplied,
                "the deadline passed before the outcome was known",
            )),
        }
    }

    fn room(&self, bytes: usize) -> Result<(SemaphorePermit<'_>, SemaphorePermit<'_>), Error> {
        let busy = |_| Error::new(Kind::Busy, "too many proposals in flight");
        let kib = (bytes >> 10) as u32 + 1;
        Ok((
            self.proposals.try_acquire().map_err(busy)?,
            self.proposal_kib.try_acquire_many(kib).map_err(busy)?,
        ))
    }

    fn check_alive(&self) -> Result<(), Error> {
        match self.fatal.reason() {
            Some(reason) => {
                Err(Error::new(Kind::Internal, format!("the metadata replica failed: {reason}")))
            }
            None => Ok(()),
        }
    }
}

/// The state must reach at least as far as the log begins, and a new member must begin empty.
fn check_state(
    dir: &Path,
    log: &Log,
    host: &Host,
    opening: &Opening,
) -> Result<(), ConsensusError> {
    let applied = host.applied();
    let incomplete =
        |reason: String| Err(ConsensusError::Incomplete { path: dir.to_owned(), reason });
    if matches!(opening, Opening::New(_)) && applied.is_some() {
        return incomplete("there is a state of an earlier member".into());
    }
    match log.purged() {
        Some(purged) if applied < Some(purged) => {
            incomplete(format!("the log begins after {}, the state ends before", purged.index))
        }
        _ => Ok(()),
    }
}
