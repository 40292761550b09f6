//! The client against a whole cluster in one process, with nodes that fail on purpose.

mod faults;
mod files;
mod inodes;
mod trees;
mod world;
