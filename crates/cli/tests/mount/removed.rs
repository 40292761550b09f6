//! Directories that are open, or worked in, and have no name any more.

use crate::common::eventually;
use crate::world::visit;
use rustix::fs::{Dir, Mode, OFlags, fstat, mkdirat, open};
use rustix::io::Errno;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

/// Removes a directory that was opened in `here`, by its name in `there`, and looks at what is left.
fn remove_an_open_one(here: &Path, there: &Path) {
    std::fs::create_dir(here).unwrap();
    let flags = OFlags::RDONLY | OFlags::DIRECTORY;
    let directory = open(here, flags, Mode::empty()).unwrap();
    let before = fstat(&directory).unwrap();
    std::fs::remove_dir(there).unwrap();
    for _ in 0..2 {
        let after = fstat(&directory).unwrap();
        assert_eq!(
            (after.st_ino, after.st_nlink, after.st_mode),
            (before.st_ino, 0, before.st_mode)
        );
    }
    let entries: Result<Vec<_>, _> = Dir::read_from(&directory).unwrap().collect();
    assert_eq!(entries.unwrap().len(), 0, "not even dots");
    assert_eq!(mkdirat(&directory, "x", Mode::RWXU), Err(Errno::NOENT));
    let mut names = [0u8; 16];
    assert_eq!(rustix::fs::flistxattr(&directory, &mut names), Ok(0));
    assert_eq!(rustix::fs::fsync(&directory), Ok(()));
    assert!(!here.exists());
}

/// An open directory outlives its name, whichever mount takes that away: it has no links and nothing in it, and nothing
/// can be made in it.
#[test]
fn an_open_directory_outlives_its_name() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("removed");
    remove_an_open_one(&a.join("own"), &a.join("own"));
    remove_an_open_one(&a.join("others"), &b.join("others"));
    // As a local file system has it.
    let local = tempfile::tempdir().unwrap();
    remove_an_open_one(&local.path().join("d"), &local.path().join("d"));
}

/// What a shell in `directory` says after that was removed.
fn shell_in(directory: &Path, remove: impl FnOnce()) -> String {
    std::fs::create_dir(directory).unwrap();
    let script = "echo ready; read go; stat -c %h .; ls -a | wc -l; mkdir x 2>/dev/null || echo none; cd ..; test -d . && echo up";
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(directory);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut shell = command.spawn().expect("sh runs");
    eventually("the shell to be there", || {
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", shell.id())).ok()?;
        (cwd == directory).then_some(())
    });
    remove();
    shell.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let output = shell.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A working directory that is removed behaves as on a local file system.
#[test]
fn a_working_directory_outlives_its_name() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("worked-in");
    let (own, others) = (a.join("own"), a.join("others"));
    let said = "ready\n0\n0\nnone\nup\n";
    assert_eq!(shell_in(&own, || std::fs::remove_dir(&own).unwrap()), said);
    assert_eq!(shell_in(&others, || std::fs::remove_dir(b.join("others")).unwrap()), said);
    // Another directory takes the name by a rename over it.
    let replaced = a.join("replaced");
    std::fs::create_dir(a.join("new")).unwrap();
    let replace = || std::fs::rename(b.join("new"), b.join("replaced")).unwrap();
    assert_eq!(shell_in(&replaced, replace), said);
    assert!(replaced.is_dir());
}
