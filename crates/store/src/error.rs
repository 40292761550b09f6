//! What can go wrong in a store, and what the caller must do about it.

use everhold_proto::{BlockId, Kind};
use std::io;
use std::sync::Arc;

/// An error of the block store.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// The block is not on this disk.
    #[error("block {0} is not on this disk")]
    NotFound(BlockId),
    /// The id is taken by other bytes.
    #[error("block {0} is stored with other content")]
    Conflict(BlockId),
    /// The copy on this disk is damaged.
    #[error("the copy of block {id} is damaged: {reason}")]
    Corrupt {
        /// The block.
        id: BlockId,
        /// What does not hold.
        reason: &'static str,
    },
    /// The bytes that came with a put are not those that its checksum was made of.
    #[error("received bytes of block {0} do not match their checksum")]
    BadBytes(BlockId),
    /// The request cannot be served in any state of the store.
    #[error("invalid request: {0}")]
    Invalid(&'static str),
    /// No space; deletion and compaction still work.
    #[error("the disk is full")]
    Full,
    /// Too much work is waiting.
    #[error("the disk's queue is full")]
    Busy,
    /// The device did not answer in time; the operation may still happen.
    #[error("the disk did not answer in time")]
    Timeout,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// A failure after which the store cannot know what is on the disk. It must be opened anew.
    #[error("the disk failed: {0}")]
    Failed(Arc<str>),
    /// A read or a call to the file system failed; the store goes on.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
    /// The disk belongs to someone else.
    #[error("the disk belongs to {what} {found}, not to {expected}")]
    Foreign {
        /// "cluster" or "disk".
        what: &'static str,
        /// Who it belongs to.
        found: String,
        /// Who asked.
        expected: String,
    },
    /// The disk was written by a program with another format.
    #[error("the disk has format version {found}, this program reads version {supported}")]
    Version {
        /// What is on the disk.
        found: u32,
        /// What this program knows.
        supported: u32,
    },
    /// The superblock is missing where segments are, or damaged.
    #[error("the superblock is unusable: {0}")]
    BadSuperblock(&'static str),
    /// Another process (or another handle) has the store open.
    #[error("the disk is in use by another process")]
    InUse,
}

impl StoreError {
    /// Wraps an error of the file system.
    pub(crate) fn io(what: &'static str) -> impl Fn(io::Error) -> StoreError {
        move |source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full,
            _ => StoreError::Io { what, source: Arc::new(source) },
        }
    }

    /// What the caller must do.
    pub fn kind(&self) -> Kind {
        match self {
            StoreError::NotFound(_) => Kind::NotFound,
            StoreError::Conflict(_) => Kind::Conflict,
            StoreError::Corrupt { .. } | StoreError::BadBytes(_) => Kind::Corrupt,
            StoreError::Invalid(_) => Kind::Invalid,
            StoreError::Full => Kind::Full,
            StoreError::Busy => Kind::Busy,
            StoreError::Timeout => Kind::MaybeApplied,
            StoreError::Closed => Kind::Retry,
            StoreError::Foreign { .. } | StoreError::Version { .. } => Kind::Foreign,
            StoreError::Failed(_)
            | StoreError::Io { .. }
            | StoreError::BadSuperblock(_)
            | StoreError::InUse => Kind::Internal,
        }
    }
}

impl From<StoreError> for everhold_proto::Error {
    fn from(error: StoreError) -> Self {
        let mut message = error.to_string();
        if let StoreError::Io { source, .. } = &error {
            message = format!("{message}: {source}");
        }
        everhold_proto::Error::new(error.kind(), message)
    }
}
