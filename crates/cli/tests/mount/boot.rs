//! Mounting at boot: what `mount -t everhold` calls, and the unit of systemd that the manual shows.

use crate::world::{Detach, has, visit};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// What mount(8) calls for a line of fstab. Systemd gives it no home directory.
fn helper(nodes: &str, point: &Path, options: &str) -> Output {
    let program = Path::new(env!("CARGO_BIN_EXE_everhold")).parent().expect("a directory");
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new("sh");
    command.arg(repository().join("scripts/mount.everhold")).arg(nodes).arg(point);
    command.args(["-o", options]).env_clear();
    command.env("PATH", format!("{}:{path}", program.display()));
    command.output().expect("sh runs")
}

/// The line of fstab mounts, options included, and what it cannot do it refuses.
#[test]
fn a_line_of_fstab_mounts() {
    let Some(world) = visit() else { return };
    let (there, _) = world.directory("boot");
    let point = world.point();
    let log = world.cluster.scratch().join("boot.log");
    let nodes = world.cluster.addresses().into_values().collect::<Vec<_>>().join(",");
    let refused = helper(&nodes, &point, "rw,mand");
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(refused.stderr, b"mount.everhold: unknown option mand\n");
    let _unmounted = Detach(point.clone());
    let options =
        format!("ro,noexec,noatime,nodev,_netdev,nofail,x-systemd.automount,log={}", log.display());
    let output = helper(&nodes, &point, &options);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}");
    let name = there.file_name().expect("a name");
    assert!(point.join(name).is_dir());
    let error = std::fs::write(point.join(name).join("file"), "").expect_err("it is read-only");
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    // Its options change without another mount.
    assert!(helper(&nodes, &point, "remount,rw").status.success());
    std::fs::write(point.join(name).join("file"), "").expect("it is writable now");
    let refused = helper(&nodes, &point, "remount,threads=4");
    assert_eq!(refused.status.code(), Some(2), "that needs another mount");
    world.cluster.ok(&["umount", point.to_str().expect("UTF-8")]);
    assert!(log.is_file());
}

/// Systemd finds nothing wrong with the unit.
#[test]
fn the_unit_is_valid() {
    if !has("systemd-analyze") {
        eprintln!("left out: systemd-analyze is not installed");
        return;
    }
    let manual = std::fs::read_to_string(repository().join("docs/posix.md")).expect("the manual");
    let unit = manual.split("```ini\n").nth(1).and_then(|rest| rest.split("```").next());
    // The program must exist where the unit looks for it.
    let unit =
        unit.expect("a unit").replace("/usr/local/bin/everhold", env!("CARGO_BIN_EXE_everhold"));
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("everhold.service");
    std::fs::write(&file, unit).expect("it is written");
    let output = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(&file).output();
    let output = output.expect("it runs");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !text.contains("everhold.service"), "{text}");
}
