//! The sequential objects of the workloads, as the namespace has them (`crates/namespace/src/ops`).

mod group;
mod log;
mod slots;
mod tree;

pub use group::Group;
pub use log::Log;
pub use slots::Slots;
pub use tree::{Tree, TreeState};
