//! Large directories.

use crate::world::visit;
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const STEADY: usize = 3_000;
const THREADS: usize = 8;
const LISTINGS: usize = 4;

/// While entries come and go, each listing shows those that are there all the time exactly once, and none
/// twice.
#[test]
fn a_large_directory_is_listed_while_it_changes() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("large");
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let a = &a;
            scope.spawn(move || {
                for number in (thread..STEADY).step_by(THREADS) {
                    File::create(a.join(format!("steady-{number:05}"))).unwrap();
                }
            });
        }
    });
    let (stop, changes) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut number = 0u64;
            while !stop.load(Ordering::Relaxed) {
                // All over the order of names.
                let place = number * 7919 % STEADY as u64;
                let passing = a.join(format!("steady-{place:05}-{number}"));
                File::create(&passing).unwrap();
                std::fs::remove_file(&passing).unwrap();
                number += 1;
                changes.store(number, Ordering::Relaxed);
            }
        });
        let check = || {
            for directory in [&a, &b] {
                let before = changes.load(Ordering::Relaxed);
                let mut seen: HashMap<OsString, usize> = HashMap::new();
                let entries = std::fs::read_dir(directory).unwrap();
                for (count, entry) in entries.enumerate() {
                    *seen.entry(entry.unwrap().file_name()).or_default() += 1;
                    // Each listing has something happen in its middle.
                    if count == STEADY / 2 {
                        while changes.load(Ordering::Relaxed) < before + 3
                            && !changing.is_finished()
                        {
                            std::thread::yield_now();
                        }
                    }
                }
                for number in 0..STEADY {
                    let name = OsString::from(format!("steady-{number:05}"));
                    assert_eq!(seen.get(&name), Some(&1), "{}", name.display());
                }
                let twice = seen.iter().find(|(_, count)| **count > 1);
                assert_eq!(twice, None);
            }
        };
        let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..LISTINGS).for_each(|_| check());
        }));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = checked {
            std::panic::resume_unwind(panic);
        }
    });
}
