//! openraft's messages over the server's transport. The transport carries opaque bodies; every call has
//! the deadline that openraft gave it. Snapshots go in chunks of a MiB, each acknowledged.

use crate::commits;
use crate::state::{SnapshotData, Summary, View};
use crate::types::{LogId, RaftNode, Snapshot, SnapshotMeta, Types, Vote};
use async_trait::async_trait;
use bytes::Bytes;
use everhold_env::Env;
use everhold_proto::checksum::crc32c;
use everhold_proto::{Error, Kind, RaftId, codec};
use futures_util::Stream;
use openraft::base::{BoxFuture, BoxStream};
use openraft::error::{RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{
    RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2, stream_append_sequential,
};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::{RwLock, RwLockUpgradableReadGuard};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

/// Which of Raft's messages a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RaftRpc {
    /// Replicate entries, or a heartbeat.
    Append,
    /// Ask for a vote.
    Vote,
    /// Ask whether a vote would be given.
    PreVote,
    /// One chunk of a snapshot.
    Snapshot,
    /// Ask the receiver to take the leadership.
    Transfer,
}

/// Carries a message to a member's [`Consensus::handle_rpc`](crate::Consensus::handle_rpc). Given by the server.
#[async_trait]
pub trait RaftTransport: Send + Sync + 'static {
    /// Calls `to` and returns its answer. `deadline` is how long from now the answer is of use; the caller
    /// also stops waiting then. The receiver must check that the sender is of its cluster.
    async fn call(
        &self,
        to: &RaftNode,
        what: RaftRpc,
        body: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, Error>;

    /// Whether the cluster gave this number to one of its nodes, as far as this node knows without asking. A replica that was
    /// away while the group changed finds in its own log neither the new members nor who leads them.
    fn is_known(&self, raft: RaftId) -> bool;
}

/// One message of a snapshot's transfer.
#[derive(Serialize, Deserialize)]
pub(crate) enum SnapshotMessage {
    /// What is about to come.
    Begin { transfer: u64, vote: Vote, meta: SnapshotMeta },
    /// Rows; `number` counts the chunks from 0.
    Rows { transfer: u64, number: u32, crc: u32, rows: Bytes },
    /// All rows were sent; repeated until the installation is done.
    End { transfer: u64, rows: u64, digest: u32 },
}

/// The receiver's answer to one message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(bound = "")]
pub(crate) enum SnapshotReply {
    /// Send the next one.
    Continue,
    /// It is being installed: ask again.
    Installing,
    /// It was installed, or was not needed.
    Done(SnapshotResponse<Types>),
    /// The receiver knows nothing of this transfer or gave it up: start anew.
    Restart(String),
}

/// How often the sender asks whether a snapshot is installed; each question waits about a second.
const INSTALL_POLLS_MAX: usize = 1800;

/// Where the members are by the newest membership. openraft gives a connection its address once; a
/// member that moved would never be reached again.
#[derive(Clone, Default)]
pub(crate) struct Directory(Arc<RwLock<BTreeMap<u64, RaftNode>>>);

impl Directory {
    /// Takes over the members' nodes.
    pub(crate) fn update<'a>(&self, nodes: impl Iterator<Item = (&'a u64, &'a RaftNode)>) {
        let nodes = nodes.map(|(id, node)| (*id, node.clone())).collect();
        let known = self.0.upgradable_read();
        if *known != nodes {
            *RwLockUpgradableReadGuard::upgrade(known) = nodes;
        }
    }

    fn get(&self, id: u64) -> Option<RaftNode> {
        self.0.read().get(&id).cloned()
    }
}

/// Makes a [`Peer`] for each member.
pub(crate) struct Network {
    pub env: Env,
    pub transport: Arc<dyn RaftTransport>,
    pub directory: Directory,
    pub me: u64,
}

impl RaftNetworkFactory<Types> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &RaftNode) -> Peer {
        Peer {
            env: self.env.clone(),
            transport: self.transport.clone(),
            directory: self.directory.clone(),
            me: self.me,
            target,
            node: node.clone(),
        }
    }
}

/// A message with the Raft id that it is for. An address is not enough: where a member lost its disk,
/// its successor answers there, and its votes and acknowledgements must not count as the member's.
pub(crate) fn addressed<Q: Serialize>(to: u64, request: &Q) -> Bytes {
    codec::encode(&(to, request)).into()
}

/// The way to one member.
pub(crate) struct Peer {
    env: Env,
    transport: Arc<dyn RaftTransport>,
    directory: Directory,
    me: u64,
    target: u64,
    /// Where it was when openraft began to talk to it.
    node: RaftNode,
}

impl Peer {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        what: RaftRpc,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RPCError<Types>> {
        let body = addressed(self.target, request);
        let node = self.directory.get(self.target);
        let call = self.transport.call(node.as_ref().unwrap_or(&self.node), what, body, limit);
        match self.env.clock.within(limit, call).await {
            Err(_) => Err(RPCError::Timeout(Timeout {
                action: action(what),
                id: self.me,
                target: self.target,
                timeout: limit,
            })),
            Ok(Err(e)) => Err(RPCError::Unreachable(Unreachable::new(&e))),
            Ok(Ok(answer)) => {
                codec::decode(&answer).map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))
            }
        }
    }

    async fn snapshot_call(
        &self,
        message: SnapshotMessage,
        limit: Duration,
    ) -> Result<SnapshotReply, RPCError<Types>> {
        self.call(RaftRpc::Snapshot, &message, limit).await
    }

    /// Sends the view row by row and waits until it is installed.
    async fn send(
        &self,
        vote: Vote,
        meta: SnapshotMeta,
        view: Arc<View>,
        limit: Duration,
    ) -> Result<SnapshotResponse<Types>, RPCError<Types>> {
        let transfer = self.env.entropy.u64();
        let begin = SnapshotMessage::Begin { transfer, vote, meta };
        if let Some(early) = proceed(self.snapshot_call(begin, limit).await?)? {
            return Ok(early);
        }
        let (rows, digest) = match self.send_rows(transfer, view, limit).await? {
            Sent::All(totals) => totals,
            Sent::Early(response) => return Ok(response),
        };
        for _ in 0..INSTALL_POLLS_MAX {
            let end = SnapshotMessage::End { transfer, rows, digest };
            if let Some(response) = proceed(self.snapshot_call(end, limit).await?)? {
                return Ok(response);
            }
        }
        Err(unreachable("the member does not finish installing the snapshot"))
    }

    async fn send_rows(
        &self,
        transfer: u64,
        view: Arc<View>,
        limit: Duration,
    ) -> Result<Sent, RPCError<Types>> {
        let (mut after, mut summary) = (None, Summary::default());
        for number in 0u32.. {
            let from = view.clone();
            let chunk = self.env.tasks.blocking(move || from.chunk(after.as_deref())).await;
            let chunk = chunk.map_err(|e| RPCError::Unreachable(Unreachable::new(&e)))?;
            if chunk.last_key.is_none() {
                break;
            }
            summary.add(&chunk.bytes, chunk.rows);
            after = chunk.last_key;
            let crc = crc32c(&chunk.bytes);
            let rows = SnapshotMessage::Rows { transfer, number, crc, rows: chunk.bytes };
            if let Some(early) = proceed(self.snapshot_call(rows, limit).await?)? {
                return Ok(Sent::Early(early));
            }
        }
        Ok(Sent::All(summary.totals()))
    }
}

enum Sent {
    All((u64, u32)),
    Early(SnapshotResponse<Types>),
}

fn proceed(reply: SnapshotReply) -> Result<Option<SnapshotResponse<Types>>, RPCError<Types>> {
    match reply {
        SnapshotReply::Continue | SnapshotReply::Installing => Ok(None),
        SnapshotReply::Done(response) => Ok(Some(response)),
        SnapshotReply::Restart(reason) => Err(unreachable(reason)),
    }
}

fn unreachable(reason: impl Into<String>) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(&Error::new(Kind::Retry, reason)))
}

fn action(what: RaftRpc) -> RPCTypes {
    match what {
        RaftRpc::Append => RPCTypes::AppendEntries,
        RaftRpc::Vote | RaftRpc::PreVote => RPCTypes::Vote,
        RaftRpc::Snapshot => RPCTypes::InstallSnapshot,
        RaftRpc::Transfer => RPCTypes::TransferLeader,
    }
}

/// Answers to a stream of appends, in its order.
type Appended<'s> = BoxStream<'s, Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl RaftNetworkV2<Types> for Peer {
    type SnapshotData = SnapshotData;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.call(RaftRpc::Append, &request, option.soft_ttl()).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, Result<Appended<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        let input = commits::held(self.env.clone(), input);
        stream_append_sequential(self, input, option)
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RaftRpc::Vote, &request, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<Types>,
        option: RPCOption,
    ) -> Result<VoteResponse<Types>, RPCError<Types>> {
        self.call(RaftRpc::PreVote, &request, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<Types>, StreamingError<Types>> {
        let SnapshotData::Live(view) = snapshot.snapshot else {
            return Err(StreamingError::Unreachable(Unreachable::new(&Error::new(
                Kind::Internal,
                "not a snapshot of this replica",
            ))));
        };
        let upto: Option<LogId> = snapshot.meta.last_log_id;
        tracing::info!(target = self.target, upto = ?upto.map(|id| id.index), "sending a snapshot");
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send(vote, snapshot.meta, view, option.soft_ttl()) => sent.map_err(streaming),
        }
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<Types>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<Types>, RPCError<Types>> {
        self.call(RaftRpc::Transfer, &request, option.soft_ttl()).await
    }
}

fn streaming(e: RPCError<Types>) -> StreamingError<Types> {
    match e {
        RPCError::Timeout(e) => StreamingError::Timeout(e),
        RPCError::Unreachable(e) => StreamingError::Unreachable(e),
        RPCError::Network(e) => StreamingError::Network(e),
        RPCError::RemoteError(e) => match e.source {},
    }
}
