//! The store against simulated disks.

mod basic;
mod crash;
mod damage;
mod full;
mod fuzzing;
mod model;
