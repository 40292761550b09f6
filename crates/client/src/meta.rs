//! Calls to the metadata leader: who leads, trying again until the deadline, and gathering concurrent
//! requests into batches.

mod blocked;
mod combine;
mod execute;
mod leader;
mod query;
mod view;

pub(crate) use combine::Combiner;
pub(crate) use execute::{attr_of, weight};
pub(crate) use leader::Doubt;
pub(crate) use view::View;
