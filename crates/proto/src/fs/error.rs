//! Why a change or a question fails.

use crate::ids::*;
use crate::table::Refusal;
use serde::{Deserialize, Serialize};

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
    /// EAGAIN: somebody else holds a lock that is in the way.
    #[error("locked by somebody else")]
    Locked,
    /// ENOLCK: the inode has as many locks as it can have.
    #[error("too many locks")]
    NoLocks,
    /// ESTALE: the inode has another version than the request expected.
    #[error("changed meanwhile (version {version})")]
    Stale {
        /// The version it has.
        version: u64,
    },
    /// Blocks of the content do not count; write them again under fresh ids and try again.
    #[error("{} blocks were refused", .0.len())]
    BlocksRefused(Vec<(BlockId, Refusal)>),
    /// Another session holds a delegation of the directory; the leader calls it back and tries again.
    #[error("directory {inode} is delegated to session {holder}")]
    Delegated {
        /// The directory.
        inode: InodeId,
        /// Who has it.
        holder: SessionId,
    },
    /// A change that was made behind a delegation comes after its end.
    #[error("the delegation has ended")]
    Fenced,
    /// The session ended or never was.
    #[error("the session has ended")]
    NoSession,
    /// The request's answer fell out of the window: it may have been applied, and is never executed again.
    #[error("the request may have been applied")]
    MaybeApplied,
    /// The number is too far ahead of the acknowledged ones.
    #[error("too many requests without acknowledgement")]
    WindowExceeded,
    /// A change that was made before it and had to come first was not carried out, so this one was not either.
    #[error("an earlier change was not made")]
    Skipped,
}
