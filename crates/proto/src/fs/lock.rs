//! Locks that sessions hold on files. A lock ends with its session.

use crate::ids::SessionId;
use serde::{Deserialize, Serialize};

/// Whether others may hold it too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LockKind {
    /// Shared with other readers.
    Read,
    /// Held alone.
    Write,
}

/// Who holds a lock within a session: the pair (session, owner) is the owner. A mount takes the number
/// that the kernel gives a process or an open file.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct LockOwner(pub u64);

/// Two worlds of locks that know nothing of each other, as on Linux.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LockSpace {
    /// `fcntl`: ranges of bytes.
    Posix,
    /// `flock`: whole files, whatever range a request names.
    Flock,
}

/// A lock that somebody holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LockInfo {
    /// The holder's session.
    pub session: SessionId,
    /// The holder within it.
    pub owner: LockOwner,
    /// What it holds.
    pub kind: LockKind,
    /// First byte.
    pub start: u64,
    /// Last byte; `u64::MAX` is the end of the file, wherever that is.
    pub end: u64,
    /// The holder's process on its machine, for people.
    pub pid: u32,
}
