//! The node: one process that stores blocks, serves everything over one port and, when it is
//! chosen, votes in the metadata service and leads the cluster.
//!
//! Reading order: [`Server`] puts the parts together; `node` is what they share; `router` and
//! `services` answer calls, `feed` holds answers back for caches, `membership` keeps the node in its cluster, `raft` is its seat in the
//! metadata service and `state` the machine that is replicated; [`control`] is what a leader does,
//! [`repair`] what each disk does.
//!
//! The feature `fuzzing` adds the module of that name, which `fuzz/` drives.

mod attach;
mod cluster_port;
mod config;
mod contact;
mod counters;
mod detach;
mod directory;
mod disk;
mod disks;
mod error;
mod feed;
mod http;
mod leader;
mod log_time;
mod map_cache;
mod membership;
mod metadata;
mod node;
mod process;
mod raft;
mod reach;
mod router;
mod server;
mod services;
mod speed;
mod state;
mod store_port;

#[cfg(any(test, feature = "fuzzing"))]
#[doc(hidden)]
pub mod fuzzing;

pub mod control;
pub mod repair;

pub use config::{BadConfig, LoadLimits, MetadataStorage, Origin, RaftPace, ServerConfig};
pub use error::{Fatal, StartError};
pub use server::Server;
pub use state::ClusterState;
