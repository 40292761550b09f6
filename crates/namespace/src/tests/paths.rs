//! Queries: whole paths, pages of directories and of extents.

use super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;

type Found = Result<(InodeId, Option<&'static str>, Option<InodeId>), FsError>;

fn resolve(world: &World, path: &str, follow: bool) -> Result<FsAnswer, FsError> {
    let path = Bytes::copy_from_slice(path.as_bytes());
    world.ask(FsQuery::Resolve { base: ROOT, path, follow, read: true })
}

/// /d/e/f (a file), and links: /l → d/e, /d/up → ../d/e/f, /abs → /d, /gone → d/none, /loop → loop
fn tree() -> (World, InodeId, InodeId, InodeId) {
    let mut world = World::new();
    let d = world.create(ROOT, "d", NewKind::Directory);
    let e = world.create(d, "e", NewKind::Directory);
    let f = world.put(e, "f", b"content").inode;
    for (parent, text, target) in [
        (ROOT, "l", "d/e"),
        (d, "up", "../d/e/f"),
        (ROOT, "abs", "/d"),
        (ROOT, "gone", "d/none"),
        (ROOT, "loop", "loop"),
    ] {
        let target = Bytes::copy_from_slice(target.as_bytes());
        world.create(parent, text, NewKind::Symlink(target));
    }
    (world, d, e, f)
}

/// Paths are walked as the kernel walks them.
#[test]
fn paths_resolve() {
    let (world, d, e, f) = tree();
    let cases: Vec<(&str, Found)> = vec![
        ("/", Ok((ROOT, None, Some(ROOT)))),
        ("", Ok((ROOT, None, Some(ROOT)))),
        ("/d", Ok((ROOT, Some("d"), Some(d)))),
        ("d/", Ok((ROOT, Some("d"), Some(d)))),
        ("//d///e/./f", Ok((e, Some("f"), Some(f)))),
        ("d/e/..", Ok((ROOT, None, Some(d)))),
        ("../../d/e", Ok((d, Some("e"), Some(e)))),
        ("l/f", Ok((e, Some("f"), Some(f)))),
        ("l", Ok((d, Some("e"), Some(e)))),
        ("l/", Ok((d, Some("e"), Some(e)))),
        ("d/up", Ok((e, Some("f"), Some(f)))),
        ("abs/e/f", Ok((e, Some("f"), Some(f)))),
        ("l/../e/f", Ok((e, Some("f"), Some(f)))),
        ("d/new", Ok((d, Some("new"), None))),
        ("d/new/", Ok((d, Some("new"), None))),
        ("gone", Ok((d, Some("none"), None))),
        ("d/new/x", Err(FsError::NotFound)),
        ("gone/x", Err(FsError::NotFound)),
        ("d/e/f/x", Err(FsError::NotDirectory)),
        ("d/e/f/", Err(FsError::NotDirectory)),
        ("d/e/f/..", Err(FsError::NotDirectory)),
        ("loop", Err(FsError::Loop)),
        ("loop/x", Err(FsError::Loop)),
        ("d/a\0b", Err(FsError::Invalid)),
    ];
    for (path, expected) in cases {
        let found = resolve(&world, path, true).map(|answer| match answer {
            FsAnswer::Resolved { parent, name, attr, .. } => {
                (parent, name.map(|n| n.to_string()), attr.map(|a| a.inode))
            }
            other => panic!("{other:?}"),
        });
        let expected =
            expected.map(|(parent, name, inode)| (parent, name.map(String::from), inode));
        assert_eq!(found, expected, "{path:?}");
    }
    let long = "x".repeat(256);
    assert_eq!(resolve(&world, &long, true), Err(FsError::NameTooLong));
    assert_eq!(resolve(&world, &"d/../".repeat(2000), true), Err(FsError::NameTooLong));
}

/// A link in the last place is followed on demand only; content of files comes along.
#[test]
fn last_links_and_content() {
    let (world, _, _, f) = tree();
    let kind = |path: &str, follow| match resolve(&world, path, follow) {
        Ok(FsAnswer::Resolved { attr: Some(attr), extents, .. }) => (attr.kind, extents.len()),
        other => panic!("{other:?}"),
    };
    assert_eq!(kind("d/up", false), (FileKind::Symlink, 0));
    assert_eq!(kind("d/up", true), (FileKind::File, 1));
    assert_eq!(kind("l/", false), (FileKind::Directory, 0));
    let missing =
        FsQuery::Resolve { base: InodeId(99), path: Bytes::new(), follow: true, read: false };
    assert_eq!(world.ask(missing), Err(FsError::NotFound));
    let lookup = |parent, text| world.ask(FsQuery::Lookup { parent, name: name(text) });
    assert_eq!(lookup(f, "x"), Err(FsError::NotDirectory));
    assert_eq!(lookup(ROOT, "x"), Err(FsError::NotFound));
}

/// A page of extents holds what overlaps the range, in order, and says whether there is more.
#[test]
fn extents_come_in_pages() {
    let mut world = World::new();
    let inode = world.create(ROOT, "f", NewKind::File);
    let extents = (0..10).map(|i| inline(i * 10, b"12345")).collect();
    world.commit(inode, only(extents)).unwrap();
    let page = |from, to, limit| match world.ask(FsQuery::Extents { inode, from, to, limit }) {
        Ok(FsAnswer::Extents { extents, more, attr }) => {
            assert_eq!(attr.size, 95);
            (extents.iter().map(|e| e.offset).collect::<Vec<_>>(), more)
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(page(12, 31, 10), (vec![10, 20, 30], false));
    assert_eq!(page(15, 30, 10), (vec![20], false));
    assert_eq!(page(15, 20, 10), (vec![], false));
    assert_eq!(page(0, 95, 2), (vec![0, 10], true));
    assert_eq!(page(0, 11, 2), (vec![0, 10], false));
    assert_eq!(page(0, u64::MAX, 0), (vec![0], true), "every page gets on");
    assert_eq!(page(50, 40, 9), (vec![], false));
    assert_eq!(page(u64::MAX, u64::MAX, 9), (vec![], false));
}
