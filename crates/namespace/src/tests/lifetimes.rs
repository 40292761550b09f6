//! How long inodes live without a name, unnamed files, shared ranges, and how long records are kept.

use super::invariants;
use super::world::*;
use crate::is_reapable;
use crate::limits::CHANGES_KEPT;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::limits::{COMMIT_EXTENTS_MAX, FILE_BYTES_MAX, UNLINKED_LINGER_MS};

fn unlink(text: &str) -> FsOp {
    FsOp::Unlink { parent: ROOT, name: name(text), linger: true }
}

fn unnamed(linkable: bool) -> FsOp {
    FsOp::CreateUnnamed { parent: ROOT, owner: OWNER, linkable }
}

fn link(inode: InodeId, text: &str) -> FsOp {
    FsOp::Link { inode, parent: ROOT, name: name(text) }
}

fn clone(source: InodeId, source_offset: u64, length: u64, target: InodeId, at: u64) -> FsOp {
    FsOp::CloneRange { source, source_offset, length, target, target_offset: at }
}

fn usage(world: &World) -> Usage {
    match world.ask(FsQuery::Usage) {
        Ok(FsAnswer::Usage(usage)) => usage,
        other => panic!("{other:?}"),
    }
}

/// A file without a name counts and can be opened for ten seconds; opened, it stays; else it goes.
#[test]
fn what_is_unlinked_lingers() {
    let mut world = World::new();
    let (kept, gone) = (world.put(ROOT, "a", b"abc").inode, world.put(ROOT, "b", b"de").inode);
    let replaced = world.put(ROOT, "c", b"f").inode;
    world.done(unlink("a"));
    world.done(unlink("b"));
    world.put(ROOT, "c", b"");
    assert_eq!(usage(&world), Usage { inodes: 5, bytes: 6 });
    assert_eq!(world.perform(link(gone, "again")), Err(FsError::NotFound));
    world.waited_ms += UNLINKED_LINGER_MS / 2;
    assert_eq!(world.reap(10), 0);
    assert_eq!(world.attr_of(FsOp::Open { inode: kept }).nlink, 0);
    world.waited_ms += UNLINKED_LINGER_MS;
    assert!(is_reapable(&world.kv, world.log_ms()).unwrap());
    while world.reap(1) > 0 {
        invariants::check(&world);
    }
    assert!(!is_reapable(&world.kv, world.log_ms()).unwrap());
    assert_eq!(world.attr(gone), Err(FsError::NotFound));
    assert_eq!(world.attr(replaced), Err(FsError::NotFound));
    assert_eq!(world.read(kept), b"abc");
    world.done(FsOp::Release { inode: kept });
    assert_eq!(world.attr(kept), Err(FsError::NotFound), "it had its time");
    assert_eq!(usage(&world), Usage { inodes: 2, bytes: 0 });
    invariants::check(&world);
}

/// A handle that is released does not end the time that others have; who unlinks without lingering does.
#[test]
fn lingering_does_not_depend_on_the_first_handle() {
    let mut world = World::new();
    let inode = world.put(ROOT, "a", b"abc").inode;
    world.attr_of(FsOp::Open { inode });
    world.done(unlink("a"));
    world.done(FsOp::Release { inode });
    assert_eq!(world.read(inode), b"abc");
    let inode = world.put(ROOT, "b", b"abc").inode;
    world.done(FsOp::Unlink { parent: ROOT, name: name("b"), linger: false });
    assert_eq!(world.attr(inode), Err(FsError::NotFound));
    invariants::check(&world);
}

/// `O_TMPFILE`: the handle keeps it; a linkable one gets its first name, and only the first.
#[test]
fn unnamed_files_live_by_their_handle() {
    let mut world = World::new();
    let inode = world.attr_of(unnamed(false)).inode;
    assert_eq!(world.perform(link(inode, "x")), Err(FsError::NotFound));
    world.done(FsOp::Release { inode });
    assert_eq!(world.attr(inode), Err(FsError::NotFound));
    let inode = world.attr_of(unnamed(true)).inode;
    world.commit(inode, only(vec![inline(0, b"abc")])).unwrap();
    assert_eq!(world.attr_of(link(inode, "x")).nlink, 1);
    world.done(FsOp::Release { inode });
    assert_eq!(world.read(inode), b"abc");
    world.attr_of(FsOp::Open { inode });
    world.done(unlink("x"));
    assert_eq!(world.perform(link(inode, "x")), Err(FsError::NotFound), "it had a name");
    let inode = world.attr_of(unnamed(true)).inode;
    world.end_session(world.session);
    assert_eq!(world.attr(inode), Err(FsError::NotFound));
    invariants::check(&world);
}

/// Blocks are shared and holes stay holes; source and target are independent afterwards.
#[test]
fn clones_share_blocks() {
    let mut world = World::new();
    let (source, target) = (world.put(ROOT, "s", b"").inode, world.put(ROOT, "t", b"").inode);
    let block = world.store((1..=20).collect());
    let extents = vec![block_extent(0, &block, 0, 10), block_extent(15, &block, 10, 10)];
    world.commit(source, Content { extents, blocks: vec![block] }).unwrap();
    world.commit(target, only(vec![inline(0, &[9; 30])])).unwrap();
    let attr = world.attr_of(clone(source, 5, 100, target, 7));
    assert_eq!((attr.size, attr.allocated), (30, 25));
    let expected = [vec![9; 7], vec![6, 7, 8, 9, 10], vec![0; 5], (11..=20).collect(), vec![9; 3]];
    assert_eq!(world.read(target), expected.concat());
    invariants::check(&world);
    assert_eq!(world.attr_of(clone(source, 0, 10, source, 30)).size, 40);
    for (from, length, to) in [(0, 10, 5), (5, 10, 0), (3, 1, 3), (0, 100, 39)] {
        let overlap = clone(source, from, length, source, to);
        assert_eq!(world.perform(overlap), Err(FsError::Invalid));
    }
    let version = world.attr(target).unwrap().version;
    assert_eq!(world.attr_of(clone(source, 40, 1, target, 0)).version, version, "nothing is left");
    let far = clone(source, 0, 1, target, FILE_BYTES_MAX);
    assert_eq!(world.perform(far), Err(FsError::TooLarge));
    assert_eq!(world.perform(clone(ROOT, 0, 1, target, 0)), Err(FsError::IsDirectory));
    world.done(FsOp::Unlink { parent: ROOT, name: name("s"), linger: false });
    assert_eq!(world.read(target), expected.concat());
    invariants::check(&world);
}

/// What is too much for one request is refused, and goes in parts.
#[test]
fn clones_are_bounded() {
    let mut world = World::new();
    let (source, target) = (world.put(ROOT, "s", b"").inode, world.put(ROOT, "t", b"").inode);
    let count = COMMIT_EXTENTS_MAX as u64 + 1;
    for i in 0..count {
        world.commit(source, only(vec![inline(2 * i, b"x")])).unwrap();
    }
    assert_eq!(world.perform(clone(source, 0, 2 * count, target, 0)), Err(FsError::TooLarge));
    world.attr_of(clone(source, 0, count, target, 0));
    world.attr_of(clone(source, count, count, target, count));
    assert_eq!(world.read(target), world.read(source));
    invariants::check(&world);
}

/// The feed keeps its newest records, and loses the others step by step.
#[test]
fn the_feed_is_bounded() {
    let mut world = World::new();
    for _ in 0..CHANGES_KEPT + 5 {
        world.put(ROOT, "f", b"");
        world.done(FsOp::Unlink { parent: ROOT, name: name("f"), linger: false });
    }
    assert!(is_reapable(&world.kv, world.log_ms()).unwrap());
    assert_eq!(world.reap(7), 7);
    while world.reap(7) > 0 {
        invariants::check(&world);
    }
    assert!(!is_reapable(&world.kv, world.log_ms()).unwrap());
    let kept = crate::changes::read(&world.kv, 0, 1000).unwrap();
    assert_eq!(kept.len() as u64, CHANGES_KEPT);
    assert_eq!(kept.last().unwrap().0, 2 * (CHANGES_KEPT + 5));
}

/// What is created takes the consistency of its directory, whatever that becomes later.
#[test]
fn consistency_is_inherited() {
    let mut world = World::new();
    let dir = world.create(ROOT, "d", NewKind::Directory);
    let set = |consistency| SetAttr { consistency: Some(consistency), ..SetAttr::default() };
    let strict = FsOp::SetAttr { inode: dir, set: set(Consistency::Strict) };
    assert_eq!(world.attr_of(strict).consistency, Consistency::Strict);
    let inner = world.create(dir, "e", NewKind::Directory);
    let file = world.put(inner, "f", b"").inode;
    world.attr_of(FsOp::SetAttr { inode: dir, set: set(Consistency::Relaxed) });
    for inode in [inner, file] {
        assert_eq!(world.attr(inode).unwrap().consistency, Consistency::Strict);
    }
    assert_eq!(world.attr(ROOT).unwrap().consistency, Consistency::CloseToOpen);
}
