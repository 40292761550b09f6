//! What clients did and what they were told: the material that the checkers judge.
//!
//! **Invariants:** each operation has one invocation and at most one end. Events are numbered in the
//! order in which they happened, so two operations are concurrent exactly if their intervals overlap.
//! Nothing here draws time or randomness by itself: a simulated run records the same twice.

mod input;
mod operation;
mod output;
mod recorder;
mod value;

pub use input::{GroupInput, Input, LogInput, SlotsInput, TreeInput};
pub use operation::{Counts, OpToken, Operation, Outcome, Statistics};
pub use output::{GroupOutput, LogOutput, Node, Output, SlotsOutput, TreeOutput};
pub use recorder::{Direct, Recorder};
pub use value::{FileName, ObjectId, Tag, Value};
