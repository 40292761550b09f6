//! What the shell sees when a command cannot be done: exit code, one line, and a hint. No cluster
//! is needed.

#![allow(clippy::disallowed_methods, reason = "tests of real processes need real time")]

mod common;

use std::net::TcpListener;
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

/// A mount gives up soon where nobody is, and where somebody is who never answers.
#[test]
fn mounting_what_does_not_answer() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let silent = silent.local_addr().expect("an address").to_string();
    std::thread::scope(|scope| {
        for addresses in ["127.0.0.1:1,127.0.0.2:1", &silent] {
            scope.spawn(move || {
                let output = run(&["--cluster", addresses, "mount", "--foreground", "/mnt"]);
                let text = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(4), "{text}");
                let line = format!("everhold: no cluster answers at {addresses} within 10 s: ");
                assert!(text.starts_with(&line), "{text}");
                assert!(text.contains("\nhint: check that the nodes run"), "{text}");
                assert_eq!(text.lines().count(), 2, "{text}");
            });
        }
    });
}

/// Manual pages are written, and a directory that cannot take them is told of.
#[test]
fn manual_pages() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().display().to_string();
    let output = run(&["man", &path]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let count = std::fs::read_dir(dir.path()).expect("it is there").count();
    assert_eq!(said, format!("{count} manual pages are in {path}\n"));
    for (page, word) in [("everhold.1", "everhold\\-mount(1)"), ("everhold-mount.1", "read\\-only")]
    {
        let text = std::fs::read_to_string(dir.path().join(page)).expect(page);
        assert!(text.contains(word), "{page}: {text}");
    }
    let missing = format!("{path}/missing");
    expect(
        &["man", &missing],
        3,
        &format!(
            "everhold: {missing} is not a directory\n\
             hint: create the directory first, or name one that exists\n"
        ),
    );
    // Nobody creates files there, not even root.
    let output = run(&["man", "/sys"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.starts_with("everhold: /sys/everhold.1 cannot be written: "), "{text}");
    assert!(text.ends_with("\nhint: name a directory that you may write to, or run it as root\n"));
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
