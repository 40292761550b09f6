//! Whole clusters of real processes, driven through the built binary. Few and slow; they take turns.

#![allow(clippy::disallowed_methods, reason = "tests of real processes need real time")]

#[path = "../common/mod.rs"]
mod common;

mod again;
mod damage;
mod full;
mod growth;
mod hostile;
mod identity;
mod leaders;
mod orders;
mod outage;
mod power;
mod smoke;
