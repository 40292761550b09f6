//! A short form of the promises against real processes, as the built programs do it. Times are not judged here: the
//! machine may be busy. What must hold on any machine is.

mod real;

use real::Ran;
use serde_json::Value;

/// A lost node and its repair, a node that returns, and rot: nothing is lost, altered or refused, and the report tells of
/// each row.
#[test]
fn promises_are_measured() {
    let program = env!("CARGO_BIN_EXE_everhold-reliability");
    let arguments = ["--short", "--data", "32MiB", "--disk-size", "2GiB"];
    let rows = ["--rows", "kill,bit-rot,rolling"];
    let Some(Ran { status, report, told }) = real::run(program, &[&arguments[..], &rows].concat())
    else {
        return;
    };
    // 1: a promise of time was broken, which a busy machine may do.
    assert!(matches!(status.code(), Some(0 | 1)), "{status}: {told}");
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
