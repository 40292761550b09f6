//! The tree: sessions, changes, questions, the change feed. The leader answers; others say `NotLeader`, with its address.

use super::Rpc;
use crate::fs::{ChangeRecord, FsAnswer, FsError, FsQuery, FsReply, SessionBatch};
use crate::ids::*;
use crate::map::ClusterMap;
use serde::{Deserialize, Serialize};

/// Opens a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenSession {
    /// What the client calls itself.
    pub client: String,
    /// It will [`Follow`] the change feed and keep a cache by it.
    #[serde(default)]
    pub follows: bool,
}
/// The new session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OpenedSession {
    /// Its id.
    pub session: SessionId,
    /// It ends when it is not renewed for this long.
    pub ttl_ms: u64,
}
rpc!(OpenSession => OpenedSession, "Meta/OpenSession");

/// Keeps a session alive. Answer `NotFound`: it has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewSession {
    /// The session.
    pub session: SessionId,
    /// As in [`SessionBatch`].
    pub acked_below: u64,
    /// As in [`SessionBatch`].
    pub floor: u64,
}
rpc!(RenewSession => (), "Meta/RenewSession");

/// Ends a session.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndSession {
    /// The session.
    pub session: SessionId,
}
rpc!(EndSession => (), "Meta/EndSession");

/// Changes of the tree.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Execute(pub SessionBatch);
/// What became of changes. The answer is held back until no other cache can show what was before
/// (`docs/protocol.md`).
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Executed {
    /// One result per request.
    pub results: Vec<Result<FsReply, FsError>>,
    /// The change records of this batch have the numbers from `first` on, below `next`; none when it changed
    /// nothing or was answered before.
    pub first: u64,
    /// The results show what the change records below this number tell.
    pub next: u64,
}
rpc!(Execute => Executed, "Meta/Execute");

/// Questions about the tree, all answered at one point, linearizably.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Query {
    /// At most [`crate::limits::BATCH_OPS_MAX`].
    pub queries: Vec<FsQuery>,
    /// Who asks, if it is a session that follows the change feed: its own cache is not waited for.
    #[serde(default)]
    pub session: Option<SessionId>,
}
/// Answers to questions. They are held back until no other cache can show what was before.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Queried {
    /// Answers to the first questions, at least to one: as many as have room in
    /// [`crate::limits::RPC_BYTES_MAX`]. The others have to be asked again.
    pub answers: Vec<Result<FsAnswer, FsError>>,
    /// The answers show what the change records below this number tell, and nothing of later ones.
    pub next: u64,
}
rpc!(Query => Queried, "Meta/Query");

/// Change records from a sequence number on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadChanges {
    /// From this sequence number.
    pub from: u64,
    /// At most so many.
    pub limit: u32,
}
rpc!(ReadChanges => Vec<(u64, ChangeRecord)>, "Meta/ReadChanges");

/// The map, when it is newer than `known`. Any node answers, with what it has; the leader has the newest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GetMap {
    /// The epoch that the caller has.
    pub known: Epoch,
}
/// The map and who leads.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GotMap {
    /// `None`: `known` is the newest here.
    pub map: Option<ClusterMap>,
    /// `HOST:PORT` of the metadata leader, if known.
    pub leader: Option<String>,
}
rpc!(GetMap => GotMap, "Meta/GetMap");

/// The change feed for a cache: records, and a lease under which what the cache holds may be answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Follow {
    /// A session that was opened to follow; else `Invalid`. `NotFound`: it has ended.
    pub session: SessionId,
    /// The first record wanted; 0: from now on.
    pub from: u64,
    /// The cache, and whatever hangs on it, shows all records below this number; at most `from`.
    pub acked_below: u64,
    /// At most so many records ([`crate::limits::PAGE_ENTRIES_MAX`] caps it).
    pub limit: u32,
    /// Wait so many milliseconds for the first record ([`crate::limits::FEED_WAIT_MS_MAX`] caps it).
    pub wait_ms: u32,
    /// Odd while the session may have changes behind its delegations that it has not told; it rises whenever that
    /// begins or ends. While it is even, none is made before an [`Announce`] was answered.
    #[serde(default)]
    pub activity: u64,
    /// The port at which the session's process can be connected to, for nothing but to see that it is there.
    #[serde(default)]
    pub presence: Option<u16>,
}
/// What a cache is to forget.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Followed {
    /// Records from the wanted one on, in order and without gaps.
    pub records: Vec<(u64, ChangeRecord)>,
    /// The record to ask for next.
    pub next: u64,
    /// The records before `next` are not known to the cache and cannot be given any more: it holds nothing.
    pub reset: bool,
    /// Once the cache shows all these records it may be answered from for so many milliseconds, counted by
    /// the holder's monotonic clock from before it sent the request. 0: no lease, ask again.
    pub lease_ms: u32,
    /// Delegations of this session that are called back: nothing more is done behind them, what was done is
    /// told, and they are given back.
    #[serde(default)]
    pub recalls: Vec<InodeId>,
}
rpc!(Follow => Followed, "Meta/Follow");

/// A session that holds delegations is about to make changes behind them again. `NotFound`: it has ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Announce {
    /// The session.
    pub session: SessionId,
    /// As in [`Follow`]; odd.
    pub activity: u64,
}
rpc!(Announce => (), "Meta/Announce");
