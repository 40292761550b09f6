//! A short round of faults against real processes, as the built programs do it.

use everhold_sim::real::unmet_requirements;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A fixed seed: whatever this finds again and again is a defect, not bad luck.
const SEED: &str = "3";
/// Half a minute of faults; they come one after another, each kind at most once before one comes again.
const ROUND: [&str; 6] = [
    "--minutes",
    "0.5",
    "--faults",
    "kill-node,pause-leader,isolate,flip-bits,lose-client",
    "--seed",
    SEED,
];

/// Killed, stopped and cut off nodes, flipped bits and a client that is gone: nothing that was
/// acknowledged is lost or altered, and the cluster converges.
#[test]
fn real_processes_survive_faults() {
    let unmet = unmet_requirements();
    if !unmet.is_empty() {
        let reason = unmet.join("; ");
        let must = std::env::var_os("EVERHOLD_CI").is_some_and(|value| value == "1");
        assert!(!must, "skipping is not allowed under EVERHOLD_CI=1: {reason}");
        eprintln!("skipped: {reason}");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let json = dir.path().join("report.json");
    let mut faults = Command::new(env!("CARGO_BIN_EXE_everhold-faults"));
    faults
        .args(ROUND)
        .args(["--clients", "2"])
        .arg("--json")
        .arg(&json)
        .arg("--everhold")
        .arg(everhold());
    let output = faults.output().expect("it runs");
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(output.status.success(), "{}: {told}", output.status);
    let report: Value =
        serde_json::from_slice(&std::fs::read(&json).expect("a report")).expect("JSON");
    assert_eq!(report["pass"], true, "{told}");
    assert!(report["acknowledged_writes"].as_u64() > Some(0), "{told}");
    assert!(report["recorded_operations"].as_u64() > Some(0), "{told}");
    assert!(report["injected"].as_array().is_some_and(|faults| faults.len() >= 2), "{told}");
}

/// The binary under test, beside the directory of this test. It is brought up to date first: cargo builds
/// the programs of this package for its tests, but not those of another.
fn everhold() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_everhold-faults")).with_file_name("everhold");
    let profile = beside.parent().expect("a program is in a directory");
    let target = profile.parent().expect("a profile's directory is in the target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", "everhold-cli", "--profile"]).arg(profile_of(profile));
    cargo.arg("--target-dir").arg(target);
    assert!(cargo.status().expect("cargo runs").success(), "everhold-cli does not build");
    assert!(beside.exists(), "{} was not built", beside.display());
    beside
}

/// The profile whose programs are in this directory: cargo names the two alike, but for one.
fn profile_of(directory: &Path) -> &OsStr {
    let name = directory.file_name().expect("the directory of a profile has a name");
    if name == "debug" { OsStr::new("dev") } else { name }
}
