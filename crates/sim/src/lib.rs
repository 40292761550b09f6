//! The machine that searches for ways to break Everhold: the production code of a whole cluster in one
//! deterministic simulated world, faults and workloads drawn from one seed, and checkers that hold
//! what happened against the invariants.

pub mod real;
