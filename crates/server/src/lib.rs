//! The node: one process that stores blocks, serves everything over one port and, when it is
//! chosen, votes in the metadata service and leads the cluster.
//!
//! Reading order: [`ServerConfig`], `directory`, `http`, then [`control`] for what a leader does.

mod config;
mod directory;
mod error;
mod http;

pub mod control;
pub mod repair;

pub use config::{BadConfig, LoadLimits, Origin, RaftPace, ServerConfig};
pub use error::{Fatal, StartError};
