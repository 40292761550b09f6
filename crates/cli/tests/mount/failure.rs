//! Nodes that die under a busy mount.

use crate::common::{eventually, noise};
use crate::world::{World, visit_alone};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Files that must be written before the next node dies, and after the last one.
const PROGRESS: u64 = 25;

/// Inline files, blocks, and several blocks.
fn content(number: u64) -> Vec<u8> {
    noise(number, [500, 50_000, 200_000, 5 << 20][(number % 4) as usize])
}

fn file(directory: &Path, number: u64) -> PathBuf {
    directory.join(number.to_string())
}

fn check(directory: &Path, number: u64) {
    let bytes = std::fs::read(file(directory, number)).unwrap_or_else(|e| panic!("{number}: {e}"));
    assert!(bytes == content(number), "file {number} differs");
}

/// Kills a storage node and then the leader, each with a writer and a reader at work.
fn break_nodes(world: &World, progress: impl Fn(&str)) -> [u32; 2] {
    progress("files to be written");
    let leader = world.cluster.leader();
    let storage = (1..=5).find(|node| *node != leader).expect("five nodes");
    world.cluster.kill_at_once(&[storage]);
    progress("files to be written without a storage node");
    let leader = world.cluster.leader();
    world.cluster.kill_at_once(&[leader]);
    progress("files to be written after the leader's death");
    [storage, leader]
}

/// A storage node and the metadata leader are killed: no operation of a mount fails, and every file that
/// was synced is right, read meanwhile and afterwards.
#[test]
fn a_mount_survives_the_death_of_nodes() {
    let Some(world) = visit_alone() else { return };
    let (a, b) = world.directory("busy");
    let (written, read, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let stopped = || stop.load(Ordering::Relaxed);
    let killed = std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            for number in 0.. {
                if stopped() {
                    break;
                }
                let mut new = File::create(file(&a, number)).unwrap();
                new.write_all(&content(number)).unwrap();
                new.sync_all().unwrap();
                written.store(number + 1, Ordering::Release);
            }
        });
        let reader = scope.spawn(|| {
            let mut turn = 0;
            while !stopped() {
                let count = written.load(Ordering::Acquire);
                if count > 0 {
                    check(&b, turn * 7919 % count);
                    turn += 1;
                    read.store(turn, Ordering::Relaxed);
                }
            }
        });
        let progress = |what: &str| {
            let (files, reads) = (written.load(Ordering::Relaxed), read.load(Ordering::Relaxed));
            eventually(what, || {
                let broken = writer.is_finished() || reader.is_finished();
                let done = written.load(Ordering::Relaxed) >= files + PROGRESS
                    && read.load(Ordering::Relaxed) >= reads + PROGRESS;
                (broken || done).then_some(())
            });
        };
        let killed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            break_nodes(&world, progress)
        }));
        stop.store(true, Ordering::Relaxed);
        killed.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    world.cluster.start(&killed);
    for number in 0..written.load(Ordering::Acquire) {
        check(&b, number);
        check(&a, number);
    }
    for mount in [&world.a, &world.b] {
        let log = mount.log();
        assert!(!log.contains("failed a request"), "{log}");
    }
    eventually("every node to be up", || {
        let status = world.cluster.try_status()?;
        let nodes = status["nodes"].as_array()?.clone();
        nodes.iter().all(|node| node["state"] == "up").then_some(())
    });
}
