//! The block store of one disk: immutable blocks in an append-only log of recycled segment files,
//! and an index that is only a cache of what the segments say.
//!
//! Read in the order of the modules: what is on disk (`format`), what is in memory (`catalog`,
//! `index`), and who changes it (`commit` is the one writer; `compact` gives dead space back;
//! `recover` makes memory from the disk).
//!
//! **Invariant:** an operation that was acknowledged is on stable storage; bytes are returned only
//! after their checksums held; no bytes on the disk, however damaged, make this crate panic.
//!
//! The feature `fuzzing` adds the module of that name, which `fuzz/` drives.

mod config;
mod error;

mod block_buf;
mod format;

mod catalog;
mod files;
mod index;
mod scan;
mod segments;

mod commit;
mod compact;
mod read;
mod recover;
mod shared;
mod space;
mod store;

pub use block_buf::BlockBuf;
pub use compact::Compaction;
pub use config::StoreConfig;
pub use error::StoreError;
pub use index::Digest;
pub use recover::OpenReport;
pub use space::Space;
pub use store::{BlockStat, BlockStore, Put};

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;
