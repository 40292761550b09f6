//! How mounts end: asked, and killed.

use crate::common::noise;
use crate::world::{Detach, Mount, pid, visit};
use rustix::process::{Signal, kill_process};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

/// Ctrl-C, and `everhold umount`, commit everything that was written.
#[test]
fn leaving_commits_everything() {
    let Some(world) = visit() else { return };
    let (_, seen) = world.directory("leaving");
    for (how, signal) in
        [("ctrl-c", Some(Signal::INT)), ("term", Some(Signal::TERM)), ("umount", None)]
    {
        let mut mount = world.mount();
        let directory = mount.path().join("leaving");
        for number in 0..20 {
            let name = directory.join(format!("{how}-{number}"));
            std::fs::write(name, noise(number, 10_000 * number as usize)).unwrap();
        }
        match signal {
            Some(signal) => mount.signal(signal),
            None => {
                world.cluster.ok(&["umount", mount.path().to_str().unwrap()]);
                assert!(mount.has_ended(), "it was waited for");
            }
        }
        let status = mount.ended();
        assert!(status.success(), "{how} ended with {status}: {}", mount.log());
        let left = std::fs::read_dir(mount.path()).unwrap().count();
        assert_eq!(left, 0, "{how}: the mount point is empty again");
        for number in 0..20 {
            let bytes = std::fs::read(seen.join(format!("{how}-{number}"))).unwrap();
            assert!(bytes == noise(number, 10_000 * number as usize), "{how}, file {number}");
        }
    }
}

/// The process of a mount that was unmounted leaves alone what is mounted on the same directory by then.
#[test]
fn mounting_anew_while_the_old_process_ends() {
    let Some(world) = visit() else { return };
    world.directory("anew");
    // Kept to the end: a mount that is dropped takes away what is on its directory.
    let mut mounts = vec![world.mount()];
    let path = mounts[0].path().to_path_buf();
    for turn in 0..6 {
        world.cluster.ok(&["umount", path.to_str().unwrap()]);
        mounts.push(Mount::on(&world.cluster, &path, &[]));
        let old = &mut mounts[turn];
        let status = old.ended();
        assert!(status.success(), "turn {turn} ended with {status}: {}", old.log());
        assert!(path.join("anew").is_dir(), "turn {turn}: the new mount is there");
    }
}

/// A mount that is in use is not unmounted by `everhold umount`, which says so; Ctrl-C commits what was
/// written so far, also to files that are open.
#[test]
fn leaving_while_files_are_open() {
    let Some(world) = visit() else { return };
    let (_, seen) = world.directory("leaving-open");
    let mut mount = world.mount();
    let mut open = File::create(mount.path().join("leaving-open/f")).unwrap();
    open.write_all(&noise(7, 100_000)).unwrap();
    let output = world.cluster.run(&["umount", mount.path().to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(5));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("busy") && text.contains("hint: close what uses it"), "{text}");
    open.write_all(&noise(8, 100_000)).unwrap();
    mount.signal(Signal::INT);
    assert_eq!(mount.ended().code(), Some(5), "it was in use: {}", mount.log());
    let left = std::fs::read_dir(mount.path()).unwrap().count();
    assert_eq!(left, 0, "no stale mount stays behind");
    open.write_all(b"late").expect_err("nobody takes it");
    drop(open);
    let expected = [noise(7, 100_000), noise(8, 100_000)].concat();
    assert!(std::fs::read(seen.join("f")).unwrap() == expected);
}

/// After `kill -9` of a mount the same command mounts again on the stale mount point; what was synced is
/// there. In the background, as most mounts are.
#[test]
fn a_killed_mount_is_mounted_again() {
    let Some(world) = visit() else { return };
    let (_, seen) = world.directory("killed-mount");
    let point = world.point();
    let name = point.to_str().unwrap();
    let start = || {
        let said = String::from_utf8(world.cluster.ok(&["mount", name])).unwrap();
        let number = said.split("(process ").nth(1).and_then(|rest| rest.split(')').next());
        pid(number.expect("the process is named").parse().unwrap())
    };
    let listed = || {
        let mounts = world.cluster.json(&["mount", "ls"]);
        let mounts = mounts.as_array().unwrap();
        let mount = mounts.iter().find(|mount| mount["path"] == name).expect("it is listed");
        mount["state"].as_str().unwrap().to_string()
    };
    let detach = Detach(point.clone());
    let process = start();
    assert_eq!(listed(), "mounted");
    let file = File::create(point.join("killed-mount/f")).unwrap();
    file.write_all_at(&noise(5, 1_000_000), 0).unwrap();
    file.sync_all().unwrap();
    file.write_all_at(b"never synced", 2_000_000).unwrap();
    kill_process(process, Signal::KILL).unwrap();
    crate::common::eventually("the mount to be stale", || (listed() == "stale").then_some(()));
    assert_eq!(std::fs::metadata(&point).unwrap_err().raw_os_error(), Some(libc::ENOTCONN));
    drop(file);
    start();
    assert_eq!(listed(), "mounted");
    for directory in [point.join("killed-mount"), seen] {
        let bytes = std::fs::read(directory.join("f")).unwrap();
        assert!(bytes[..1_000_000] == noise(5, 1_000_000));
    }
    std::fs::write(point.join("killed-mount/g"), "works").unwrap();
    world.cluster.ok(&["mount", "stats", name]);
    world.cluster.ok(&["umount", name]);
    drop(detach);
}

/// A mount that only reads refuses changes.
#[test]
fn a_read_only_mount_refuses_changes() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("read-only");
    std::fs::write(a.join("f"), "there").unwrap();
    let mount = Mount::on(&world.cluster, &world.point(), &["--read-only"]);
    let directory = mount.path().join("read-only");
    assert_eq!(std::fs::read(directory.join("f")).unwrap(), b"there");
    let refused = File::create(directory.join("g")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EROFS));
}
