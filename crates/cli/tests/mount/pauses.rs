//! A mount whose process stands still, as on a machine that is moved or overloaded.

use crate::world::visit;
use rustix::process::Signal;
use std::fs;
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
