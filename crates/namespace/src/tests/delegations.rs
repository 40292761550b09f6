//! Delegations: what they keep from other sessions, and what may be told behind them.

use super::world::*;
use crate::{delegations, query_for};
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::units::Timestamp;

/// A world in which the current session holds a directory with a file and a directory in it, and another session.
struct Held {
    world: World,
    holder: SessionId,
    other: SessionId,
    dir: InodeId,
    file: InodeId,
    below: InodeId,
}

fn held() -> Held {
    let mut world = World::new();
    let dir = world.create(ROOT, "d", NewKind::Directory);
    let file = world.put(dir, "f", b"text").inode;
    let below = world.create(dir, "below", NewKind::Directory);
    let (holder, other) = (world.session, world.open_session());
    assert_eq!(world.attr_of(FsOp::Delegate { inode: dir }).inode, dir);
    Held { world, holder, other, dir, file, below }
}

impl Held {
    fn as_other<T>(&mut self, work: impl FnOnce(&mut World) -> T) -> T {
        let own = std::mem::replace(&mut self.world.session, self.other);
        let result = work(&mut self.world);
        self.world.session = own;
        result
    }

    fn refusal<T>(&self) -> Result<T, FsError> {
        Err(FsError::Delegated { inode: self.dir, holder: self.holder })
    }

    fn asked(&self, question: FsQuery, by: Option<SessionId>) -> Result<FsAnswer, FsError> {
        query_for(&self.world.kv, &question, by).unwrap()
    }
}

fn create(parent: InodeId, text: &str) -> FsOp {
    let (name, kind) = (name(text), NewKind::File);
    FsOp::Create { parent, name, kind, owner: OWNER, open: false }
}

fn chmod(inode: InodeId) -> FsOp {
    FsOp::SetAttr { inode, set: SetAttr { mode: Some(0o600), ..SetAttr::default() } }
}

fn behind(at: i64, inode: Option<u64>) -> Option<Behind> {
    Some(Behind { at: Timestamp(at), inode: inode.map(InodeId) })
}

/// Another session neither changes nor sees the directory, its names and its files; what is below has its own.
#[test]
fn others_are_kept_out() {
    let mut held = held();
    let (dir, file, below) = (held.dir, held.file, held.below);
    let rename = |parent, new_parent| FsOp::Rename {
        parent,
        name: name("f"),
        new_parent,
        new_name: name("g"),
        mode: RenameMode::Replace,
    };
    let unlink = FsOp::Unlink { parent: dir, name: name("f"), linger: false };
    let changes = [
        create(dir, "x"),
        unlink,
        chmod(dir),
        chmod(file),
        rename(dir, ROOT),
        FsOp::Open { inode: file },
        FsOp::Link { inode: file, parent: ROOT, name: name("l") },
        FsOp::Rmdir { parent: ROOT, name: name("d") },
        FsOp::Delegate { inode: dir },
    ];
    for change in changes {
        let answer = held.as_other(|world| world.perform(change.clone()));
        assert_eq!(answer, held.refusal(), "{change:?}");
    }
    let questions = [
        FsQuery::Attr { inode: dir },
        FsQuery::Attr { inode: file },
        FsQuery::Lookup { parent: dir, name: name("f") },
        FsQuery::Lookup { parent: ROOT, name: name("d") },
        FsQuery::ReadDir { inode: ROOT, after: None, limit: 10 },
        FsQuery::ReadDir { inode: dir, after: None, limit: 10 },
        FsQuery::Extents { inode: file, from: 0, to: 9, limit: 9 },
        FsQuery::Resolve { base: ROOT, path: "d/below".into(), follow: true, read: false },
    ];
    for question in questions {
        for asker in [Some(held.other), None] {
            assert_eq!(held.asked(question.clone(), asker), held.refusal(), "{question:?}");
        }
        assert!(held.asked(question.clone(), Some(held.holder)).is_ok(), "{question:?}");
    }
    held.as_other(|world| world.create(below, "x", NewKind::File));
    held.as_other(|world| world.create(ROOT, "x", NewKind::File));
    held.as_other(|world| world.done(FsOp::Undelegate { inode: dir, lost: false }));
    let still = held.as_other(|world| world.perform(chmod(file)));
    assert_eq!(still, held.refusal(), "nobody gives back what another one holds");
    held.world.done(FsOp::Undelegate { inode: dir, lost: false });
    assert!(held.as_other(|world| world.perform(chmod(file))).is_ok());
}

/// A file with two names, or with none, belongs to no directory.
#[test]
fn files_of_several_names_are_nobodys() {
    let mut held = held();
    let (dir, file) = (held.dir, held.file);
    held.world.attr_of(FsOp::Link { inode: file, parent: ROOT, name: name("l") });
    held.as_other(|world| world.attr_of(chmod(file)));
    held.world.done(FsOp::Unlink { parent: ROOT, name: name("l"), linger: false });
    held.as_other(|world| world.attr_of(chmod(file)));
    // But each of their names does.
    held.world.attr_of(FsOp::Link { inode: file, parent: dir, name: name("second") });
    let told = FsOp::Unlink { parent: dir, name: name("second"), linger: false };
    assert_eq!(held.world.perform_with(told, behind(80, None)), Ok(FsReply::Done));
    assert_eq!(held.world.perform_with(chmod(file), behind(80, None)), Err(FsError::Fenced));
    let gone = held.world.put(dir, "gone", b"").inode;
    held.world.done(FsOp::Unlink { parent: dir, name: name("gone"), linger: true });
    held.as_other(|world| world.attr_of(FsOp::Open { inode: gone }));
    // A file that moves goes with its directory.
    let moved = held.world.put(ROOT, "moved", b"").inode;
    held.as_other(|world| world.attr_of(chmod(moved)));
    held.world.attr_of(FsOp::Rename {
        parent: ROOT,
        name: name("moved"),
        new_parent: dir,
        new_name: name("moved"),
        mode: RenameMode::Replace,
    });
    assert_eq!(held.as_other(|world| world.perform(chmod(moved))), held.refusal());
}

/// What was done behind a delegation has the time and the number that it had then; a new directory is held too.
#[test]
fn what_is_told_later_is_as_it_was() {
    let mut held = held();
    let dir = held.dir;
    let numbers = held.world.perform(FsOp::Reserve { count: 3 });
    let Ok(FsReply::Numbers(first, end)) = numbers else { panic!("{numbers:?}") };
    assert_eq!(end, first + 3);
    let made = held.world.perform_with(create(dir, "new"), behind(77, Some(first + 1)));
    let Ok(FsReply::Attr(made)) = made else { panic!("{made:?}") };
    assert_eq!((made.inode, made.ctime), (InodeId(first + 1), Timestamp(77)));
    for used in [first, first + 1, end] {
        let again = held.world.perform_with(create(dir, "again"), behind(78, Some(used)));
        assert_eq!(again, Err(FsError::Invalid), "number {used}");
    }
    let mkdir = FsOp::Create {
        parent: dir,
        name: name("sub"),
        kind: NewKind::Directory,
        owner: OWNER,
        open: false,
    };
    let sub = held.world.perform_with(mkdir, behind(79, Some(first + 2)));
    let Ok(FsReply::Attr(sub)) = sub else { panic!("{sub:?}") };
    let refused = Err(FsError::Delegated { inode: sub.inode, holder: held.holder });
    assert_eq!(held.as_other(|world| world.perform(create(sub.inode, "x"))), refused);
    let later = held.world.put(ROOT, "later", b"").inode;
    assert!(later.0 >= end, "a number that was set aside is nobody else's");
}

/// After its end a delegation covers nothing: what was done behind it does not touch what others did since.
#[test]
fn what_comes_too_late_is_refused() {
    let mut held = held();
    let (dir, file, holder, other) = (held.dir, held.file, held.holder, held.other);
    let unlink = |text| FsOp::Unlink { parent: dir, name: name(text), linger: false };
    held.world.entry(|ctx| delegations::revoke(ctx, dir, other).unwrap());
    assert_eq!(held.as_other(|world| world.perform(chmod(file))), held.refusal());
    held.world.entry(|ctx| delegations::revoke(ctx, dir, holder).unwrap());
    let late = held.world.perform_with(unlink("f"), behind(80, None));
    assert_eq!(late, Err(FsError::Fenced));
    assert_eq!(held.world.perform_with(chmod(file), behind(80, None)), Err(FsError::Fenced));
    held.as_other(|world| world.attr_of(FsOp::Delegate { inode: dir }));
    let late = held.world.perform_with(unlink("f"), behind(80, None));
    assert_eq!(late, Err(FsError::Fenced));
    // With the session ends what it holds.
    held.world.end_session(other);
    held.world.attr_of(chmod(file));
}

/// A strict directory is not delegated, and one that becomes strict is given back.
#[test]
fn strict_directories_are_not_delegated() {
    let mut held = held();
    let (dir, file) = (held.dir, held.file);
    let consistency = Some(Consistency::Strict);
    let strict = FsOp::SetAttr { inode: dir, set: SetAttr { consistency, ..SetAttr::default() } };
    held.world.attr_of(strict);
    held.as_other(|world| world.attr_of(chmod(file)));
    assert_eq!(held.world.perform(FsOp::Delegate { inode: dir }), Err(FsError::Invalid));
    assert_eq!(held.world.perform(FsOp::Delegate { inode: file }), Err(FsError::NotDirectory));
}

/// What was done one after the other takes effect as a prefix, also when it is asked for again.
#[test]
fn after_a_change_that_fails_none_takes_effect() {
    let mut held = held();
    let (dir, file) = (held.dir, held.file);
    let link = |text| FsOp::Link { inode: file, parent: dir, name: name(text) };
    let unlink = |text| FsOp::Unlink { parent: dir, name: name(text), linger: false };
    let undelegate = FsOp::Undelegate { inode: dir, lost: false };
    let ops = [link("final"), unlink("absent"), unlink("f"), undelegate];
    let requests = ops
        .into_iter()
        .zip(100..)
        .map(|(op, number)| SessionRequest { chained: true, ..SessionRequest::new(number, op) });
    let (session, requests) = (held.world.session, requests.collect());
    let batch = SessionBatch { session, acked_below: 100, floor: 0, requests };
    for turn in ["first", "again"] {
        let results = held.world.batch(&batch);
        assert!(results[0].is_ok(), "{turn}");
        let rest = [FsError::NotFound, FsError::Skipped, FsError::Skipped].map(Err);
        assert_eq!(results[1..], rest, "{turn}");
    }
    let found = |text| FsQuery::Lookup { parent: dir, name: name(text) };
    assert!(held.asked(found("f"), Some(held.holder)).is_ok(), "the name was not removed");
    let others = held.asked(found("f"), Some(held.other));
    assert_eq!(others, held.refusal(), "the directory was not given back");
}

/// A version that somebody may have been shown behind a delegation is not given to other content after a loss.
#[test]
fn versions_that_may_be_lost_are_skipped() {
    type End = fn(&mut Held);
    let ends: [(&str, End); 3] = [
        ("revoked", |held| {
            let (dir, holder) = (held.dir, held.holder);
            held.world.entry(|ctx| delegations::revoke(ctx, dir, holder).unwrap());
        }),
        ("the session ends", |held| {
            let holder = held.holder;
            held.world.end_session(holder);
        }),
        ("given back after a loss", |held| {
            let inode = held.dir;
            held.world.done(FsOp::Undelegate { inode, lost: true });
        }),
    ];
    for (how, end) in ends {
        let mut held = held();
        let (dir, file, other) = (held.dir, held.file, held.other);
        let attr = |held: &Held, inode| match held.asked(FsQuery::Attr { inode }, Some(other)) {
            Ok(FsAnswer::Attr(attr)) => attr.version,
            answer => panic!("{how}: {answer:?}"),
        };
        let before = [dir, file].map(|inode| held.world.attr(inode).unwrap().version);
        end(&mut held);
        let skipped = [dir, file].map(|inode| attr(&held, inode));
        for (before, now) in before.into_iter().zip(skipped) {
            // Far more than a client can have done without telling.
            assert!(now > before + 100_000, "{how}: {before} {now}");
        }
        held.as_other(|world| world.attr_of(chmod(file)));
        assert_eq!(attr(&held, file), skipped[1] + 1, "{how}: it goes on from there");
        // Another delegation that ends badly, with nothing changed in between.
        held.as_other(|world| world.attr_of(FsOp::Delegate { inode: dir }));
        assert_eq!(attr(&held, file), skipped[1] + 1, "{how}: to take it changes no file");
        held.world.entry(|ctx| delegations::revoke(ctx, dir, other).unwrap());
        assert!(attr(&held, file) > skipped[1] + 100_000, "{how}");
        let listed =
            held.asked(FsQuery::ReadDir { inode: dir, after: None, limit: 10 }, Some(other));
        let Ok(FsAnswer::Entries { entries, .. }) = listed else { panic!("{how}: {listed:?}") };
        let shown =
            entries.iter().find(|(_, attr)| attr.inode == file).map(|(_, attr)| attr.version);
        assert_eq!(shown, Some(attr(&held, file)), "{how}: a listing shows the same");
    }
}

/// A file that moves keeps its version, however often delegations of its new directory have ended badly.
#[test]
fn a_move_changes_no_version_but_by_one() {
    let mut held = held();
    let (dir, file, holder) = (held.dir, held.file, held.holder);
    held.world.entry(|ctx| delegations::revoke(ctx, dir, holder).unwrap());
    let before = held.world.attr(file).unwrap().version;
    let to_root = FsOp::Rename {
        parent: dir,
        name: name("f"),
        new_parent: ROOT,
        new_name: name("moved"),
        mode: RenameMode::Replace,
    };
    assert_eq!(held.world.attr_of(to_root).version, before + 1);
    let back = FsOp::Rename {
        parent: ROOT,
        name: name("moved"),
        new_parent: dir,
        new_name: name("f"),
        mode: RenameMode::Replace,
    };
    assert_eq!(held.world.attr_of(back).version, before + 2);
    let fresh = held.world.put(dir, "fresh", b"").version;
    assert!(fresh < 100, "a new file begins at the beginning: {fresh}");
}
