//! The simulator as people and CI use it: the same seed is the same run, in whichever process; seeds that
//! broke something once do not break it again.

use everhold_sim::run::Outcome;
use std::process::Command;

const SIMULATOR: &str = env!("CARGO_BIN_EXE_everhold-sim");
const REGRESSIONS: &str = include_str!("../regressions/seeds.txt");

/// One seed in a process of its own.
fn run(seed: u64) -> Outcome {
    let output = Command::new(SIMULATOR).args([&seed.to_string(), "--child"]).output();
    let output = output.expect("the simulator runs");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| {
        let errors = String::from_utf8_lossy(&output.stderr);
        panic!("seed {seed} has no outcome: {e}\n{errors}")
    })
}

/// Everything that happens follows from the seed: two processes give the same trace, event for event, and
/// another seed gives another one.
#[test]
fn a_seed_is_one_run() {
    for seed in [5, 6] {
        let (one, two) = (run(seed), run(seed));
        assert!(one.events > 1000, "seed {seed}: {} events", one.events);
        assert_eq!((one.hash, one.events), (two.hash, two.events), "seed {seed}");
        assert_ne!(one.hash, run(seed + 100).hash);
    }
}

/// Every seed of the list passes.
#[test]
fn what_was_found_once_stays_mended() {
    let lines = REGRESSIONS.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    for line in lines {
        let (seed, what) = line.split_once(' ').expect("a seed and what it was");
        let outcome = run(seed.parse().expect("a seed"));
        assert!(outcome.violations.is_empty(), "{seed} ({what}): {:#?}", outcome.violations);
    }
}

/// What cannot be meant is told in one line, with exit code 2.
#[test]
fn nonsense_is_refused() {
    for (arguments, told) in [
        (&["x"][..], "no seed and no range"),
        (&["9..3"], "no seed and no range"),
        (&["1", "--kinds", "earthquake"], "is no fault"),
        (&["1", "--plant", "ack-before-sync"], "--features planted"),
    ] {
        let output = Command::new(SIMULATOR).args(arguments).output().expect("it runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        if cfg!(feature = "planted") && told.contains("planted") {
            continue;
        }
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {errors}");
        assert!(errors.contains(told), "{arguments:?}: {errors}");
    }
}
