//! The receiving side of Raft's messages. Bodies come from the network: whatever does not decode, or decodes to
//! what no correct member sends, is an error here, because openraft may panic on it.

use crate::Consensus;
use crate::answer::stopped;
use crate::log::INDEX_MAX;
use crate::network::{RaftRpc, SnapshotMessage};
use crate::scope::scoped;
use crate::types::{Entry, Types, Vote, membership_is_sound};
use bytes::Bytes;
use everhold_proto::{Error, Kind, RaftId, codec};
use openraft::EntryPayload;
use openraft::async_runtime::WatchReceiver;
use openraft::error::{Infallible, RaftError};
use openraft::raft::{AppendEntriesRequest, TransferLeaderRequest, VoteRequest};
use serde::{Serialize, de::DeserializeOwned};

/// A replica was away for at most so many elections: one a second makes that in 136 years.
const TERM_JUMP_MAX: u64 = 1 << 32;

impl Consensus {
    /// Handles a message of another member and gives the answer's body. The server has checked before that the
    /// sender is of this cluster.
    pub async fn handle_rpc(&self, what: RaftRpc, body: Bytes) -> Result<Bytes, Error> {
        scoped(&self.env, self.dispatch(what, body)).await
    }

    async fn dispatch(&self, what: RaftRpc, body: Bytes) -> Result<Bytes, Error> {
        match what {
            RaftRpc::Append => {
                let request = self.sound_append(self.decode(&body)?)?;
                self.check_sender(&request.vote)?;
                answer(self.raft.append_entries(request).await)
            }
            RaftRpc::Vote => {
                let request = sound_vote(self.decode(&body)?)?;
                self.check_sender(&request.vote)?;
                answer(self.raft.vote(request).await)
            }
            RaftRpc::PreVote => {
                let request = sound_vote(self.decode(&body)?)?;
                self.check_sender(&request.vote)?;
                answer(self.raft.pre_vote(request).await)
            }
            RaftRpc::Transfer => {
                let request: TransferLeaderRequest<Types> = self.decode(&body)?;
                self.check_sender(request.from_leader())?;
                let result = self.raft.handle_transfer_leader(request).await;
                answer(result.map_err(RaftError::Fatal))
            }
            RaftRpc::Snapshot => {
                let message: SnapshotMessage = self.decode(&body)?;
                if let SnapshotMessage::Begin { vote, .. } = &message {
                    self.check_sender(vote)?;
                }
                Ok(encode(&self.receiver.handle(message).await))
            }
        }
    }

    /// The message in a body, if it is for this member.
    fn decode<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, Error> {
        let decoded = codec::decode(body).map_err(|e| Error::new(Kind::Invalid, e.to_string()));
        let (to, message): (u64, T) = decoded?;
        let me = self.identity().raft_id;
        if to != me.0 {
            let to = RaftId(to);
            let message = format!("this node is {me} in Raft, the message is for {to}");
            return Err(Error::new(Kind::NotFound, message));
        }
        Ok(message)
    }

    /// Refuses who is no member, and terms that no group reaches: nothing follows a term without successors, and nobody can
    /// take it back. A replica without members yet waits for whoever adds it.
    fn check_sender(&self, vote: &Vote) -> Result<(), Error> {
        let metrics = self.raft.metrics();
        let now = metrics.borrow_watched();
        let (term, sender) = (vote.leader_id.term, vote.leader_id.node_id);
        if term.saturating_sub(now.current_term) > TERM_JUMP_MAX {
            let message = format!("term {term} is far beyond {}", now.current_term);
            return Err(Error::new(Kind::Invalid, message));
        }
        let membership = now.membership_config.membership();
        let mut members = membership.nodes().map(|(id, _)| *id).peekable();
        let founded = members.peek().is_some();
        if founded && !members.any(|id| id == sender) && !self.known.is_known(RaftId(sender)) {
            let message = format!("{} is no member of this group", RaftId(sender));
            return Err(Error::new(Kind::Conflict, message));
        }
        Ok(())
    }

    fn sound_append(
        &self,
        request: AppendEntriesRequest<Types>,
    ) -> Result<AppendEntriesRequest<Types>, Error> {
        let first =
            request.prev_log_id.map_or(0, |id| id.index.saturating_add(1)).min(INDEX_MAX + 1);
        let continues =
            request.entries.iter().zip(first..).all(|(entry, index)| entry.log_id.index == index);
        let bounded =
            first <= INDEX_MAX && request.leader_commit.is_none_or(|id| id.index <= INDEX_MAX);
        if !continues || !bounded || !request.entries.iter().all(|e| self.is_sound(e)) {
            return Err(Error::new(Kind::Invalid, "entries that do not make a log"));
        }
        Ok(request)
    }

    fn is_sound(&self, entry: &Entry) -> bool {
        match &entry.payload {
            EntryPayload::Blank => true,
            EntryPayload::Normal(command) => command.0.len() <= self.command_bytes_max,
            EntryPayload::Membership(membership) => membership_is_sound(membership),
        }
    }
}

fn sound_vote(request: VoteRequest<Types>) -> Result<VoteRequest<Types>, Error> {
    match request.last_log_id {
        Some(last) if last.index > INDEX_MAX => {
            Err(Error::new(Kind::Invalid, "a vote request beyond any log"))
        }
        _ => Ok(request),
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    codec::encode(value).into()
}

fn answer<T: Serialize>(result: Result<T, RaftError<Types, Infallible>>) -> Result<Bytes, Error> {
    match result {
        Ok(value) => Ok(encode(&value)),
        Err(RaftError::Fatal(e)) => Err(stopped(&e, Kind::Retry)),
        Err(RaftError::APIError(e)) => match e {},
    }
}
