//! Real mounts of a real cluster, driven as programs drive a file system. Root and `/dev/fuse` are needed:
//! without them each test says why it is skipped, and under `EVERHOLD_CI=1` a skip is a failure.
//!
//! The tests share one cluster, each in a directory of its own; those that kill nodes have it for themselves.

#![allow(clippy::disallowed_methods, reason = "tests of real processes need real time")]

#[path = "../common/mod.rs"]
mod common;
mod sys;
mod world;

mod boot;
mod failure;
mod files;
mod killed;
mod leaving;
mod listing;
mod locks;
mod memory;
mod names;
mod overlay;
mod pauses;
mod permissions;
mod programs;
mod removed;
mod sharing;
mod space;
mod unlinked;
mod usage;
