//! Consensus: one replica of the metadata service, made of openraft, our own log and a redb state
//! machine. Callers see commands, answers and log positions; nothing of openraft leaves this crate.
//!
//! Reading order: the interface ([`Consensus`]), the log (`log`), the state machine's host (`state`),
//! the network (`network`, `commits`, `rpc`, `receive`), and the work beside it (`upkeep`, `barrier`).
//!
//! **Invariants.** What was acknowledged is on stable storage of a quorum. Entries become durable in order, and a
//! failed sync ends the replica. The log is purged only below what the state machine holds durably.
//! No log, no id: a replica that lost its log never votes again under its old number.
//!
//! The feature `fuzzing` adds the module of that name, which `fuzz/` drives.

mod config;
mod consensus;
mod error;
mod types;

mod log;
mod state;

mod answer;
mod barrier;
mod commits;
mod fatal;
mod network;
mod receive;
mod rpc;
mod scope;
mod status;
mod upkeep;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(test)]
mod tests;

pub use config::{ConsensusConfig, RaftTiming};
pub use consensus::Consensus;
pub use error::ConsensusError;
pub use log::{LogIdentity, Opening};
pub use network::{RaftRpc, RaftTransport};
pub use state::StateMachine;
pub use status::{Member, RaftStatus, Role};
pub use types::RaftNode;
