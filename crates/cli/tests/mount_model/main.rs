//! Two real mounts of one cluster against a local directory: the same operations, drawn from a seed, are done on both,
//! and everything that programs can see is compared. One mount's process is stopped now and then.
//!
//! Root and `/dev/fuse` are needed: without them the test says why it is skipped, and under `EVERHOLD_CI=1` a skip is a
//! failure. `EVERHOLD_MODEL_SEEDS=1..100` and `EVERHOLD_MODEL_OPS=20000` make it longer (`just mount-model`).
//!
//! It is a test of its own binary, because it stops mounts: a process that is started meanwhile would wait for them.

#![allow(clippy::disallowed_methods, reason = "tests of real processes need real time")]

#[path = "../common/mod.rs"]
mod common;
#[path = "../mount/sys.rs"]
#[allow(dead_code, reason = "it is shared")]
mod sys;
#[path = "../mount/world.rs"]
#[allow(dead_code, reason = "it is shared")]
mod world;

mod draw;
mod driver;
mod op;
mod side;

use driver::Driver;
use std::ops::RangeInclusive;

/// What CI tries.
const SEEDS: RangeInclusive<u64> = 1..=2;
const OPS: u64 = 1000;

fn seeds() -> RangeInclusive<u64> {
    let Ok(text) = std::env::var("EVERHOLD_MODEL_SEEDS") else { return SEEDS };
    let (first, last) = text.split_once("..").unwrap_or((&text, &text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) => first..=last,
        _ => panic!("EVERHOLD_MODEL_SEEDS is a seed or a range such as 1..100, not {text:?}"),
    }
}

fn ops() -> u64 {
    let Ok(text) = std::env::var("EVERHOLD_MODEL_OPS") else { return OPS };
    text.parse().unwrap_or_else(|_| panic!("EVERHOLD_MODEL_OPS is a number, not {text:?}"))
}

#[test]
fn two_mounts_are_like_one_local_directory() {
    let Some(world) = world::visit_alone() else { return };
    for seed in seeds() {
        let mut driver = Driver::new(&world, seed);
        if let Err(difference) = driver.run(ops()) {
            driver.let_go();
            panic!("seed {seed}: {difference}");
        }
        eprintln!("seed {seed}: {}", driver.summary());
    }
}

/// The comparison finds a mount that shows old bytes: a difference of one byte, made on the reference's side.
#[test]
fn a_byte_that_is_old_is_found() {
    let Some(world) = world::visit_alone() else { return };
    let mut driver = Driver::new(&world, 3);
    driver.spoil_after(200);
    let found = driver.run(ops()).expect_err("the bytes differ");
    driver.let_go();
    assert!(found.contains("in place of"), "{found}");
}
