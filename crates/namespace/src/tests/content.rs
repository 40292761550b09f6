//! Content: what commits may say, what they do to blocks, and that dropping a lot is bounded.

use super::invariants;
use super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::kv::get_row;
use everhold_proto::limits::{
    COMMIT_EXTENTS_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX, UNLINKED_LINGER_MS,
};
use everhold_proto::table::{BlockRow, NewBlock, Refusal};
use everhold_proto::tables;

fn block_row(world: &World, block: &NewBlock) -> Option<BlockRow> {
    get_row(&world.kv, &tables::block(block.pg, block.id)).unwrap()
}

fn file_of(world: &mut World, bytes: &[u8]) -> (InodeId, NewBlock) {
    let inode = world.create(ROOT, "f", NewKind::File);
    let block = world.store(bytes.to_vec());
    let extents = vec![block_extent(0, &block, 0, bytes.len() as u32)];
    world.commit(inode, Content { extents, blocks: vec![block.clone()] }).unwrap();
    (inode, block)
}

/// Many extents with gaps between them, which no merge joins.
fn fragmented(world: &mut World, text: &str, count: u64) -> InodeId {
    let inode = world.create(ROOT, text, NewKind::File);
    let extents = (0..count).map(|i| inline(i * 10, b"12345")).collect();
    world.commit(inode, only(extents)).unwrap();
    inode
}

/// An overwrite in the middle of a block's extent leaves two references and the live bytes of both ends.
#[test]
fn overwrite_cuts_an_extent_in_two() {
    let mut world = World::new();
    let (inode, block) = file_of(&mut world, &[1; 100]);
    world.commit(inode, only(vec![inline(40, &[2; 20])])).unwrap();
    let row = block_row(&world, &block).unwrap();
    assert_eq!((row.references, row.live_bytes), (2, 80));
    assert_eq!(world.read(inode), [vec![1; 40], vec![2; 20], vec![1; 40]].concat());
    assert_eq!(world.attr(inode).unwrap().allocated, 100);
    world.done(FsOp::Unlink { parent: ROOT, name: name("f"), linger: false });
    assert_eq!(block_row(&world, &block).unwrap().references, 0);
    invariants::check(&world);
}

/// A truncated end comes back as zeroes, not as old bytes.
#[test]
fn truncate_forgets_what_it_cuts() {
    let mut world = World::new();
    let (inode, _) = file_of(&mut world, &[1; 100]);
    for size in [30, 50] {
        let set = SetAttr { size: Some(size), ..SetAttr::default() };
        assert_eq!(world.attr_of(FsOp::SetAttr { inode, set }).size, size);
    }
    assert_eq!(world.read(inode), [vec![1; 30], vec![0; 20]].concat());
    assert_eq!(world.attr(inode).unwrap().allocated, 30);
}

/// Small appends become one extent up to the inline limit.
#[test]
fn appends_are_merged() {
    let mut world = World::new();
    let inode = world.create(ROOT, "log", NewKind::File);
    for i in 0..10u8 {
        let reply = world.perform(FsOp::Commit {
            inode,
            expected_version: None,
            content: only(vec![inline(0, &[i; 1000])]),
            size_at_least: 0,
            append: true,
        });
        assert!(matches!(reply, Ok(FsReply::Attr(attr)) if attr.size == 1000 * (u64::from(i) + 1)));
    }
    let lengths: Vec<u64> = world.extents(inode).iter().map(|e| e.length).collect();
    assert_eq!(lengths, [8000, 2000]);
    assert!(lengths[0] <= INLINE_BYTES_MAX as u64);
    let expected: Vec<u8> = (0..10u8).flat_map(|i| [i; 1000]).collect();
    assert_eq!(world.read(inode), expected);
}

/// Deleting a file of many extents takes one small entry; the rest goes in bounded steps.
#[test]
fn unlink_of_a_fragmented_file_is_reaped() {
    let mut world = World::new();
    let inode = fragmented(&mut world, "f", 50);
    world.done(FsOp::Unlink { parent: ROOT, name: name("f"), linger: false });
    assert_eq!(world.attr(inode), Err(FsError::NotFound));
    assert_eq!(crate::usage(&world.kv).unwrap(), Usage { inodes: 1, bytes: 0 });
    invariants::check(&world);
    let mut steps = 0;
    while world.reap(7) > 0 {
        steps += 1;
        invariants::check(&world);
    }
    assert_eq!(steps, 8);
    assert!(!world.kv.0.keys().any(|key| matches!(key[0], b'E' | b'U')));
}

/// A range cleared by a fork is a hole at once, and writes next to its borders touch nothing doomed.
#[test]
fn clearing_many_extents_is_visible_at_once() {
    let mut world = World::new();
    let inode = fragmented(&mut world, "f", 40);
    let mut expected = world.read(inode);
    world.attr_of(FsOp::Punch { inode, offset: 102, length: 203 });
    expected[102..305].fill(0);
    assert_eq!(world.read(inode), expected);
    assert_eq!(invariants::rows(&world).doomed.len(), 1);
    for offset in [305, 100, 200] {
        world.commit(inode, only(vec![inline(offset, b"new")])).unwrap();
        expected[offset as usize..offset as usize + 3].copy_from_slice(b"new");
        assert_eq!(world.read(inode), expected);
        invariants::check(&world);
    }
    // One extent over both borders is cut at them.
    world.commit(inode, only(vec![inline(90, &[9; 250])])).unwrap();
    expected[90..340].fill(9);
    assert_eq!(world.read(inode), expected);
    while world.reap(4) > 0 {
        invariants::check(&world);
        assert_eq!(world.read(inode), expected);
    }
    assert!(invariants::rows(&world).doomed.is_empty());
    let covered: u64 = world.extents(inode).iter().map(|e| e.length).sum();
    assert_eq!(world.attr(inode).unwrap().allocated, covered);
}

/// A commit may name blocks that are live already, and no others.
#[test]
fn live_blocks_are_shared() {
    let mut world = World::new();
    let (first, block) = file_of(&mut world, &[1; 100]);
    let second = world.create(ROOT, "g", NewKind::File);
    let shared = block_extent(5, &block, 10, 20);
    world.commit(second, only(vec![shared.clone()])).unwrap();
    assert_eq!(block_row(&world, &block).unwrap().references, 2);
    let wrong = |crc: u32, length: u32, pg: u32| NewBlock {
        crc: block.crc ^ crc,
        length: block.length + length,
        pg: PgId(block.pg.0 + pg),
        ..block.clone()
    };
    for other in [wrong(1, 0, 0), wrong(0, 1, 0), wrong(0, 0, 1)] {
        let content = only(vec![block_extent(0, &other, 0, 10)]);
        assert_eq!(world.commit(second, content), Err(FsError::Invalid));
    }
    for file in ["f", "g"] {
        world.done(FsOp::Unlink { parent: ROOT, name: name(file), linger: false });
    }
    assert_eq!(world.attr(first), Err(FsError::NotFound));
    let third = world.create(ROOT, "h", NewKind::File);
    assert_eq!(world.commit(third, only(vec![shared])), Err(FsError::Invalid), "it is dead");
    invariants::check(&world);
}

/// Blocks that do not count are named, and nothing of the commit happens.
#[test]
fn refused_blocks_are_named() {
    let mut world = World::new();
    let (inode, taken) = file_of(&mut world, &[1; 10]);
    let good = world.store(vec![2; 10]);
    let lonely = NewBlock { acks: Vec::new(), ..world.store(vec![3; 10]) };
    let foreign = BlockId { session: SessionId(1 << 40), counter: 1 };
    let foreign = NewBlock { id: foreign, ..world.store(vec![4; 10]) };
    let blocks = vec![good, lonely.clone(), foreign.clone(), taken.clone()];
    let extents = (0..).zip(&blocks).map(|(i, block)| block_extent(i * 10, block, 0, 10)).collect();
    let refused = vec![
        (lonely.id, Refusal::TooFewAcks),
        (foreign.id, Refusal::BelowFloor),
        (taken.id, Refusal::InTable),
    ];
    let answer = world.commit(inode, Content { extents, blocks });
    assert_eq!(answer, Err(FsError::BlocksRefused(refused)));
    assert_eq!(world.read(inode), [1; 10]);
}

/// Whatever a command says, it is refused and nothing panics.
#[test]
fn malformed_content_is_refused() {
    let mut world = World::new();
    let inode = world.create(ROOT, "f", NewKind::File);
    let block = world.store(vec![7; 64]);
    let with = |extents: Vec<Extent>| Content { extents, blocks: vec![block.clone()] };
    let lying = |length: u64| Extent {
        offset: 0,
        length,
        source: Source::Inline(Bytes::from_static(b"four")),
    };
    let invalid = [
        only(vec![inline(0, b"abc"), inline(2, b"def")]),
        only(vec![inline(10, b"abc"), inline(0, b"def")]),
        only(vec![inline(0, b"")]),
        only(vec![lying(3)]),
        only(vec![lying(u64::MAX)]),
        only(vec![inline(0, &vec![0; INLINE_BYTES_MAX + 1])]),
        only((0..=COMMIT_EXTENTS_MAX as u64).map(|i| inline(2 * i, b"x")).collect()),
        only(vec![block_extent(0, &block, 0, 64)]),
        with(vec![block_extent(0, &block, 0, 65)]),
        with(vec![block_extent(0, &block, u32::MAX, 1)]),
        with(vec![inline(0, b"the block is not used")]),
        with(vec![block_extent(0, &NewBlock { crc: 0, ..block.clone() }, 0, 64)]),
        Content {
            extents: vec![block_extent(0, &block, 0, 64)],
            blocks: vec![block.clone(), block.clone()],
        },
    ];
    for content in invalid {
        assert_eq!(world.commit(inode, content.clone()), Err(FsError::Invalid), "{content:?}");
    }
    for offset in [FILE_BYTES_MAX, u64::MAX - 2, u64::MAX] {
        let answer = world.commit(inode, only(vec![inline(offset, b"abc")]));
        assert_eq!(answer, Err(FsError::TooLarge));
    }
    world.commit(inode, only(vec![inline(FILE_BYTES_MAX - 3, b"abc")])).unwrap();
    for append in [inline(0, b"x"), inline(u64::MAX - 1, b"x")] {
        let answer = world.perform(FsOp::Commit {
            inode,
            expected_version: None,
            content: only(vec![append]),
            size_at_least: 0,
            append: true,
        });
        assert_eq!(answer, Err(FsError::TooLarge));
    }
    let punch = FsOp::Punch { inode, offset: u64::MAX, length: 2 };
    assert_eq!(world.perform(punch), Err(FsError::TooLarge));
    let set = SetAttr { size: Some(u64::MAX), ..SetAttr::default() };
    assert_eq!(world.perform(FsOp::SetAttr { inode, set }), Err(FsError::TooLarge));
    let put = FsOp::PutFile {
        parent: ROOT,
        name: name("p"),
        owner: OWNER,
        size: 2,
        content: only(vec![inline(0, b"abc")]),
        replace: true,
        mtime: TimeOrNow::Now,
    };
    assert_eq!(world.perform(put), Err(FsError::Invalid));
    invariants::check(&world);
}

/// A conditional commit loses against any other change; a fold keeps times and sees holes.
#[test]
fn conditional_commits_and_folds() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", &[5; 50]).inode;
    let before = world.attr(inode).unwrap();
    let block = world.store(vec![5; 50]);
    let fold = |expected_version, from: u64| FsOp::Fold {
        inode,
        expected_version,
        content: Content {
            extents: vec![block_extent(from, &block, 0, 50)],
            blocks: vec![block.clone()],
        },
    };
    let stale = Err(FsError::Stale { version: before.version });
    assert_eq!(world.perform(fold(before.version + 1, 0)), stale);
    assert_eq!(world.perform(fold(before.version, 1)), Err(FsError::Invalid));
    let after = world.attr_of(fold(before.version, 0));
    assert_eq!(Attr { version: before.version + 1, ..before.clone() }, after);
    assert_eq!(world.read(inode), [5; 50]);
    assert!(matches!(world.extents(inode)[0].source, Source::Block { .. }));
    let late = FsOp::Commit {
        inode,
        expected_version: Some(before.version),
        content: only(vec![inline(0, b"late")]),
        size_at_least: 0,
        append: false,
    };
    assert_eq!(world.perform(late), Err(FsError::Stale { version: after.version }));
    // In a file with a hole a fold over the hole would allocate it.
    let set = SetAttr { size: Some(100), ..SetAttr::default() };
    let version = world.attr_of(FsOp::SetAttr { inode, set }).version;
    let block = world.store(vec![5; 60]);
    let content = Content { extents: vec![block_extent(0, &block, 0, 60)], blocks: vec![block] };
    let over_hole = FsOp::Fold { inode, expected_version: version, content };
    assert_eq!(world.perform(over_hole), Err(FsError::Invalid));
    invariants::check(&world);
}

/// Who has the old file open keeps the old content when a put replaces it.
#[test]
fn put_replaces_atomically() {
    let mut world = World::new();
    let old = world.put(ROOT, "f", b"old").inode;
    world.attr_of(FsOp::Open { inode: old });
    let new = world.put(ROOT, "f", b"new!").inode;
    assert_ne!(old, new);
    assert_eq!((world.read(old), world.read(new)), (b"old".to_vec(), b"new!".to_vec()));
    assert_eq!(world.attr(old).unwrap().nlink, 0);
    world.done(FsOp::Release { inode: old });
    world.waited_ms += UNLINKED_LINGER_MS;
    world.reap(10);
    assert_eq!(world.attr(old), Err(FsError::NotFound));
    world.create(ROOT, "d", NewKind::Directory);
    world.create(ROOT, "l", NewKind::Symlink(Bytes::from_static(b"f")));
    for (text, replace, error) in [
        ("f", false, FsError::Exists),
        ("l", true, FsError::Exists),
        ("d", true, FsError::IsDirectory),
    ] {
        let put = FsOp::PutFile {
            parent: ROOT,
            name: name(text),
            owner: OWNER,
            size: 0,
            content: Content::default(),
            replace,
            mtime: TimeOrNow::Now,
        };
        assert_eq!(world.perform(put), Err(error));
    }
    invariants::check(&world);
}
