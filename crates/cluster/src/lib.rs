//! What the cluster knows of itself, and what it does about it.
//!
//! Two halves, both pure. The *state machine* half changes the cluster map and the block table inside a
//! key-value transaction: [`create()`], [`map::apply`], [`table::apply`] and what a commit calls
//! ([`table::judge`], [`table::admit`], [`table::reference`]); [`reads`] answers from the same rows. The
//! *control* half looks at a map and at the time it is given, and proposes: [`detector`], [`brake`],
//! [`slow`], [`placement`], [`repair`], [`rebalance`], [`voters`], [`health`].
//!
//! **Invariant:** a proposal is only a proposal; every rule that keeps data safe is checked where the
//! command is applied. **Invariant:** no clock, no randomness, no I/O here.

mod create;
#[cfg(test)]
mod protocol_tests;
mod state;
#[cfg(test)]
mod testing;
mod topology;

pub mod map;
pub mod table;

pub mod reads;

pub mod detector;

pub mod brake;

pub mod placement;
pub mod rebalance;
pub mod repair;

pub mod voters;

pub mod health;
pub mod slow;

pub use create::create;
