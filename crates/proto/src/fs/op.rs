//! Changes of the tree, how they travel, and their answers.

use super::{
    Attr, Content, LockKind, LockOwner, LockSpace, Name, NewKind, Owner, RenameMode, SetAttr,
    TimeOrNow, XattrMode,
};
use crate::ids::*;
#[cfg(doc)]
use crate::limits;
use crate::units::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A change of the tree. Each is atomic, and happens at most once per (session, request).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsOp {
    /// Creates an entry; fails with `Exists` when the name is taken. Answer: `Attr`.
    Create {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
        /// What.
        kind: NewKind,
        /// Owner and mode.
        owner: Owner,
        /// Also record an open handle of this session.
        open: bool,
    },
    /// Create, write and close of a whole file in one commit; replaces a regular file of that name
    /// atomically when `replace`. Answer: `Attr`.
    PutFile {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
        /// Owner and mode of a new inode.
        owner: Owner,
        /// Size of the file.
        size: u64,
        /// Its content.
        content: Content,
        /// Replace an existing regular file; else `Exists`.
        replace: bool,
        /// Modification time, or the leader's clock.
        mtime: TimeOrNow,
    },
    /// Makes new content visible: the linearization point of a write. Answer: `Attr`.
    Commit {
        /// The file.
        inode: InodeId,
        /// Refuse with `Stale` unless the inode has this version.
        expected_version: Option<u64>,
        /// The content.
        content: Content,
        /// The size becomes the maximum of this and what it is.
        size_at_least: u64,
        /// Put the extents (given relative to 0) at the end of the file instead: atomic append.
        append: bool,
    },
    /// The same bytes in another place: inline extents folded into blocks, or a block rewritten. Times
    /// stay, the version rises. `Invalid` when it would fill a hole. Answer: `Attr`.
    Fold {
        /// The file.
        inode: InodeId,
        /// Refuse with `Stale` unless the inode has this version: else the bytes may be others.
        expected_version: u64,
        /// The content.
        content: Content,
    },
    /// Makes `[offset, offset + length)` a hole. Answer: `Attr`.
    Punch {
        /// The file.
        inode: InodeId,
        /// From.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// Lets a range of `target` show what a range of `source` shows now, holes too; blocks are shared.
    /// The range ends with the source; nothing of it left is fine. `Invalid` for overlapping ranges of
    /// one file, `TooLarge` for more than [`limits::COMMIT_EXTENTS_MAX`] extents or
    /// [`limits::COMMAND_BYTES_MAX`] inline bytes: clone it in parts. Answer: `Attr` of the target.
    CloneRange {
        /// File to take from.
        source: InodeId,
        /// From this offset in it.
        source_offset: u64,
        /// Bytes.
        length: u64,
        /// File to change.
        target: InodeId,
        /// From this offset in it.
        target_offset: u64,
    },
    /// Another name for an inode that is no directory. One that lost its last name is not found, but
    /// one created unnamed and `linkable` gets its first. Answer: `Attr`.
    Link {
        /// The inode.
        inode: InodeId,
        /// Directory of the new name.
        parent: InodeId,
        /// New name.
        name: Name,
    },
    /// A regular file without a name, and an open handle of this session on it: what no other handle
    /// keeps is gone with it. Mode and ACL are as of a file created in `parent`. Answer: `Attr`.
    CreateUnnamed {
        /// Directory that it inherits from.
        parent: InodeId,
        /// Owner and mode.
        owner: Owner,
        /// Whether `Link` may give it a name.
        linkable: bool,
    },
    /// Removes a name that is no directory. Open handles keep the inode. Answer: `Done`.
    Unlink {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
        /// Without its last name and without a handle the inode stays for
        /// [`limits::UNLINKED_LINGER_MS`] of log time, for those who have it open and have not said so;
        /// `false` from who knows that there are none.
        linger: bool,
    },
    /// Removes an empty directory. Answer: `Done`.
    Rmdir {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
    },
    /// Moves a name. Answer: `Attr` of what was moved.
    Rename {
        /// From directory.
        parent: InodeId,
        /// From name.
        name: Name,
        /// To directory.
        new_parent: InodeId,
        /// To name.
        new_name: Name,
        /// Target treatment.
        mode: RenameMode,
    },
    /// Changes attributes. Answer: `Attr`.
    SetAttr {
        /// The inode.
        inode: InodeId,
        /// What to change.
        set: SetAttr,
    },
    /// Sets an extended attribute. Answer: `Done`.
    SetXattr {
        /// The inode.
        inode: InodeId,
        /// Its name.
        name: Bytes,
        /// Its value.
        value: Bytes,
        /// Treatment of an existing one.
        mode: XattrMode,
    },
    /// Removes an extended attribute. Answer: `Done`.
    RemoveXattr {
        /// The inode.
        inode: InodeId,
        /// Its name.
        name: Bytes,
    },
    /// Records an open handle: the inode outlives its last name. Answer: `Attr`.
    Open {
        /// The inode.
        inode: InodeId,
    },
    /// Forgets one open handle. Answer: `Done`.
    Release {
        /// The inode.
        inode: InodeId,
    },
    /// Takes a lock, or changes what its owner holds in the range, or fails at once with `Locked`.
    /// Answer: `Done`.
    Lock {
        /// The inode.
        inode: InodeId,
        /// `fcntl` or `flock`.
        space: LockSpace,
        /// Who, within this session.
        owner: LockOwner,
        /// Shared or alone.
        kind: LockKind,
        /// First byte.
        start: u64,
        /// Last byte; `u64::MAX` is the end of the file, wherever that is.
        end: u64,
        /// The process, for people.
        pid: u32,
    },
    /// Asks for a delegation of a directory: until it is given back or called back, no other session's change
    /// or question shows the directory or its files, so this session may change them and tell later
    /// ([`Behind`]). `Delegated` when another session has it, `Invalid` for a directory that is `strict`.
    /// Answer: `Attr`.
    Delegate {
        /// The directory.
        inode: InodeId,
    },
    /// Gives a delegation back; nothing is fine. Answer: `Done`.
    Undelegate {
        /// The directory.
        inode: InodeId,
        /// Some of what was done behind it will never be told: the versions that it had are not given again.
        lost: bool,
    },
    /// Sets inode numbers aside for what this session creates behind delegations, at most
    /// [`limits::NUMBERS_RESERVED_MAX`]. Answer: `Numbers`.
    Reserve {
        /// How many.
        count: u32,
    },
    /// Gives up what the owner holds in the range; nothing is fine. Answer: `Done`.
    Unlock {
        /// The inode.
        inode: InodeId,
        /// `fcntl` or `flock`.
        space: LockSpace,
        /// Who, within this session.
        owner: LockOwner,
        /// First byte.
        start: u64,
        /// Last byte; `u64::MAX` is the end of the file.
        end: u64,
    },
}

impl FsOp {
    /// Whether who asks for it knows all that it changes when it is done: else it also changes an inode that only
    /// the state knows, the one that loses a name.
    pub fn tells_all(&self) -> bool {
        match self {
            FsOp::PutFile { replace, .. } => !replace,
            FsOp::Unlink { .. } | FsOp::Rmdir { .. } | FsOp::Rename { .. } => false,
            FsOp::Create { .. }
            | FsOp::CreateUnnamed { .. }
            | FsOp::Link { .. }
            | FsOp::Commit { .. }
            | FsOp::Fold { .. }
            | FsOp::Punch { .. }
            | FsOp::CloneRange { .. }
            | FsOp::SetAttr { .. }
            | FsOp::SetXattr { .. }
            | FsOp::RemoveXattr { .. }
            | FsOp::Lock { .. }
            | FsOp::Unlock { .. }
            | FsOp::Open { .. }
            | FsOp::Release { .. }
            | FsOp::Delegate { .. }
            | FsOp::Undelegate { .. }
            | FsOp::Reserve { .. } => true,
        }
    }
}

/// One numbered request of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Number within the session, from 1 on; each new request takes the next.
    pub request: u64,
    /// What to do.
    pub op: FsOp,
    /// The session did it already, behind a delegation, and tells now.
    #[serde(default)]
    pub behind: Option<Behind>,
    /// It is one of those that were done one after the other: it is not carried out (`Skipped`) once another such one
    /// before it in the batch failed.
    #[serde(default)]
    pub chained: bool,
}

/// What a session that holds a delegation has fixed already. A request with it is refused (`Fenced`) unless the
/// session still holds the directory that the change is in: what another session did meanwhile stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// When it was done, by the session's clock: for file times.
    pub at: Timestamp,
    /// Number of the inode that is created, of those that were set aside, in ascending order.
    pub inode: Option<InodeId>,
}

impl SessionRequest {
    /// A request that is judged when it is applied.
    pub fn new(request: u64, op: FsOp) -> Self {
        SessionRequest { request, op, behind: None, chained: false }
    }
}

/// Requests of one session that travel in one log entry, in order. Each succeeds or fails by itself, unless it is
/// [`chained`](SessionRequest::chained).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionBatch {
    /// The session.
    pub session: SessionId,
    /// All answers to requests below this number arrived; their kept answers may be dropped.
    pub acked_below: u64,
    /// The lowest block counter that the session may still commit (only ever raised).
    pub floor: u64,
    /// Requests.
    pub requests: Vec<SessionRequest>,
}

/// Answer to a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsReply {
    /// Done.
    Done,
    /// Done; these are the attributes now.
    Attr(Attr),
    /// Numbers that were set aside: from the first on, below the second.
    Numbers(u64, u64),
}
