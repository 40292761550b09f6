//! Files that are open and have no name any more.

use crate::common::{eventually, noise};
use crate::world::visit;
use everhold_proto::InodeId;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};

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
