//! Tests of the whole crate: a small cluster of one disk, and the state machine over it.

mod content;
mod events;
mod invariants;
mod model;
mod names;
mod paths;
mod requests;
mod world;
