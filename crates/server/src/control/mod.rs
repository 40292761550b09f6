//! The leader's control loops: what it hears, what it concludes, what it proposes.

pub mod observations;

pub use observations::{Observation, Observations};
