//! Why a replica does not open. What callers of a running one get is [`everhold_proto::Error`].

use std::io;
use std::path::PathBuf;

/// A replica that does not start. None of these is repaired by trying again on the same files.
#[derive(Debug, thiserror::Error)]
pub enum ConsensusError {
    /// The file system failed.
    #[error("{what}")]
    Io {
        /// What was being done, with the path.
        what: String,
        /// The operating system's error.
        #[source]
        source: io::Error,
    },
    /// There is a log here already; creating a new identity over it would forget a vote.
    #[error("a raft log exists in {0} already")]
    Exists(PathBuf),
    /// "No log, no id": the identity without its log, or the log without its identity. The node must
    /// join again as a new learner.
    #[error("{path} is incomplete: {reason}; join the cluster again as a new member")]
    Incomplete {
        /// The directory.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// Bytes that were made durable are not what was written.
    #[error("{path} is damaged: {reason}; join the cluster again as a new member")]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The files belong to another cluster or node.
    #[error("{path} belongs to {found}, not to {wanted}")]
    Foreign {
        /// The identity file.
        path: PathBuf,
        /// Whom it names.
        found: String,
        /// Who asked.
        wanted: String,
    },
    /// The state machine's store failed.
    #[error("metadata store: {0}")]
    Store(String),
    /// The configuration is not usable.
    #[error("consensus configuration: {0}")]
    Config(String),
    /// openraft did not start.
    #[error("raft: {0}")]
    Raft(String),
}

impl ConsensusError {
    /// For `map_err` on I/O: `what` names the action and the path.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> ConsensusError {
        let what = what.into();
        move |source| ConsensusError::Io { what, source }
    }
}
