//! Files of all sizes, written and read in every way.

use crate::world::{World, content};
use everhold_client::{Client, ClientOptions, CreateOptions, OpenFile};
use everhold_proto::InodeId;
use everhold_proto::fs::{FsAnswer, FsError, FsQuery, Name, Source};
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1 << 20;

async fn get(client: &Arc<Client>, path: &str) -> bytes::Bytes {
    client.get(path, 1 << 30).await.unwrap()
}

/// Around every limit: inline, one block, several blocks, direct and hidden.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_of_all_sizes_come_back() {
    let world = World::new(4).await;
    let client = world.client().await;
    for (n, size) in [0, 1, 8192, 8193, 4 * MIB, 4 * MIB + 1, 70 * MIB].into_iter().enumerate() {
        let (path, data) = (format!("/f{n}"), content(n as u64, size));
        let attr = client.put(&path, data.clone(), CreateOptions::default()).await.unwrap();
        assert_eq!(attr.size, size as u64);
        let mut reader = client.read_file(&path).await.unwrap();
        let mut found = Vec::new();
        while let Some(chunk) = reader.next_chunk().await.unwrap() {
            found.extend_from_slice(&chunk);
        }
        assert!(data == found, "{size} bytes come back as they were");
        if size > 100 {
            let (from, to) = (size / 3, size / 3 + size / 2);
            let part = reader.read_at(from as u64, to - from).await.unwrap();
            assert!(part == data[from..to]);
        }
    }
    let names = client.list("/").await.unwrap();
    assert_eq!(names.len(), 7, "no hidden file is left: {names:?}");
    // Copies may be late on a busy machine, and blocks written elsewhere; but none fails.
    assert_eq!(client.stats().put.errors, 0);
    client.close().await.unwrap();
}

/// A file is replaced as a whole, and a writer that is dropped leaves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replacement_is_atomic_and_unfinished_writes_leave_nothing() {
    let world = World::new(3).await;
    let options = ClientOptions { buffers: 4, ..ClientOptions::default() };
    let client = world.client_with(options).await;
    let old = content(1, 100);
    client.put("/f", old.clone(), CreateOptions::default()).await.unwrap();
    let mut writer = client.create("/f", CreateOptions::default()).await.unwrap();
    // More than the memory of this client: it grows under a hidden name.
    for n in 0..10 {
        writer.write(&content(n, 4 * MIB)).await.unwrap();
    }
    assert_eq!(get(&client, "/f").await, old, "not visible before the end");
    assert_eq!(client.list("/").await.unwrap().len(), 2);
    drop(writer);
    for _ in 0..500 {
        if client.list("/").await.unwrap().len() == 1 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(client.list("/").await.unwrap().len(), 1);
    assert_eq!(get(&client, "/f").await, old);
    let only_new = CreateOptions { replace: false, ..CreateOptions::default() };
    let e = client.put("/f", content(2, 10), only_new).await.unwrap_err();
    assert!(e.is_exists(), "{e}");
}

/// Ranges are overwritten, appended and cut, with holes in between.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ranges_are_written() {
    let world = World::new(3).await;
    let client = world.client().await;
    client.put("/f", content(1, 5 * MIB), CreateOptions::default()).await.unwrap();
    let mut model = content(1, 5 * MIB).to_vec();
    let writes = [(100usize, 50usize), (4 * MIB - 10, 20_000), (6 * MIB, 9 * MIB), (20 * MIB, 7)];
    for (n, (offset, length)) in writes.into_iter().enumerate() {
        let data = content(100 + n as u64, length);
        client.write_at("/f", offset as u64, data.clone()).await.unwrap();
        model.resize(model.len().max(offset + length), 0);
        model[offset..offset + length].copy_from_slice(&data);
    }
    for length in [10, 5 * MIB] {
        let data = content(length as u64, length);
        client.append("/f", data.clone()).await.unwrap();
        model.extend_from_slice(&data);
    }
    assert!(get(&client, "/f").await == model);
    client.truncate("/f", 3 * MIB as u64).await.unwrap();
    client.truncate("/f", 4 * MIB as u64).await.unwrap();
    model.truncate(3 * MIB);
    model.resize(4 * MIB, 0);
    assert!(get(&client, "/f").await == model);
    let part = client.read_at("/f", 3 * MIB as u64 - 5, 10).await.unwrap();
    assert!(part == model[3 * MIB - 5..3 * MIB + 5]);
}

/// A version whose blocks are gone is never mixed with the next one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_never_mixes_versions() {
    let world = World::new(3).await;
    let client = world.client().await;
    let (old, new) = (content(1, 80 * MIB), content(2, 80 * MIB));
    client.put("/f", old.clone(), CreateOptions::default()).await.unwrap();
    let inode = client.stat("/f").await.unwrap().inode;
    let mut stream = client.read_file("/f").await.unwrap();
    let mut random = client.read_file("/f").await.unwrap();
    assert!(stream.next_chunk().await.unwrap().is_some());
    let old_blocks: Vec<_> =
        world.state.lock().disks.values().flat_map(|d| d.keys().copied()).collect();
    client.write_inode(inode, 0, new.clone()).await.unwrap();
    for blocks in world.state.lock().disks.values_mut() {
        blocks.retain(|id, _| !old_blocks.contains(id));
    }
    let e = loop {
        match stream.next_chunk().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended as if nothing had happened"),
            Err(e) => break e,
        }
    };
    assert!(matches!(e.fs(), Some(FsError::Stale { .. })), "{e}");
    assert!(random.read_at(0, 80 * MIB).await.unwrap() == new);
}

/// Writes to an open file are read back at once and by others after a flush. What a flush behind the
/// writer's back lost, because the file is gone, the next `sync` tells, once, and everybody who kept a mark.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_file_commits_its_writes_or_says_so() {
    let world = World::new(3).await;
    let client = world.client().await;
    let attr = client.put("/f", content(1, 100), CreateOptions::default()).await.unwrap();
    let file = OpenFile::new(client.clone(), attr.inode);
    let data = content(2, 20_000);
    file.write(50, &data).await.unwrap();
    let expected = [&content(1, 100)[..50], &data[..]].concat();
    assert!(file.read(0, 1 << 20).await.unwrap() == expected);
    assert_eq!(get(&client, "/f").await.len(), 100, "nobody else sees it yet");
    file.flush().await.unwrap();
    assert!(get(&client, "/f").await == expected);

    file.write(0, b"late").await.unwrap();
    let name = Name::new(&b"f"[..]).unwrap();
    client.unlink(InodeId::ROOT, name, false).await.unwrap();
    let mark = client.losses().mark();
    file.clone().flush_behind().await;
    assert!(!file.is_dirty(), "it can never be committed");
    file.flush().await.expect("there is nothing left");
    assert!(file.sync().await.unwrap_err().is_not_found());
    file.sync().await.expect("it was told");
    assert!(client.losses().check(attr.inode, &mark).unwrap_err().is_not_found());
    assert!(client.losses().check(attr.inode, &client.losses().mark()).is_ok());
    client.close().await.unwrap();
}

/// Flushes that overlap commit in the order of the writes, whatever is flushed when.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushes_that_overlap_keep_the_order_of_writes() {
    let world = World::new(3).await;
    let client = world.client().await;
    let attr = client.put("/f", content(1, 3 * MIB), CreateOptions::default()).await.unwrap();
    let file = OpenFile::new(client.clone(), attr.inode);
    let mut expected = content(1, 3 * MIB).to_vec();
    let mut flushes = Vec::new();
    for round in 0..60usize {
        // Large and small ones, over each other.
        let length = [MIB, 100, 20_000][round % 3];
        let at = round * 77_777 % (2 * MIB);
        let data = content(round as u64 + 2, length);
        file.write(at as u64, &data).await.unwrap();
        expected[at..at + length].copy_from_slice(&data);
        let flushed = file.clone();
        flushes.push(tokio::spawn(async move { flushed.flush().await }));
        if round % 7 == 0 {
            assert!(file.read(0, 4 * MIB).await.unwrap() == expected, "round {round}");
        }
    }
    for flush in flushes {
        flush.await.unwrap().unwrap();
    }
    assert!(!file.is_dirty());
    assert!(file.read(0, 4 * MIB).await.unwrap() == expected);
    assert!(get(&client, "/f").await == expected);
    client.close().await.unwrap();
}

/// Small writes travel in their commits, and are moved into blocks when they have become many.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_writes_are_folded_into_blocks() {
    let world = World::new(3).await;
    let client = world.client().await;
    let attr = client.put("/f", content(1, 2 * MIB), CreateOptions::default()).await.unwrap();
    let file = OpenFile::new(client.clone(), attr.inode);
    let mut expected = content(1, 2 * MIB).to_vec();
    for round in 0..600usize {
        let at = round * 4099 * 13 % (2 * MIB - 4096);
        let data = content(round as u64 + 2, 4096);
        file.write(at as u64, &data).await.unwrap();
        expected[at..at + 4096].copy_from_slice(&data);
        file.flush().await.unwrap();
        // What is known of the file after an own commit is what a reader is shown.
        let from = at.saturating_sub(5000);
        let read = file.read(from as u64, 20_000).await.unwrap();
        assert!(read == expected[from..(from + 20_000).min(2 * MIB)], "round {round}");
    }
    let folded = async {
        loop {
            let limit = 1000;
            let question = FsQuery::Extents { inode: attr.inode, from: 0, to: u64::MAX, limit };
            let FsAnswer::Extents { extents, .. } = client.query(question).await.unwrap() else {
                panic!("a question for extents");
            };
            let inline = extents.iter().filter(|e| matches!(e.source, Source::Inline(_)));
            if inline.map(|extent| extent.length).sum::<u64>() < 1 << 20 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), folded).await.expect("they do not stay inline");
    assert!(file.read(0, 4 * MIB).await.unwrap() == expected);
    assert!(get(&client, "/f").await == expected);
    client.close().await.unwrap();
}
