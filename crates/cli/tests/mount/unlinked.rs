//! Files that are open and have no name any more.

use crate::common::{eventually, noise};
use crate::sys;
use crate::world::visit;
use everhold_proto::InodeId;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

const LENGTH: usize = 300_000;

/// A file that is open can be read and written after its last name is gone, from whichever mount that was
/// taken away, and for longer than the cluster keeps a file that nobody has open.
#[test]
fn an_open_file_outlives_its_name() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("unlinked");
    let open = |name: &str| {
        std::fs::write(a.join(name), noise(1, LENGTH)).unwrap();
        OpenOptions::new().read(true).write(true).open(a.join(name)).unwrap()
    };
    let check = |file: &File, seed: u64| {
        let mut bytes = vec![0; LENGTH];
        file.read_exact_at(&mut bytes, 0).unwrap();
        assert!(bytes == noise(seed, LENGTH), "content {seed}");
        assert_eq!(
            (file.metadata().unwrap().nlink(), file.metadata().unwrap().len()),
            (0, LENGTH as u64)
        );
    };
    let (own, others, replaced) = (open("own"), open("others"), open("replaced"));
    // Nobody has this one open: it shows when the cluster lets go.
    std::fs::write(a.join("closed"), noise(9, LENGTH)).unwrap();
    let closed = InodeId(a.join("closed").metadata().unwrap().ino());
    std::fs::write(b.join("new"), "new").unwrap();
    std::fs::remove_file(a.join("own")).unwrap();
    std::fs::remove_file(b.join("others")).unwrap();
    std::fs::rename(b.join("new"), b.join("replaced")).unwrap();
    std::fs::remove_file(b.join("closed")).unwrap();
    assert!(!a.join("others").exists());
    for file in [&own, &others, &replaced] {
        check(file, 1);
        file.write_all_at(&noise(2, LENGTH), 0).unwrap();
        check(file, 2);
        file.sync_all().unwrap();
    }
    let committed = world.client();
    eventually("the closed file to leave the cluster", || {
        let attr = committed.runtime.block_on(committed.client.attr(closed));
        attr.is_err_and(|e| e.is_not_found()).then_some(())
    });
    for file in [&own, &others, &replaced] {
        check(file, 2);
        file.write_all_at(&noise(3, LENGTH), 0).unwrap();
        file.sync_all().unwrap();
        check(file, 3);
    }
    // Once closed, it goes.
    let inode = InodeId(own.metadata().unwrap().ino());
    drop(own);
    eventually("the last close to let the file go", || {
        let attr = committed.runtime.block_on(committed.client.attr(inode));
        attr.is_err_and(|e| e.is_not_found()).then_some(())
    });
    assert_eq!(std::fs::read(a.join("replaced")).unwrap(), b"new");
}

/// A file without a name that nobody has open: when it is gone, the cluster has let go of what was removed before it.
fn remove_and_wait(directory: &Path, committed: &crate::world::Committed) {
    let path = directory.join("closed");
    std::fs::write(&path, noise(9, LENGTH)).unwrap();
    let closed = InodeId(path.metadata().unwrap().ino());
    // The cluster must have heard of it before it can let go of it.
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    std::fs::remove_file(path).unwrap();
    eventually("the closed file to leave the cluster", || committed.lacks(closed).then_some(()));
}

/// A session that ends takes no open file with it that has a name: the next one keeps it, also without its name. A file
/// that lost its name meanwhile is gone, and whoever uses it gets an error, never other bytes.
#[test]
fn open_files_outlive_a_session() {
    let Some(world) = visit() else { return };
    let (_, b) = world.directory("session");
    let own = world.mount();
    let open = |name: &str| {
        std::fs::write(b.join(name), noise(1, LENGTH)).unwrap();
        let mut options = OpenOptions::new();
        options.read(true).write(true).custom_flags(libc::O_DIRECT);
        options.open(own.path().join("session").join(name)).unwrap()
    };
    let (kept, gone, locked) = (open("kept"), open("gone"), open("locked"));
    sys::lock(&locked, libc::F_WRLCK, (0, 0), false).unwrap();
    let inode = InodeId(locked.metadata().unwrap().ino());
    let committed = world.client();
    own.signal(rustix::process::Signal::STOP);
    committed.end_session_of(inode);
    std::fs::remove_file(b.join("gone")).unwrap();
    remove_and_wait(&b, &committed);
    own.signal(rustix::process::Signal::CONT);
    let mut bytes = vec![0; LENGTH];
    // Until the mount has heard of the end of its session, it may show what it has in memory: the right bytes.
    eventually("the mount to hear of it", || match gone.read_exact_at(&mut bytes, 0) {
        Ok(()) => {
            assert!(bytes == noise(1, LENGTH));
            None
        }
        Err(e) => Some(e.raw_os_error()),
    });
    let e = gone.read_exact_at(&mut bytes, 0).unwrap_err();
    assert_eq!(e.raw_os_error(), Some(libc::ESTALE));
    assert_eq!(gone.metadata().unwrap_err().raw_os_error(), Some(libc::ESTALE));
    kept.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(1, LENGTH));
    std::fs::remove_file(b.join("kept")).unwrap();
    remove_and_wait(&b, &committed);
    kept.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(1, LENGTH));
    kept.write_all_at(&noise(2, LENGTH), 0).unwrap();
    kept.sync_all().unwrap();
    kept.read_exact_at(&mut bytes, 0).unwrap();
    assert!(bytes == noise(2, LENGTH));
}
