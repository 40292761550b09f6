//! Names, directories, and transfers of whole trees.

use crate::world::{World, content};
use everhold_client::{Client, CreateOptions, Progress, TransferOptions, TransferReport};
use everhold_proto::fs::{FileKind, FsError, RenameMode};
use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

/// Names are made, moved, linked and removed.
#[tokio::test]
async fn names() {
    let world = World::new(3).await;
    let client = world.client().await;
    client.mkdir_all("/a/b/c", 0o750).await.unwrap();
    let again = client.mkdir_all("a//b/c/", 0o750).await.unwrap();
    assert_eq!((again.kind, again.mode), (FileKind::Directory, 0o750));
    client.put("/a/f", content(1, 10), CreateOptions::default()).await.unwrap();
    client.hard_link("/a/f", "/a/g").await.unwrap();
    client.symlink("b/c", "/a/s").await.unwrap();
    assert_eq!(client.readlink("/a/s").await.unwrap(), "b/c");
    assert_eq!(client.stat("/a/s").await.unwrap().inode, again.inode);
    assert_eq!(client.stat("/a/g").await.unwrap().nlink, 2);
    client.rename("/a/g", "/a/b/h", RenameMode::NoReplace).await.unwrap();
    assert!(client.stat("/a/g").await.unwrap_err().is_not_found());
    let e = client.remove("/a/b").await.unwrap_err();
    assert_eq!(e.fs(), Some(&FsError::NotEmpty));
    assert!(e.to_string().starts_with("/a/b: "), "{e}");
    let e = client.mkdir_all("/a/f/x", 0o755).await.unwrap_err();
    assert_eq!(e.fs(), Some(&FsError::NotDirectory));
    // a, b, c, f, h, s
    assert_eq!(client.remove_all("/a").await.unwrap(), 6);
    assert!(client.list("/").await.unwrap().is_empty());
    world.state.lock().end_lingering();
    assert_eq!(client.usage().await.unwrap().inodes, 1);
}

/// More entries than fit one page are listed and removed.
#[tokio::test]
async fn large_directories() {
    let world = World::new(3).await;
    let client = world.client().await;
    let dir = client.mkdir("/d", 0o755).await.unwrap().inode;
    let make = (0..2500).map(|n| {
        let (client, name) = (client.clone(), format!("{n:05}").into_bytes());
        let name = everhold_proto::fs::Name::new(name).unwrap();
        async move { client.ensure_dir(dir, name, 0o755).await.unwrap() }
    });
    futures_util::future::join_all(make).await;
    let names: Vec<String> =
        client.list("/d").await.unwrap().iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names.len(), 2500);
    assert!(names.is_sorted());
    assert_eq!(client.remove_all("/d").await.unwrap(), 2501);
}

/// What a tree looks like: kind, mode, time, links, and content or target.
type Picture = BTreeMap<String, (u32, i64, u64, Vec<u8>)>;

fn picture(root: &Path) -> Picture {
    let mut found = Picture::new();
    let mut to_do = vec![root.to_path_buf()];
    while let Some(path) = to_do.pop() {
        let meta = path.symlink_metadata().unwrap();
        let (mut links, mut time) = (meta.nlink(), meta.mtime());
        let bytes = if meta.is_dir() {
            to_do.extend(std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()));
            links = 0;
            Vec::new()
        } else if meta.is_symlink() {
            time = 0; // cannot be set without following it
            std::fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else {
            std::fs::read(&path).unwrap()
        };
        let name = path.strip_prefix(root).unwrap().display().to_string();
        found.insert(name, (meta.mode(), time, links, bytes));
    }
    found
}

fn make_tree(root: &Path) {
    let time = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    for dir in ["", "one", "one/two", "empty", "many"] {
        std::fs::create_dir_all(root.join(dir)).unwrap();
    }
    let mut files: Vec<(String, usize)> = (0..200).map(|n| (format!("many/{n}"), n * 97)).collect();
    files.push(("one/large".into(), 9 << 20));
    files.push(("one/two/none".into(), 0));
    for (n, (name, size)) in files.iter().enumerate() {
        let path = root.join(name);
        std::fs::write(&path, content(n as u64, *size)).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600 + (n as u32 % 8))).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        file.set_modified(time - std::time::Duration::from_secs(n as u64)).unwrap();
    }
    symlink("../many/7", root.join("one/link")).unwrap();
    symlink("nowhere", root.join("dangling")).unwrap();
    std::fs::hard_link(root.join("one/large"), root.join("one/two/same")).unwrap();
    for dir in ["one/two", "one", "empty", "many", ""] {
        std::fs::File::open(root.join(dir)).unwrap().set_modified(time).unwrap();
    }
}

fn check(report: &TransferReport) {
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    let totals = report.totals;
    assert_eq!((totals.files, totals.directories, totals.links), (202, 5, 3));
    assert_eq!(totals.bytes, totals.bytes_found);
}

async fn get(client: &Arc<Client>, remote: &str, local: &Path) -> TransferReport {
    let options = TransferOptions::default();
    client.get_tree(remote, local, options, Arc::default()).await.unwrap()
}

/// A tree goes into the cluster, is copied there, and comes back the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trees_are_transferred() {
    let world = World::new(3).await;
    let client = world.client().await;
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    make_tree(&source);
    let options = TransferOptions::default();
    let progress = Arc::new(Progress::default());
    let put = client.put_tree(&source, "/t", options.clone(), progress.clone()).await.unwrap();
    check(&put);
    assert_eq!(progress.totals(), put.totals);
    // Once more over the first one.
    check(&client.put_tree(&source, "/t", options.clone(), Arc::default()).await.unwrap());
    let stored = world.state.lock().puts;
    check(&client.copy_tree("/t", "/copy", options, Arc::default()).await.unwrap());
    assert_eq!(world.state.lock().puts, stored, "a copy inside the cluster moves no data");
    for (remote, local) in [("/t", "back"), ("/copy", "copied"), ("/t", "back")] {
        let local = dir.path().join(local);
        check(&get(&client, remote, &local).await);
        let (was, is) = (picture(&source), picture(&local));
        let names = |p: &Picture| p.keys().cloned().collect::<Vec<_>>();
        assert_eq!(names(&was), names(&is));
        for (name, was) in &was {
            assert!(*was == is[name], "{name} in {remote}");
        }
    }
}

/// What cannot be transferred is reported, and the rest arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failures_are_reported_one_by_one() {
    let world = World::new(3).await;
    let client = world.client().await;
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("a"), b"a").unwrap();
    std::fs::write(dir.path().join("b"), b"b").unwrap();
    client.mkdir_all("/t/a", 0o755).await.unwrap(); // in the way
    let options = TransferOptions::default();
    let report = client.put_tree(dir.path(), "/t", options, Arc::default()).await.unwrap();
    assert_eq!((report.totals.files, report.totals.failed), (1, 1));
    assert!(report.failures[0].0.ends_with("/a"), "{:?}", report.failures);
    assert_eq!(client.get("/t/b", 10).await.unwrap(), "b");
}
