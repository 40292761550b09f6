//! The machine that searches for ways to break Everhold: the production code of a whole cluster in one
//! deterministic simulated world, faults and workloads drawn from one seed, and checkers that hold
//! what happened against the invariants.

#[macro_use]
pub mod trace;

pub mod check;
mod desk;
pub mod faults;
pub mod history;
mod load;
pub mod net;
pub mod oracle;
pub mod plan;
pub mod real;
pub mod run;
pub mod runner;
pub mod workload;
pub mod world;
