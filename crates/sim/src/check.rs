//! Checks histories for linearizability (Herlihy and Wing): there must be one order of the operations,
//! each at some moment between its invocation and its end, that a sequential model answers as the
//! clients were answered.
//!
//! The search is Wing and Gong's with Lowe's improvements ("Testing for linearizability", 2017): it
//! walks the events in order, linearizes an operation only when one that ends needs it, and remembers
//! which (linearized operations, state) it has seen. The event that no attempt gets past ends the
//! shortest failing prefix.
//!
//! **Invariants:** an operation of unknown outcome may take effect at any time after its invocation, or
//! never. A search that exceeds its bound is *undecided*, which is neither a pass nor a violation.

mod locks;
mod model;
pub mod models;
mod report;
mod search;
mod shrink;
mod verdict;

#[cfg(test)]
mod tests;

pub(crate) use locks::LOCK;
pub use model::{Call, Model};
pub use search::{Answer, check};
pub use shrink::{Minimal, shrink};
pub use verdict::{CONFIGURATIONS_MAX, Undecided, Verdict, Violation, check_all, check_all_within};
