//! One error type for everything that crosses a process boundary, with a prescriptive [`Kind`]:
//! what the caller must do, not what went wrong inside.

use serde::{Deserialize, Serialize};

/// What the caller must do about an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Try again, here or elsewhere, within the deadline: nothing was done.
    Retry,
    /// Ask the leader; `Error::leader` names it when it is known.
    NotLeader,
    /// The caller's view (map, generation, disk session, session) is old: refresh it, then try again.
    Fenced,
    /// There is no such thing.
    NotFound,
    /// It exists with other content, or another change came first.
    Conflict,
    /// The request itself is wrong; the same request will never succeed.
    Invalid,
    /// Stored or received bytes failed their checksum; another copy is needed.
    Corrupt,
    /// Overloaded: back off, with jitter, then try again.
    Busy,
    /// No space is left for it; trying again helps only after space was freed.
    Full,
    /// The outcome is unknown: it may have been done. Only an idempotent request may be repeated.
    MaybeApplied,
    /// The peer belongs to another cluster or speaks another format version.
    Foreign,
    /// A defect or a failed device on the other side.
    Internal,
}

/// An error as it travels between processes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    /// What the caller must do.
    pub kind: Kind,
    /// One lower-case line for a person, without the cause's text repeated.
    pub message: String,
    /// `HOST:PORT` of the metadata leader, with [`Kind::NotLeader`] when it is known.
    pub leader: Option<String>,
}

impl Error {
    /// An error of `kind` with a message for a person.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), leader: None }
    }

    /// "Ask the leader", with its address when it is known.
    pub fn not_leader(leader: Option<String>) -> Self {
        Error {
            kind: Kind::NotLeader,
            message: "this node is not the metadata leader".into(),
            leader,
        }
    }

    /// Whether the same request may be sent again without knowing more: nothing was applied.
    pub fn is_retryable(&self) -> bool {
        matches!(self.kind, Kind::Retry | Kind::NotLeader | Kind::Busy)
    }
}

impl Kind {
    /// HTTP status that carries this kind (Connect's table, with 507 for a full disk).
    pub fn http_status(self) -> u16 {
        match self {
            Kind::Retry | Kind::NotLeader => 503,
            Kind::Busy => 429,
            Kind::Fenced => 412,
            Kind::NotFound => 404,
            Kind::Conflict => 409,
            Kind::Invalid => 400,
            Kind::Foreign => 421,
            Kind::Full => 507,
            Kind::Corrupt | Kind::MaybeApplied | Kind::Internal => 500,
        }
    }
}
