//! Full disks: writes are refused, nothing is lost, deletion and compaction still work.

use crate::fuzzing::world::{World, bytes, id, put};
use crate::{BlockStore, Compaction, StoreError};
use everhold_env::disk::Fault;
use everhold_proto::Kind;
use everhold_proto::map::Fullness;

const LEN: usize = 30_000;

async fn fill(store: &BlockStore) -> u64 {
    for i in 0.. {
        match put(store, i, &bytes(i, LEN)).await {
            Ok(_) => assert!(i < 1000, "it never fills"),
            Err(StoreError::Full) => return i,
            Err(error) => panic!("{error:?}"),
        }
    }
    unreachable!("the loop has no end of its own")
}

/// Fills the store, frees it by deletion and compaction, and fills it again.
async fn fill_and_free(world: &World) {
    let store = world.open().await;
    let count = fill(&store).await;
    assert!(count > 10, "{count}");
    assert_eq!(store.space().level, Fullness::Full);
    let error = put(&store, 5000, b"one more").await.unwrap_err();
    assert_eq!(error.kind(), Kind::Full);
    for i in 0..count {
        assert_eq!(store.get_whole(id(i)).await.unwrap().1, bytes(i, LEN));
    }
    // Scattered over all segments, one call each: the tombstones need room of their own.
    for i in (0..count).filter(|i| i % 4 != 0) {
        assert_eq!(store.delete(&[id(i)]).await.unwrap(), 1);
    }
    let mut steps = 0;
    while let Compaction::Freed { .. } = store.compact_step().await.unwrap() {
        steps += 1;
        assert!(steps < 100);
    }
    assert_eq!(store.space().level, Fullness::Normal);
    for i in 0..count / 2 {
        put(&store, 10_000 + i, &bytes(i, LEN)).await.unwrap();
    }
    store.close().await.unwrap();
    let store = world.open().await;
    for i in 0..count {
        assert_eq!(store.get_whole(id(i)).await.is_ok(), i % 4 == 0, "{i}");
    }
    store.audit();
}

/// Full by configuration.
#[tokio::test]
async fn a_full_store_can_be_freed() {
    let mut world = World::new();
    world.config.capacity_bytes = Some((12 * 256) << 10);
    fill_and_free(&world).await;
}

/// Full because the file system is, the index file included.
#[tokio::test]
async fn a_full_file_system_can_be_freed() {
    let mut world = World::new();
    world.config.capacity_bytes = None;
    world.config.reserve_bytes = 1 << 20;
    world.config.memtable_entries_max = 16;
    world.disk.inject(Fault::Capacity(8 << 20));
    fill_and_free(&world).await;
}

/// The three levels follow the live bytes.
#[tokio::test]
async fn levels_follow_the_live_bytes() {
    let mut world = World::new();
    world.config.nearfull_percent = 30;
    world.config.full_percent = 60;
    let store = world.open().await;
    let mut levels = vec![store.space().level];
    for i in 0..200 {
        let result = put(&store, i, &bytes(i, LEN)).await;
        let level = store.space().level;
        if levels.last() != Some(&level) {
            levels.push(level);
        }
        if result.is_err() {
            break;
        }
    }
    assert_eq!(levels, [Fullness::Normal, Fullness::Nearfull, Fullness::Full]);
    let space = store.space();
    assert!(space.live * 100 >= space.capacity * 59 && space.live * 100 < space.capacity * 70);
}
