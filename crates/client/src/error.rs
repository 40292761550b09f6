//! Errors of the client: what the tree said, what the cluster said, what the local side said.

use everhold_env::DeadlineExceeded;
use everhold_proto::fs::FsError;
use everhold_proto::{Error, Kind};
use std::path::Path;
use std::sync::Arc;

/// Why an operation failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The tree refused: the operation can never succeed as it is.
    #[error("{0}")]
    Fs(#[from] FsError),
    /// The cluster could not do it, or its outcome is unknown; see [`ClientError::kind`].
    #[error("{0}")]
    Cluster(#[from] Error),
    /// A local file.
    #[error("{path}: {source}")]
    Local {
        /// Which.
        path: String,
        /// The operating system's error.
        source: Arc<std::io::Error>,
    },
    /// The above, with the path of the cluster that it is about.
    #[error("{path}: {source}")]
    At {
        /// The path.
        path: String,
        /// What happened.
        source: Box<ClientError>,
    },
}

/// Result of a client operation.
pub type Result<T, E = ClientError> = std::result::Result<T, E>;

impl ClientError {
    /// An error of the cluster.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        ClientError::Cluster(Error::new(kind, message))
    }

    /// A local file's error.
    pub fn local(path: &Path, source: std::io::Error) -> Self {
        ClientError::Local { path: path.display().to_string(), source: Arc::new(source) }
    }

    /// The outcome is unknown.
    pub fn maybe_applied(why: impl std::fmt::Display) -> Self {
        let message = format!("{why}; the change may have been applied: look before repeating it");
        ClientError::new(Kind::MaybeApplied, message)
    }

    /// The same, with the path that it is about.
    pub fn at(self, path: impl AsRef<[u8]>) -> Self {
        match self {
            ClientError::At { .. } | ClientError::Local { .. } => self,
            other => ClientError::At {
                path: String::from_utf8_lossy(path.as_ref()).into_owned(),
                source: Box::new(other),
            },
        }
    }

    /// What the tree said, if it was the tree.
    pub fn fs(&self) -> Option<&FsError> {
        match self {
            ClientError::Fs(e) => Some(e),
            ClientError::At { source, .. } => source.fs(),
            ClientError::Cluster(_) | ClientError::Local { .. } => None,
        }
    }

    /// Whether the tree said that there is no such name or inode.
    pub fn is_not_found(&self) -> bool {
        matches!(self.fs(), Some(FsError::NotFound))
    }

    /// Whether the tree said that the name is taken.
    pub fn is_exists(&self) -> bool {
        matches!(self.fs(), Some(FsError::Exists))
    }

    /// What the caller must do.
    pub fn kind(&self) -> Kind {
        match self {
            ClientError::At { source, .. } => source.kind(),
            ClientError::Cluster(e) => e.kind,
            ClientError::Local { .. } => Kind::Internal,
            ClientError::Fs(e) => match e {
                FsError::NotFound | FsError::NoAttribute => Kind::NotFound,
                FsError::Exists | FsError::NotEmpty | FsError::Locked | FsError::Stale { .. } => {
                    Kind::Conflict
                }
                FsError::NoSpace => Kind::Full,
                FsError::Delegated { .. } => Kind::Retry,
                FsError::BlocksRefused(_)
                | FsError::NoSession
                | FsError::Fenced
                | FsError::Skipped => Kind::Fenced,
                FsError::MaybeApplied => Kind::MaybeApplied,
                FsError::WindowExceeded => Kind::Busy,
                FsError::NotDirectory
                | FsError::IsDirectory
                | FsError::Invalid
                | FsError::NameTooLong
                | FsError::TooManyLinks
                | FsError::Loop
                | FsError::TooLarge
                | FsError::NoLocks
                | FsError::NotPermitted => Kind::Invalid,
            },
        }
    }
}

impl From<DeadlineExceeded> for ClientError {
    fn from(_: DeadlineExceeded) -> Self {
        ClientError::new(Kind::Retry, "the client itself was too busy to start in time")
    }
}

/// An answer of another kind than the question: a defect of the peer.
pub(crate) fn unexpected(what: &str) -> ClientError {
    ClientError::new(Kind::Internal, format!("the metadata service answered {what} out of turn"))
}
