//! A mount as the upper directory of an overlay, as container engines use it.

use crate::world::{Detach, skip, visit};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

/// A rename leaves a character device 0:0 under the old name at once.
#[test]
fn a_rename_leaves_a_whiteout() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("whiteout");
    std::fs::write(a.join("f"), "f").unwrap();
    std::fs::write(a.join("g"), "g").unwrap();
    let whiteout = RenameFlags::WHITEOUT;
    renameat_with(CWD, a.join("f"), CWD, a.join("g"), whiteout).unwrap();
    renameat_with(CWD, a.join("g"), CWD, a.join("h"), whiteout).unwrap();
    assert_eq!(std::fs::read(b.join("h")).unwrap(), b"f");
    for left in [a.join("f"), b.join("f"), a.join("g"), b.join("g")] {
        let meta = left.symlink_metadata().unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{}", left.display());
    }
}

fn has_overlay() -> bool {
    // It may be a module that nobody has used yet.
    let _loaded_or_not = Command::new("modprobe").arg("overlay").output();
    std::fs::read_to_string("/proc/filesystems").is_ok_and(|all| all.contains("\toverlay\n"))
}

fn overlay(lower: &Path, upper: &Path, work: &Path, at: &Path) -> Detach {
    let text = |path: &Path| path.to_str().unwrap().to_string();
    let options =
        format!("lowerdir={},upperdir={},workdir={}", text(lower), text(upper), text(work));
    let mut command = Command::new("mount");
    let output = command.args(["-t", "overlay", "overlay", "-o", &options]).arg(at).output();
    let output = output.expect("mount runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Detach(at.into())
}

/// An overlay takes a mount as its upper directory: what is changed, removed and renamed in it stays so, also when it is
/// mounted anew, and what is below is untouched.
#[test]
fn a_mount_is_the_upper_directory_of_an_overlay() {
    let Some(world) = visit() else { return };
    if !has_overlay() {
        return skip("the kernel has no overlay");
    }
    let (a, _) = world.directory("overlay");
    let (upper, work) = (a.join("upper"), a.join("work"));
    std::fs::create_dir(&upper).unwrap();
    std::fs::create_dir(&work).unwrap();
    let local = tempfile::tempdir().unwrap();
    let (lower, merged) = (local.path().join("lower"), local.path().join("merged"));
    std::fs::create_dir_all(lower.join("d/inner")).unwrap();
    std::fs::create_dir(&merged).unwrap();
    for name in ["changed", "removed", "renamed", "d/f", "d/inner/f"] {
        std::fs::write(lower.join(name), "below").unwrap();
    }
    let check = || {
        let read = |name: &str| std::fs::read_to_string(merged.join(name)).ok();
        assert_eq!(read("changed").as_deref(), Some("below and above"));
        assert_eq!(read("removed"), None);
        assert_eq!((read("renamed"), read("to").as_deref()), (None, Some("below")));
        assert_eq!(read("new/f").as_deref(), Some("new"));
        assert!(read("d/f").is_none() && merged.join("d").read_dir().unwrap().next().is_none());
    };
    {
        let _mounted = overlay(&lower, &upper, &work, &merged);
        std::fs::write(merged.join("changed"), "below and above").unwrap();
        std::fs::remove_file(merged.join("removed")).unwrap();
        std::fs::rename(merged.join("renamed"), merged.join("to")).unwrap();
        std::fs::create_dir(merged.join("new")).unwrap();
        std::fs::write(merged.join("new/f"), "new").unwrap();
        std::fs::remove_dir_all(merged.join("d")).unwrap();
        std::fs::create_dir(merged.join("d")).unwrap();
        check();
    }
    let _mounted = overlay(&lower, &upper, &work, &merged);
    check();
    assert_eq!(std::fs::read(lower.join("removed")).unwrap(), b"below");
    let whiteout = upper.join("removed").symlink_metadata().unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}
