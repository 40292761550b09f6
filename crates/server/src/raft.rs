//! This node's seat in Raft: a log and the replicated state while it is a voter or learner, nothing
//! else. The leader gives the seat (`PrepareLearner`) and takes it back (`RetireLearner`).
//!
//! **Invariant:** a log is only ever opened under the Raft id that it was created for, and no second
//! log is created while there is one: a vote must never be forgotten.

use crate::directory::DataDirectory;
use crate::error::{Fatal, StartError};
use crate::map_cache::MapCache;
use crate::state::ClusterState;
use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use bytes::Bytes;
use everhold_client::Wire;
use everhold_consensus::{
    Consensus, ConsensusConfig, ConsensusError, LogIdentity, Opening, RaftNode, RaftRpc,
    RaftTransport,
};
use everhold_env::{Env, Task};
use everhold_proto::rpc::RAFT_PREFIX;
use everhold_proto::{ClusterId, Error, Kind, NodeId, RaftId};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};

/// The seat, empty or taken.
pub(crate) struct RaftSeat {
    env: Env,
    directory: Arc<DataDirectory>,
    cluster: ClusterId,
    config: ConsensusConfig,
    transport: Arc<dyn RaftTransport>,
    current: ArcSwapOption<Consensus>,
    /// Serialises taking and leaving the seat; holds the task that waits for the replica's failure.
    changing: Mutex<Option<Task<()>>>,
    fatal: mpsc::Sender<Fatal>,
}

impl RaftSeat {
    /// An empty seat.
    pub(crate) fn new(
        env: Env,
        directory: Arc<DataDirectory>,
        cluster: ClusterId,
        config: ConsensusConfig,
        transport: Arc<dyn RaftTransport>,
        fatal: mpsc::Sender<Fatal>,
    ) -> Self {
        RaftSeat {
            env,
            directory,
            cluster,
            config,
            transport,
            current: ArcSwapOption::empty(),
            changing: Mutex::new(None),
            fatal,
        }
    }

    /// The replica, while this node is in Raft.
    pub(crate) fn current(&self) -> Option<Arc<Consensus>> {
        self.current.load_full()
    }

    /// Whether this node has the seat with this id.
    pub(crate) fn holds(&self, raft: RaftId) -> bool {
        self.current().is_some_and(|consensus| consensus.identity().raft_id == raft)
    }

    /// Takes the seat that the node had when it was stopped, if any.
    pub(crate) async fn resume(&self) -> Result<(), StartError> {
        let mut watching = self.changing.lock().await;
        let file = self.directory.file().await;
        let failed = |source| StartError::Consensus { path: self.directory.raft_path(), source };
        match (file.raft, file.node) {
            (Some(_), Some(node)) => {
                let opening = Opening::Existing { cluster: self.cluster, node };
                self.open(&mut watching, opening).await.map_err(failed)
            }
            _ => self.clear_files().await.map_err(|e| self.directory.error(e)),
        }
    }

    /// Takes the first seat of a new cluster, as its only voter. Repeating it after a crash is fine.
    pub(crate) async fn found(&self, me: RaftNode, raft: RaftId) -> Result<(), StartError> {
        let failed = |source| StartError::Consensus { path: self.directory.raft_path(), source };
        let mut watching = self.changing.lock().await;
        if self.current().is_none() {
            self.clear_files().await.map_err(|e| self.directory.error(e))?;
            let identity = self.identity(me.node, raft);
            self.open(&mut watching, Opening::New(identity)).await.map_err(failed)?;
            let taken = self.directory.change(|file| {
                file.raft = Some(raft);
                file.raft_used = raft;
            });
            taken.await.map_err(|e| self.directory.error(e))?;
        }
        let consensus = self.current().expect("was opened above");
        match consensus.initialize(me).await {
            Err(e) if e.kind != Kind::Conflict => {
                let path = self.directory.raft_path();
                Err(StartError::Consensus { path, source: ConsensusError::Raft(e.message) })
            }
            _ => Ok(()),
        }
    }

    /// Takes the seat under `raft`, as a learner that the leader will add. Repeating it is fine.
    pub(crate) async fn prepare(&self, node: NodeId, raft: RaftId) -> Result<(), Error> {
        let mut watching = self.changing.lock().await;
        if let Some(consensus) = self.current() {
            let held = consensus.identity().raft_id;
            if held == raft {
                return Ok(());
            }
            let message = format!("this node is {held} in Raft and must be retired first");
            return Err(Error::new(Kind::Conflict, message));
        }
        if raft <= self.directory.file().await.raft_used {
            let message = format!("{raft} had a log here that is gone: it needs a fresh id");
            return Err(Error::new(Kind::Conflict, message));
        }
        tracing::info!(%raft, "taking a seat in raft");
        // The mark comes first: after a crash in between, this id is never used again.
        self.directory.change(|file| file.raft_used = raft).await.map_err(internal)?;
        self.clear_files().await.map_err(internal)?;
        let opening = Opening::New(self.identity(node, raft));
        self.open(&mut watching, opening).await.map_err(internal)?;
        self.directory.change(|file| file.raft = Some(raft)).await.map_err(internal)
    }

    /// Leaves the seat held under `raft` and removes its log. Another id's seat stays.
    pub(crate) async fn retire(&self, raft: RaftId) -> Result<(), Error> {
        let mut watching = self.changing.lock().await;
        let Some(consensus) = self.current().filter(|c| c.identity().raft_id == raft) else {
            return Ok(());
        };
        tracing::info!(%raft, "leaving raft");
        self.directory.change(|file| file.raft = None).await.map_err(internal)?;
        *watching = None;
        self.current.store(None);
        consensus.shutdown().await?;
        drop(consensus);
        self.clear_files().await.map_err(internal)
    }

    fn identity(&self, node: NodeId, raft_id: RaftId) -> LogIdentity {
        LogIdentity { cluster: self.cluster, node, raft_id, boot_counter: 1 }
    }

    async fn open(
        &self,
        watching: &mut Option<Task<()>>,
        opening: Opening,
    ) -> Result<(), ConsensusError> {
        let consensus = Consensus::open(
            &self.env,
            &self.directory.raft_path(),
            self.config.clone(),
            opening,
            Arc::new(ClusterState),
            self.transport.clone(),
        )
        .await?;
        let (failing, fatal) = (consensus.clone(), self.fatal.clone());
        *watching = Some(self.env.tasks.spawn(async move {
            let reason = failing.fatal().await;
            // The receiver is gone only when the server is ending anyway.
            let _ended = fatal.send(Fatal::Metadata(reason)).await;
        }));
        self.current.store(Some(consensus));
        Ok(())
    }

    /// Removes what an earlier seat left behind. The directories stay: they cost nothing.
    async fn clear_files(&self) -> io::Result<()> {
        let root = self.directory.raft_path();
        for part in ["log", "state"] {
            let directory = root.join(part);
            let entries = match self.env.disk.list(&directory).await {
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                entries => entries?,
            };
            for entry in entries {
                match self.env.disk.remove(&entry).await {
                    Err(e) if e.kind() == io::ErrorKind::IsADirectory => {}
                    removed => removed?,
                }
            }
            self.env.disk.sync_dir(&directory).await?;
        }
        Ok(())
    }

    /// Closes the log; the seat is taken again at the next start.
    pub(crate) async fn close(&self) -> Result<(), Error> {
        let mut watching = self.changing.lock().await;
        *watching = None;
        match self.current.swap(None) {
            Some(consensus) => consensus.shutdown().await,
            None => Ok(()),
        }
    }
}

fn internal(e: impl ToString) -> Error {
    Error::new(Kind::Internal, e.to_string())
}

/// Raft messages over the wire, to the address that the map has for a node or, without a map, that
/// the log has.
pub(crate) struct WireTransport {
    pub(crate) wire: Wire,
    pub(crate) map: Arc<MapCache>,
}

#[async_trait]
impl RaftTransport for WireTransport {
    async fn call(
        &self,
        to: &RaftNode,
        what: RaftRpc,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Error> {
        let map = self.map.current();
        let address = map.nodes.get(&to.node).map_or(&to.address, |node| &node.address);
        let until = self.wire.env().clock.now() + deadline;
        self.wire.post_raw(address, &path(what), body, until).await
    }

    fn is_known(&self, raft: RaftId) -> bool {
        self.map.current().nodes.values().any(|node| node.raft == Some(raft))
    }
}

/// Path of a Raft message.
fn path(what: RaftRpc) -> String {
    format!("{RAFT_PREFIX}{}", name(what))
}

fn name(what: RaftRpc) -> &'static str {
    match what {
        RaftRpc::Append => "append",
        RaftRpc::Vote => "vote",
        RaftRpc::PreVote => "prevote",
        RaftRpc::Snapshot => "snapshot",
        RaftRpc::Transfer => "transfer",
    }
}

/// The Raft message that a path carries.
pub(crate) fn rpc_of(path: &str) -> Option<RaftRpc> {
    let wanted = path.strip_prefix(RAFT_PREFIX)?;
    let all =
        [RaftRpc::Append, RaftRpc::Vote, RaftRpc::PreVote, RaftRpc::Snapshot, RaftRpc::Transfer];
    all.into_iter().find(|what| name(*what) == wanted)
}
