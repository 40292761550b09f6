//! A cluster of real server processes on this machine: what `up`, `demo`, `bench --temp` and
//! `node start|stop` drive.
//!
//! **Invariant:** a process is signalled only when its command line shows that it is the server of
//! that node's directory; a pid file alone proves nothing.

mod cluster;
mod file;
mod process;
mod ready;

pub(crate) use cluster::{Lifetime, LocalCluster};
pub(crate) use file::{ClusterFile, Plan};
pub(crate) use ready::wait_ready;
