//! Who may do what, and what is kept beside the content: modes, ACLs, attributes, times.

use crate::world::visit;
use rustix::fs::{
    AtFlags, CWD, Timespec, Timestamps, XattrFlags, getxattr, listxattr, removexattr, setxattr,
    utimensat,
};
use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().mode() & 0o7777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Runs a shell script in a directory.
fn shell(directory: &Path, script: &str, user: u32) -> bool {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(directory).uid(user).gid(user);
    command.status().expect("sh runs").success()
}

/// The umask is taken off, and a directory with the set-group-id bit hands on its group.
#[test]
fn umask_and_set_group_id() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("umask");
    assert!(shell(&a, "umask 027; : > f; mkdir d; umask 0; : > open; mkdir wide", 0));
    let modes = ["f", "d", "open", "wide"].map(|name| mode(&b.join(name)));
    assert_eq!(modes, [0o640, 0o750, 0o666, 0o777]);

    std::fs::create_dir(a.join("group")).unwrap();
    chown(a.join("group"), None, Some(4321)).unwrap();
    chmod(&a.join("group"), 0o2777);
    assert!(shell(&a.join("group"), "umask 022; : > f; mkdir d", 1000));
    let (file, directory) = (b.join("group/f"), b.join("group/d"));
    assert_eq!((file.metadata().unwrap().gid(), mode(&file)), (4321, 0o644));
    assert_eq!((directory.metadata().unwrap().gid(), mode(&directory)), (4321, 0o2755));
    assert_eq!(file.metadata().unwrap().uid(), 1000);
    assert!(!shell(&a, ": > not-mine", 1000), "another user's directory");
}

/// An ACL as the kernel has it: version 2, then (tag, permissions, id) each.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

/// Tags of entries.
const USER_OBJ: u16 = 1;
const USER: u16 = 2;
const GROUP_OBJ: u16 = 4;
const MASK: u16 = 16;
const OTHER: u16 = 32;
/// The id of entries that have none.
const NONE: u32 = u32::MAX;

fn value(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; 4096];
    let length = getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

/// A default ACL is inherited, instead of the umask, and is enforced.
#[test]
fn default_acls_are_inherited() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("acl");
    let default = acl(&[
        (USER_OBJ, 7, NONE),
        (USER, 7, 1000),
        (GROUP_OBJ, 5, NONE),
        (MASK, 7, NONE),
        (OTHER, 0, NONE),
    ]);
    std::fs::create_dir(a.join("d")).unwrap();
    setxattr(a.join("d"), "system.posix_acl_default", &default, XattrFlags::empty()).unwrap();
    assert!(shell(&a.join("d"), "umask 077; : > f; mkdir sub; : > sub/f", 0));
    assert_eq!(value(&b.join("d/sub"), "system.posix_acl_default"), default);
    for file in ["d/f", "d/sub/f"] {
        let expected = acl(&[
            (USER_OBJ, 6, NONE),
            (USER, 7, 1000),
            (GROUP_OBJ, 5, NONE),
            (MASK, 6, NONE),
            (OTHER, 0, NONE),
        ]);
        assert_eq!(value(&b.join(file), "system.posix_acl_access"), expected, "{file}");
        assert_eq!(mode(&b.join(file)), 0o660, "{file}: the group's bits show the mask");
    }
    assert!(shell(&a, "echo mine > d/sub/f", 1000), "the user whom the ACL names");
    assert!(!shell(&a, "cat d/sub/f", 1001), "everybody else");
    // The mask follows chmod, and narrows what the ACL gives.
    chmod(&a.join("d/sub/f"), 0o640);
    assert!(!shell(&a, "echo again > d/sub/f", 1000));
    assert!(shell(&a, "cat d/sub/f > /dev/null", 1000));
}

/// Attributes of the user's are set, replaced, listed and removed, and both mounts agree.
#[test]
fn user_attributes() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("attributes");
    let (here, there) = (a.join("f"), b.join("f"));
    std::fs::write(&here, "").unwrap();
    let large = vec![b'v'; 4000];
    setxattr(&here, "user.one", b"1", XattrFlags::CREATE).unwrap();
    setxattr(&here, "user.large", &large, XattrFlags::empty()).unwrap();
    assert_eq!(
        setxattr(&there, "user.one", b"2", XattrFlags::CREATE),
        Err(rustix::io::Errno::EXIST)
    );
    assert_eq!(
        setxattr(&there, "user.none", b"2", XattrFlags::REPLACE),
        Err(rustix::io::Errno::NODATA)
    );
    setxattr(&there, "user.one", b"", XattrFlags::REPLACE).unwrap();
    assert_eq!((value(&here, "user.one"), value(&there, "user.large")), (vec![], large));
    let mut names = vec![0u8; 1000];
    let length = listxattr(&here, &mut names[..]).unwrap();
    let mut names: Vec<_> = names[..length].split_inclusive(|byte| *byte == 0).collect();
    names.sort();
    assert_eq!(names, [&b"user.large\0"[..], b"user.one\0"]);
    removexattr(&there, "user.one").unwrap();
    let mut nothing = [0; 8];
    let gone = getxattr(&here, "user.one", &mut nothing[..]);
    assert_eq!(gone, Err(rustix::io::Errno::NODATA));
}

/// Times keep their nanoseconds, before 1970 and after 2106 as well; what is out of range is refused.
#[test]
fn times_to_the_nanosecond() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("times");
    std::fs::write(a.join("f"), "x").unwrap();
    for (seconds, nanos) in [
        (1_700_000_000, 123_456_789),
        (-2, 800_000_001),
        (-9_000_000_000, 1),
        (5_000_000_000, 999_999_999),
    ] {
        let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = Timestamps { last_access: time, last_modification: time };
        utimensat(CWD, a.join("f"), &times, AtFlags::empty()).unwrap();
        for path in [a.join("f"), b.join("f")] {
            let meta = path.metadata().unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (seconds, nanos), "modified");
            assert_eq!((meta.atime(), meta.atime_nsec()), (seconds, nanos), "read");
        }
    }
    let before = a.join("f").metadata().unwrap();
    // Beyond the year 2262 there is no such time here.
    let late = Timespec { tv_sec: 9_300_000_000, tv_nsec: 0 };
    let times = Timestamps { last_access: late, last_modification: late };
    let refused = utimensat(CWD, a.join("f"), &times, AtFlags::empty());
    assert_eq!(refused, Err(rustix::io::Errno::OVERFLOW));
    assert_eq!(a.join("f").metadata().unwrap().mtime(), before.mtime(), "it stays");
    std::fs::write(a.join("f"), "y").unwrap();
    let after = b.join("f").metadata().unwrap();
    let changed = |meta: &std::fs::Metadata| (meta.ctime(), meta.ctime_nsec());
    assert!(changed(&after) > changed(&before), "a write changes the time");
    assert!(after.mtime() < 5_000_000_000, "to now");
}

/// Whatever writes to a program takes its set-id bits, and the mount that wrote shows it at once.
#[test]
fn set_id_bits_are_gone_after_every_kind_of_write() {
    use rustix::fs::{FallocateFlags, copy_file_range, fallocate};
    use std::io::Write;
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("set-id");
    let (file, other) = (a.join("f"), b.join("f"));
    std::fs::write(a.join("source"), [1; 8192]).unwrap();
    let open = |path: &Path| OpenOptions::new().read(true).write(true).open(path).unwrap();
    let keep = FallocateFlags::KEEP_SIZE;
    type Change<'a> = (&'a str, Box<dyn Fn() + 'a>);
    let changes: [Change<'_>; 8] = [
        ("write", Box::new(|| open(&file).write_all(b"x").unwrap())),
        ("append", {
            Box::new(|| {
                let mut end = OpenOptions::new().append(true).open(&file).unwrap();
                end.write_all(b"x").unwrap();
            })
        }),
        ("truncate", Box::new(|| open(&file).set_len(5).unwrap())),
        ("fallocate", Box::new(|| fallocate(open(&file), FallocateFlags::empty(), 0, 99).unwrap())),
        ("fallocate that keeps the size", {
            Box::new(|| fallocate(open(&file), keep, 0, 9999).unwrap())
        }),
        ("punch", {
            Box::new(|| fallocate(open(&file), keep | FallocateFlags::PUNCH_HOLE, 0, 9).unwrap())
        }),
        ("copy", {
            Box::new(|| {
                let source = open(&a.join("source"));
                copy_file_range(source, None, open(&file), None, 8192).unwrap();
            })
        }),
        ("write by another mount", Box::new(|| open(&other).write_all(b"x").unwrap())),
    ];
    // "cap_net_raw+ep", version 2.
    let capability = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    std::fs::copy("/bin/true", &file).unwrap();
    for (what, change) in changes {
        chown(&file, Some(4321), Some(4321)).unwrap();
        setxattr(&file, "security.capability", &capability, XattrFlags::empty()).unwrap();
        chmod(&file, 0o6755);
        assert_eq!(mode(&file), 0o6755, "{what}");
        change();
        assert_eq!(mode(&file), 0o755, "{what}");
        let mut value = [0; 64];
        let gone = getxattr(&file, "security.capability", &mut value[..]);
        assert_eq!(gone, Err(rustix::io::Errno::NODATA), "{what}");
    }
}

/// A program that was rewritten on this mount does not run with the rights of the one before.
#[test]
fn a_rewritten_program_has_no_set_id() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("set-id-run");
    let program = a.join("id");
    let user = |path: &Path| {
        let mut command = Command::new(path);
        let output = command.arg("-u").uid(1000).gid(1000).output().expect("it runs");
        String::from_utf8(output.stdout).unwrap().trim().to_string()
    };
    std::fs::copy("/usr/bin/id", &program).unwrap();
    chown(&program, Some(4321), None).unwrap();
    chmod(&program, 0o4755);
    assert_eq!(user(&program), "4321");
    std::fs::copy("/usr/bin/id", a.join("new")).unwrap();
    // Into the same inode, as an attacker with the right to write would.
    let bytes = std::fs::read(a.join("new")).unwrap();
    use std::os::unix::fs::FileExt;
    OpenOptions::new().write(true).open(&program).unwrap().write_all_at(&bytes, 0).unwrap();
    assert_eq!(user(&program), "1000");
}

/// A write through a mapping takes them, too, when it is synced.
#[test]
fn set_id_bits_are_gone_after_a_write_through_a_mapping() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("set-id-mapped");
    let path = a.join("f");
    std::fs::write(&path, [1; 4096]).unwrap();
    chmod(&path, 0o6755);
    let file = OpenOptions::new().read(true).write(true).open(&path).unwrap();
    let mut mapped = crate::sys::Mapped::new(&file, 4096, true);
    mapped.bytes()[0] = 2;
    mapped.sync();
    assert_eq!(mode(&path), 0o755);
}
