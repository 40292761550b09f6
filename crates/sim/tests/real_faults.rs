//! A short round of faults against real processes, as the built programs do it.

mod real;

use real::Ran;

/// A fixed seed: whatever this finds again and again is a defect, not bad luck.
const SEED: &str = "3";
/// Half a minute of faults; they come one after another, each kind at most once before one comes again.
const ROUND: [&str; 8] = [
    "--minutes",
    "0.5",
    "--faults",
    "kill-node,pause-leader,isolate,flip-bits,lose-client",
    "--seed",
    SEED,
    "--clients",
    "2",
];

/// Killed, stopped and cut off nodes, flipped bits and a client that is gone: nothing that was
/// acknowledged is lost or altered, and the cluster converges.
#[test]
fn real_processes_survive_faults() {
    let program = env!("CARGO_BIN_EXE_everhold-faults");
    let Some(Ran { status, report, told }) = real::run(program, &ROUND) else { return };
    assert!(status.success(), "{status}: {told}");
    assert_eq!(report["pass"], true, "{told}");
    assert!(report["acknowledged_writes"].as_u64() > Some(0), "{told}");
    assert!(report["recorded_operations"].as_u64() > Some(0), "{told}");
    assert!(report["injected"].as_array().is_some_and(|faults| faults.len() >= 2), "{told}");
}
