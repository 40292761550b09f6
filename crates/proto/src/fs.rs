//! Files: attributes, extents, operations and queries of the namespace, and their answers.

use crate::ids::*;
use crate::limits;
use crate::table::{NewBlock, Refusal};
use crate::units::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A validated file name: 1 to 255 bytes, any but `/` and NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Bytes", into = "Bytes")]
pub struct Name(Bytes);

impl Name {
    /// Checks and takes a name.
    pub fn new(bytes: impl Into<Bytes>) -> Result<Self, FsError> {
        let bytes = bytes.into();
        if bytes.len() > limits::NAME_BYTES_MAX {
            return Err(FsError::NameTooLong);
        }
        let bad = bytes.is_empty()
            || bytes[..] == *b"."
            || bytes[..] == *b".."
            || bytes.iter().any(|b| matches!(b, 0 | b'/'));
        if bad { Err(FsError::Invalid) } else { Ok(Name(bytes)) }
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for Name {
    type Error = FsError;
    fn try_from(bytes: Bytes) -> Result<Self, FsError> {
        Name::new(bytes)
    }
}

impl From<Name> for Bytes {
    fn from(name: Name) -> Bytes {
        name.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// The inode.
    pub inode: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, set-id bits and the sticky bit (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links (for a directory 2 + subdirectories).
    pub nlink: u32,
    /// Size in bytes (of a symlink: its target; of a directory: number of entries).
    pub size: u64,
    /// Bytes that extents cover; holes do not count.
    pub allocated: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Device number of a device node.
    pub rdev: u64,
    /// Raised by each change of the inode; a commit may name the version it expects.
    pub version: u64,
    /// Policy of the data (inherited from the directory).
    pub policy: PolicyId,
}

/// Where the bytes of an extent are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Here.
    Inline(Bytes),
    /// In a block, from `offset` on.
    Block {
        /// The block.
        id: BlockId,
        /// Its PG.
        pg: PgId,
        /// Where in the block the extent begins.
        offset: u32,
        /// Length of the whole block.
        block_length: u32,
        /// CRC32C of the whole block.
        crc: u32,
    },
}

/// A range of a file and where its bytes are. Ranges without an extent are holes and read as zeroes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes, > 0.
    pub length: u64,
    /// Where the bytes are.
    pub source: Source,
}

impl Extent {
    /// First offset after it.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// New content: extents, and the blocks that they refer to and that are not in the table yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Extents, ascending and not overlapping. They replace what was in their ranges.
    pub extents: Vec<Extent>,
    /// Each new block once.
    pub blocks: Vec<NewBlock>,
}

/// What is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewKind {
    /// An empty regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Bytes),
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
}

/// Owner and permissions of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group (a setgid directory's group wins).
    pub gid: u32,
    /// Mode bits, umask applied.
    pub mode: u32,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Mode bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New size: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeOrNow>,
    /// Modification time.
    pub mtime: Option<TimeOrNow>,
}

/// A given time, or the leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeOrNow {
    /// This time.
    At(Timestamp),
    /// The leader's clock.
    Now,
}

/// How a rename treats its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it, as POSIX has it.
    Replace,
    /// Fail when it exists.
    NoReplace,
    /// Swap the two.
    Exchange,
}

/// How setting an extended attribute treats an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Fail when it exists.
    Create,
    /// Fail when it does not exist.
    Replace,
}

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
    /// Another name for an inode that is no directory. Answer: `Attr`.
    Link {
        /// The inode.
        inode: InodeId,
        /// Directory of the new name.
        parent: InodeId,
        /// New name.
        name: Name,
    },
    /// Removes a name that is no directory. Open handles keep the inode. Answer: `Done`.
    Unlink {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
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
}

/// One numbered request of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRequest {
    /// Number within the session, from 1 on; each new request takes the next.
    pub request: u64,
    /// What to do.
    pub op: FsOp,
}

/// Requests of one session that travel in one log entry; each succeeds or fails by itself, in order.
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
}

/// Why a change or query of the tree failed. Each maps to one errno at the edge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum FsError {
    /// ENOENT.
    #[error("no such file or directory")]
    NotFound,
    /// EEXIST.
    #[error("it exists already")]
    Exists,
    /// ENOTDIR.
    #[error("not a directory")]
    NotDirectory,
    /// EISDIR.
    #[error("is a directory")]
    IsDirectory,
    /// ENOTEMPTY.
    #[error("directory not empty")]
    NotEmpty,
    /// EINVAL.
    #[error("invalid argument")]
    Invalid,
    /// ENAMETOOLONG.
    #[error("name too long")]
    NameTooLong,
    /// EMLINK.
    #[error("too many links")]
    TooManyLinks,
    /// ELOOP.
    #[error("too many levels of symbolic links")]
    Loop,
    /// EFBIG.
    #[error("file too large")]
    TooLarge,
    /// EPERM.
    #[error("operation not permitted")]
    NotPermitted,
    /// ENOSPC.
    #[error("no space left in the cluster")]
    NoSpace,
    /// ENODATA.
    #[error("no such attribute")]
    NoAttribute,
    /// ESTALE: the inode has another version than the request expected.
    #[error("changed meanwhile (version {version})")]
    Stale {
        /// The version it has.
        version: u64,
    },
    /// Blocks of the content do not count; write them again under fresh ids and try again.
    #[error("{} blocks were refused", .0.len())]
    BlocksRefused(Vec<(BlockId, Refusal)>),
    /// The session ended or never was.
    #[error("the session has ended")]
    NoSession,
    /// The request's answer fell out of the window: it may have been applied, and is never executed again.
    #[error("the request may have been applied")]
    MaybeApplied,
    /// The number is too far ahead of the acknowledged ones.
    #[error("too many requests without acknowledgement")]
    WindowExceeded,
}

/// A question about the tree, answered at one point of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsQuery {
    /// Attributes of an inode. Answer: `Attr`.
    Attr {
        /// The inode.
        inode: InodeId,
    },
    /// One name in a directory. Answer: `Attr`.
    Lookup {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
    },
    /// A whole path, symbolic links followed (the last one when `follow`). With `read`, a file's
    /// extents up to [`limits::COMMIT_EXTENTS_MAX`] come along. Answer: `Resolved`.
    Resolve {
        /// Start; absolute link targets start at the root.
        base: InodeId,
        /// Components; `.` and `..` and empty ones are handled here.
        path: Bytes,
        /// Follow a symbolic link in the last place.
        follow: bool,
        /// Also give the extents.
        read: bool,
    },
    /// Entries of a directory after a name, in byte order. Answer: `Entries`.
    ReadDir {
        /// Directory.
        inode: InodeId,
        /// Continue after this name.
        after: Option<Name>,
        /// At most so many ([`limits::PAGE_ENTRIES_MAX`] caps it).
        limit: u32,
    },
    /// Extents that overlap `[from, to)`, with the attributes of the same version. Answer: `Extents`.
    Extents {
        /// The file.
        inode: InodeId,
        /// From this offset.
        from: u64,
        /// To this offset.
        to: u64,
        /// At most so many ([`limits::PAGE_ENTRIES_MAX`] caps it).
        limit: u32,
    },
    /// Target of a symbolic link. Answer: `Target`.
    ReadLink {
        /// The link.
        inode: InodeId,
    },
    /// One extended attribute. Answer: `Value`.
    GetXattr {
        /// The inode.
        inode: InodeId,
        /// Its name.
        name: Bytes,
    },
    /// Names of the extended attributes. Answer: `Names`.
    ListXattr {
        /// The inode.
        inode: InodeId,
    },
    /// Totals. Answer: `Usage`.
    Usage,
}

/// Answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsAnswer {
    /// Attributes.
    Attr(Attr),
    /// A resolved path: the parent directory and last name when the last component is missing (`attr`
    /// is `None`), so that a create needs no second question.
    Resolved {
        /// Directory of the last component (the root itself for `/`).
        parent: InodeId,
        /// Last component's name; `None` for `/` or a path that ends in `..` or `.`.
        name: Option<Name>,
        /// What is there.
        attr: Option<Attr>,
        /// With `read`, for files: the first extents.
        extents: Vec<Extent>,
    },
    /// Directory entries.
    Entries {
        /// Names and what they are.
        entries: Vec<(Name, Attr)>,
        /// Whether there are more.
        more: bool,
    },
    /// Extents and the attributes of the same version.
    Extents {
        /// Attributes.
        attr: Attr,
        /// Ascending extents; the first may begin before `from`, the last end after `to`.
        extents: Vec<Extent>,
        /// Whether there are more before `to`.
        more: bool,
    },
    /// Target of a link.
    Target(Bytes),
    /// Value of an attribute.
    Value(Bytes),
    /// Names of attributes.
    Names(Vec<Bytes>),
    /// Totals.
    Usage(Usage),
}

/// Totals of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes.
    pub inodes: u64,
    /// Live bytes in files, holes not counted.
    pub bytes: u64,
}

/// What happened, for the change feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Log index of the entry.
    pub index: LogIndex,
    /// Wall clock of the leader.
    pub wall: Timestamp,
    /// What kind of change.
    pub kind: ChangeKind,
    /// The inode.
    pub inode: InodeId,
    /// Directory and name concerned, where there is one.
    pub entry: Option<(InodeId, Name)>,
    /// Old directory and name of a rename.
    pub old_entry: Option<(InodeId, Name)>,
    /// Who made the change; session 0: the cluster itself.
    pub session: SessionId,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Something new has a name.
    Create,
    /// Content changed.
    Write,
    /// Attributes changed.
    Attributes,
    /// A name was removed.
    Remove,
    /// A name moved.
    Rename,
    /// Another name for an inode.
    Link,
}
