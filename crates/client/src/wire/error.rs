//! What can go wrong with a call: the peer answered with an error, or the transport failed.

use everhold_proto::{BlockId, Error, Kind};
use std::fmt::Display;
use std::io;

/// How the transport failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Nobody listens there: the process is gone. The host answered at once.
    Refused,
    /// The host did not answer a connection attempt, or there is no way to it.
    Unreachable,
    /// The connection ended before the answer did: the process ended, or closed an idle connection.
    Broken,
    /// No answer by the deadline.
    Late,
}

/// A failed call.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The peer answered: it lives, and this is its error.
    #[error("{0}")]
    Remote(Error),
    /// No (whole) answer came.
    #[error("{message}")]
    Transport {
        /// How it failed.
        how: Transport,
        /// Whether (a part of) the request may have reached the peer.
        sent: bool,
        /// One line for a person.
        message: String,
    },
    /// The peer answered with bytes that make no sense, or that fail their checksum.
    #[error("{message}")]
    Garbled {
        /// Whether a checksum failed.
        corrupt: bool,
        /// One line for a person.
        message: String,
    },
}

impl WireError {
    /// How the transport failed, if it was the transport.
    pub fn transport(&self) -> Option<Transport> {
        match self {
            WireError::Transport { how, .. } => Some(*how),
            WireError::Remote(_) | WireError::Garbled { .. } => None,
        }
    }

    /// Whether the request may have reached the peer.
    pub fn was_sent(&self) -> bool {
        !matches!(self, WireError::Transport { sent: false, .. })
    }

    /// The same, of a call of which an earlier try may have reached the peer.
    pub(crate) fn after(self, was_sent: bool) -> Self {
        match self {
            WireError::Transport { how, sent, message } => {
                WireError::Transport { how, sent: sent || was_sent, message }
            }
            other => other,
        }
    }

    pub(crate) fn unconnected(address: &str, e: io::Error) -> Self {
        let how = match e.kind() {
            io::ErrorKind::ConnectionRefused => Transport::Refused,
            _ => Transport::Unreachable,
        };
        let message = format!("cannot connect to {address}: {e}");
        WireError::Transport { how, sent: false, message }
    }

    pub(crate) fn broken(address: &str, sent: bool, e: impl Display) -> Self {
        let message = format!("connection to {address} broke: {e}");
        WireError::Transport { how: Transport::Broken, sent, message }
    }

    pub(crate) fn late(address: &str, sent: bool) -> Self {
        let message = format!("no answer from {address} in time");
        WireError::Transport { how: Transport::Late, sent, message }
    }

    pub(crate) fn malformed(address: &str, e: impl Display) -> Self {
        WireError::Garbled { corrupt: false, message: format!("bad answer from {address}: {e}") }
    }

    pub(crate) fn corrupt(address: &str, id: BlockId, sent: u32, found: u32) -> Self {
        let message =
            format!("{id} from {address} has checksum {found:08x} where {sent:08x} was announced");
        WireError::Garbled { corrupt: true, message }
    }
}

impl From<WireError> for Error {
    fn from(e: WireError) -> Error {
        match e {
            WireError::Remote(error) => error,
            WireError::Transport { sent: false, message, .. } => Error::new(Kind::Retry, message),
            WireError::Transport { message, .. } => Error::new(Kind::MaybeApplied, message),
            WireError::Garbled { corrupt: true, message } => Error::new(Kind::Corrupt, message),
            WireError::Garbled { message, .. } => Error::new(Kind::Internal, message),
        }
    }
}
