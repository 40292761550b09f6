//! The tree by inodes, as a mount uses it.

use crate::world::{World, content};
use everhold_client::{ClientOptions, OpenFile};
use everhold_proto::fs::*;
use everhold_proto::limits::COMMIT_EXTENTS_MAX;
use everhold_proto::{InodeId, Kind};

const ROOT: InodeId = InodeId::ROOT;
const OWNER: Owner = Owner { uid: 1, gid: 2, mode: 0o666, umask: 0o022 };

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

/// Names, attributes, extended attributes and unnamed files.
#[tokio::test]
async fn nodes_are_made_and_changed() {
    let world = World::new(3).await;
    let client = world.client().await;
    let dir = client.create_node(ROOT, name("d"), NewKind::Directory, OWNER, false).await.unwrap();
    let file = client.create_node(dir.inode, name("f"), NewKind::File, OWNER, true).await.unwrap();
    assert_eq!((file.mode, file.uid), (0o644, 1));
    assert_eq!(client.link(file.inode, ROOT, name("g")).await.unwrap().nlink, 2);
    client.unlink(ROOT, name("g"), false).await.unwrap();
    let moved = client.rename_in(dir.inode, name("f"), ROOT, name("f"), RenameMode::NoReplace);
    assert_eq!(moved.await.unwrap().inode, file.inode);
    client.rmdir(ROOT, name("d")).await.unwrap();
    let set = SetAttr { consistency: Some(Consistency::Strict), ..SetAttr::default() };
    let set = client.set_attr_of(file.inode, set).await.unwrap();
    assert_eq!(set.consistency, Consistency::Strict);
    client.set_xattr(file.inode, "user.x", "1", XattrMode::Create).await.unwrap();
    assert_eq!(client.list_xattr(file.inode).await.unwrap(), ["user.x"]);
    assert_eq!(client.get_xattr(file.inode, "user.x").await.unwrap(), "1");
    client.remove_xattr(file.inode, "user.x").await.unwrap();
    let e = client.get_xattr(file.inode, "user.x").await.unwrap_err();
    assert_eq!(e.fs(), Some(&FsError::NoAttribute));
    client.open_handle(file.inode).await.unwrap();
    client.unlink(ROOT, name("f"), false).await.unwrap();
    client.release_handle(file.inode).await.unwrap();
    client.write_inode(file.inode, 0, content(1, 100)).await.unwrap();
    client.release_handle(file.inode).await.unwrap();
    assert!(client.attr(file.inode).await.unwrap_err().is_not_found());
    let unnamed = client.create_unnamed(ROOT, OWNER, true).await.unwrap();
    assert_eq!(unnamed.nlink, 0);
    client.link(unnamed.inode, ROOT, name("named")).await.unwrap();
    client.release_handle(unnamed.inode).await.unwrap();
    assert_eq!(client.stat("/named").await.unwrap().inode, unnamed.inode);
}

/// Two sessions meet at a lock; the end of one lets the other have it.
#[tokio::test]
async fn sessions_lock_files() {
    let world = World::new(3).await;
    let (first, second) = (world.client().await, world.client_with(ClientOptions::default()).await);
    let file = first.create_node(ROOT, name("f"), NewKind::File, OWNER, false).await.unwrap().inode;
    let (space, owner, kind) = (LockSpace::Posix, LockOwner(1), LockKind::Write);
    first.lock(file, space, owner, kind, 10..=u64::MAX, 7).await.unwrap();
    let e = second.lock(file, space, owner, kind, 0..=10, 8).await.unwrap_err();
    assert_eq!(e.fs(), Some(&FsError::Locked));
    let lock = second.test_lock(file, space, owner, kind, 0..=10).await.unwrap().unwrap();
    assert_eq!((lock.session, lock.pid), (first.session_id(), 7));
    assert_eq!(first.test_lock(file, space, owner, kind, 0..=10).await.unwrap(), None);
    first.unlock(file, space, owner, 10..=10).await.unwrap();
    second.lock(file, space, owner, kind, 0..=10, 8).await.unwrap();
    first.close().await.unwrap();
    second.lock(file, space, owner, kind, 0..=u64::MAX, 8).await.unwrap();
}

/// What one change cannot clone goes in parts, and both files have the same content.
#[tokio::test]
async fn large_ranges_are_cloned_in_parts() {
    let world = World::new(3).await;
    let client = world.client().await;
    let make = |text| client.create_node(ROOT, name(text), NewKind::File, OWNER, false);
    let (source, target) = (make("s").await.unwrap().inode, make("t").await.unwrap().inode);
    client.write_inode(source, 0, content(3, 100_000)).await.unwrap();
    let pieces = (0..COMMIT_EXTENTS_MAX as u64 + 50)
        .map(|n| client.write_inode(source, 200_000 + 20 * n, content(n, 10)));
    futures_util::future::try_join_all(pieces).await.unwrap();
    let attr = client.clone_range(source, 1000, u64::MAX, target, 7).await.unwrap();
    let size = client.attr(source).await.unwrap().size;
    assert_eq!(attr.size, size - 1000 + 7);
    let (_, whole) = client.read_inode(source, 1000, size as usize).await.unwrap();
    let (_, copy) = client.read_inode(target, 7, size as usize).await.unwrap();
    assert!(whole == copy);
    let e = client.clone_range(source, 0, u64::MAX, source, 9).await.unwrap_err();
    assert_eq!(e.fs(), Some(&FsError::Invalid));
    let attr = client.punch(target, 0, 1 << 40).await.unwrap();
    assert_eq!((attr.allocated, attr.size), (0, size - 1000 + 7));
}

/// Waits for a condition.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let limit = std::time::Duration::from_secs(30);
    tokio::time::timeout(limit, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
}

/// A file that is open here is kept without a name, by the next session too. One that lost its name while no session
/// kept it is known to be gone.
#[tokio::test]
async fn openings_outlive_sessions() {
    let world = World::new(3).await;
    let (client, other) = (world.client().await, world.client().await);
    let make = |text| client.create_node(ROOT, name(text), NewKind::File, OWNER, false);
    let (kept, gone) = (make("kept").await.unwrap().inode, make("gone").await.unwrap().inode);
    client.opened(kept);
    client.opened(gone);
    let handles = || world.state.lock().open_handles();
    until("both to be registered", || handles() == 2).await;
    other.unlink(ROOT, name("gone"), false).await.unwrap();
    assert!(client.attr(gone).await.is_ok(), "it is open");
    let before = client.session_id();
    world.state.lock().end_sessions();
    until("the file with a name to be registered again", || handles() == 1).await;
    until("the other one to be known as gone", || client.is_gone(gone)).await;
    assert_ne!(client.session_id(), before);
    other.unlink(ROOT, name("kept"), false).await.unwrap();
    assert!(client.attr(kept).await.is_ok() && !client.is_gone(kept));
    client.closed(kept);
    until("the last close to let it go", || handles() == 0).await;
    assert!(client.attr(kept).await.unwrap_err().is_not_found());
}

/// Content that is bound to a session is committed in it or not at all, and can be given up.
#[tokio::test]
async fn bound_content_is_committed_in_its_session_only() {
    let world = World::new(3).await;
    let client = world.client().await;
    let inode = client.create_node(ROOT, name("f"), NewKind::File, OWNER, false).await.unwrap();
    let (file, session) = (OpenFile::new(client.clone(), inode.inode), client.session_id());
    assert!(client.session_lives(session) && client.bind(file.inode(), session));
    file.write(0, b"kept").await.unwrap();
    file.flush().await.unwrap();
    file.write(0, b"lost").await.unwrap();
    world.state.lock().end_sessions();
    for _ in 0..2 {
        assert_eq!(file.flush().await.unwrap_err().kind(), Kind::Fenced);
    }
    assert!(!client.confirm_session(session).await.unwrap());
    assert!(client.confirm_session(client.session_id()).await.unwrap());
    assert!(!client.bind(file.inode(), client.session_id()), "the old bytes are not given up");
    assert_eq!(file.abandon(None).await.unwrap(), 4);
    client.unbind(file.inode(), session);
    file.flush().await.unwrap();
    assert_eq!(file.read(0, 9).await.unwrap(), b"kept"[..]);
    assert!(client.bind(file.inode(), client.session_id()));
    file.write(0, b"anew").await.unwrap();
    file.flush().await.unwrap();
    assert_eq!(client.read_inode(file.inode(), 0, 9).await.unwrap().1, b"anew"[..]);
}
