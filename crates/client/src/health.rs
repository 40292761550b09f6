//! What the client believes of its peers: a latency estimate for each disk, a circuit breaker for each node and
//! each disk, and the budget for hedged reads. All parts are pure; time and randomness are arguments.

mod breaker;
mod budget;
mod guard;
mod latency;
mod peers;

pub(crate) use budget::Budget;

pub(crate) use peers::{Class, Peers, Target};
