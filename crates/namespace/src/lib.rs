//! The namespace: files, directories, sessions and the change feed, as a pure function over the
//! ordered key-value transaction of [`everhold_proto::kv`].
//!
//! The state machine calls [`apply`] for each batch of changes, [`sessions`] for the life of a
//! client's lease, [`reap`] from every sweep, and [`query`] for reads. What a change does to blocks
//! goes through the block table of `everhold-cluster`, in the same transaction.
//!
//! **Invariant:** no clock, no randomness, no I/O. **Invariant:** a request that fails leaves no
//! trace but its kept answer. **Invariant:** the work of one entry is bounded; what would be more
//! (dropping a huge file, ending a session with many open files) is put on a list that [`reap`]
//! works off.

mod access;
mod acl;
pub mod changes;
mod content;
pub mod delegations;
mod execute;
mod extents;
mod failure;
mod lifetime;
pub mod limits;
mod locks;
mod numbers;
mod ops;
mod overlay;
mod query;
mod reap;
mod rows;
pub mod sessions;
mod shadow;
mod tree;

pub use execute::{Executed, apply};
pub use extents::cut;
pub use query::{query, query_for, usage};
pub use reap::{is_reapable, reap};
pub use shadow::Shadow;
pub use tree::create_root;

#[cfg(test)]
mod tests;
