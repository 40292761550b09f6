//! Where each block is: a redb file that is only a cache of the segments, and in front of it the
//! changes that were not written to it yet (`memtable`).
//!
//! The file changes in single durable transactions, each with the mark of the log up to which it is
//! complete; after a crash the log is replayed from there. If it is lost it is made anew.

mod digest;
mod entry;
mod file;
mod memtable;

pub use digest::Digest;
pub(crate) use entry::{Entry, Mark};
pub(crate) use file::{Flush, IndexError, IndexFile};
pub(crate) use memtable::{Change, Memtable};
