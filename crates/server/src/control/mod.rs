//! The leader's control loops: what it hears, what it concludes, what it does.
//!
//! Reading order: [`Observations`] (heard by services), `controller` (the pure core), `lead` (the loop),
//! `actions` and `seats` (what is done), `status` (what is told).

mod actions;
mod controller;
mod lead;
mod observations;
mod seats;
mod status;

pub(crate) use lead::run;
pub use observations::{NodeSeen, Observation, Observations};
pub(crate) use status::{add_rate, cluster_status};
