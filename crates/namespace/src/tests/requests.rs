//! Sessions: at most once, floors, the window; and the change feed.

use super::invariants;
use super::world::*;
use crate::{changes, sessions};
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::limits::{BATCH_OPS_MAX, SESSION_WINDOW};
use everhold_proto::table::Refusal;

fn put(text: &str) -> FsOp {
    FsOp::PutFile {
        parent: ROOT,
        name: name(text),
        owner: OWNER,
        size: 0,
        content: Content::default(),
        replace: false,
        mtime: TimeOrNow::Now,
    }
}

fn batch(session: SessionId, acked_below: u64, requests: &[(u64, &str)]) -> SessionBatch {
    let requests =
        requests.iter().map(|(request, text)| SessionRequest::new(*request, put(text))).collect();
    SessionBatch { session, acked_below, floor: 0, requests }
}

fn kept(world: &World) -> usize {
    world.kv.0.keys().filter(|key| key[0] == b'A').count()
}

/// A number is executed once; below the acknowledged ones and beyond the window never.
#[test]
fn requests_happen_at_most_once() {
    let mut world = World::new();
    let session = world.session;
    let first = world.batch(&batch(session, 1, &[(1, "a"), (2, "a"), (3, "b")]));
    assert!(first[0].is_ok() && first[2].is_ok());
    assert_eq!(first[1], Err(FsError::Exists));
    let files = world.attr(ROOT).unwrap().size;
    // In any order, with any content: the number decides.
    let again = world.batch(&batch(session, 1, &[(3, "x"), (1, "y"), (2, "z")]));
    assert_eq!(again, [first[2].clone(), first[0].clone(), first[1].clone()]);
    assert_eq!(world.attr(ROOT).unwrap().size, files);
    assert_eq!(kept(&world), 3);
    let late = world.batch(&batch(session, 3, &[(2, "late"), (0, "zero"), (3, "x")]));
    assert_eq!(late[..2], [Err(FsError::MaybeApplied), Err(FsError::MaybeApplied)]);
    assert_eq!(late[2], first[2]);
    assert_eq!(kept(&world), 1);
    // Acknowledgements are never taken back.
    let back = world.batch(&batch(session, 1, &[(1, "again")]));
    assert_eq!(back, [Err(FsError::MaybeApplied)]);
    let edge = 3 + SESSION_WINDOW;
    let far =
        world.batch(&batch(session, 3, &[(edge, "far"), (u64::MAX, "far"), (edge - 1, "ok")]));
    assert_eq!(far[..2], [Err(FsError::WindowExceeded), Err(FsError::WindowExceeded)]);
    assert!(far[2].is_ok());
    assert_eq!(world.attr(ROOT).unwrap().size, files + 1);
    world.entry(|ctx| sessions::renew(ctx, session, u64::MAX, 0).unwrap()).unwrap();
    assert_eq!(kept(&world), 0);
    invariants::check(&world);
}

/// An ended session changes nothing any more, and another one is not touched by its numbers.
#[test]
fn ended_sessions_are_refused() {
    let mut world = World::new();
    let (old, other) = (world.session, world.open_session());
    let listed = |world: &World, after| {
        let sessions = sessions::list(&world.kv, after, 10).unwrap();
        sessions.into_iter().map(|(id, _)| id).collect::<Vec<_>>()
    };
    assert_eq!(listed(&world, None), [old, other]);
    assert_eq!(listed(&world, Some(old)), [other]);
    assert!(world.batch(&batch(old, 1, &[(1, "a")]))[0].is_ok());
    assert!(world.batch(&batch(other, 1, &[(1, "b")]))[0].is_ok());
    world.end_session(old);
    world.end_session(old);
    assert_eq!(kept(&world), 1);
    let refused = world.batch(&batch(old, 1, &[(1, "a"), (2, "c")]));
    assert_eq!(refused, [Err(FsError::NoSession), Err(FsError::NoSession)]);
    let renewed = world.entry(|ctx| sessions::renew(ctx, old, 9, 9).unwrap());
    assert_eq!(renewed, Err(FsError::NoSession));
    assert_eq!(listed(&world, None), [other]);
    invariants::check(&world);
}

/// A session's floor rises with renewals and batches, never falls, and blocks below it are refused.
#[test]
fn floors_only_rise() {
    let mut world = World::new();
    let session = world.session;
    let inode = world.create(ROOT, "f", NewKind::File);
    let early = world.store(vec![1; 8]);
    let late = world.store(vec![2; 8]);
    for floor in [late.id.counter, 0] {
        world.entry(|ctx| sessions::renew(ctx, session, 0, floor).unwrap()).unwrap();
    }
    let mut commit = |block: &everhold_proto::table::NewBlock| {
        let extents = vec![block_extent(0, block, 0, 8)];
        world.commit(inode, Content { extents, blocks: vec![block.clone()] })
    };
    let refused = FsError::BlocksRefused(vec![(early.id, Refusal::BelowFloor)]);
    assert_eq!(commit(&early), Err(refused));
    assert!(commit(&late).is_ok());
    assert_eq!(world.read(inode), [2; 8]);
}

/// Requests beyond the largest batch are not executed, so they may be sent again.
#[test]
fn oversized_batches_are_cut() {
    let mut world = World::new();
    let session = world.session;
    let names: Vec<String> = (0..=BATCH_OPS_MAX).map(|i| format!("{i}")).collect();
    let requests: Vec<(u64, &str)> = (1..).zip(names.iter().map(String::as_str)).collect();
    let answers = world.batch(&batch(session, 1, &requests));
    assert_eq!(answers.iter().filter(|a| a.is_ok()).count(), BATCH_OPS_MAX);
    assert_eq!(answers[BATCH_OPS_MAX], Err(FsError::WindowExceeded));
    assert!(world.batch(&batch(session, 1, &requests[BATCH_OPS_MAX..]))[0].is_ok());
}

/// Each mutation leaves one record; reading resumes anywhere, and trimming shows as a gap.
#[test]
fn changes_are_recorded() {
    let mut world = World::new();
    let file = world.put(ROOT, "a", b"x").inode;
    world.commit(file, only(vec![inline(0, b"y")])).unwrap();
    let set = SetAttr { mode: Some(0), ..SetAttr::default() };
    world.attr_of(FsOp::SetAttr { inode: file, set });
    world.attr_of(FsOp::Link { inode: file, parent: ROOT, name: name("b") });
    let other = world.put(ROOT, "c", b"").inode;
    let mode = RenameMode::Replace;
    let (from, to) = (name("c"), name("b"));
    world.attr_of(FsOp::Rename { parent: ROOT, name: from, new_parent: ROOT, new_name: to, mode });
    world.perform(put("a")).unwrap_err();
    world.attr_of(FsOp::Open { inode: file });
    world.done(FsOp::Unlink { parent: ROOT, name: name("a"), linger: false });
    let all = changes::read(&world.kv, 0, 100).unwrap();
    let kinds: Vec<_> = all.iter().map(|(n, c)| (*n, c.kind, c.inode)).collect();
    use ChangeKind::*;
    let expected = [
        (1, Create, file),
        (2, Write, file),
        (3, Attributes, file),
        (4, Link, file),
        (5, Create, other),
        (6, Remove, file),
        (7, Rename, other),
        (8, Remove, file),
    ];
    assert_eq!(kinds, expected);
    assert_eq!(all[6].1.entry, Some((ROOT, name("b"))));
    assert_eq!(all[6].1.old_entry, Some((ROOT, name("c"))));
    assert_eq!(changes::read(&world.kv, 3, 2).unwrap(), all[2..4]);
    assert_eq!(world.entry(|ctx| changes::trim(ctx, 5, 3).unwrap()), 3);
    assert_eq!(world.entry(|ctx| changes::trim(ctx, 5, 3).unwrap()), 1);
    assert_eq!(changes::read(&world.kv, 0, 100).unwrap(), all[4..]);
}

/// The row of a session says when it was opened, renewed or used last, to within a second, and never goes back. A row
/// without that time reads as one of which it is not known.
#[test]
fn sessions_show_when_they_were_seen() {
    let mut world = World::new();
    let session = world.session;
    let seen = |world: &World| {
        let sessions = sessions::list(&world.kv, None, 10).unwrap();
        sessions.into_iter().find(|(id, _)| *id == session).expect("it is open").1.seen_ms
    };
    let opened = seen(&world);
    assert!(opened > 0);
    world.waited_ms += 10_000;
    assert_eq!(seen(&world), opened, "waiting alone is no sign of life");
    world.entry(|ctx| sessions::renew(ctx, session, 0, 0).unwrap()).unwrap();
    assert_eq!(seen(&world), world.log_ms());
    world.waited_ms += 10_000;
    assert!(world.batch(&batch(session, 1, &[(1, "a")]))[0].is_ok());
    assert_eq!(seen(&world), world.log_ms());

    let row = everhold_proto::table::SessionRow { floor: 3, seen_ms: 5, ..Default::default() };
    let mut bytes = everhold_proto::codec::encode_row(&row);
    assert_eq!(bytes.pop(), Some(5));
    let older: everhold_proto::table::SessionRow =
        everhold_proto::codec::decode_row(&bytes).expect("it ends one field earlier");
    assert_eq!((older.floor, older.seen_ms), (3, 0));
}
