//! A mount whose process stands still, as on a machine that is moved or overloaded.

use crate::sys;
use crate::world::visit;
use everhold_proto::InodeId;
use rustix::process::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

const FILES: usize = 200;

/// Another mount that wants a directory waits for the one that has changes there: nothing that was closed is lost.
#[test]
fn a_mount_that_stands_still_loses_nothing_that_was_closed() {
    let Some(world) = visit() else { return };
    let mount = world.mount();
    for turn in 0..3 {
        let name = format!("still-{turn}");
        let (here, there) = (mount.path().join(&name), world.b.path().join(&name));
        fs::create_dir(&here).unwrap();
        for file in 0..FILES {
            fs::write(here.join(file.to_string()), format!("content {file}")).unwrap();
        }
        mount.signal(Signal::STOP);
        let listing = std::thread::spawn({
            let there = there.clone();
            move || fs::read_dir(there).map(|entries| entries.count())
        });
        // Longer than a lease: it is the fault itself.
        std::thread::sleep(Duration::from_millis(1200));
        mount.signal(Signal::CONT);
        assert_eq!(listing.join().unwrap().unwrap(), FILES, "turn {turn}");
        for file in 0..FILES {
            let content = fs::read_to_string(there.join(file.to_string())).unwrap();
            assert_eq!(content, format!("content {file}"), "turn {turn}");
        }
    }
}

/// When a session ends before all was told, each open file that lost something fails once, and no other does.
#[test]
fn what_is_lost_is_told_to_each_open_file_and_to_no_other() {
    let Some(world) = visit() else { return };
    let mount = world.mount();
    let (lost, apart) = (mount.path().join("lost"), mount.path().join("apart"));
    [&lost, &apart].into_iter().for_each(|directory| fs::create_dir(directory).unwrap());
    let kept = File::create(apart.join("kept")).unwrap();
    let mut locked = File::create(apart.join("locked")).unwrap();
    locked.write_all(b"begin").unwrap();
    for file in [&kept, &locked] {
        file.sync_all().unwrap();
    }
    sys::lock(&locked, libc::F_WRLCK, (0, 0), false).unwrap();
    let inode = InodeId(locked.metadata().unwrap().ino());
    let files: Vec<File> = (0..8)
        .map(|number| {
            let mut file = File::create(lost.join(number.to_string())).unwrap();
            file.write_all(b"closed once").unwrap();
            drop(file.try_clone().unwrap());
            file
        })
        .collect();
    let again = File::open(lost.join("0")).unwrap();
    mount.signal(Signal::STOP);
    world.client().end_session_of(inode);
    mount.signal(Signal::CONT);
    let told = files.iter().filter(|file| file.sync_all().is_err()).count();
    let there =
        (0..8).filter(|number| world.b.path().join(format!("lost/{number}")).exists()).count();
    assert_eq!(told + there, 8, "each was lost and told, or is there");
    if told == 8 {
        assert!(again.sync_all().is_err(), "another open file of the same");
    }
    kept.sync_all().expect("it lost nothing");
    // Gone as they are, there is nothing more to tell.
    assert!(File::create(apart.join("new")).unwrap().sync_all().is_ok());
}
