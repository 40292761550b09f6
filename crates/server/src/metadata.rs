//! The replicated state as the leader serves it: proposals stamped with log time, and reads behind
//! a linearizable barrier.

use crate::node::Node;
use bytes::Bytes;
use everhold_consensus::{Consensus, Role};
use everhold_proto::command::{Answer, Command, Stamped};
use everhold_proto::kv::{KvRead, KvResult, get_row};
use everhold_proto::map::ClusterMap;
use everhold_proto::tables::{self, Header};
use everhold_proto::{Error, Kind, LogIndex, Stamp, codec, limits};
use std::sync::Arc;
use tokio::time::Instant;

impl Node {
    /// The replica, when this node leads; else "ask the leader".
    pub(crate) fn leading(&self) -> Result<Arc<Consensus>, Error> {
        let consensus = self.raft.current().filter(|c| c.watch().borrow().role == Role::Leader);
        consensus.ok_or_else(|| self.not_leader())
    }

    /// Proposes `command` and waits until it was applied here. A refusal by the state machine is an
    /// error; `MaybeApplied` when the outcome is unknown.
    pub(crate) async fn propose(
        &self,
        command: Command,
        deadline: Instant,
    ) -> Result<(LogIndex, Answer), Error> {
        let consensus = self.leading()?;
        let stamp = self.stamp(&consensus)?;
        let bytes = Bytes::from(codec::encode(&Stamped { stamp, command }));
        if bytes.len() > limits::COMMAND_BYTES_MAX {
            let message = format!("command of {} bytes is too large", bytes.len());
            return Err(Error::new(Kind::Invalid, message));
        }
        let (index, answer) = consensus.propose(bytes, deadline).await?;
        match codec::decode(&answer).map_err(|e| Error::new(Kind::Internal, e.to_string()))? {
            Answer::Refused(error) => Err(error),
            answer => Ok((index, answer)),
        }
    }

    /// Reads the replicated state at a point that is not older than this call. `read` is told the
    /// log index of that point.
    pub(crate) async fn read<R>(
        &self,
        deadline: Instant,
        read: impl FnOnce(&dyn KvRead, LogIndex) -> KvResult<R>,
    ) -> Result<R, Error> {
        let consensus = self.leading()?;
        consensus.barrier(deadline).await?;
        consensus.read(read)
    }

    /// The newest map that this node can know without asking anyone: that of its replica, if it has
    /// one, else the cached one.
    pub(crate) fn local_map(&self) -> Result<Arc<ClusterMap>, Error> {
        if let Some(consensus) = self.raft.current() {
            let known = self.map.epoch();
            let newer = consensus.read(|kv, _| {
                let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
                let newer = header.epoch > known;
                newer.then(|| everhold_cluster::reads::load_map(kv)).transpose()
            })?;
            if let Some(map) = newer {
                self.map.install(Arc::new(map));
            }
        }
        Ok(self.map.current())
    }

    fn stamp(&self, consensus: &Consensus) -> Result<Stamp, Error> {
        let term = consensus.watch().borrow().term;
        self.log_time.stamp(&self.env.clock, term, || {
            consensus.read(|kv, _| {
                let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
                Ok(header.log_ms)
            })
        })
    }
}

/// An answer of another shape than the command has: a defect, told as one.
pub(crate) fn unexpected(answer: &Answer) -> Error {
    Error::new(Kind::Internal, format!("unexpected answer of the state machine: {answer:?}"))
}

/// For commands that are answered `Done`.
pub(crate) fn done((_, answer): (LogIndex, Answer)) -> Result<(), Error> {
    match answer {
        Answer::Done => Ok(()),
        other => Err(unexpected(&other)),
    }
}
