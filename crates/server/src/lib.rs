//! One node of an Everhold cluster: services, the leader's control loops and the workers of its disks.

pub mod control;
