//! The rules of the cache, without a clock and without a network.

use super::super::keys::touched;
use super::*;
use everhold_proto::fs::{Content, FileKind, FsOp, NewKind, Owner, SetAttr};
use everhold_proto::{LogIndex, PolicyId, Timestamp};
use std::time::Duration;

const ME: SessionId = SessionId(1);
const OTHER: SessionId = SessionId(2);
const DIR: InodeId = InodeId(1);
const FILE: InodeId = InodeId(7);

fn name(text: &'static str) -> Name {
    Name::new(text).unwrap()
}

fn attr(inode: InodeId, version: u64) -> Attr {
    let zero = Timestamp(0);
    Attr {
        inode,
        kind: FileKind::File,
        mode: 0o644,
        uid: 0,
        gid: 0,
        nlink: 1,
        size: 0,
        allocated: 0,
        atime: zero,
        mtime: zero,
        ctime: zero,
        btime: zero,
        rdev: 0,
        version,
        policy: PolicyId(0),
        consistency: Default::default(),
        xattrs: 1,
        parent: DIR,
    }
}

fn record(session: SessionId, kind: ChangeKind, inode: InodeId) -> ChangeRecord {
    let (index, wall) = (LogIndex(1), Timestamp(0));
    ChangeRecord { index, wall, kind, inode, entry: None, old_entry: None, session }
}

fn write(session: SessionId, inode: InodeId) -> ChangeRecord {
    record(session, ChangeKind::Write, inode)
}

fn named(session: SessionId, inode: InodeId, at: &'static str) -> ChangeRecord {
    ChangeRecord { entry: Some((DIR, name(at))), ..record(session, ChangeKind::Create, inode) }
}

fn followed(first: u64, records: Vec<ChangeRecord>) -> Followed {
    let records: Vec<_> = (first..).zip(records).collect();
    let next = first + records.len() as u64;
    Followed { records, next, reset: false, lease_ms: 500, recalls: Vec::new() }
}

struct Cached {
    held: Held,
    now: Instant,
}

impl Cached {
    /// A cache that has applied all records below 10, with a lease.
    fn new() -> Self {
        let (mut held, now) = (Held::new(100, 100), Instant::now());
        let news = held.apply(
            &Followed {
                records: Vec::new(),
                next: 10,
                reset: true,
                lease_ms: 500,
                recalls: Vec::new(),
            },
            ME,
        );
        assert!(news.everything);
        held.extend(now + Duration::from_millis(450));
        Cached { held, now }
    }

    fn apply(&mut self, first: u64, records: Vec<ChangeRecord>) -> News {
        self.held.apply(&followed(first, records), ME)
    }

    fn learn_attr(&mut self, version: u64, at: u64) {
        let question = FsQuery::Attr { inode: FILE };
        self.answered(&question, Ok(FsAnswer::Attr(attr(FILE, version))), at);
    }

    fn answered(&mut self, question: &FsQuery, answer: Result<FsAnswer, FsError>, at: u64) {
        self.held.shown(at);
        self.held.learn(question, &answer, at);
    }

    fn look_up(&mut self, at: u64, found: Option<u64>) {
        let question = FsQuery::Lookup { parent: DIR, name: name("f") };
        let answer = found.map(|version| FsAnswer::Attr(attr(FILE, version)));
        self.answered(&question, answer.ok_or(FsError::NotFound), at);
    }

    /// The version that the cache would answer with.
    fn version(&mut self) -> Option<u64> {
        let open = self.held.is_open(self.now);
        self.held.attr(FILE).filter(|_| open).map(|attr| attr.version)
    }

    fn entry(&mut self) -> Option<Option<u64>> {
        let open = self.held.is_open(self.now);
        let entry = self.held.entry(DIR, &name("f")).filter(|_| open)?;
        Some(entry.map(|attr| attr.version))
    }

    fn made(&mut self, first: u64, next: u64, changes: Vec<(FsOp, Result<FsReply, FsError>)>) {
        let touched: Vec<Touched> = changes.iter().map(|(op, _)| touched(op)).collect();
        let results: Vec<_> = changes.into_iter().map(|(_, result)| result).collect();
        self.held.made(&Own { first, next }, &touched, &results);
    }
}

fn commit() -> FsOp {
    let content = Content::default();
    FsOp::Commit { inode: FILE, expected_version: None, content, size_at_least: 0, append: false }
}

fn create() -> FsOp {
    let owner = Owner { uid: 0, gid: 0, mode: 0o644, umask: 0 };
    FsOp::Create { parent: DIR, name: name("f"), kind: NewKind::File, owner, open: false }
}

fn told_of(version: u64) -> Result<FsReply, FsError> {
    Ok(FsReply::Attr(attr(FILE, version)))
}

#[test]
fn answers_are_held_until_a_record_touches_them() {
    let mut cached = Cached::new();
    cached.learn_attr(3, 10);
    assert_eq!(cached.version(), Some(3));
    cached.apply(10, vec![write(OTHER, InodeId(8))]);
    assert_eq!(cached.version(), Some(3), "another inode");
    cached.apply(11, vec![write(OTHER, FILE)]);
    assert_eq!(cached.version(), None);
}

/// The race of a fetch with an invalidation: whichever comes first, an old answer is not taken.
#[test]
fn an_answer_that_is_older_than_a_record_is_not_taken() {
    let mut cached = Cached::new();
    cached.apply(10, vec![write(OTHER, FILE)]);
    cached.learn_attr(3, 10);
    assert_eq!(cached.version(), None, "it was read before the change");
    cached.learn_attr(4, 11);
    assert_eq!(cached.version(), Some(4), "it was read after it");
    cached.look_up(11, None);
    cached.apply(11, vec![named(OTHER, FILE, "f")]);
    cached.look_up(11, None);
    assert_eq!(cached.entry(), None, "the name is there by now");
    cached.learn_attr(9, 9);
    assert_eq!(cached.version(), None, "it is older than anything that is known");
}

/// An answer that is newer than what was applied is kept when the records that it shows come.
#[test]
fn an_answer_outlives_the_records_that_it_shows() {
    let mut cached = Cached::new();
    cached.learn_attr(5, 12);
    assert_eq!(cached.version(), None, "other values may be older than what was shown");
    cached.apply(10, vec![write(OTHER, FILE), write(OTHER, FILE)]);
    assert_eq!(cached.version(), Some(5));
    cached.learn_attr(4, 11);
    assert_eq!(cached.version(), Some(5), "an older answer that comes late");
    cached.apply(12, vec![write(OTHER, FILE)]);
    assert_eq!(cached.version(), None);
}

/// Who was shown a change never sees a cached value from before it, of whatever inode.
#[test]
fn nothing_is_answered_that_is_older_than_what_was_shown() {
    let mut cached = Cached::new();
    cached.learn_attr(3, 10);
    cached.answered(&FsQuery::Usage, Err(FsError::NotFound), 11);
    assert_eq!(cached.version(), None);
    cached.apply(10, vec![write(OTHER, InodeId(8))]);
    assert_eq!(cached.version(), Some(3));
}

/// All names of a directory are known until one of them, or the directory, is touched by anybody.
#[test]
fn a_listing_is_held_until_its_directory_changes() {
    let mut cached = Cached::new();
    let list = |cached: &mut Cached, after: Option<Name>, more, at| {
        let question = FsQuery::ReadDir { inode: DIR, after, limit: 10 };
        let entries = vec![(name("f"), attr(FILE, 1))];
        cached.answered(&question, Ok(FsAnswer::Entries { entries, more }), at);
    };
    let names = |cached: &mut Cached| cached.held.listing(DIR).map(|names| names.to_vec());
    list(&mut cached, None, true, 10);
    list(&mut cached, Some(name("e")), false, 10);
    assert_eq!(names(&mut cached), None, "a part is not all of it");
    list(&mut cached, None, false, 10);
    assert_eq!(names(&mut cached), Some(vec![name("f")]));
    cached.apply(10, vec![write(OTHER, FILE)]);
    assert_eq!(names(&mut cached), Some(vec![name("f")]), "its names are the same");
    cached.apply(11, vec![named(OTHER, InodeId(8), "g")]);
    assert_eq!(names(&mut cached), None);
    list(&mut cached, None, false, 11);
    assert_eq!(names(&mut cached), None, "it is from before that");
    list(&mut cached, None, false, 12);
    cached.made(12, 13, vec![(create(), told_of(2))]);
    assert_eq!(names(&mut cached), None, "own changes count too");
    list(&mut cached, None, false, 13);
    cached.apply(13, vec![record(OTHER, ChangeKind::Delegate, DIR)]);
    assert_eq!(names(&mut cached), None, "somebody else holds it");
}

#[test]
fn names_are_held_present_and_absent() {
    let mut cached = Cached::new();
    cached.look_up(10, None);
    assert_eq!(cached.entry(), Some(None));
    cached.apply(10, vec![named(OTHER, FILE, "f")]);
    assert_eq!(cached.entry(), None);
    cached.look_up(11, Some(1));
    assert_eq!(cached.entry(), Some(Some(1)));
    cached.apply(11, vec![write(OTHER, FILE)]);
    assert_eq!(cached.entry(), None, "the name is known, its attributes are not");
    cached.learn_attr(2, 12);
    assert_eq!(cached.entry(), Some(Some(2)));
    let old_entry = Some((DIR, name("f")));
    let moved = ChangeRecord { old_entry, ..named(OTHER, FILE, "g") };
    cached.apply(12, vec![moved]);
    assert_eq!(cached.entry(), None);
}

/// A change in a directory changes the directory.
#[test]
fn a_listing_fills_and_a_change_touches_the_directory() {
    let mut cached = Cached::new();
    let entries = vec![(name("f"), attr(FILE, 1))];
    let page = Ok(FsAnswer::Entries { entries, more: false });
    let question = FsQuery::ReadDir { inode: DIR, after: None, limit: 10 };
    cached.answered(&question, page, 10);
    cached.answered(&FsQuery::Attr { inode: DIR }, Ok(FsAnswer::Attr(attr(DIR, 1))), 10);
    assert_eq!(cached.entry(), Some(Some(1)));
    assert!(cached.held.attr(DIR).is_some());
    cached.apply(10, vec![named(OTHER, InodeId(9), "g")]);
    assert!(cached.held.attr(DIR).is_none());
    assert_eq!(cached.entry(), Some(Some(1)));
}

#[test]
fn absent_attributes_are_forgotten_with_the_inode() {
    let mut cached = Cached::new();
    let lacks = |cached: &mut Cached, name: &'static str, at| {
        let question = FsQuery::GetXattr { inode: FILE, name: name.into() };
        cached.answered(&question, Err(FsError::NoAttribute), at);
    };
    lacks(&mut cached, "user.a", 10);
    lacks(&mut cached, "user.b", 10);
    assert!(cached.held.lacks(FILE, b"user.a") && cached.held.lacks(FILE, b"user.b"));
    assert!(!cached.held.lacks(FILE, b"user.c"));
    cached.apply(10, vec![record(OTHER, ChangeKind::Attributes, FILE)]);
    assert!(!cached.held.lacks(FILE, b"user.a"));
    lacks(&mut cached, "user.a", 10);
    assert!(!cached.held.lacks(FILE, b"user.a"), "it was read before the change");
}

#[test]
fn only_a_lease_that_runs_answers() {
    let mut cached = Cached::new();
    cached.learn_attr(3, 10);
    let (begun, lease) = (cached.now, Duration::from_millis(450));
    cached.now = begun + lease - Duration::from_millis(1);
    assert_eq!(cached.version(), Some(3));
    cached.now = begun + lease;
    assert_eq!(cached.version(), None);
    cached.held.extend(begun);
    cached.held.extend(begun + 2 * lease);
    assert_eq!(cached.version(), Some(3), "no record touched it: it is as good as before");
    cached.held.close();
    cached.learn_attr(4, 10);
    assert_eq!(cached.version(), None);
}

/// A reset forgets everything, and answers from before it are not taken.
#[test]
fn a_reset_forgets_everything() {
    let mut cached = Cached::new();
    cached.learn_attr(3, 10);
    cached.look_up(10, None);
    let reset =
        Followed { records: Vec::new(), next: 50, reset: true, lease_ms: 500, recalls: Vec::new() };
    assert!(cached.held.apply(&reset, ME).everything);
    assert_eq!(cached.held.cursor(), 50);
    assert_eq!((cached.version(), cached.entry()), (None, None));
    cached.learn_attr(3, 49);
    assert_eq!(cached.version(), None);
    cached.learn_attr(3, 50);
    assert_eq!(cached.version(), Some(3));
}

/// More keys are forgotten than are remembered: answers from before are not taken, whatever they are about.
#[test]
fn what_was_forgotten_is_remembered_within_a_bound() {
    let mut cached = Cached::new();
    let many = FORGOTTEN_MAX as u64 + 5;
    cached.apply(10, (0..many).map(|n| write(OTHER, InodeId(1000 + n))).collect());
    cached.learn_attr(3, 14);
    assert_eq!(cached.version(), None);
    cached.learn_attr(3, 15);
    assert_eq!(cached.version(), Some(3));
    assert!(cached.held.forgotten.last.len() <= FORGOTTEN_MAX);
}

/// Own changes update the cache before their caller hears of them, and the feed's word on them changes
/// nothing any more.
#[test]
fn own_changes_are_known_at_once() {
    let mut cached = Cached::new();
    cached.look_up(10, None);
    cached.made(10, 11, vec![(create(), told_of(1))]);
    assert_eq!(cached.entry(), Some(Some(1)));
    cached.made(11, 12, vec![(commit(), told_of(2))]);
    assert_eq!(cached.version(), Some(2));
    let news = cached.apply(10, vec![named(ME, FILE, "f"), write(ME, FILE)]);
    assert!(news.is_empty(), "others know what they did themselves");
    assert_eq!((cached.version(), cached.entry()), (Some(2), Some(Some(2))));
    assert!(cached.held.own.is_empty());
}

/// An answer that was under way when an own change was made is older than it.
#[test]
fn an_answer_from_before_an_own_change_is_not_taken() {
    let mut cached = Cached::new();
    let set = FsOp::SetXattr {
        inode: FILE,
        name: "user.a".into(),
        value: Bytes::new(),
        mode: everhold_proto::fs::XattrMode::Set,
    };
    cached.learn_attr(1, 10);
    cached.made(10, 11, vec![(set, Ok(FsReply::Done))]);
    assert_eq!(cached.version(), None);
    cached.learn_attr(1, 10);
    assert_eq!(cached.version(), None);
    cached.learn_attr(2, 11);
    assert_eq!(cached.version(), Some(2));
}

/// Between own changes somebody else made one: nothing is answered before the feed has told of it.
#[test]
fn changes_of_others_between_own_ones_are_waited_for() {
    let mut cached = Cached::new();
    cached.look_up(10, None);
    cached.made(12, 13, vec![(commit(), told_of(2))]);
    assert_eq!((cached.version(), cached.entry()), (None, None));
    cached.made(10, 11, vec![]);
    assert_eq!(cached.version(), None, "11 is still missing");
    cached.apply(10, vec![named(ME, InodeId(8), "x"), named(OTHER, FILE, "f")]);
    assert_eq!((cached.version(), cached.entry()), (Some(2), None));
}

/// What a change touches beside its names is known only from the feed.
#[test]
fn a_removal_is_known_in_full_from_the_feed() {
    let mut cached = Cached::new();
    cached.look_up(10, Some(1));
    let unlink = FsOp::Unlink { parent: DIR, name: name("other"), linger: true };
    cached.made(10, 11, vec![(unlink, Ok(FsReply::Done))]);
    assert_eq!(cached.version(), None, "it may have been another name of the file");
    let entry = Some((DIR, name("other")));
    let removed = ChangeRecord { entry, ..record(ME, ChangeKind::Remove, FILE) };
    cached.apply(10, vec![removed]);
    assert_eq!(cached.version(), None);
    assert_eq!(cached.held.reach, 11);
}

/// Of two changes of one inode in a batch the earlier answer is out of date.
#[test]
fn answers_of_a_batch_are_taken_when_nothing_else_in_it_touches_the_same() {
    let mut cached = Cached::new();
    let set = FsOp::SetAttr { inode: FILE, set: SetAttr::default() };
    cached.made(10, 12, vec![(commit(), told_of(2)), (set.clone(), told_of(3))]);
    assert_eq!(cached.version(), None);
    cached.learn_attr(3, 12);
    assert_eq!(cached.version(), Some(3));
    let refused = (commit(), Err(FsError::NotPermitted));
    cached.made(12, 13, vec![(set, told_of(4)), refused]);
    assert_eq!(cached.version(), Some(4), "what was refused touched nothing");
}

/// An answer that is repeated may be an old one.
#[test]
fn a_repeated_answer_is_not_taken() {
    let mut cached = Cached::new();
    cached.learn_attr(5, 10);
    cached.made(12, 12, vec![(commit(), told_of(2))]);
    assert_eq!(cached.version(), None, "what came before it is not known yet");
    cached.apply(10, vec![write(ME, FILE), write(OTHER, FILE)]);
    assert_eq!(cached.version(), None);
}

#[test]
fn others_hear_of_the_changes_of_others() {
    let mut cached = Cached::new();
    let news = cached.apply(10, vec![write(OTHER, FILE), named(OTHER, FILE, "f")]);
    assert_eq!(news.inodes, BTreeMap::from([(FILE, true), (DIR, false)]));
    assert_eq!(news.entries, BTreeSet::from([(DIR, name("f"))]));
    assert!(!news.everything);
}

/// A directory that another client holds changes without a word: nothing of it is known any more, and answers that
/// were under way are not taken.
#[test]
fn what_another_one_holds_is_forgotten() {
    let mut cached = Cached::new();
    cached.learn_attr(5, 10);
    cached.look_up(10, Some(5));
    assert_eq!((cached.version(), cached.entry()), (Some(5), Some(Some(5))));
    let news = cached.apply(10, vec![record(OTHER, ChangeKind::Delegate, DIR)]);
    assert_eq!(news.directories, BTreeMap::from([(DIR, true)]));
    assert_eq!((cached.version(), cached.entry()), (None, None));
    cached.look_up(10, Some(5));
    assert_eq!(cached.entry(), None, "it was asked for before");
    assert!(cached.apply(11, vec![record(ME, ChangeKind::Delegate, DIR)]).is_empty());
    let other = cached.apply(12, vec![record(OTHER, ChangeKind::Delegate, InodeId(99))]);
    assert_eq!(other.directories, BTreeMap::from([(InodeId(99), false)]));
}

/// After a change of unknown outcome whoever holds copies must hear of own changes too.
#[test]
fn a_doubtful_change_is_told() {
    let mut cached = Cached::new();
    assert!(cached.apply(10, vec![write(ME, FILE)]).is_empty());
    cached.held.doubt(ME);
    assert!(cached.apply(11, vec![]).everything, "its record may have been among the earlier ones");
    assert_eq!(cached.apply(11, vec![write(ME, FILE)]).inodes, BTreeMap::from([(FILE, true)]));
}

/// Without a name an inode may vanish without a record.
#[test]
fn inodes_without_names_are_not_held() {
    let mut cached = Cached::new();
    let nameless = Attr { nlink: 0, ..attr(FILE, 1) };
    cached.answered(&FsQuery::Attr { inode: FILE }, Ok(FsAnswer::Attr(nameless)), 10);
    assert_eq!(cached.version(), None);
}
