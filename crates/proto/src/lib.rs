//! The vocabulary of Everhold: ids, units, limits, policies, the cluster map, the commands and
//! answers of the metadata service, and the messages that nodes exchange.
//!
//! Everything here is plain data. **Invariant:** no clock, no randomness, no I/O and no runtime;
//! whoever needs one of those is not vocabulary. The pure crates (`cluster`, `namespace`) depend on
//! this crate only, so Cargo keeps them pure.
//!
//! The feature `fuzzing` adds the module of that name for `fuzz/` and for the tests of other crates.

pub mod apply;
pub mod checksum;
pub mod codec;
pub mod command;
pub mod error;
pub mod fs;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod ids;
pub mod kv;
pub mod limits;
pub mod map;
pub mod planted;
pub mod priority;
pub mod rpc;
pub mod table;
pub mod tables;
pub mod units;

pub use error::{Error, Kind};
pub use ids::{
    BlockId, ClusterId, DiskId, DiskSession, Epoch, Generation, InodeId, LogIndex, NodeId, PgId,
    PolicyId, RaftId, SessionId, ShardId,
};
pub use priority::Priority;
pub use units::{ByteSize, Stamp, Timestamp};
