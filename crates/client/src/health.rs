//! What the client believes of its peers: a latency estimate and a circuit breaker per node, and the
//! budget for hedged reads. All parts are pure; time and randomness are arguments.

mod breaker;
mod budget;
mod latency;
mod peers;

pub(crate) use budget::Budget;

pub(crate) use peers::{Class, Peers};
