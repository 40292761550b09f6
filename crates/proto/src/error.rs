//! One error type for everything that crosses a process boundary, with a prescriptive [`Kind`]:
//! what the caller must do, not what went wrong inside.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest pause that a peer may ask for: a caller with a deadline must be able to look again before it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(1);

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
    /// With [`Kind::Busy`]: do not ask again sooner than after so many milliseconds.
    pub retry_after_ms: Option<u32>,
}

impl Error {
    /// An error of `kind` with a message for a person.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Error { kind, message: message.into(), leader: None, retry_after_ms: None }
    }

    /// "Ask the leader", with its address when it is known.
    pub fn not_leader(leader: Option<String>) -> Self {
        Error {
            kind: Kind::NotLeader,
            message: "this node is not the metadata leader".into(),
            leader,
            retry_after_ms: None,
        }
    }

    /// "Overloaded", with the time after which it is worth asking again.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        let retry_after_ms = u32::try_from(retry_after.as_millis()).unwrap_or(u32::MAX);
        let error = Error::new(Kind::Busy, message);
        Error { retry_after_ms: Some(retry_after_ms), ..error }
    }

    /// How long to leave the peer alone, if it said so; never longer than a second, whatever it says.
    pub fn retry_after(&self) -> Option<Duration> {
        let asked = Duration::from_millis(self.retry_after_ms?.into());
        (self.kind == Kind::Busy).then(|| asked.min(RETRY_AFTER_MAX))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Only `Busy` asks for a pause, and no peer can ask for a long one.
    #[test]
    fn pauses_are_bounded() {
        let busy = |ms| Error::busy("full", Duration::from_millis(ms)).retry_after();
        assert_eq!(busy(20), Some(Duration::from_millis(20)));
        assert_eq!(busy(u64::MAX), Some(RETRY_AFTER_MAX));
        let other = Error { kind: Kind::Retry, ..Error::busy("full", Duration::from_millis(20)) };
        assert_eq!(other.retry_after(), None);
        assert_eq!(Error::new(Kind::Busy, "full").retry_after(), None);
    }
}
