//! Clients that read through directories: few questions, and never anything but what is there.

mod common;

use bytes::Bytes;
use common::TestCluster;
use everhold_client::{Client, CreateOptions, OpenFile};
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FileKind};
use std::sync::Arc;

const PAGE: usize = 1000;

/// Until the cache answers without a question.
async fn until_cached(cluster: &TestCluster, client: &Arc<Client>) {
    cluster
        .until("the cache answers", || async {
            let before = asked(client);
            client.cached_attr(InodeId::ROOT).await.expect("is there");
            (asked(client) == before).then_some(())
        })
        .await;
}

/// Questions that somebody waited for, but for those asked ahead.
fn asked(client: &Client) -> u64 {
    client.stats().query.count
}

fn content(n: usize) -> Bytes {
    // Inline, in a block, and too long to be read ahead.
    let length = [100, 8 << 10, 20_000, 200_000][n % 4] + n;
    (0..length).map(|at| (at * 7 + n * 13) as u8).collect::<Vec<_>>().into()
}

async fn read(client: &Arc<Client>, inode: InodeId) -> Bytes {
    let file = OpenFile::new(client.clone(), inode);
    let read = file.read(0, 1 << 20).await.expect("is read");
    // What is here already is the same.
    if let Some(peeked) = file.peek(0, 1 << 20) {
        assert_eq!(peeked, read);
    }
    assert_eq!(file.read(5, 50).await.expect("is read"), read.slice(5..55));
    read
}

/// Files of one directory, in the order of their names.
async fn list(client: &Arc<Client>, directory: InodeId) -> Vec<Attr> {
    let (page, more) = client.cached_list(directory, None, PAGE).await.expect("is listed");
    assert!(!more);
    page.into_iter().map(|(_, attr)| attr).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn small_files_are_read_with_few_questions() {
    let cluster = TestCluster::start(3, 3).await;
    let (writer, reader) = (cluster.client().await, cluster.follower().await);
    writer.mkdir("/d", 0o755).await.expect("is made");
    for n in 0..120 {
        let (path, options) = (format!("/d/{n:03}"), CreateOptions::default());
        writer.put(path, content(n), options).await.expect("is written");
    }
    until_cached(&cluster, &reader).await;
    let directory = reader.stat("/d").await.expect("is there").inode;
    let files = list(&reader, directory).await;
    let before = asked(&reader);
    for (n, file) in files.iter().enumerate() {
        assert_eq!(read(&reader, file.inode).await, content(n), "{n}");
    }
    // One for each file that is long, one for each step of those that are asked ahead.
    let questions = asked(&reader) - before;
    assert!(questions < 30 + 12, "{questions} questions for 120 files");

    // Others' changes are seen as soon as they are acknowledged, whatever was read ahead.
    for n in [0, 1, 2, 40, 41, 42] {
        let path = format!("/d/{n:03}");
        writer.write_at(&path, 3, content(n + 1)).await.expect("is written");
        let expected = writer.read_at(&path, 0, 1 << 20).await.expect("is read");
        assert_eq!(read(&reader, files[n].inode).await, expected, "{n}");
        writer.truncate(&path, 60).await.expect("is cut");
        assert_eq!(read(&reader, files[n].inode).await, expected.slice(..60), "{n}");
        writer.append(&path, content(n)).await.expect("is longer");
        let expected = [&expected[..60], &content(n)[..]].concat();
        assert_eq!(read(&reader, files[n].inode).await, expected, "{n}");
    }
}

/// Its own changes, made behind a delegation, are over what was read ahead.
#[tokio::test(flavor = "multi_thread")]
async fn own_changes_are_read_before_they_are_told() {
    let cluster = TestCluster::start(1, 1).await;
    let client = cluster.behind().await;
    until_cached(&cluster, &client).await;
    client.mkdir("/d", 0o755).await.expect("is made");
    for n in 0..40 {
        let (path, options) = (format!("/d/{n:03}"), CreateOptions::default());
        client.put(path, content(n), options).await.expect("is written");
    }
    let directory = client.stat("/d").await.expect("is there").inode;
    let files = list(&client, directory).await;
    for round in 1..4 {
        for (n, file) in files.iter().enumerate() {
            let written = OpenFile::new(client.clone(), file.inode);
            written.write(0, &content(n + round)).await.expect("is written");
            written.flush().await.expect("is committed");
            let seen = read(&client, file.inode).await;
            assert_eq!(seen[..content(n + round).len()], content(n + round), "{n} {round}");
        }
    }
    client.settle(directory).await.expect("is durable");
    let other = cluster.client().await;
    for (n, file) in files.iter().enumerate() {
        let expected = read(&other, file.inode).await;
        assert_eq!(read(&client, file.inode).await, expected, "{n}");
    }
}

/// Lists everything below a directory, as `ls -R` does: depth first.
async fn walk(client: &Arc<Client>, directory: InodeId) -> Vec<InodeId> {
    let (mut seen, mut next) = (Vec::new(), vec![directory]);
    while let Some(directory) = next.pop() {
        let entries = list(client, directory).await;
        seen.extend(entries.iter().map(|attr| attr.inode));
        let below = entries.iter().rev().filter(|attr| attr.kind == FileKind::Directory);
        next.extend(below.map(|attr| attr.inode));
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_is_listed_with_few_questions() {
    let cluster = TestCluster::start(1, 1).await;
    let (writer, reader) = (cluster.client().await, cluster.follower().await);
    for n in 0..64 {
        let path = format!("/t/{}/{}/{}", n / 16, n / 4 % 4, n % 4);
        writer.mkdir_all(&path, 0o755).await.expect("is made");
        let (path, options) = (format!("{path}/file"), CreateOptions::default());
        writer.put(path, content(0), options).await.expect("is written");
    }
    until_cached(&cluster, &reader).await;
    let top = reader.stat("/t").await.expect("is there").inode;
    let before = asked(&reader);
    let seen = walk(&reader, top).await;
    let questions = asked(&reader) - before;
    assert_eq!(seen.len(), 4 + 16 + 64 + 64);
    assert!(questions <= 12, "{questions} questions for 85 directories");
    // And it is right while others change it.
    for n in 0..8 {
        let path = format!("/t/{}/{}/{}/new-{n}", n / 4, n % 4, n % 3);
        let made = writer.put(path, content(n), CreateOptions::default()).await;
        let made = made.expect("is written").inode;
        assert!(walk(&reader, top).await.contains(&made), "{n}");
    }
    assert_eq!(walk(&reader, top).await.len(), seen.len() + 8);
}
