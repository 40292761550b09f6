//! Tests of the whole crate: a small cluster of one disk, and the state machine over it.

mod content;
mod delegations;
mod events;
mod invariants;
mod lifetimes;
mod locking;
mod model;
mod names;
mod paths;
mod permissions;
mod requests;
mod world;
