//! The client library: how programs and nodes talk to a cluster.
//!
//! [`Wire`] carries calls and blocks over HTTP/1.1; servers use it too. [`Client`] is a session with
//! a cluster: changes of the tree that happen at most once, writes that go round broken nodes, reads
//! that take whichever verified replica answers first.
//!
//! **Invariants:** every call has a deadline. A change is sent again only with the same number. A block
//! id is used for one placement group. A cache answers only what a linearizable read could have answered. Bytes that fail their checksum are never returned.
//!
//! The feature `fuzzing` adds the module of that name, which `fuzz/` drives.

mod admission;
mod behind;
mod blocks;
mod bound;
mod buffers;
mod cache;
mod client;
mod error;
mod file;
#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod inode;
mod losses;
mod meta;
mod openings;
mod presence;
mod session;
mod stats;
mod transfer;
mod tree;
pub mod wire;

pub use admission::{Admission, AdmissionConfig, Admitted, Limit, LimitConfig, Place};
pub use buffers::{Buffer, Buffers};
pub use cache::Invalidate;
pub use client::{Client, ClientOptions};
pub use error::{ClientError, Result};
pub use file::{CreateOptions, FileReader, FileWriter, OpenFile};
pub use losses::{LossMark, Losses};
pub use stats::{OperationStats, StatsSnapshot};
pub use transfer::{Progress, Totals, TransferOptions, TransferReport};
pub use tree::{Entry, Resolved};
pub use wire::{Identity, Transport, Wire, WireError};
