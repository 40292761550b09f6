//! `fcntl` and `flock` locks across mounts. Each test has mounts of its own, so that it can see who waits.

use crate::common::eventually;
use crate::sys;
use crate::world::{Mount, Visit, visit};
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc;

const ALL: (i64, i64) = (0, 0);

fn open(directory: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(directory.join("f")).unwrap()
}

/// A file opened through two fresh mounts.
fn two(world: &Visit, name: &str) -> (Mount, Mount, File, File) {
    world.directory(name);
    let (a, b) = (world.mount(), world.mount());
    let (one, two) = (open(&a.path().join(name)), open(&b.path().join(name)));
    (a, b, one, two)
}

fn is_locked(result: std::io::Result<()>) -> bool {
    match result {
        Ok(()) => false,
        Err(e) if e.kind() == ErrorKind::WouldBlock => true,
        Err(e) => panic!("a lock: {e}"),
    }
}

/// Ranges exclude each other across mounts where they overlap and one of them is for writing, and only there.
#[test]
fn ranges_exclude_across_mounts() {
    let Some(world) = visit() else { return };
    let (_a, _b, one, two) = two(&world, "ranges");
    let (read, write, none) = (libc::F_RDLCK, libc::F_WRLCK, libc::F_UNLCK);
    sys::lock(&one, write, (10, 10), false).unwrap();
    assert!(is_locked(sys::lock(&two, write, (15, 1), false)));
    assert!(is_locked(sys::lock(&two, read, ALL, false)));
    assert!(!is_locked(sys::lock(&two, write, (20, 10), false)));
    assert_eq!(sys::lock_in_the_way(&two, ALL).unwrap(), write);
    assert_eq!(sys::lock_in_the_way(&two, (0, 10)).unwrap(), none);
    // Part of it is given up, and part of it becomes a lock for reading.
    sys::lock(&one, none, (10, 5), false).unwrap();
    assert!(!is_locked(sys::lock(&two, write, (10, 5), false)));
    sys::lock(&one, read, (15, 5), false).unwrap();
    assert!(!is_locked(sys::lock(&two, read, (15, 5), false)));
    assert!(is_locked(sys::lock(&two, write, (15, 5), false)));
    // A close of any descriptor gives up what its process holds.
    drop(open_again(&one));
    assert!(!is_locked(sys::lock(&two, write, ALL, false)));
}

/// The same file through another descriptor of the same mount.
fn open_again(file: &File) -> File {
    use rustix::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    OpenOptions::new().read(true).write(true).open(path).unwrap()
}

/// `flock` excludes across mounts, and between two descriptors of one.
#[test]
fn flock_excludes_across_mounts() {
    let Some(world) = visit() else { return };
    let (_a, _b, one, two) = two(&world, "flock");
    let blocked = Err(rustix::io::Errno::WOULDBLOCK);
    flock(&one, FlockOperation::LockExclusive).unwrap();
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockShared), blocked);
    let again = open_again(&one);
    assert_eq!(flock(&again, FlockOperation::NonBlockingLockExclusive), blocked);
    flock(&one, FlockOperation::LockShared).unwrap();
    flock(&two, FlockOperation::NonBlockingLockShared).unwrap();
    assert_eq!(flock(&again, FlockOperation::NonBlockingLockExclusive), blocked);
    flock(&two, FlockOperation::Unlock).unwrap();
    drop(one);
    // The close of the last descriptor is told to the cluster behind its back.
    eventually("the lock of a closed file to be given up", || {
        flock(&two, FlockOperation::NonBlockingLockExclusive).ok()
    });
}

/// Who waits for a lock gets it when it is given up, and reads what was written under it.
#[test]
fn a_lock_is_handed_over() {
    use std::os::unix::fs::FileExt;
    let Some(world) = visit() else { return };
    let (_a, b, one, two) = two(&world, "handed-over");
    sys::lock(&one, libc::F_WRLCK, ALL, false).unwrap();
    let mut before = [0; 4];
    assert_eq!(two.read_at(&mut before, 0).unwrap(), 0);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            sys::lock(&two, libc::F_WRLCK, ALL, true).unwrap();
            let mut bytes = [0; 4];
            two.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
        eventually("the other mount to wait", || (b.under_way("setlk") > 0).then_some(()));
        one.write_all_at(b"mine", 0).unwrap();
        assert!(!waiting.is_finished());
        sys::lock(&one, libc::F_UNLCK, ALL, false).unwrap();
        assert_eq!(&waiting.join().unwrap(), b"mine");
    });
}

/// A signal ends the wait for a lock, and the lock is not taken later.
#[test]
fn a_signal_ends_the_wait() {
    let Some(world) = visit() else { return };
    let (_a, b, one, two) = two(&world, "signal");
    sys::let_signals_interrupt();
    sys::lock(&one, libc::F_WRLCK, ALL, false).unwrap();
    let (tell, told) = mpsc::channel();
    let waiting = std::thread::spawn(move || {
        tell.send(sys::this_thread()).unwrap();
        (sys::lock(&two, libc::F_WRLCK, ALL, true), two)
    });
    let thread = told.recv().unwrap();
    eventually("the other mount to wait", || (b.under_way("setlk") > 0).then_some(()));
    sys::interrupt(thread);
    let (result, two) = waiting.join().unwrap();
    assert_eq!(result.unwrap_err().kind(), ErrorKind::Interrupted);
    sys::lock(&one, libc::F_UNLCK, ALL, false).unwrap();
    assert!(!is_locked(sys::lock(&one, libc::F_WRLCK, ALL, false)), "nobody has taken it");
    drop(two);
}

fn inode_of(file: &File) -> everhold_proto::InodeId {
    use std::os::unix::fs::MetadataExt;
    everhold_proto::InodeId(file.metadata().unwrap().ino())
}

fn write_and_sync(file: &File, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::FileExt;
    file.write_all_at(bytes, 0)?;
    file.sync_all()
}

/// What must become of a stale holder, once its mount goes on: see the tests.
fn is_told_of_its_lost_lock(world: &Visit, one: File, beside: &File, two: &File, held: &[u8]) {
    let is_lost = |result: std::io::Result<()>| {
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EIO));
    };
    is_lost(write_and_sync(&one, b"stale"));
    is_lost(write_and_sync(&one, b"stale, again"));
    is_lost(one.sync_all());
    is_lost(one.set_len(1));
    is_lost(sys::lock(&one, libc::F_WRLCK, ALL, false));
    let committed = world.client();
    let content = || {
        let read = committed.client.read_inode(inode_of(two), 0, 100);
        committed.runtime.block_on(read).unwrap().1
    };
    assert_eq!(content(), held, "as the holder wrote it");
    // Another open file of the same mount, which held no lock, is not concerned.
    eventually("what was written under the lost lock to be dropped", || {
        write_and_sync(beside, b"beside").ok()
    });
    assert_eq!(&content()[..6], b"beside");
    sys::lock(two, libc::F_UNLCK, ALL, false).unwrap();
    drop(one);
    let anew = open_again(beside);
    sys::lock(&anew, libc::F_WRLCK, ALL, false).unwrap();
    write_and_sync(&anew, b"a new").unwrap();
    assert_eq!(&content()[..6], b"a newe");
}

/// Who lost a lock with its session gets an error from the next write or its `fsync`, and from all further ones, until
/// the file is closed. Here the mount believes that its session lives: the commit is refused.
#[test]
fn a_lost_lock_fails_its_open_file() {
    let Some(world) = visit() else { return };
    let (a, _b, one, two) = two(&world, "lost");
    let beside = open_again(&one);
    write_and_sync(&one, b"begin").unwrap();
    sys::lock(&one, libc::F_WRLCK, ALL, false).unwrap();
    let inode = inode_of(&one);
    a.signal(rustix::process::Signal::STOP);
    world.client().end_session_of(inode);
    sys::lock(&two, libc::F_WRLCK, ALL, false).unwrap();
    write_and_sync(&two, b"from the next holder").unwrap();
    a.signal(rustix::process::Signal::CONT);
    is_told_of_its_lost_lock(&world, one, &beside, &two, b"from the next holder");
}

/// The same when the mount stood still until the session had ended by itself.
#[test]
#[ignore = "a session outlives its client for 30 s; `just mount-slow` runs it"]
fn a_lock_lost_by_a_pause_fails_its_open_file() {
    let Some(world) = visit() else { return };
    let (a, _b, one, two) = two(&world, "paused");
    let beside = open_again(&one);
    write_and_sync(&one, b"begin").unwrap();
    sys::lock(&one, libc::F_WRLCK, ALL, false).unwrap();
    a.signal(rustix::process::Signal::STOP);
    sys::lock(&two, libc::F_WRLCK, ALL, true).unwrap();
    write_and_sync(&two, b"from the next holder").unwrap();
    a.signal(rustix::process::Signal::CONT);
    is_told_of_its_lost_lock(&world, one, &beside, &two, b"from the next holder");
}

/// A lock of an open file belongs to that: other descriptors of the process may be closed, and it ends with the last
/// close of its own.
#[test]
fn a_lock_of_an_open_file_ends_with_it() {
    let Some(world) = visit() else { return };
    let (_a, _b, one, two) = two(&world, "open-file");
    let again = open_again(&one);
    sys::lock_open_file(&one).unwrap();
    assert!(is_locked(sys::lock_open_file(&again)), "two open files of one process");
    assert!(is_locked(sys::lock(&two, libc::F_RDLCK, ALL, false)));
    let same = one.try_clone().unwrap();
    drop((again, one));
    assert!(is_locked(sys::lock_open_file(&two)), "a descriptor of it is left");
    drop(same);
    // The close of the last descriptor is told to the cluster behind its back.
    eventually("the lock of a closed file to be given up", || sys::lock_open_file(&two).ok());
}

/// `flock` and `fcntl` do not see each other: a program may take both on one file.
#[test]
fn flock_and_fcntl_do_not_meet() {
    let Some(world) = visit() else { return };
    let (_a, _b, one, two) = two(&world, "both-kinds");
    flock(&one, FlockOperation::LockExclusive).unwrap();
    sys::lock(&one, libc::F_WRLCK, ALL, true).unwrap();
    assert!(is_locked(sys::lock(&two, libc::F_WRLCK, ALL, false)));
    sys::lock(&one, libc::F_UNLCK, ALL, false).unwrap();
    sys::lock(&two, libc::F_WRLCK, ALL, true).unwrap();
    let blocked = Err(rustix::io::Errno::WOULDBLOCK);
    assert_eq!(flock(&two, FlockOperation::NonBlockingLockExclusive), blocked);
}

/// The locks of a mount that was killed end with its session.
#[test]
#[ignore = "a session outlives its client for 30 s; `just mount-slow` runs it"]
fn the_locks_of_a_killed_mount_end() {
    let Some(world) = visit() else { return };
    let (a, _b, one, two) = two(&world, "killed");
    sys::lock(&one, libc::F_WRLCK, ALL, false).unwrap();
    assert!(is_locked(sys::lock(&two, libc::F_WRLCK, ALL, false)));
    let stale = crate::world::Detach(a.kill());
    assert!(is_locked(sys::lock(&two, libc::F_WRLCK, ALL, false)), "the session has not ended");
    sys::lock(&two, libc::F_WRLCK, ALL, true).unwrap();
    drop((one, stale));
}
