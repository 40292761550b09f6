//! Power loss and failing devices at every single change of a scenario.

use crate::fuzzing::world::{PG, World, bytes, id, put};
use crate::{BlockStore, StoreError};
use everhold_env::disk::Fault;
use everhold_proto::Kind;

/// What was acknowledged before it stopped: (blocks put, blocks deleted).
async fn scenario(store: &BlockStore) -> (u64, u64) {
    let mut put_ = 0;
    for i in 0..12 {
        if put(store, i, &bytes(i, 25_000)).await.is_err() {
            return (put_, 0);
        }
        put_ = i + 1;
    }
    let mut deleted = 0;
    for i in 0..9 {
        if store.delete(&[id(i)]).await.is_err() {
            return (put_, deleted);
        }
        deleted = i + 1;
    }
    while let Ok(crate::Compaction::Freed { .. }) = store.compact_step().await {}
    (put_, deleted)
}

/// Power fails at each change in turn, with different parts of the unsynced data surviving.
#[tokio::test]
async fn power_may_fail_at_any_change() {
    let changes = {
        let world = World::new();
        let store = world.open().await;
        let before = world.disk.changes();
        scenario(&store).await;
        world.disk.changes() - before
    };
    assert!(changes > 50);
    for n in 1..=changes {
        let world = World::new();
        let store = world.open().await;
        world.disk.inject(Fault::PowerAt(n));
        let (put_, deleted) = scenario(&store).await;
        world.disk.crash(Some(n));
        let (store, report) = world.open_with_report().await;
        assert!(report.lost.is_empty() && report.gaps == 0, "at {n}: {report:?}");
        for i in 0..put_ {
            match store.get_whole(id(i)).await {
                Ok((_, data)) if i >= deleted => assert_eq!(data, bytes(i, 25_000), "at {n}"),
                Ok(_) => assert_eq!(i, deleted, "at {n}: deleted block {i} came back"),
                Err(StoreError::NotFound(_)) => {
                    assert!(i <= deleted && i < 9, "at {n}: block {i} lost")
                }
                Err(error) => panic!("at {n}: {error:?}"),
            }
        }
        store.audit();
    }
}

/// A failed write or sync ends the store: nothing is acknowledged by it any more.
#[tokio::test]
async fn a_failed_write_ends_the_store() {
    for n in 1..=2 {
        let world = World::new();
        let store = world.open().await;
        put(&store, 1, b"first").await.unwrap();
        world.disk.inject(Fault::WriteErrorAt(n));
        let error = put(&store, 2, b"second").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(store.failure().is_some());
        assert!(matches!(put(&store, 3, b"third").await, Err(StoreError::Failed(_))));
        assert!(matches!(store.get(id(1), 0..1).await, Err(StoreError::Failed(_))));
        assert!(matches!(store.list(PG, None, 1).await, Err(StoreError::Failed(_))));
        world.disk.crash(None);
        let store = world.open().await;
        assert_eq!(store.get_whole(id(1)).await.unwrap().1, b"first"[..]);
    }
}

/// A read that the device refuses is an error of that read only.
#[tokio::test]
async fn a_failed_read_is_reported() {
    let world = World::new();
    let store = world.open().await;
    put(&store, 1, b"first").await.unwrap();
    world.disk.inject(Fault::ReadErrorAt(1));
    assert!(matches!(store.get_whole(id(1)).await, Err(StoreError::Io { .. })));
    assert_eq!(store.get_whole(id(1)).await.unwrap().1, b"first"[..]);
}
