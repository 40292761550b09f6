//! What cannot be mounted: one line, a hint, and an exit code.

use crate::world::{has, skip, visit};
use std::process::{Command, Output};

fn expect(output: &Output, exit: i32, message: &str, hint: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(exit), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    let [error, advice] = lines[..] else { panic!("more or less than two lines: {text}") };
    assert!(error.starts_with("everhold: ") && error.contains(message), "{text}");
    assert!(advice.starts_with("hint: ") && advice.contains(hint), "{text}");
}

/// A mount point that is missing, a file, or taken, in the foreground and in the background.
#[test]
fn unusable_mount_points() {
    let Some(world) = visit() else { return };
    let point = world.point();
    let (missing, file) = (point.join("missing"), point.join("file"));
    std::fs::write(&file, "").unwrap();
    for foreground in [true, false] {
        let mount = |path: &std::path::Path| {
            let mut command = world.cluster.command(&["mount"]);
            command.args(foreground.then_some("--foreground"));
            command.arg(path).output().expect("the binary runs")
        };
        expect(&mount(&missing), 3, "missing does not exist", "create the directory first");
        expect(&mount(&file), 2, "file is not a directory", "name a directory");
        expect(&mount(world.a.path()), 8, "is a mount point already", "unmount it first");
    }
    let output = world.cluster.run(&["umount", point.to_str().unwrap()]);
    assert!(!output.status.success());
    let output = world.cluster.run(&["mount", "stats", point.to_str().unwrap()]);
    expect(&output, 3, "serves a mount on", "mount ls");
}

/// No cluster at the address, and none named.
#[test]
fn no_cluster_to_mount() {
    let Some(world) = visit() else { return };
    let point = world.point();
    let path = point.to_str().unwrap();
    // Port 1 is privileged and free: the connection is refused.
    let output = world.cluster.run(&["--cluster", "127.0.0.1:1", "mount", path]);
    expect(&output, 4, "cannot connect to 127.0.0.1:1", "check that the nodes run");
    let empty = tempfile::tempdir().unwrap();
    let output = crate::common::everhold(empty.path()).args(["mount", path]).output().unwrap();
    expect(&output, 2, "no cluster is named", "everhold up");
}

/// Options that do not exist, or contradict each other.
#[test]
fn wrong_options() {
    let Some(world) = visit() else { return };
    for arguments in [
        &["mount", "--no-such-option", "/mnt"][..],
        &["mount"],
        &["mount", "--threads", "0", "/mnt"],
        &["mount", "--on-loss", "panic", "/mnt"],
        &["umount"],
    ] {
        let output = world.cluster.run(arguments);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {text}");
        let named = text.starts_with("error: ") && text.contains("try '--help'");
        assert!(named, "{arguments:?}: {text}");
    }
}

/// A machine without FUSE: a mount namespace with an empty `/dev`.
#[test]
fn no_fuse_on_this_machine() {
    let Some(world) = visit() else { return };
    if !has("unshare") {
        return skip("unshare is not installed");
    }
    let (point, empty) = (world.point(), tempfile::tempdir().unwrap());
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", "mount --bind \"$1\" /dev && shift && exec \"$@\"", "sh"]);
    command.arg(empty.path()).arg(env!("CARGO_BIN_EXE_everhold")).arg("--cluster");
    command.arg(world.cluster.addresses().into_values().collect::<Vec<_>>().join(","));
    let output = command.args(["mount", "--foreground"]).arg(point).output().expect("it runs");
    expect(&output, 1, "/dev/fuse cannot be opened", "modprobe fuse");
}
