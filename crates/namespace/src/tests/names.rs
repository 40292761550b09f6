//! Names and attributes, as a local Linux file system has them.

use super::invariants;
use super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::kv::put_row;
use everhold_proto::limits::{LINKS_MAX, SYMLINK_BYTES_MAX, XATTR_BYTES_MAX};
use everhold_proto::units::Timestamp;

fn rename(from: (InodeId, &str), to: (InodeId, &str), mode: RenameMode) -> FsOp {
    let (name, new_name) = (name(from.1), name(to.1));
    FsOp::Rename { parent: from.0, name, new_parent: to.0, new_name, mode }
}

fn set_mode(world: &mut World, inode: InodeId, mode: u32) -> Attr {
    let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
    world.attr_of(FsOp::SetAttr { inode, set })
}

/// Size, links and times of a directory follow its entries.
#[test]
fn directories_count_their_entries() {
    let mut world = World::new();
    let root = world.attr(ROOT).unwrap();
    assert_eq!((root.nlink, root.size, root.kind), (2, 0, FileKind::Directory));
    let dir = world.create(ROOT, "d", NewKind::Directory);
    world.put(ROOT, "f", b"x");
    let now = Timestamp(world.wall);
    let root = world.attr(ROOT).unwrap();
    assert_eq!((root.nlink, root.size), (3, 2));
    // Each operation of the test world is repeated in an entry of its own, one tick later.
    assert_eq!((root.mtime, root.ctime), (Timestamp(now.0 - 1), Timestamp(now.0 - 1)));
    assert_eq!(world.attr(dir).unwrap().nlink, 2);
    let rmdir = |text: &str| FsOp::Rmdir { parent: ROOT, name: name(text) };
    assert_eq!(world.perform(rmdir("f")), Err(FsError::NotDirectory));
    assert_eq!(world.perform(rmdir("none")), Err(FsError::NotFound));
    let inner = world.create(dir, "inner", NewKind::File);
    assert_eq!(world.perform(rmdir("d")), Err(FsError::NotEmpty));
    let unlink = FsOp::Unlink { parent: ROOT, name: name("d"), linger: false };
    assert_eq!(world.perform(unlink), Err(FsError::IsDirectory));
    world.done(FsOp::Unlink { parent: dir, name: name("inner"), linger: false });
    assert_eq!(world.attr(inner), Err(FsError::NotFound));
    world.done(rmdir("d"));
    assert_eq!(world.attr(ROOT).unwrap().nlink, 2);
    invariants::check(&world);
}

/// Nothing is created in a file, in a missing directory, or in a removed one that is still open.
#[test]
fn parents_must_be_live_directories() {
    let mut world = World::new();
    let file = world.put(ROOT, "f", b"").inode;
    let dir = world.create(ROOT, "d", NewKind::Directory);
    world.attr_of(FsOp::Open { inode: dir });
    world.done(FsOp::Rmdir { parent: ROOT, name: name("d") });
    for (parent, error) in
        [(file, FsError::NotDirectory), (dir, FsError::NotFound), (InodeId(999), FsError::NotFound)]
    {
        let create = FsOp::Create {
            parent,
            name: name("x"),
            kind: NewKind::File,
            owner: OWNER,
            open: false,
        };
        assert_eq!(world.perform(create), Err(error.clone()));
        let link = FsOp::Link { inode: file, parent, name: name("x") };
        assert_eq!(world.perform(link), Err(error.clone()));
        let moved = rename((ROOT, "f"), (parent, "x"), RenameMode::Replace);
        assert_eq!(world.perform(moved), Err(error));
    }
    world.done(FsOp::Release { inode: dir });
    assert_eq!(world.attr(dir), Err(FsError::NotFound));
    invariants::check(&world);
}

/// A setgid directory gives its group to everything in it and its bit to directories.
#[test]
fn setgid_directories_hand_down_their_group() {
    let mut world = World::new();
    let dir = world.create(ROOT, "d", NewKind::Directory);
    let set = SetAttr { mode: Some(0o2775), gid: Some(55), ..SetAttr::default() };
    world.attr_of(FsOp::SetAttr { inode: dir, set });
    let file = world.create(dir, "f", NewKind::File);
    let inner = world.create(dir, "i", NewKind::Directory);
    let (file, inner) = (world.attr(file).unwrap(), world.attr(inner).unwrap());
    assert_eq!((file.gid, file.mode), (55, 0o644));
    assert_eq!((inner.gid, inner.mode), (55, 0o2644));
}

/// Writing, truncating and giving away a file take its set-id bits; of a directory they stay.
#[test]
fn set_id_bits_are_cleared() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"abc").inode;
    let chown = SetAttr { uid: Some(1), ..SetAttr::default() };
    let truncate = SetAttr { size: Some(1), ..SetAttr::default() };
    let content = only(vec![inline(0, b"x")]);
    let ops = [
        FsOp::Commit { inode, expected_version: None, content, size_at_least: 0, append: false },
        FsOp::SetAttr { inode, set: chown.clone() },
        FsOp::SetAttr { inode, set: truncate },
        FsOp::Punch { inode, offset: 0, length: 1 },
    ];
    for op in ops {
        set_mode(&mut world, inode, 0o6755);
        assert_eq!(world.attr_of(op.clone()).mode, 0o755, "{op:?}");
        // Without group execution the bit means mandatory locking and stays.
        set_mode(&mut world, inode, 0o6745);
        assert_eq!(world.attr_of(op).mode, 0o2745);
    }
    let both = SetAttr { mode: Some(0o4711), ..chown.clone() };
    assert_eq!(world.attr_of(FsOp::SetAttr { inode, set: both }).mode, 0o4711);
    let dir = world.create(ROOT, "d", NewKind::Directory);
    set_mode(&mut world, dir, 0o2755);
    assert_eq!(world.attr_of(FsOp::SetAttr { inode: dir, set: chown }).mode, 0o2755);
    assert_eq!(set_mode(&mut world, inode, u32::MAX).mode, 0o7777);
}

/// Times follow what changed, unless they are given.
#[test]
fn times_follow_changes() {
    let mut world = World::new();
    let created = world.put(ROOT, "f", b"abc");
    let inode = created.inode;
    let chmod = set_mode(&mut world, inode, 0o600);
    assert_eq!((chmod.mtime, chmod.btime), (created.mtime, created.btime));
    assert!(chmod.ctime > created.ctime && chmod.version > created.version);
    world.commit(inode, only(vec![inline(0, b"x")])).unwrap();
    let written = world.attr(inode).unwrap();
    assert!(written.mtime > chmod.mtime && written.mtime == written.ctime);
    let at = |t| Some(TimeOrNow::At(Timestamp(t)));
    let set = SetAttr { atime: at(-5), mtime: at(7), size: Some(9), ..SetAttr::default() };
    let given = world.attr_of(FsOp::SetAttr { inode, set });
    assert_eq!((given.atime, given.mtime), (Timestamp(-5), Timestamp(7)));
    assert!(given.ctime > written.ctime);
    let nothing = FsOp::SetAttr { inode, set: SetAttr::default() };
    assert_eq!(world.attr_of(nothing), given);
}

/// Links: one inode, several names, the last one takes it away.
#[test]
fn hard_links() {
    let mut world = World::new();
    let inode = world.put(ROOT, "a", b"abc").inode;
    let dir = world.create(ROOT, "d", NewKind::Directory);
    let link = |inode, text: &str| FsOp::Link { inode, parent: ROOT, name: name(text) };
    assert_eq!(world.attr_of(link(inode, "b")).nlink, 2);
    assert_eq!(world.perform(link(inode, "b")), Err(FsError::Exists));
    assert_eq!(world.perform(link(dir, "c")), Err(FsError::NotPermitted));
    world.done(FsOp::Unlink { parent: ROOT, name: name("a"), linger: false });
    assert_eq!(world.read(inode), b"abc");
    world.attr_of(FsOp::Open { inode });
    world.done(FsOp::Unlink { parent: ROOT, name: name("b"), linger: false });
    assert_eq!(world.read(inode), b"abc");
    assert_eq!(world.perform(link(inode, "c")), Err(FsError::NotFound));
    invariants::check(&world);
    let mut row = crate::rows::get_inode(&world.kv, inode).unwrap().unwrap();
    row.nlink = LINKS_MAX;
    put_row(&mut world.kv, &crate::rows::inode(inode), &row).unwrap();
    assert_eq!(world.perform(link(inode, "c")), Err(FsError::TooManyLinks));
}

/// An unlinked file lives as long as it is open in any session, and no longer.
#[test]
fn open_files_outlive_their_names() {
    let mut world = World::new();
    let inodes: Vec<InodeId> =
        (0..5).map(|i| world.put(ROOT, &format!("{i}"), b"x").inode).collect();
    let (first, second) = (world.session, world.open_session());
    for session in [first, second] {
        world.session = session;
        for inode in &inodes {
            world.attr_of(FsOp::Open { inode: *inode });
            world.attr_of(FsOp::Open { inode: *inode });
        }
    }
    for i in 0..5 {
        world.done(FsOp::Unlink { parent: ROOT, name: name(&format!("{i}")), linger: false });
    }
    world.end_session(first);
    while world.reap(1) > 0 {
        invariants::check(&world);
    }
    assert!(inodes.iter().all(|inode| world.read(*inode) == b"x"));
    world.done(FsOp::Release { inode: inodes[0] });
    assert_eq!(world.read(inodes[0]), b"x");
    world.done(FsOp::Release { inode: inodes[0] });
    assert_eq!(world.attr(inodes[0]), Err(FsError::NotFound));
    assert_eq!(world.perform(FsOp::Release { inode: inodes[0] }), Err(FsError::NotFound));
    world.end_session(second);
    assert!(world.attr(inodes[4]).is_ok(), "more handles than one entry forgets");
    while world.reap(1) > 0 {
        invariants::check(&world);
    }
    assert!(inodes.iter().all(|inode| world.attr(*inode) == Err(FsError::NotFound)));
    assert_eq!(crate::usage(&world.kv).unwrap(), Usage { inodes: 1, bytes: 0 });
    assert!(!world.kv.0.keys().any(|key| matches!(key[0], b'O' | b'H' | b'Z')));
}

/// All the ways in which a rename is refused, and those in which it does nothing.
#[test]
fn renames_are_checked() {
    use RenameMode::*;
    let mut world = World::new();
    let a = world.create(ROOT, "a", NewKind::Directory);
    let b = world.create(a, "b", NewKind::Directory);
    world.put(b, "f", b"1");
    world.put(ROOT, "g", b"2");
    world.create(ROOT, "empty", NewKind::Directory);
    let refused = [
        ((ROOT, "a"), (b, "x"), Replace, FsError::Invalid),
        ((ROOT, "a"), (a, "x"), Replace, FsError::Invalid),
        ((ROOT, "a"), (b, "f"), Exchange, FsError::Invalid),
        ((b, "f"), (ROOT, "a"), Exchange, FsError::Invalid),
        ((ROOT, "none"), (ROOT, "g"), Replace, FsError::NotFound),
        ((ROOT, "g"), (ROOT, "none"), Exchange, FsError::NotFound),
        ((ROOT, "g"), (ROOT, "empty"), Replace, FsError::IsDirectory),
        ((ROOT, "empty"), (ROOT, "g"), Replace, FsError::NotDirectory),
        ((ROOT, "empty"), (ROOT, "a"), Replace, FsError::NotEmpty),
        ((a, "b"), (ROOT, "a"), Replace, FsError::NotEmpty),
        ((ROOT, "g"), (b, "f"), NoReplace, FsError::Exists),
        ((ROOT, "g"), (ROOT, "g"), NoReplace, FsError::Exists),
    ];
    for (from, to, mode, error) in refused {
        assert_eq!(world.perform(rename(from, to, mode)), Err(error), "{from:?} {to:?}");
    }
    let g = world.attr_of(rename((ROOT, "g"), (ROOT, "g"), Replace)).inode;
    world.attr_of(FsOp::Link { inode: g, parent: b, name: name("h") });
    let before = world.attr(ROOT).unwrap();
    assert_eq!(world.attr_of(rename((ROOT, "g"), (b, "h"), Replace)).nlink, 2);
    assert_eq!(world.attr(ROOT).unwrap(), before, "two names of one inode: nothing happens");
    world.attr_of(rename((ROOT, "empty"), (a, "b"), Exchange));
    assert_eq!(world.ask(FsQuery::Lookup { parent: b, name: name("..x") }), Err(FsError::NotFound));
    world.attr_of(rename((ROOT, "g"), (b, "f"), Replace));
    invariants::check(&world);
}

/// A whiteout stands where the moved name was, whether something was replaced or not; nothing is left where the
/// rename is refused or does nothing.
#[test]
fn a_rename_may_leave_a_whiteout() {
    use RenameMode::Whiteout;
    let mut world = World::new();
    let dir = world.create(ROOT, "d", NewKind::Directory);
    world.put(ROOT, "f", b"1");
    world.put(ROOT, "g", b"2");
    let inner = world.create(ROOT, "inner", NewKind::Directory);
    let lookup = |world: &mut World, parent, text: &str| match world
        .ask(FsQuery::Lookup { parent, name: name(text) })
    {
        Ok(FsAnswer::Attr(attr)) => attr,
        other => panic!("{text}: {other:?}"),
    };
    let replaced = lookup(&mut world, ROOT, "g").inode;
    let moved = world.attr_of(rename((ROOT, "f"), (ROOT, "g"), Whiteout)).inode;
    world.attr_of(rename((ROOT, "inner"), (dir, "i"), Whiteout));
    assert_eq!(lookup(&mut world, ROOT, "g").inode, moved);
    assert_eq!(world.attr(replaced).unwrap().nlink, 0);
    assert_eq!(lookup(&mut world, dir, "i").inode, inner);
    for left in ["f", "inner"] {
        let attr = lookup(&mut world, ROOT, left);
        assert_eq!((attr.kind, attr.rdev, attr.mode, attr.uid), (FileKind::CharDevice, 0, 0, 0));
    }
    let refused = world.perform(rename((ROOT, "none"), (ROOT, "x"), Whiteout));
    assert_eq!(refused, Err(FsError::NotFound));
    let before = world.attr(ROOT).unwrap();
    world.attr_of(rename((ROOT, "g"), (ROOT, "g"), Whiteout));
    assert_eq!(world.attr(ROOT).unwrap(), before);
    invariants::check(&world);
}

/// A directory that moves takes its link to the parent along.
#[test]
fn moved_directories_change_their_parents() {
    let mut world = World::new();
    let (a, b) =
        (world.create(ROOT, "a", NewKind::Directory), world.create(ROOT, "b", NewKind::Directory));
    world.create(a, "d", NewKind::Directory);
    world.create(b, "d", NewKind::Directory);
    world.attr_of(rename((a, "d"), (b, "d"), RenameMode::Replace));
    assert_eq!((world.attr(a).unwrap().nlink, world.attr(b).unwrap().nlink), (2, 3));
    assert_eq!((world.attr(a).unwrap().size, world.attr(b).unwrap().size), (0, 1));
    world.attr_of(rename((b, "d"), (ROOT, "d"), RenameMode::NoReplace));
    assert_eq!(world.attr(ROOT).unwrap().nlink, 5);
    world.put(a, "f", b"");
    world.attr_of(rename((a, "f"), (ROOT, "b"), RenameMode::Exchange));
    assert_eq!((world.attr(a).unwrap().nlink, world.attr(ROOT).unwrap().nlink), (3, 4));
    invariants::check(&world);
}

/// Special files keep their device numbers; link targets are checked.
#[test]
fn special_files() {
    let mut world = World::new();
    let device = world.create(ROOT, "c", NewKind::CharDevice(0x0501));
    assert_eq!(world.attr(device).unwrap().rdev, 0x0501);
    for (text, kind) in
        [("p", NewKind::Fifo), ("s", NewKind::Socket), ("b", NewKind::BlockDevice(3))]
    {
        let inode = world.create(ROOT, text, kind);
        assert_eq!(world.commit(inode, only(vec![inline(0, b"x")])), Err(FsError::Invalid));
    }
    let link = world.create(ROOT, "l", NewKind::Symlink(Bytes::from_static(b"over/there")));
    assert_eq!(world.attr(link).unwrap().size, 10);
    assert_eq!(world.attr(link).unwrap().mode, 0o777);
    assert_eq!(world.ask(FsQuery::ReadLink { inode: device }), Err(FsError::Invalid));
    for (target, error) in [
        (vec![], FsError::NotFound),
        (vec![b'a'; SYMLINK_BYTES_MAX + 1], FsError::NameTooLong),
        (vec![b'a', 0], FsError::Invalid),
    ] {
        let kind = NewKind::Symlink(target.into());
        let create =
            FsOp::Create { parent: ROOT, name: name("m"), kind, owner: OWNER, open: false };
        assert_eq!(world.perform(create), Err(error));
    }
    invariants::check(&world);
}

/// Extended attributes: modes, limits, and that they go with the inode.
#[test]
fn extended_attributes() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    let set = |name: &[u8], value: usize, mode| FsOp::SetXattr {
        inode,
        name: Bytes::copy_from_slice(name),
        value: vec![1; value].into(),
        mode,
    };
    assert_eq!(world.perform(set(b"user.a", 1, XattrMode::Replace)), Err(FsError::NoAttribute));
    world.done(set(b"user.a", 1, XattrMode::Create));
    assert_eq!(world.perform(set(b"user.a", 1, XattrMode::Create)), Err(FsError::Exists));
    world.done(set(b"user.a", XATTR_BYTES_MAX, XattrMode::Replace));
    let large = set(b"user.b", XATTR_BYTES_MAX + 1, XattrMode::Set);
    assert_eq!(world.perform(large), Err(FsError::TooLarge));
    assert_eq!(world.perform(set(b"", 1, XattrMode::Set)), Err(FsError::Invalid));
    assert_eq!(world.perform(set(&[b'n'; 256], 1, XattrMode::Set)), Err(FsError::NameTooLong));
    let remove = FsOp::RemoveXattr { inode, name: Bytes::from_static(b"user.z") };
    assert_eq!(world.perform(remove), Err(FsError::NoAttribute));
    for i in 1..crate::limits::XATTRS_MAX {
        world.done(set(format!("user.{i}").as_bytes(), 1, XattrMode::Set));
    }
    assert_eq!(world.perform(set(b"user.more", 1, XattrMode::Set)), Err(FsError::NoSpace));
    world.done(FsOp::Unlink { parent: ROOT, name: name("f"), linger: false });
    assert!(!world.kv.0.keys().any(|key| key[0] == b'X'));
}
