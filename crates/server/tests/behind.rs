//! Changes that clients make behind delegations: the cluster comes to have what they showed, and others see it.

mod common;

use common::TestCluster;
use everhold_client::{Client, ClientError, OpenFile};
use everhold_proto::InodeId;
use everhold_proto::fs::{
    Attr, FileKind, FsOp, FsReply, Name, NewKind, RenameMode, SetAttr, TimeOrNow, XattrMode,
};
use everhold_proto::units::Timestamp;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

const ROOT: InodeId = InodeId::ROOT;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).expect("a name")
}

async fn make(client: &Arc<Client>, parent: InodeId, text: &str, kind: NewKind) -> Attr {
    let (owner, name) = (client.owner(0o750), name(text));
    client.create_node(parent, name, kind, owner, false).await.expect("is created")
}

async fn write(client: &Arc<Client>, inode: InodeId, offset: u64, data: &[u8]) {
    let file = OpenFile::new(client.clone(), inode);
    file.write(offset, data).await.expect("is written");
    file.flush().await.expect("is flushed");
}

/// A directory that the client holds: the second change of its parent asks for that.
async fn held(cluster: &TestCluster, client: &Arc<Client>, text: &str) -> InodeId {
    let tries = AtomicU32::new(0);
    cluster
        .until("a directory is held", || {
            let text = format!("{text}{}", tries.fetch_add(1, Ordering::Relaxed));
            async move {
                let inode = make(client, ROOT, &text, NewKind::Directory).await.inode;
                client.holds_directory(inode).then_some(inode)
            }
        })
        .await
}

/// Everything below a directory, as a client shows it: attributes, content, targets, extended attributes.
type Seen = BTreeMap<String, (Attr, Vec<u8>, Vec<(String, Vec<u8>)>)>;

async fn look(client: &Arc<Client>, directory: InodeId) -> Seen {
    let (mut seen, mut to_visit) = (Seen::new(), vec![(String::new(), directory)]);
    while let Some((path, directory)) = to_visit.pop() {
        for (name, attr) in client.list_inode(directory).await.expect("is listed") {
            let path = format!("{path}/{name}");
            let found = client.lookup(directory, name.clone()).await.expect("is found");
            assert_eq!(found, attr, "{path}");
            let known = client.cached_lookup(directory, &name).await.expect("answers");
            assert_eq!(known, Some(attr.clone()), "{path}, from memory");
            let known = client.cached_attr(attr.inode).await.expect("answers");
            assert_eq!(known, attr, "{path}, from memory");
            assert_eq!(client.attr(attr.inode).await.expect("is there"), attr, "{path}");
            let content = match attr.kind {
                FileKind::File => {
                    let read = client.read_inode(attr.inode, 0, 1 << 20).await;
                    read.expect("is read").1.to_vec()
                }
                FileKind::Symlink => {
                    client.readlink_inode(attr.inode).await.expect("leads").to_vec()
                }
                _ => Vec::new(),
            };
            let mut xattrs = Vec::new();
            for name in client.list_xattr(attr.inode).await.expect("are listed") {
                let value = client.get_xattr(attr.inode, name.clone()).await.expect("is set");
                xattrs.push((String::from_utf8_lossy(&name).into_owned(), value.to_vec()));
            }
            if attr.kind == FileKind::Directory {
                to_visit.push((path.clone(), attr.inode));
            }
            seen.insert(path, (attr, content, xattrs));
        }
    }
    seen
}

/// Draws what follows from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

/// One change in one of the directories. Refusals are right answers too.
async fn change(client: &Arc<Client>, dice: &mut Dice, directories: &mut Vec<InodeId>) {
    let parent = directories[dice.roll(directories.len() as u64) as usize];
    let other = directories[dice.roll(directories.len() as u64) as usize];
    let (from, to) = (name(&format!("n{}", dice.roll(8))), name(&format!("n{}", dice.roll(8))));
    let known = client.lookup(parent, from.clone()).await.ok();
    let kinds = [
        NewKind::File,
        NewKind::File,
        NewKind::Directory,
        NewKind::Fifo,
        NewKind::Symlink("to/where".into()),
    ];
    let kind = kinds[dice.roll(5) as usize].clone();
    let result: Result<(), ClientError> = match (dice.roll(12), known) {
        (0..=3, _) => {
            let owner = client.owner(0o2755);
            let made = client.create_node(parent, from, kind, owner, false).await;
            made.map(|attr| {
                if attr.kind == FileKind::Directory {
                    directories.push(attr.inode);
                }
            })
        }
        (4, _) => client.unlink(parent, from, dice.roll(2) == 0).await,
        (5, _) => client.rmdir(parent, from).await,
        (6, _) => {
            use RenameMode::{Exchange, NoReplace, Replace, Whiteout};
            let mode = [Replace, NoReplace, Exchange, Whiteout][dice.roll(4) as usize];
            client.rename_in(parent, from, other, to, mode).await.map(drop)
        }
        (7, Some(attr)) if attr.kind != FileKind::Symlink => {
            let set = SetAttr {
                mode: Some(dice.roll(0o7777) as u32),
                mtime: Some(TimeOrNow::At(Timestamp(dice.roll(1 << 40) as i64))),
                ..SetAttr::default()
            };
            client.set_attr_of(attr.inode, set).await.map(drop)
        }
        (8, Some(attr)) if attr.kind == FileKind::File => {
            let set = SetAttr { size: Some(dice.roll(30_000)), ..SetAttr::default() };
            client.set_attr_of(attr.inode, set).await.map(drop)
        }
        (9, Some(attr)) => {
            let value = vec![7; dice.roll(100) as usize];
            client.set_xattr(attr.inode, "user.x", value, XattrMode::Set).await
        }
        (10, Some(attr)) if attr.kind == FileKind::File => {
            client.link(attr.inode, other, to).await.map(drop)
        }
        (_, Some(attr)) if attr.kind == FileKind::File => {
            let length = [10, 3000, 20_000][dice.roll(3) as usize];
            let file = OpenFile::new(client.clone(), attr.inode);
            file.write(dice.roll(9000), &vec![dice.roll(255) as u8; length]).await.expect("fits");
            file.flush().await
        }
        _ => Ok(()),
    };
    if let Err(e) = result {
        assert!(e.fs().is_some(), "only the tree refuses: {e}");
    }
}

/// What a client shows of what it holds is, to the last attribute, what all see after it was told.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_is_what_comes_to_be() {
    let cluster = TestCluster::start(1, 1).await;
    let (client, plain) = (cluster.behind().await, cluster.client().await);
    for seed in 1..=12 {
        let top = held(&cluster, &client, &format!("top{seed}-")).await;
        let (mut dice, mut directories) = (Dice(seed), vec![top]);
        for _ in 0..120 {
            change(&client, &mut dice, &mut directories).await;
        }
        let shown = look(&client, top).await;
        client.settle_all().await.expect("is told");
        assert_eq!(look(&plain, top).await, shown, "seed {seed}");
        assert_eq!(look(&client, top).await, shown, "seed {seed}, given back");
    }
    for client in [client, plain] {
        client.close().await.expect("closes");
    }
}

/// A name of a file that has several is removed: no memory says that it still has it.
#[tokio::test(flavor = "multi_thread")]
async fn memory_is_not_older_than_what_was_done() {
    let cluster = TestCluster::start(1, 1).await;
    let client = cluster.behind().await;
    let directory = held(&cluster, &client, "d").await;
    for round in 0..20 {
        let file = make(&client, directory, "one", NewKind::File).await.inode;
        for (text, links) in [("two", 2), ("three", 3)] {
            client.link(file, directory, name(text)).await.expect("is linked");
            assert_eq!(client.cached_attr(file).await.expect("answers").nlink, links, "{round}");
        }
        for (text, other, links) in [("two", "one", 2), ("one", "three", 1)] {
            client.unlink(directory, name(text), true).await.expect("is removed");
            let known = client.cached_lookup(directory, &name(other)).await.expect("answers");
            assert_eq!(known.expect("is there").nlink, links, "{round}");
        }
        client.unlink(directory, name("three"), true).await.expect("is removed");
    }
    client.close().await.expect("closes");
}

/// Who walks through a tree gets the directories below those that it takes; others get them back as ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_walk_takes_what_is_below() {
    let cluster = TestCluster::start(1, 1).await;
    let (client, plain) = (cluster.behind().await, cluster.client().await);
    let (trees, tries) = (make(&plain, ROOT, "trees", NewKind::Directory).await, AtomicU32::new(0));
    // A walk is two directories within a moment: it may take more than one try.
    let tree = async || {
        let number = tries.fetch_add(1, Ordering::Relaxed);
        let directory =
            async |parent, text: &str| make(&plain, parent, text, NewKind::Directory).await.inode;
        let first = directory(trees.inode, &format!("first{number}")).await;
        let top = directory(trees.inode, &format!("top{number}")).await;
        let mut all = vec![top];
        for text in ["a", "b"] {
            let level = directory(top, text).await;
            all.extend([level, directory(level, "deep").await]);
        }
        for text in ["1", "2"] {
            make(&client, first, text, NewKind::File).await;
        }
        make(&client, top, "x", NewKind::File).await;
        all.iter().all(|inode| client.holds_directory(*inode)).then_some(all)
    };
    for inode in cluster.until("a tree is held", tree).await {
        make(&client, inode, "new", NewKind::File).await;
        assert!(plain.lookup(inode, name("new")).await.is_ok(), "others see it");
    }
    for client in [client, plain] {
        client.close().await.expect("closes");
    }
}

/// Two clients by turns in one directory: each sees what the other one did, at once.
#[tokio::test(flavor = "multi_thread")]
async fn others_see_what_was_done() {
    let cluster = TestCluster::start(1, 1).await;
    let (a, b) = (cluster.behind().await, cluster.behind().await);
    let directory = held(&cluster, &a, "d").await;
    // The other one works with the number: by its path it would have called the parent back.
    a.settle(directory).await.expect("is told");
    for round in 0..5 {
        for n in 0..20 {
            let file = make(&a, directory, &format!("a{round}-{n}"), NewKind::File).await.inode;
            // Some in the inode, some in blocks that are written behind the close.
            let text = format!("{round} {n}").repeat(if n % 3 == 0 { 5000 } else { 1 });
            write(&a, file, 0, text.as_bytes()).await;
        }
        let entries = b.list_inode(directory).await.expect("is listed");
        assert_eq!(entries.len(), 20, "round {round}");
        for (n, (name, attr)) in entries.into_iter().enumerate() {
            let read = b.read_inode(attr.inode, 0, 1 << 20).await.expect("is read").1;
            assert!(read.starts_with(format!("{round} ").as_bytes()), "{n}: {read:?}");
            assert_eq!(read.len() as u64, attr.size, "{n}");
            b.unlink(directory, name, false).await.expect("is removed");
        }
        assert!(a.list_inode(directory).await.expect("is listed").is_empty(), "round {round}");
    }
    for client in [a, b] {
        client.close().await.expect("closes");
    }
}

/// Bytes that are on their way to blocks count at once, to who wrote them, and nothing done to the file later is
/// told before them.
#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_written_behind_the_close() {
    let cluster = TestCluster::start(1, 1).await;
    let (client, plain) = (cluster.behind().await, cluster.client().await);
    let directory = held(&cluster, &client, "d").await;
    let mut files = Vec::new();
    for n in 0..200u64 {
        let attr = make(&client, directory, &format!("n{n}"), NewKind::File).await;
        let bytes = vec![n as u8; 9000 + n as usize];
        write(&client, attr.inode, 0, &bytes).await;
        assert_eq!(client.attr(attr.inode).await.expect("is there").size, bytes.len() as u64);
        match n % 4 {
            0 => write(&client, attr.inode, 100, b"over").await,
            1 => client.unlink(directory, name(&format!("n{n}")), false).await.expect("goes"),
            2 => {
                let read = client.read_inode(attr.inode, 0, 1 << 20).await.expect("is read").1;
                assert_eq!(read, bytes, "{n}");
            }
            _ => {}
        }
        files.push((n, bytes));
    }
    let entries = plain.list_inode(directory).await.expect("is listed");
    let found: BTreeMap<String, InodeId> =
        entries.into_iter().map(|(name, attr)| (name.to_string(), attr.inode)).collect();
    for (n, mut bytes) in files {
        let inode = found.get(&format!("n{n}"));
        assert_eq!(inode.is_some(), n % 4 != 1, "{n}");
        let Some(inode) = inode else { continue };
        if n % 4 == 0 {
            bytes[100..104].copy_from_slice(b"over");
        }
        assert_eq!(plain.read_inode(*inode, 0, 1 << 20).await.expect("is read").1, bytes, "{n}");
    }
    client.settle_all().await.expect("nothing was lost");
    for client in [client, plain] {
        client.close().await.expect("closes");
    }
}

/// What another client's cache knew of a directory before it was held is not right any more, and it does not say so.
#[tokio::test(flavor = "multi_thread")]
async fn caches_forget_what_another_one_holds() {
    let cluster = TestCluster::start(1, 1).await;
    let (a, b) = (cluster.behind().await, cluster.follower().await);
    for round in 0..5 {
        let directory = make(&b, ROOT, &format!("d{round}"), NewKind::Directory).await.inode;
        let old = make(&b, directory, "old", NewKind::File).await;
        for text in ["old", "new"] {
            let known = b.cached_lookup(directory, &name(text)).await.expect("answers");
            assert_eq!(known.is_some(), text == "old");
        }
        cluster
            .until("the directory is held", || async {
                make(&a, directory, &format!("{}", a.stats().execute.count), NewKind::File).await;
                a.holds_directory(directory).then_some(())
            })
            .await;
        let set = SetAttr { mode: Some(0o7), ..SetAttr::default() };
        a.set_attr_of(old.inode, set).await.expect("is set");
        a.unlink(directory, name("old"), true).await.expect("is removed");
        make(&a, directory, "new", NewKind::File).await;
        assert!(b.cached_lookup(directory, &name("new")).await.expect("answers").is_some());
        assert!(b.cached_lookup(directory, &name("old")).await.expect("answers").is_none());
        assert_eq!(b.cached_attr(old.inode).await.expect("lingers").nlink, 0);
    }
    for client in [a, b] {
        client.close().await.expect("closes");
    }
}

/// A client that falls silent keeps nobody out for long, and what it had settled is there.
#[tokio::test(flavor = "multi_thread")]
async fn who_falls_silent_loses_what_it_holds() {
    let cluster = TestCluster::start(1, 1).await;
    let (silent, other) = (cluster.behind().await, cluster.client().await);
    let directory = held(&cluster, &silent, "d").await;
    let file = make(&silent, directory, "settled", NewKind::File).await.inode;
    write(&silent, file, 0, b"text").await;
    silent.settle(file).await.expect("is told");
    drop(silent); // its session lives on for half a minute
    let entries = other.list_inode(directory).await.expect("is listed");
    assert_eq!(entries.len(), 1);
    let made = other.execute(FsOp::Create {
        parent: directory,
        name: name("new"),
        kind: NewKind::File,
        owner: other.owner(0o644),
        open: false,
    });
    assert!(matches!(made.await, Ok(FsReply::Attr(_))));
    other.close().await.expect("closes");
}
