//! A short form of the promises against real processes, as the built programs do it. Times are not judged here: the
//! machine may be busy. What must hold on any machine is.

use everhold_sim::real::unmet_requirements;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A lost node and its repair, a node that returns, and rot: nothing is lost, altered or refused, and the report tells of
/// each row.
#[test]
fn promises_are_measured() {
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
    let mut command = Command::new(env!("CARGO_BIN_EXE_everhold-reliability"));
    command.args(["--short", "--data", "32MiB", "--disk-size", "2GiB"]);
    command.args(["--rows", "kill,bit-rot,rolling"]).arg("--json").arg(&json);
    let output = command.arg("--everhold").arg(everhold()).output().expect("it runs");
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    // 1: a promise of time was broken, which a busy machine may do.
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}: {told}", output.status);
    let report: Value =
        serde_json::from_slice(&std::fs::read(&json).expect("a report")).expect("JSON");
    for what in ["lost", "altered", "broken"] {
        assert_eq!(report[what].as_array().map(Vec::len), Some(0), "{what}: {told}");
    }
    assert!(report["acknowledged_writes"].as_u64() > Some(50), "{told}");
    let checks = report["checks"].as_array().expect("a list");
    for row in ["kill", "bit-rot", "rolling"] {
        assert!(checks.iter().any(|check| check["row"] == row), "no figure of {row}: {told}");
    }
    let timeless = |check: &&Value| {
        check["promised"].as_str().is_some_and(|p| p.contains("failed") || p.contains("scrub"))
    };
    for check in checks.iter().filter(timeless) {
        assert_eq!(check["verdict"], "pass", "{told}");
    }
    assert!(checks.iter().filter(timeless).count() >= 4, "{told}");
}

/// The binary under test, beside the directory of this test, brought up to date first.
fn everhold() -> PathBuf {
    let beside = Path::new(env!("CARGO_BIN_EXE_everhold-reliability")).with_file_name("everhold");
    let profile = beside.parent().expect("a program is in a directory");
    let target = profile.parent().expect("a profile's directory is in the target directory");
    let name = profile.file_name().expect("the directory of a profile has a name");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let profile = if name == "debug" { OsStr::new("dev") } else { name };
    cargo.args(["build", "-p", "everhold-cli", "--profile"]).arg(profile);
    cargo.arg("--target-dir").arg(target);
    assert!(cargo.status().expect("cargo runs").success(), "everhold-cli does not build");
    beside
}
