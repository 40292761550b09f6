//! What the tests with real processes share.

use everhold_sim::real::unmet_requirements;
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

/// What a run of a program of this package came to.
pub(crate) struct Ran {
    pub(crate) status: ExitStatus,
    pub(crate) report: Value,
    /// All that it said.
    pub(crate) told: String,
}

/// Runs a program of this package on the binary under test. `None`: it cannot run here, which `EVERHOLD_CI=1` turns
/// into a failure.
pub(crate) fn run(program: &str, arguments: &[&str]) -> Option<Ran> {
    let unmet = unmet_requirements();
    if !unmet.is_empty() {
        let reason = unmet.join("; ");
        assert!(!is_ci(), "skipping is not allowed under EVERHOLD_CI=1: {reason}");
        eprintln!("skipped: {reason}");
        return None;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let json = dir.path().join("report.json");
    let mut command = Command::new(program);
    command.args(arguments).arg("--json").arg(&json);
    let output = command.arg("--everhold").arg(everhold(program)).output().expect("it runs");
    let told = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    let report = std::fs::read(&json).unwrap_or_else(|e| panic!("no report: {e}: {told}"));
    let report = serde_json::from_slice(&report).expect("JSON");
    Some(Ran { status: output.status, report, told })
}

/// The binary under test, beside the programs of this package. It is brought up to date first: cargo builds
/// the programs of this package for its tests, but not those of another. Under `EVERHOLD_CI=1` all of the workspace
/// was built just before, and a build of one package alone would build its dependencies anew, with other features.
fn everhold(program: &str) -> PathBuf {
    let beside = Path::new(program).with_file_name("everhold");
    if is_ci() && beside.exists() {
        return beside;
    }
    let profile = beside.parent().expect("a program is in a directory");
    let target = profile.parent().expect("a profile's directory is in the target directory");
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "-p", "everhold-cli", "--profile"]).arg(profile_of(profile));
    cargo.arg("--target-dir").arg(target);
    assert!(cargo.status().expect("cargo runs").success(), "everhold-cli does not build");
    assert!(beside.exists(), "{} was not built", beside.display());
    beside
}

fn is_ci() -> bool {
    std::env::var_os("EVERHOLD_CI").is_some_and(|value| value == "1")
}

/// The profile whose programs are in this directory: cargo names the two alike, but for one.
fn profile_of(directory: &Path) -> &OsStr {
    let name = directory.file_name().expect("the directory of a profile has a name");
    if name == "debug" { OsStr::new("dev") } else { name }
}
