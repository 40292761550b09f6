//! The POSIX mount: requests of the Linux kernel (FUSE) to client calls.
//!
//! Reading order: [`mount`](mod@mount) for how a mount begins and ends, `kernel` for the kernel's requests, `edge` for
//! what they share, `waiting` for what ends a wait, `ops` for what each does, `files` for open files. Only this crate
//! knows `errno`.
//!
//! **Invariants:** each request is answered once, within the client's deadline or when its program dies. Bytes that a program was
//! told are safe (fsync, close) are committed. No lock is held across a call to the cluster.

#![allow(
    clippy::disallowed_methods,
    reason = "an edge to the real kernel, with real time; the simulator never runs it"
)]

mod caller;
mod coherence;
mod convert;
mod dirs;
mod edge;
mod failure;
mod files;
mod gone;
mod kernel;
mod lost_locks;
pub mod mount;
mod names;
mod ops;
mod options;
mod owners;
mod stats;
mod table;
mod waiting;

pub use mount::{MountError, Mounted, Uncommitted, Watch, is_stale, mount, mounts, unmount};
pub use options::{MountOptions, OnLoss};
pub use stats::OpStats;
