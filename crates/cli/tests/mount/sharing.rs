//! Two mounts of one cluster: what one does, the other sees.

use crate::common::noise;
use crate::world::visit;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};

/// What one mount has closed, the other sees as soon as it opens the file: size and content, however often
/// both have read it before.
#[test]
fn what_was_closed_is_seen_by_who_opens() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("close-to-open");
    let sizes = [10, 100_000, 4096, 0, 1 << 20, 1, 70_000];
    for (turn, size) in (0u64..28).zip(sizes.iter().cycle()) {
        let (from, to) = if turn % 3 == 0 { (&b, &a) } else { (&a, &b) };
        std::fs::write(from.join("f"), noise(turn, *size)).unwrap();
        assert_eq!(to.join("f").metadata().unwrap().len(), *size as u64, "turn {turn}");
        assert!(std::fs::read(to.join("f")).unwrap() == noise(turn, *size), "turn {turn}");
    }
    // The same size, so that only the version tells.
    for turn in 100..120 {
        std::fs::write(a.join("same"), noise(turn, 50_000)).unwrap();
        assert!(std::fs::read(b.join("same")).unwrap() == noise(turn, 50_000), "turn {turn}");
    }
}

/// In a strict directory each write is seen by each read after it, through descriptors that are open.
#[test]
fn a_strict_directory_needs_no_close() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("strict");
    world.cluster.ok(&["fs", "set", "--consistency", "strict", "/strict"]);
    let open = |path| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).open(path).unwrap()
    };
    let (one, two) = (open(a.join("f")), open(b.join("f")));
    for turn in 0..60u64 {
        let (writer, reader) = if turn % 2 == 0 { (&one, &two) } else { (&two, &one) };
        let length = [17, 5_000, 200_000][turn as usize % 3];
        let bytes = noise(turn, length);
        writer.write_all_at(&bytes, turn * 100).unwrap();
        assert!(reader.metadata().unwrap().len() >= turn * 100 + length as u64);
        let mut read = vec![0; length];
        reader.read_exact_at(&mut read, turn * 100).unwrap();
        assert!(read == bytes, "turn {turn}");
    }
}

/// Lines that four writers append to one file through two mounts are all there, whole and once.
#[test]
fn appended_lines_are_neither_lost_nor_mixed() {
    const LINES: usize = 100;
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("lines");
    std::thread::scope(|scope| {
        for (writer, directory) in [&a, &b, &a, &b].into_iter().enumerate() {
            let path = directory.join("log");
            scope.spawn(move || {
                let mut log = OpenOptions::new().append(true).create(true).open(path).unwrap();
                for line in 0..LINES {
                    // Of different lengths, some longer than what is kept inline.
                    let pad = "x".repeat(line % 7 * 13 + usize::from(line % 50 == 49) * 20_000);
                    log.write_all(format!("{writer} {line} {pad}\n").as_bytes()).unwrap();
                }
            });
        }
    });
    let text = std::fs::read_to_string(b.join("log")).unwrap();
    assert_eq!(text, std::fs::read_to_string(a.join("log")).unwrap());
    let mut next = [0; 4];
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (writer, number): (usize, usize) =
            (words[0].parse().unwrap(), words[1].parse().unwrap());
        assert_eq!(number, next[writer], "lines of writer {writer} in order");
        next[writer] += 1;
        let pad = number % 7 * 13 + usize::from(number % 50 == 49) * 20_000;
        assert_eq!(words[2], "x".repeat(pad), "line {number} of writer {writer} is whole");
    }
    assert_eq!(next, [LINES; 4]);
}

/// While one mount replaces a file again and again, the other always finds a whole one.
#[test]
fn a_rename_is_one_step_for_the_other_mount() {
    const ROUNDS: u64 = 100;
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("rename");
    // Each names its round, in every eight bytes of it.
    let content = |round: u64| round.to_le_bytes().repeat([300, 9_000][round as usize % 2]);
    std::fs::write(a.join("f"), content(0)).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut last = 0;
            while !done.load(Ordering::Relaxed) {
                let bytes = std::fs::read(b.join("f")).expect("it is always there");
                let round = u64::from_le_bytes(bytes[..8].try_into().unwrap());
                assert!(bytes == content(round), "round {round} is not whole");
                assert!(round >= last, "round {round} after {last}");
                last = round;
            }
        });
        for round in 1..=ROUNDS {
            let mut new = File::create(a.join("new")).unwrap();
            new.write_all(&content(round)).unwrap();
            drop(new);
            std::fs::rename(a.join("new"), a.join("f")).unwrap();
            if reader.is_finished() {
                break;
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    assert!(std::fs::read(b.join("f")).unwrap() == content(ROUNDS));
}

/// Names, and the lack of them, that the kernel of one mount has seen are forgotten there when the other mount
/// changes them: before the other mount's program goes on.
#[test]
fn names_in_the_kernel_end_when_another_mount_changes_them() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("names");
    for turn in 0..40 {
        // A directory of its own for each turn: nobody else has changed it before.
        let directory = format!("d{turn}");
        let (here, there) = (a.join(&directory), b.join(&directory));
        std::fs::create_dir(&here).unwrap();
        for name in ["goes", "stays", "moves", "replaced"] {
            std::fs::write(here.join(name), name).unwrap();
        }
        let old = here.join("replaced").metadata().unwrap().ino();
        // Once by looking, once by a listing with attributes.
        if turn % 2 == 0 {
            let listed = std::fs::read_dir(&here).unwrap().map(|e| e.unwrap().metadata().unwrap());
            assert_eq!(listed.count(), 4);
        } else {
            for name in ["goes", "stays", "moves", "replaced"] {
                here.join(name).metadata().unwrap();
            }
        }
        for name in ["comes", "moved"] {
            assert!(!here.join(name).exists(), "turn {turn}");
        }
        std::fs::remove_file(there.join("goes")).unwrap();
        assert!(!here.join("goes").exists(), "turn {turn}: what was removed");
        std::fs::write(there.join("comes"), "").unwrap();
        assert!(here.join("comes").exists(), "turn {turn}: what was created");
        std::fs::rename(there.join("moves"), there.join("moved")).unwrap();
        assert!(!here.join("moves").exists(), "turn {turn}: the old name");
        assert!(here.join("moved").exists(), "turn {turn}: the new name");
        std::fs::rename(there.join("stays"), there.join("replaced")).unwrap();
        assert_ne!(here.join("replaced").metadata().unwrap().ino(), old, "turn {turn}");
        assert_eq!(std::fs::read(here.join("replaced")).unwrap(), b"stays");
    }
}

/// Two mounts that change the same directories at the same time, which the kernels of both have names of, do not
/// stand in each other's way for good.
#[test]
fn two_mounts_change_the_same_directory_at_once() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("both");
    for turn in 0..6 {
        let directory = format!("d{turn}");
        std::fs::create_dir(a.join(&directory)).unwrap();
        std::thread::scope(|scope| {
            for (who, mount) in [(1, &a), (2, &b)] {
                let directory = mount.join(&directory);
                scope.spawn(move || {
                    for number in 0..10 {
                        let path = directory.join(format!("{who}-{number}"));
                        std::fs::write(&path, "").unwrap();
                        assert!(path.exists());
                        if number % 2 == 1 {
                            std::fs::remove_file(&path).unwrap();
                            assert!(!path.exists());
                        }
                    }
                });
            }
        });
        let names = |mount: &std::path::Path| {
            let entries = std::fs::read_dir(mount.join(&directory)).unwrap();
            let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&a), names(&b));
        assert_eq!(names(&a).len(), 10, "turn {turn}");
    }
}
