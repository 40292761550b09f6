//! What the shell sees when a command cannot be done: exit code, one line, and a hint. No cluster
//! is needed.

mod common;

use std::process::Output;

fn run(arguments: &[&str]) -> Output {
    let state = tempfile::tempdir().expect("a temporary directory");
    common::everhold(state.path()).args(arguments).output().expect("the binary runs")
}

fn expect(arguments: &[&str], exit: i32, golden: &str) {
    let output = run(arguments);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{arguments:?}: {text}");
    assert_eq!(text, golden, "{arguments:?}");
}

/// No cluster is named anywhere.
#[test]
fn without_a_cluster() {
    let golden = "everhold: no cluster is named\n\
        hint: start one with `everhold up`, or name one with --cluster HOST:PORT or EVERHOLD_CLUSTER\n";
    expect(&["status"], 2, golden);
    expect(&["fs", "ls", "/"], 2, golden);
    expect(
        &["node", "start", "1"],
        3,
        "everhold: there is no local cluster\n\
         hint: start one with `everhold up`; servers elsewhere are started by their own machine\n",
    );
}

/// Addresses that are none, and addresses where nobody is.
#[test]
fn with_an_address_that_does_not_answer() {
    expect(
        &["--cluster", "localhost", "status"],
        2,
        "everhold: \"localhost\" is not an address\nhint: write HOST:PORT, several separated by commas\n",
    );
    // Port 1 is privileged and free: the connection is refused.
    let output = run(&["--cluster", "127.0.0.1:1", "status"]);
    assert_eq!(output.status.code(), Some(4));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.starts_with("everhold: no leader answers at 127.0.0.1:1"), "{text}");
    assert!(text.contains("\nhint: check that a majority of the nodes runs"), "{text}");
    let output = run(&["--cluster", "127.0.0.1:1", "--json", "status"]);
    let error: serde_json::Value = serde_json::from_slice(&output.stderr).expect("JSON");
    assert_eq!(error["exit_code"], 4);
}

/// Command lines that say nothing sensible end with 2, as clap has it.
#[test]
fn wrong_command_lines() {
    for arguments in [
        &["frobnicate"][..],
        &["fs", "put", "only-one"],
        &["up", "--nodes", "0"],
        &["server"],
        &["server", "--dir", "/tmp/x", "--join", "a:1", "--bootstrap"],
        &["demo", "--size", "many"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("--help"), "{arguments:?}");
    }
}

/// A new cluster whose copies do not fit, and a server without a cluster.
#[test]
fn what_cannot_be_started() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let dir = dir.path().join("d").display().to_string();
    expect(
        &["up", "--dir", &dir, "--nodes", "2", "--copies", "3"],
        2,
        "everhold: 3 copies do not fit on 2 nodes\nhint: use at least as many --nodes as --copies\n",
    );
    let output = run(&["server", "--dir", &dir, "--listen", "127.0.0.1:0"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("belongs to no cluster yet"), "{text}");
    assert!(
        text.ends_with("hint: add --bootstrap for a new cluster, or --join HOST:PORT\n"),
        "{text}"
    );
    let output = run(&["server", "--dir", &dir, "--listen", "nowhere"]);
    assert_eq!(output.status.code(), Some(2));
}
