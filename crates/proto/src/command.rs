//! Commands of the replicated state machine and their answers. A command is judged when it is
//! applied, against the newest state: whoever proposed it may have been wrong.

use crate::error::Error;
use crate::fs::{FsError, FsReply, SessionBatch};
use crate::ids::*;
use crate::map::{DiskState, Fullness, Labels, NodeState, Policy};
use crate::table::Repaired;
use crate::units::Stamp;
use serde::{Deserialize, Serialize};

/// What is proposed to Raft: a command and the time that its leader stamped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamped {
    /// The leader's time.
    pub stamp: Stamp,
    /// The command.
    pub command: Command,
}

/// A change of the replicated state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster: its id, default policy and root directory. Answer: `Done`.
    Create {
        /// The new cluster's id.
        cluster: ClusterId,
        /// The default policy.
        policy: Policy,
    },
    /// Opens a session. Answer: `Session`.
    OpenSession {
        /// What the client calls itself, for people.
        client: String,
        /// It will follow the change feed and keep a cache by it.
        follows: bool,
        /// Drawn by the leader: half of the session's id, so that nobody guesses it.
        nonce: u32,
    },
    /// Keeps a session alive, raises its floor, drops kept answers. Answer: `Done`.
    RenewSession {
        /// The session.
        session: SessionId,
        /// As in [`SessionBatch`].
        acked_below: u64,
        /// As in [`SessionBatch`].
        floor: u64,
    },
    /// Ends a session: its floor becomes infinite, its open handles are forgotten. Answer: `Done`.
    EndSession {
        /// The session.
        session: SessionId,
    },
    /// Ends a delegation that its session did not give back when it was called. Nothing to end is fine.
    /// Answer: `Done`.
    Revoke {
        /// The directory.
        inode: InodeId,
        /// Who has it; another session's stays.
        session: SessionId,
    },
    /// Changes of the tree. Answer: `Fs`, one result per request.
    Fs(SessionBatch),
    /// A change of the map.
    Map(MapCommand),
    /// A change of the block table.
    Table(TableCommand),
}

/// A change of the cluster map. Everything accepted raises the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum MapCommand {
    /// A node starts: a new one (unknown uuid) gets an id, a known one keeps it. State becomes Up,
    /// boot count rises. Answer: `Node`.
    RegisterNode {
        /// The node's own mark.
        uuid: [u8; 16],
        /// Where it serves.
        address: String,
        /// Where it stands.
        labels: Labels,
        /// Marks of its data directory, one of which the cluster knows it by, newest last: a directory that
        /// was restored from an old copy has none of them. Empty: it has none yet.
        marks: Vec<u64>,
    },
    /// A disk comes into service on a node: a new session, completeness ends everywhere. Answer: `Disk`.
    RegisterDisk {
        /// The disk's own mark.
        uuid: [u8; 16],
        /// The id it was formatted with, if it has one; must match the uuid's.
        disk: Option<DiskId>,
        /// Its node.
        node: NodeId,
        /// Bytes it can hold.
        capacity_bytes: u64,
        /// Bytes in use.
        used_bytes: u64,
    },
    /// A detector's verdict. Refused (`Conflict`) when the node registered again since `boot`. Answer: `Done`.
    SetNodeState {
        /// The node.
        node: NodeId,
        /// The boot it is about.
        boot: u64,
        /// The new state.
        state: NodeState,
        /// Why, for people.
        reason: String,
    },
    /// Maintenance mode on or off. Answer: `Done`.
    SetMaintenance {
        /// The node.
        node: NodeId,
        /// On or off.
        on: bool,
    },
    /// Reports of usage. Answer: `Done`.
    SetDiskUsage(Vec<DiskUsage>),
    /// Drain, fail or bring back a disk. Answer: `Done`.
    SetDiskState {
        /// The disk.
        disk: DiskId,
        /// New state.
        state: DiskState,
        /// Why, for people.
        reason: String,
    },
    /// New placement groups. Answer: `Done`.
    CreatePgs {
        /// Their policy.
        policy: PolicyId,
        /// Members of each.
        members: Vec<Vec<DiskId>>,
        /// Number of PGs of the policy when this was planned; else `Conflict`, so that a late
        /// duplicate creates nothing.
        existing: u64,
    },
    /// A change of one PG. Answer: `Done`.
    ChangePg {
        /// The PG.
        pg: PgId,
        /// The generation it was planned on; else `Conflict`.
        generation: Generation,
        /// What.
        change: PgChange,
    },
    /// A Raft id for a node that is to become a learner. Answer: `Raft`.
    AllocateRaftId {
        /// The node.
        node: NodeId,
    },
    /// The node is no longer in Raft. Answer: `Done`.
    ClearRaftId {
        /// The node.
        node: NodeId,
        /// The id it had; another one stays.
        raft: RaftId,
    },
    /// Adds or replaces a policy. Refused (`Conflict`) when the nodes that there are cannot keep it. Answer:
    /// `Done`.
    SetPolicy(Policy),
    /// All disks of a node are to be emptied, or not any more. Refused (`Conflict`) when what would be left
    /// cannot keep a policy that is kept now. Answer: `Done`.
    DrainNode {
        /// The node.
        node: NodeId,
        /// On or off.
        on: bool,
    },
    /// A node that is drained or Out leaves the map for good, with its disks; its process may not register
    /// again. Refused (`Conflict`) while a disk of it has a place in a PG, or it has an id in Raft.
    /// Answer: `Done`.
    RemoveNode {
        /// The node.
        node: NodeId,
    },
    /// Where a node stands, whatever its process says; `None`: what its process says, from its next
    /// registration on. Refused (`Conflict`) when a policy that is kept now could not be kept. Answer: `Done`.
    SetLabels {
        /// The node.
        node: NodeId,
        /// Its failure domains.
        labels: Option<Labels>,
    },
    /// The brake went on, with the reason, or off: for the event log only. It changes nothing else, and raises
    /// no epoch. Answer: `Done`.
    NoteBrake(Option<String>),
    /// A disk that is drained or has failed leaves the map for good, and its number with it. Refused (`Conflict`)
    /// while it has a place in a PG. Answer: `Done`.
    RemoveDisk {
        /// The disk.
        disk: DiskId,
    },
}

/// Usage of one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskUsage {
    /// The disk.
    pub disk: DiskId,
    /// Bytes in use.
    pub used_bytes: u64,
    /// Bytes it can hold.
    pub capacity_bytes: u64,
    /// How full it is.
    pub fullness: Fullness,
}

/// A change of one PG's members, each refused when it would break a rule of `docs/protocol.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PgChange {
    /// The disk becomes a member and must compare.
    Join(DiskId),
    /// A full number of *other* full members is there: the disk leaves.
    Leave(DiskId),
    /// The disk's node is Out (or the disk failed): it stays as former.
    GoneOut(DiskId),
    /// A former member takes its place back, as a joiner.
    TakeBack(DiskId),
    /// The PG has its full number of full members: the former is forgotten.
    EndFormer(DiskId),
}

/// A change of the block table that comes from a disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TableCommand {
    /// A disk compared what it holds (verified) with the table of a PG. Accepted if the table was
    /// read later than its join, its registration and the last range recorded. Answer: `Done`.
    Compared {
        /// The disk.
        disk: DiskId,
        /// Its session.
        session: DiskSession,
        /// The PG.
        pg: PgId,
        /// Its join index.
        joined: LogIndex,
        /// Log index at which the first page of the table was read.
        table_read: LogIndex,
        /// What it lacks; more than [`crate::limits::MISSING_PER_MEMBER_MAX`] is refused.
        missing: Vec<BlockId>,
    },
    /// Missing copies that are there now: read back in this session and equal to the table. Answer: `Done`.
    Repaired {
        /// The disk.
        disk: DiskId,
        /// Its session.
        session: DiskSession,
        /// The PG.
        pg: PgId,
        /// What.
        blocks: Vec<Repaired>,
    },
    /// Copies that turned out bad or absent. Of blocks in the table: recorded as missing. Of a block
    /// not (yet) in the table: the disk session ends, its acknowledgements must not count. Answer: `Bad`.
    Bad {
        /// The disk.
        disk: DiskId,
        /// Its session.
        session: DiskSession,
        /// The PG.
        pg: PgId,
        /// What.
        blocks: Vec<BlockId>,
    },
    /// No copy of these is left on any member or former (all were asked). Answer: `Done`.
    Lost {
        /// The PG.
        pg: PgId,
        /// The generation on which all were asked; else `Conflict`.
        generation: Generation,
        /// What.
        blocks: Vec<BlockId>,
    },
    /// Dead blocks whose grace period is over and that are below their floor leave the table, at most
    /// `limit` of them. What deleted files and ended sessions left behind is dropped too (the
    /// namespace's `reap`), at most `limit` rows of it. Answer: `Swept`, the sum of both: as long as
    /// it is `limit` or more there may be more to do.
    Sweep {
        /// Bound on the work of one entry.
        limit: u32,
    },
}

/// Answer of the state machine to one command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Done.
    Done,
    /// Refused, nothing was changed.
    Refused(Error),
    /// The session that was opened.
    Session(SessionId),
    /// What became of a batch of changes.
    Fs {
        /// One result per request.
        results: Vec<Result<FsReply, FsError>>,
        /// The change records of the batch have the numbers from `first` on, below `next`. None: it changed
        /// nothing, or some of it was answered before, and the records of that are not here.
        first: u64,
        /// Number of the first change record after the batch.
        next: u64,
    },
    /// The node that registered.
    Node {
        /// Its id.
        node: NodeId,
        /// Its boot count.
        boot: u64,
    },
    /// The disk that registered.
    Disk {
        /// Its id.
        disk: DiskId,
        /// Its new session.
        session: DiskSession,
    },
    /// A Raft id.
    Raft(RaftId),
    /// Whether the disk must register anew before it may go on.
    Bad {
        /// The disk session has ended.
        session_ended: bool,
    },
    /// How many dead blocks left the table, and rows of deleted files and ended sessions were dropped.
    Swept(u32),
}
