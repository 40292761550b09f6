//! Blocks: where to write one, writing it to all members of a placement group at once, and reading it
//! from whichever replica answers first with the right bytes.

mod choice;
mod get;
mod plan;
mod put;
mod window;

pub(crate) use choice::Choices;
pub(crate) use plan::{Piece, plan};
pub(crate) use put::{Part, Written};
pub(crate) use window::Window;
