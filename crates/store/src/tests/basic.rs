//! What the calls promise when nothing goes wrong.

use crate::fuzzing::world::{PG, World, bytes, id, put, put_as};
use crate::{BlockBuf, Compaction, Put, StoreError};
use everhold_env::disk::RealDisk;
use everhold_env::{Env, Tasks};
use everhold_proto::{BlockId, ClusterId, DiskId, Kind, PgId};
use std::sync::Arc;

/// Blocks of all sizes come back whole and in parts, before and after a restart.
#[tokio::test]
async fn blocks_round_trip() {
    let mut world = World::new();
    world.config.segment_bytes = 8 << 20;
    world.config.capacity_bytes = Some(128 << 20);
    let store = world.open().await;
    let sizes = [1, 511, 4096, 4097, 16384, 16385, 100_000, 300_001, 4 << 20];
    for (i, size) in sizes.iter().enumerate() {
        let data = bytes(i as u64, *size);
        assert_eq!(put(&store, i as u64, &data).await.unwrap(), Put::Stored);
    }
    for round in 0..2 {
        let store = if round == 0 { store.clone() } else { world.open().await };
        for (i, size) in sizes.iter().enumerate() {
            let data = bytes(i as u64, *size);
            let (stat, whole) = store.get_whole(id(i as u64)).await.unwrap();
            assert_eq!((&whole[..], stat.length as usize, stat.pg), (&data[..], *size, PG));
            let end = *size as u32;
            for range in [0..1, 0..end, end - 1..end, end / 2..end, end / 3..end / 3 + 1] {
                let part = store.get(id(i as u64), range.clone()).await.unwrap();
                assert_eq!(part[..], data[range.start as usize..range.end as usize], "{range:?}");
            }
            assert!(store.get(id(i as u64), 0..end + 1).await.is_err());
            store.verify(id(i as u64)).await.unwrap();
        }
        if round == 0 {
            store.close().await.unwrap();
            assert!(matches!(store.stat(id(99)).await, Err(StoreError::Closed)));
            assert_eq!(put(&store, 50, b"x").await.unwrap_err().kind(), Kind::Retry);
        }
    }
}

/// The same again is fine after it was verified; other bytes or another PG is a conflict.
#[tokio::test]
async fn an_id_belongs_to_its_bytes() {
    let world = World::new();
    let store = world.open().await;
    put(&store, 1, b"hello").await.unwrap();
    assert_eq!(put(&store, 1, b"hello").await.unwrap(), Put::AlreadyStored);
    assert!(matches!(put(&store, 1, b"world").await, Err(StoreError::Conflict(_))));
    assert!(matches!(put_as(&store, id(1), PgId(9), b"hello").await, Err(StoreError::Conflict(_))));
    let buf = BlockBuf::copy_of(b"wrong").unwrap();
    assert!(matches!(store.put(id(2), PG, 1, buf).await, Err(StoreError::BadBytes(_))));
    assert!(matches!(store.get(id(2), 0..1).await, Err(StoreError::NotFound(_))));
    assert!(BlockBuf::with_capacity(0).is_err());
    assert!(BlockBuf::with_capacity((4 << 20) + 1).is_err());
    let mut small = BlockBuf::with_capacity(3).unwrap();
    assert!(small.extend_from_slice(b"four").is_err());
}

/// Many at once, some of them the same: each is stored once.
#[tokio::test]
async fn concurrent_puts_are_stored_once() {
    let world = World::new();
    let store = world.open().await;
    let puts = (0..200).map(|i| {
        let store = store.clone();
        async move { put(&store, i % 50, &bytes(i % 50, 3000)).await.unwrap() }
    });
    let done = futures_util::future::join_all(puts).await;
    assert_eq!(done.iter().filter(|put| **put == Put::Stored).count(), 50);
    assert_eq!(store.space().blocks, 50);
}

/// Listings and digests see memory and file as one, in order, page by page.
#[tokio::test]
async fn listings_are_ordered_and_complete() {
    let mut world = World::new();
    world.config.capacity_bytes = Some(64 << 20);
    let store = world.open().await;
    for i in 0..40 {
        put_as(&store, id(i * 7 % 40), PgId(1 + (i * 7 % 40 % 2) as u32), &bytes(i, 10))
            .await
            .unwrap();
        if i % 10 == 9 {
            store.flush().await.unwrap();
        }
    }
    store.delete(&[id(0), id(4), id(5), id(99)]).await.unwrap();
    assert_eq!(store.pgs().await.unwrap(), [PgId(1), PgId(2)]);
    let expected: Vec<_> = (0..40).filter(|i| i % 2 == 0 && *i != 0 && *i != 4).map(id).collect();
    for limit in [1, 3, 100] {
        let (mut listed, mut after) = (Vec::new(), None);
        loop {
            let page = store.list(PgId(1), after, limit).await.unwrap();
            listed.extend(page.iter().map(|block| block.id));
            match page.last() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        assert_eq!(listed, expected);
    }
    let whole = store.digest(PgId(1), BlockId::MIN, BlockId::MAX).await.unwrap();
    let low = store.digest(PgId(1), BlockId::MIN, id(19)).await.unwrap();
    let high = store.digest(PgId(1), id(20), BlockId::MAX).await.unwrap();
    assert_eq!(whole.count, expected.len() as u64);
    assert_eq!((low.count + high.count, low.sum.wrapping_add(high.sum)), (whole.count, whole.sum));
    store.delete(&[id(20)]).await.unwrap();
    assert_ne!(store.digest(PgId(1), id(20), BlockId::MAX).await.unwrap(), high);
    store.delete(&(0..40).map(id).collect::<Vec<_>>()).await.unwrap();
    assert!(store.pgs().await.unwrap().is_empty());
}

/// Dead space comes back, live blocks stay readable, and what was deleted does not return.
#[tokio::test]
async fn compaction_gives_space_back() {
    let world = World::new();
    let store = world.open().await;
    for i in 0..60 {
        put(&store, i, &bytes(i, 30_000)).await.unwrap();
    }
    let before = store.space();
    let dead: Vec<_> = (0..60).filter(|i| i % 5 != 0).map(id).collect();
    assert_eq!(store.delete(&dead).await.unwrap(), 48);
    assert_eq!(store.delete(&dead).await.unwrap(), 0);
    let mut freed = 0;
    while let Compaction::Freed { .. } = store.compact_step().await.unwrap() {
        freed += 1;
    }
    assert!(freed >= 5, "freed {freed}");
    assert!(store.space().free > before.free);
    store.close().await.unwrap();
    world.env.disk.remove(&world.path("index.redb")).await.unwrap();
    let store = world.open().await;
    for i in 0..60 {
        match i % 5 {
            0 => assert_eq!(store.get_whole(id(i)).await.unwrap().1, bytes(i, 30_000)),
            _ => assert!(store.stat(id(i)).await.unwrap().is_none(), "{i} came back"),
        }
    }
}

/// A disk of somebody else, or of another time, is refused by name.
#[tokio::test]
async fn foreign_disks_are_refused() {
    let mut world = World::new();
    let store = world.open().await;
    assert_eq!(store.disk().await, None);
    store.set_disk(DiskId(4)).await.unwrap();
    store.set_disk(DiskId(4)).await.unwrap();
    assert!(matches!(store.set_disk(DiskId(5)).await, Err(StoreError::Foreign { .. })));
    store.close().await.unwrap();
    drop(store);
    world.config.disk = Some(DiskId(5));
    let error = world.try_open().await.err().unwrap();
    assert_eq!(error.to_string(), "the disk belongs to disk d4, not to d5");
    world.config.disk = None;
    world.config.cluster = ClusterId([8; 16]);
    let error = world.try_open().await.err().unwrap();
    assert_eq!(error.kind(), Kind::Foreign);
    let path = world.path("superblock");
    let mut superblock = world.env.disk.read_small(&path, 4096).await.unwrap();
    superblock[8] = 9;
    world.env.disk.write_atomic(&path, &superblock).await.unwrap();
    let error = world.try_open().await.err().unwrap();
    assert!(matches!(error, StoreError::Version { found: 9, supported: 1 }));
    superblock[8] = 1;
    superblock[40] ^= 1;
    world.env.disk.write_atomic(&path, &superblock).await.unwrap();
    assert!(matches!(world.try_open().await.err(), Some(StoreError::BadSuperblock(_))));
    world.env.disk.remove(&path).await.unwrap();
    assert!(matches!(world.try_open().await.err(), Some(StoreError::BadSuperblock(_))));
}

/// The same on a real file system, with threads; and nobody opens a disk twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn works_on_a_real_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut world = World::new();
    world.env = Env { disk: Arc::new(RealDisk::new()), tasks: Tasks::real(), ..world.env.clone() };
    world.dir = dir.path().join("disk");
    let store = world.open().await;
    let puts = (0..50).map(|i| {
        let store = store.clone();
        async move { put(&store, i, &bytes(i, 20_000)).await.unwrap() }
    });
    futures_util::future::join_all(puts).await;
    assert!(matches!(world.try_open().await.err(), Some(StoreError::InUse)));
    store.delete(&(0..40).map(id).collect::<Vec<_>>()).await.unwrap();
    while let Compaction::Freed { .. } = store.compact_step().await.unwrap() {}
    store.close().await.unwrap();
    drop(store);
    let (store, report) = world.open_with_report().await;
    assert_eq!((report.replayed, report.rebuilt), (0, false));
    for i in 0..50 {
        assert_eq!(store.get_whole(id(i)).await.is_ok(), i >= 40);
    }
}
