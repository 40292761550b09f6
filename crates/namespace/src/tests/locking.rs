//! Locks of sessions: who waits for whom, and what ends a lock.

use super::invariants;
use super::world::*;
use crate::limits::END_HANDLES_MAX;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::limits::LOCKS_PER_INODE_MAX;

fn lock(inode: InodeId, owner: u64, kind: LockKind, start: u64, end: u64) -> FsOp {
    let (space, owner) = (LockSpace::Posix, LockOwner(owner));
    FsOp::Lock { inode, space, owner, kind, start, end, pid: 77 }
}

fn flock(inode: InodeId, owner: u64, kind: LockKind) -> FsOp {
    let (space, owner) = (LockSpace::Flock, LockOwner(owner));
    FsOp::Lock { inode, space, owner, kind, start: 5, end: 5, pid: 78 }
}

fn unlock(inode: InodeId, space: LockSpace, owner: u64, start: u64, end: u64) -> FsOp {
    FsOp::Unlock { inode, space, owner: LockOwner(owner), start, end }
}

/// What stands in the way of a write by nobody.
fn held(world: &World, inode: InodeId, space: LockSpace, start: u64, end: u64) -> Option<LockInfo> {
    let (session, owner, kind) = (SessionId(u64::MAX), LockOwner(0), LockKind::Write);
    match world.ask(FsQuery::TestLock { inode, session, space, owner, kind, start, end }) {
        Ok(FsAnswer::Lock(lock)) => lock,
        other => panic!("{other:?}"),
    }
}

/// Readers share, a writer is alone, an owner is never in its own way, and unlocking cuts ranges.
#[test]
fn ranges_are_locked_as_fcntl_does() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    world.done(lock(inode, 1, LockKind::Read, 0, 99));
    world.done(lock(inode, 2, LockKind::Read, 50, u64::MAX));
    assert_eq!(world.perform(lock(inode, 1, LockKind::Write, 40, 60)), Err(FsError::Locked));
    world.done(lock(inode, 1, LockKind::Write, 10, 19));
    assert_eq!(world.perform(lock(inode, 2, LockKind::Read, 15, 15)), Err(FsError::Locked));
    let expected = LockInfo {
        session: world.session,
        owner: LockOwner(1),
        kind: LockKind::Write,
        start: 10,
        end: 19,
        pid: 77,
    };
    assert_eq!(held(&world, inode, LockSpace::Posix, 15, 15), Some(expected));
    world.done(unlock(inode, LockSpace::Posix, 1, 5, 99));
    assert_eq!(held(&world, inode, LockSpace::Posix, 5, 49), None);
    assert_eq!(held(&world, inode, LockSpace::Posix, 0, 49).map(|lock| lock.end), Some(4));
    world.done(unlock(inode, LockSpace::Posix, 9, 0, 99));
    assert_eq!(world.perform(lock(inode, 1, LockKind::Read, 9, 8)), Err(FsError::Invalid));
    let missing = lock(InodeId(999), 1, LockKind::Read, 0, 1);
    assert_eq!(world.perform(missing), Err(FsError::NotFound));
    invariants::check(&world);
}

/// `flock` is about whole files, is changed in place, and knows nothing of `fcntl`.
#[test]
fn flocks_change_in_place() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    world.done(lock(inode, 3, LockKind::Write, 0, u64::MAX));
    world.done(flock(inode, 1, LockKind::Read));
    world.done(flock(inode, 2, LockKind::Read));
    assert_eq!(world.perform(flock(inode, 1, LockKind::Write)), Err(FsError::Locked));
    world.done(unlock(inode, LockSpace::Flock, 2, 0, 0));
    world.done(flock(inode, 1, LockKind::Write));
    assert_eq!(world.perform(flock(inode, 2, LockKind::Read)), Err(FsError::Locked));
    world.done(flock(inode, 1, LockKind::Read));
    let found = held(&world, inode, LockSpace::Flock, 3, 4).unwrap();
    assert_eq!((found.kind, found.start, found.end), (LockKind::Read, 0, u64::MAX));
    invariants::check(&world);
}

/// The same owner in another session is somebody else, and a session's end frees what it held at once,
/// although its rows go step by step.
#[test]
fn locks_end_with_their_session() {
    let mut world = World::new();
    let first = world.session;
    let inodes: Vec<InodeId> =
        (0..3).map(|i| world.put(ROOT, &format!("{i}"), b"").inode).collect();
    for inode in &inodes {
        for at in 0..END_HANDLES_MAX as u64 {
            world.done(lock(*inode, 1, LockKind::Write, 2 * at, 2 * at));
        }
        world.done(flock(*inode, 1, LockKind::Write));
    }
    world.session = world.open_session();
    assert_eq!(world.perform(flock(inodes[0], 1, LockKind::Read)), Err(FsError::Locked));
    world.end_session(first);
    invariants::check(&world);
    for inode in &inodes {
        assert_eq!(held(&world, *inode, LockSpace::Posix, 0, u64::MAX), None);
    }
    world.done(flock(inodes[2], 1, LockKind::Write));
    invariants::check(&world);
    while world.reap(1) > 0 {
        invariants::check(&world);
    }
    let owner = held(&world, inodes[2], LockSpace::Flock, 0, 0).map(|lock| lock.session);
    assert_eq!(owner, Some(world.session));
}

/// The ranges of an inode are bounded; giving up and joining always works.
#[test]
fn locks_are_bounded() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    let locks = |range: std::ops::Range<u64>| {
        range.map(|at| lock(inode, 1, LockKind::Write, 2 * at, 2 * at)).collect::<Vec<_>>()
    };
    let most = LOCKS_PER_INODE_MAX as u64;
    // In a few entries: the checks of `perform` for each of them would take long.
    for (n, chunk) in locks(0..most).chunks(256).enumerate() {
        let first = 1000 * (n as u64 + 1);
        let numbered = chunk.iter().cloned().enumerate();
        let requests = numbered.map(|(i, op)| SessionRequest::new(first + i as u64, op)).collect();
        let (session, acked_below) = (world.session, first);
        let batch = SessionBatch { session, acked_below, floor: 0, requests };
        assert!(world.batch(&batch).iter().all(|answer| *answer == Ok(FsReply::Done)));
    }
    let first = 1000 * (most / 256 + 1);
    let ops = [
        (locks(most..most + 1).remove(0), Err(FsError::NoLocks)),
        (lock(inode, 1, LockKind::Write, 1, 1), Ok(FsReply::Done)),
        (lock(inode, 2, LockKind::Write, 1, 1), Err(FsError::Locked)),
        (unlock(inode, LockSpace::Posix, 1, 0, 3), Ok(FsReply::Done)),
        (locks(most..most + 1).remove(0), Ok(FsReply::Done)),
        (unlock(inode, LockSpace::Posix, 1, 0, u64::MAX), Ok(FsReply::Done)),
    ];
    let (requests, answers): (Vec<_>, Vec<_>) = ops
        .into_iter()
        .enumerate()
        .map(|(i, (op, answer))| (SessionRequest::new(first + i as u64, op), answer))
        .unzip();
    let batch = SessionBatch { session: world.session, acked_below: first, floor: 0, requests };
    assert_eq!(world.batch(&batch), answers);
    invariants::check(&world);
}

/// An inode that is freed takes its locks with it.
#[test]
fn locks_go_with_their_inode() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    world.done(lock(inode, 1, LockKind::Write, 0, 9));
    world.done(flock(inode, 1, LockKind::Write));
    world.done(FsOp::Unlink { parent: ROOT, name: name("f"), linger: false });
    let unlocked = world.perform(unlock(inode, LockSpace::Posix, 1, 0, 9));
    assert_eq!(unlocked, Err(FsError::NotFound));
    invariants::check(&world);
}
