//! The client library: how programs and nodes talk to a cluster.
//!
//! [`wire`] carries calls and blocks over HTTP/1.1. **Invariant:** every call has a deadline, and a
//! request that is not idempotent is sent at most once.

pub mod wire;

pub use wire::{Identity, Wire, WireError};
