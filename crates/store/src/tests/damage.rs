//! Bytes that changed at rest: never returned, always reported, repaired by a put.

use crate::format::{HEADER_BYTES, Place, RecordHeader};
use crate::fuzzing::world::{PG, World, bytes, id, put};
use crate::{Compaction, Put, StoreError};
use everhold_env::disk::Fault;
use everhold_env::{AlignedBuf, OpenMode};
use everhold_proto::BlockId;
use proptest::prelude::*;

const DIRECT: OpenMode = OpenMode { create: false, direct: true };

/// Places of the records in segment 0 when `count` blocks of `len` bytes were put into a new store.
fn offsets(count: u64, len: usize) -> impl Iterator<Item = u64> {
    let record = (HEADER_BYTES + len.next_multiple_of(HEADER_BYTES)) as u64;
    (0..count).map(move |i| HEADER_BYTES as u64 + i * record)
}

/// No flipped bit in a record gets past a read, and a put of the right bytes repairs it.
#[tokio::test]
async fn flipped_bits_are_never_returned() {
    let world = World::new();
    let store = world.open().await;
    let data = bytes(1, 40_000);
    put(&store, 1, &data).await.unwrap();
    let len = HEADER_BYTES as u64 + data.len() as u64;
    let mut damaged = 0;
    for offset in (0..len).step_by(997).chain([0, 8, 13, 100, 4095, 4096, len - 1]) {
        let path = world.segment(0);
        let flip = Fault::BitFlip { path, offset: HEADER_BYTES as u64 + offset, bit: 3 };
        world.disk.inject(flip.clone());
        assert!(
            matches!(store.get_whole(id(1)).await, Err(StoreError::Corrupt { .. })),
            "{offset}"
        );
        assert!(matches!(store.verify(id(1)).await, Err(StoreError::Corrupt { .. })));
        for range in [0..1, 0..40_000, 20_000..20_001, 39_999..40_000] {
            match store.get(id(1), range.clone()).await {
                Ok(part) => assert_eq!(part[..], data[range.start as usize..range.end as usize]),
                Err(error) => assert!(matches!(error, StoreError::Corrupt { .. })),
            }
        }
        damaged += 1;
        world.disk.inject(flip);
    }
    assert!(store.checksum_errors() >= damaged);
    let path = world.segment(0);
    world.disk.inject(Fault::BitFlip { path, offset: 2 * HEADER_BYTES as u64, bit: 0 });
    assert_eq!(put(&store, 1, &data).await.unwrap(), Put::Stored);
    assert_eq!(store.get_whole(id(1)).await.unwrap().1, data);
    // The damaged copy does not come back when the index is made anew.
    world.disk.crash(None);
    world.env.disk.remove(&world.path("index.redb")).await.unwrap();
    let store = world.open().await;
    assert_eq!(store.get_whole(id(1)).await.unwrap().1, data);
    store.audit();
}

/// A lost index is made anew from the segments and says the same as before.
#[tokio::test]
async fn a_lost_index_is_rebuilt() {
    let world = World::new();
    let store = world.open().await;
    for i in 0..60 {
        put(&store, i, &bytes(i, 9000)).await.unwrap();
    }
    store.delete(&(0..60).step_by(3).map(id).collect::<Vec<_>>()).await.unwrap();
    let before = store.list(PG, None, 1000).await.unwrap();
    let space = store.space();
    store.close().await.unwrap();
    for damage in ["gone", "garbage", "marked"] {
        let index = world.path("index.redb");
        match damage {
            "gone" => world.env.disk.remove(&index).await.unwrap(),
            "garbage" => world.env.disk.write_atomic(&index, &[0x5a; 9000]).await.unwrap(),
            _ => world.env.disk.write_atomic(&world.path("index.damaged"), b"").await.unwrap(),
        }
        let (store, report) = world.open_with_report().await;
        assert_eq!(store.list(PG, None, 1000).await.unwrap(), before, "{damage}");
        assert_eq!(store.space().live, space.live);
        assert!(report.replayed > 0 && report.lost.is_empty(), "{report:?}");
        store.audit();
        store.close().await.unwrap();
        let (_, report) = world.open_with_report().await;
        assert_eq!((report.replayed, report.rebuilt), (0, false));
    }
}

/// A record that decayed before the index had it is reported as lost, the others are there, and a
/// put brings it back.
#[tokio::test]
async fn decay_in_the_log_is_reported() {
    for (at, named) in [(HEADER_BYTES as u64 + 10, true), (20, false)] {
        let world = World::new();
        let store = world.open().await;
        for i in 0..5 {
            put(&store, i, &bytes(i, 9000)).await.unwrap();
        }
        let offset = offsets(5, 9000).nth(2).unwrap() + at;
        world.disk.crash(None);
        world.disk.inject(Fault::BitFlip { path: world.segment(0), offset, bit: 1 });
        let (store, report) = world.open_with_report().await;
        match named {
            true => assert_eq!((report.lost, report.gaps), (vec![id(2)], 0)),
            false => assert_eq!((report.lost, report.gaps), (vec![], 1)),
        }
        let present = store.list(PG, None, 10).await.unwrap();
        assert_eq!(present.iter().map(|b| b.id.counter).collect::<Vec<_>>(), [0, 1, 3, 4]);
        assert_eq!(put(&store, 2, &bytes(2, 9000)).await.unwrap(), Put::Stored);
        world.disk.crash(None);
        let (store, report) = world.open_with_report().await;
        assert!(report.lost.is_empty());
        assert_eq!(store.get_whole(id(2)).await.unwrap().1, bytes(2, 9000));
    }
}

/// A write that landed in the wrong place is not taken for the block that should be there.
#[tokio::test]
async fn misdirected_writes_are_noticed() {
    let world = World::new();
    let store = world.open().await;
    for i in 0..3 {
        put(&store, i, &bytes(i, 9000)).await.unwrap();
    }
    let places: Vec<_> = offsets(3, 9000).collect();
    let file = world.env.disk.open(&world.segment(0), DIRECT).await.unwrap();
    let first = file.read_at(places[0], 4 * HEADER_BYTES).await.unwrap();
    file.write_at(places[1], first).await.unwrap();
    file.sync_data().await.unwrap();
    assert!(matches!(store.get_whole(id(1)).await, Err(StoreError::Corrupt { .. })));
    assert_eq!(store.get_whole(id(0)).await.unwrap().1, bytes(0, 9000));
    world.disk.crash(None);
    world.env.disk.remove(&world.path("index.redb")).await.unwrap();
    let (store, report) = world.open_with_report().await;
    assert_eq!(report.gaps, 1);
    assert!(matches!(store.get_whole(id(1)).await, Err(StoreError::NotFound(_))));
    assert_eq!(store.get_whole(id(2)).await.unwrap().1, bytes(2, 9000));
}

/// Compaction keeps a segment with a damaged block, says so, and goes on once it was repaired.
#[tokio::test]
async fn compaction_never_drops_a_damaged_block() {
    for at in [20, HEADER_BYTES as u64 + 20] {
        let world = World::new();
        let store = world.open().await;
        for i in 0..20 {
            put(&store, i, &bytes(i, 28_000)).await.unwrap();
        }
        store.delete(&(2..20).map(id).collect::<Vec<_>>()).await.unwrap();
        let flip =
            Fault::BitFlip { path: world.segment(0), offset: HEADER_BYTES as u64 + at, bit: 0 };
        world.disk.inject(flip);
        let mut damaged = Vec::new();
        loop {
            match store.compact_step().await.unwrap() {
                Compaction::Idle => break,
                Compaction::Freed { .. } => {}
                Compaction::Damaged(ids) => damaged.extend(ids),
            }
        }
        assert_eq!(damaged, [id(0)]);
        assert_eq!(store.get_whole(id(1)).await.unwrap().1, bytes(1, 28_000));
        assert!(matches!(store.get_whole(id(0)).await, Err(StoreError::Corrupt { .. })));
        assert_eq!(put(&store, 0, &bytes(0, 28_000)).await.unwrap(), Put::Stored);
        assert!(matches!(store.compact_step().await.unwrap(), Compaction::Freed { .. }));
        assert_eq!(store.get_whole(id(0)).await.unwrap().1, bytes(0, 28_000));
        store.audit();
    }
}

/// A segment without a header is still read, with the index and without it.
#[tokio::test]
async fn a_damaged_segment_header_loses_nothing() {
    for with_index in [true, false] {
        let world = World::new();
        let store = world.open().await;
        for i in 0..20 {
            put(&store, i, &bytes(i, 28_000)).await.unwrap();
        }
        store.close().await.unwrap();
        world.disk.inject(Fault::BitFlip { path: world.segment(0), offset: 40, bit: 0 });
        if !with_index {
            world.env.disk.remove(&world.path("index.redb")).await.unwrap();
        }
        let (store, report) = world.open_with_report().await;
        assert_eq!(report.damaged_segments, [0]);
        for i in 0..20 {
            assert_eq!(store.get_whole(id(i)).await.unwrap().1, bytes(i, 28_000));
        }
        store.audit();
    }
}

/// What somebody may have written over parts of a segment.
#[derive(Clone, Debug)]
enum Garbage {
    /// Random bytes at a page.
    Random {
        page: u64,
        seed: u64,
    },
    /// A valid header with random fields, claiming to be of this store.
    Forged {
        page: u64,
        seed: u64,
        fields: Vec<(usize, u8)>,
    },
    Flip {
        offset: u64,
        bit: u8,
    },
}

fn garbage() -> impl Strategy<Value = Garbage> {
    prop_oneof![
        (0..64u64, any::<u64>()).prop_map(|(page, seed)| Garbage::Random { page, seed }),
        (1..64u64, any::<u64>(), proptest::collection::vec((12..140usize, any::<u8>()), 0..6))
            .prop_map(|(page, seed, fields)| Garbage::Forged { page, seed, fields }),
        (0..64 * 4096u64, 0..8u8).prop_map(|(offset, bit)| Garbage::Flip { offset, bit }),
    ]
}

async fn spoil(world: &World, garbage: &Garbage) {
    let file = world.env.disk.open(&world.segment(0), DIRECT).await.unwrap();
    let (page, content) = match garbage {
        Garbage::Flip { offset, bit } => {
            let (path, offset, bit) = (world.segment(0), *offset, *bit);
            return world.disk.inject(Fault::BitFlip { path, offset, bit });
        }
        Garbage::Random { page, seed } => (*page, bytes(*seed, HEADER_BYTES)),
        Garbage::Forged { page, seed, fields } => {
            (*page, forged(world, *page, *seed, fields).await)
        }
    };
    let offset = page * HEADER_BYTES as u64;
    file.write_at(offset, AlignedBuf::copy_of(&content)).await.unwrap();
    file.sync_data().await.unwrap();
}

/// A header that passes its checksum although some of its fields are nonsense.
async fn forged(world: &World, page: u64, seed: u64, fields: &[(usize, u8)]) -> Vec<u8> {
    let superblock = world.env.disk.read_small(&world.path("superblock"), 4096).await.unwrap();
    let mut store = [0; 16];
    store.copy_from_slice(&superblock[32..48]);
    let body = crate::BlockBuf::copy_of(&bytes(seed, 100)).unwrap().describe(id(seed), PG, 8192);
    let record = RecordHeader {
        place: Place { slot: 0, page: page as u32 },
        life: 1,
        sequence: seed,
        previous: seed / 2,
        durable: seed / 3,
        body: crate::format::Body::Block(body),
    };
    let mut content = vec![0; HEADER_BYTES];
    record.encode(&store, &mut content);
    fields.iter().for_each(|(at, value)| content[*at] = *value);
    content[8..12].fill(0);
    let crc = everhold_proto::checksum::crc32c(&content);
    content[8..12].copy_from_slice(&crc.to_le_bytes());
    content
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..Default::default() })]

    /// However the segments are spoiled, the store opens without a panic, returns only right bytes,
    /// and goes on working.
    #[test]
    fn hostile_segments_do_no_harm(
        spoils in proptest::collection::vec(garbage(), 1..12),
        lose_index in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let world = World::new();
            let store = world.open().await;
            for i in 0..12 {
                put(&store, i, &bytes(i, 9000 * (1 + i as usize % 3))).await.unwrap();
            }
            store.flush().await.unwrap();
            world.disk.crash(None);
            for spoil_ in &spoils {
                spoil(&world, spoil_).await;
            }
            if lose_index {
                world.env.disk.remove(&world.path("index.redb")).await.unwrap();
            }
            let store = world.open().await;
            for i in 0..12 {
                let data = bytes(i, 9000 * (1 + i as usize % 3));
                match store.get_whole(id(i)).await {
                    Ok((_, found)) => assert_eq!(found, data),
                    Err(error) => assert!(
                        matches!(error, StoreError::Corrupt { .. } | StoreError::NotFound(_)),
                        "{error:?}"
                    ),
                }
                put(&store, i, &data).await.unwrap();
                assert_eq!(store.get_whole(id(i)).await.unwrap().1, data);
            }
            store.delete(&[BlockId::MIN, id(3)]).await.unwrap();
            store.compact_step().await.unwrap();
            store.close().await.unwrap();
            world.open().await.audit();
        });
    }
}
