//! Umask and access control lists: what is created, and what `chmod` and `setfacl` do.

use super::invariants;
use super::world::*;
use crate::acl::{ACCESS, DEFAULT};
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;

/// A list in the form of Linux, of (tag, permissions, id).
fn list(entries: &[(u16, u16, u32)]) -> Bytes {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes.into()
}

const NO_ID: u32 = u32::MAX;

fn extended(mask: u16) -> Bytes {
    list(&[(1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, mask, NO_ID), (32, 5, NO_ID)])
}

fn set(inode: InodeId, name: &'static [u8], value: Bytes) -> FsOp {
    FsOp::SetXattr { inode, name: Bytes::from_static(name), value, mode: XattrMode::Replace }
}

fn get(world: &World, inode: InodeId, name: &'static [u8]) -> Option<Bytes> {
    match world.ask(FsQuery::GetXattr { inode, name: Bytes::from_static(name) }) {
        Ok(FsAnswer::Value(value)) => Some(value),
        Err(FsError::NoAttribute) => None,
        other => panic!("{other:?}"),
    }
}

fn create(world: &mut World, parent: InodeId, text: &str, kind: NewKind, mode: u32) -> Attr {
    let owner = Owner { mode, umask: 0o027, ..OWNER };
    world.attr_of(FsOp::Create { parent, name: name(text), kind, owner, open: false })
}

/// The umask takes away permissions of what is created, but not of links.
#[test]
fn umask_is_applied() {
    let mut world = World::new();
    assert_eq!(create(&mut world, ROOT, "f", NewKind::File, 0o4666).mode, 0o4640);
    assert_eq!(create(&mut world, ROOT, "d", NewKind::Directory, 0o777).mode, 0o750);
    let link = NewKind::Symlink(Bytes::from_static(b"x"));
    assert_eq!(create(&mut world, ROOT, "l", link, 0).mode, 0o777);
    let owner = Owner { mode: 0o666, umask: 0o022, ..OWNER };
    let unnamed = FsOp::CreateUnnamed { parent: ROOT, owner, linkable: true };
    assert_eq!(world.attr_of(unnamed).mode, 0o644);
}

/// A default list takes the place of the umask; directories hand it on.
#[test]
fn default_lists_are_inherited() {
    let mut world = World::new();
    let dir = create(&mut world, ROOT, "d", NewKind::Directory, 0o777).inode;
    world.done(set(dir, DEFAULT, extended(7)));
    assert_eq!(
        world.attr(dir).unwrap().mode,
        0o750,
        "a default list says nothing of its directory"
    );
    let file = create(&mut world, dir, "f", NewKind::File, 0o666);
    assert_eq!(file.mode, 0o664);
    let access =
        list(&[(1, 6, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 6, NO_ID), (32, 4, NO_ID)]);
    assert_eq!(get(&world, file.inode, ACCESS), Some(access));
    assert_eq!(get(&world, file.inode, DEFAULT), None);
    let inner = create(&mut world, dir, "e", NewKind::Directory, 0o777);
    assert_eq!(inner.mode, 0o775);
    assert_eq!(get(&world, inner.inode, DEFAULT), Some(extended(7)));
    assert_eq!(get(&world, inner.inode, ACCESS), Some(extended(7)));
    let put = world.put(inner.inode, "p", b"x");
    assert_eq!(put.mode, 0o644);
    assert!(get(&world, put.inode, ACCESS).is_some());
    let link = NewKind::Symlink(Bytes::from_static(b"x"));
    assert_eq!(create(&mut world, dir, "l", link, 0).mode, 0o777);
    world.done(set(dir, DEFAULT, list(&[(1, 6, NO_ID), (4, 6, NO_ID), (32, 0, NO_ID)])));
    let plain = create(&mut world, dir, "g", NewKind::File, 0o666);
    assert_eq!((plain.mode, get(&world, plain.inode, ACCESS)), (0o660, None));
    world.done(set(dir, DEFAULT, Bytes::new()));
    assert_eq!(create(&mut world, dir, "h", NewKind::File, 0o666).mode, 0o640);
    invariants::check(&world);
}

/// The mode and the access list say the same, whichever is set.
#[test]
fn modes_and_lists_agree() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    world.done(set(inode, ACCESS, extended(6)));
    assert_eq!(world.attr(inode).unwrap().mode, 0o765);
    let chmod = SetAttr { mode: Some(0o2710), ..SetAttr::default() };
    assert_eq!(world.attr_of(FsOp::SetAttr { inode, set: chmod }).mode, 0o2710);
    let changed =
        list(&[(1, 7, NO_ID), (2, 7, 1000), (4, 5, NO_ID), (16, 1, NO_ID), (32, 0, NO_ID)]);
    assert_eq!(get(&world, inode, ACCESS), Some(changed));
    world.done(set(inode, ACCESS, list(&[(1, 6, NO_ID), (4, 4, NO_ID), (32, 4, NO_ID)])));
    assert_eq!(world.attr(inode).unwrap().mode, 0o2644);
    assert_eq!(get(&world, inode, ACCESS), None, "the mode says it all");
    world.done(set(inode, ACCESS, extended(7)));
    let remove = FsOp::RemoveXattr { inode, name: Bytes::from_static(ACCESS) };
    world.done(remove.clone());
    world.done(remove);
    assert_eq!(world.attr(inode).unwrap().mode, 0o2775);
    invariants::check(&world);
}

/// Lists that are none, and lists where there is no place for them.
#[test]
fn wrong_lists_are_refused() {
    let mut world = World::new();
    let inode = world.put(ROOT, "f", b"").inode;
    let link = world.create(ROOT, "l", NewKind::Symlink(Bytes::from_static(b"f")));
    let foreign = Bytes::from_static(b"\x02\0\0\0xyz");
    assert_eq!(world.perform(set(inode, ACCESS, foreign)), Err(FsError::Invalid));
    assert_eq!(world.perform(set(inode, DEFAULT, extended(7))), Err(FsError::NotPermitted));
    assert_eq!(world.perform(set(link, ACCESS, extended(7))), Err(FsError::NotPermitted));
    world.done(set(inode, DEFAULT, Bytes::new()));
    invariants::check(&world);
}
