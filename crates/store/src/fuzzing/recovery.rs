//! Recovery from a log that was forged: pages whose checksums hold, but that no store wrote.

use super::world::{PG, World, bytes, id, put};
use crate::format::{
    Body, HEADER_BYTES, Place, RecordHeader, SegmentHeader, SegmentUse, StoreId, seal_record,
    seal_segment,
};
use crate::{BlockStore, Compaction, StoreError};
use everhold_env::{AlignedBuf, OpenMode};
use everhold_proto::BlockId;
use std::collections::BTreeSet;

const BLOCKS: u64 = 12;
const BLOCK_BYTES: usize = 9000;
const FORGERIES_MAX: usize = 16;
/// Bytes of an input that make one forgery: where it goes, which fields it changes.
const FORGERY_BYTES: usize = 12;

/// Opens a store in which pages were forged as the input says, and uses it. It may refuse to open, and
/// may have lost anything; but it must not panic, and a block that it returns is the one that was put.
pub fn recover(input: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let world = closed_store().await;
        let (flags, forgeries) = input.split_first().unwrap_or((&0, &[]));
        if flags & 1 != 0 {
            world.env.disk.remove(&world.path("index.redb")).await.expect("there is an index");
        }
        for forgery in forgeries.chunks_exact(FORGERY_BYTES).take(FORGERIES_MAX) {
            forge(&world, forgery).await;
        }
        if let Ok((store, _)) = world.try_open().await {
            use_store(&store).await;
        }
        if let Ok((store, _)) = world.try_open().await {
            use_store(&store).await;
        }
    });
}

/// Blocks in several segments, some of them deleted; nothing is left to the index alone.
async fn closed_store() -> World {
    let mut world = World::new();
    world.config.segment_bytes = 64 << 10;
    world.config.capacity_bytes = Some((12 * 64) << 10);
    world.config.page_bytes = 8 << 10;
    let store = world.open().await;
    for i in 0..BLOCKS {
        put(&store, i, &bytes(i, BLOCK_BYTES)).await.expect("there is space");
    }
    store.delete(&[id(1), id(6)]).await.expect("there is space");
    store.close().await.expect("the disk works");
    world
}

/// Changes one field of the page at some place, and puts its checksum right.
async fn forge(world: &World, forgery: &[u8]) {
    let (slot, page) = (u32::from(forgery[0] % 4), u64::from(forgery[1] % 16));
    let (kind, field) = (forgery[2], usize::from(forgery[3]));
    let mut value = [0; 8];
    value.copy_from_slice(&forgery[4..]);
    let direct = OpenMode { create: false, direct: true };
    let Ok(file) = world.env.disk.open(&world.segment(slot), direct).await else { return };
    let offset = page * HEADER_BYTES as u64;
    let Ok(mut bytes) = file.read_at(offset, HEADER_BYTES).await else { return };
    if bytes.len() < HEADER_BYTES {
        return;
    }
    let store = store_of(world).await;
    match kind % 4 {
        // A record of its own, where the log has none.
        0 => encode_sample(&store, Place { slot, page: page as u32 }, &value, &mut bytes),
        1 => bytes = AlignedBuf::zeroed(HEADER_BYTES),
        2 => bytes = SegmentHeader { slot, use_: SegmentUse::InUse, life: 0 }.encode(&store),
        _ => {}
    }
    let field = field % (HEADER_BYTES - 8).min(240);
    let length = 1 + usize::from(kind >> 5);
    bytes[field..field + length].copy_from_slice(&value[..length]);
    match page {
        0 => seal_segment(&mut bytes[..512]),
        _ => seal_record(&mut bytes),
    }
    file.write_at(offset, bytes).await.expect("the disk works");
    file.sync_data().await.expect("the disk works");
}

async fn store_of(world: &World) -> StoreId {
    let bytes = world.env.disk.read_small(&world.path("superblock"), 4096).await;
    let bytes = bytes.expect("there is a superblock");
    crate::format::Superblock::decode(&bytes).expect("it was not touched").store
}

fn encode_sample(store: &StoreId, place: Place, value: &[u8; 8], page: &mut [u8]) {
    let bodies = super::structures::sample_bodies();
    let body: Body = bodies[usize::from(value[0]) % bodies.len()].clone();
    let number = |at: usize| u64::from(value[at]);
    let record = RecordHeader {
        place,
        life: number(1) % 8,
        sequence: number(2),
        previous: number(3),
        durable: number(4),
        body,
    };
    record.encode(store, page);
}

async fn use_store(store: &BlockStore) {
    for i in 0..BLOCKS {
        if let Ok((_, data)) = store.get_whole(id(i)).await {
            assert!(data == bytes(i, BLOCK_BYTES), "block {i} is not what was put");
        }
        let _ = store.get(id(i), 100..200).await;
        let _ = store.verify(id(i)).await;
    }
    check_listing(store).await;
    let data = bytes(BLOCKS, BLOCK_BYTES);
    if put(store, BLOCKS, &data).await.is_ok() {
        let (_, found) = store.get_whole(id(BLOCKS)).await.expect("it was just put");
        assert!(found == data);
    }
    for _ in 0..4 {
        match store.compact_step().await {
            Ok(Compaction::Freed { .. }) => {}
            Ok(_) | Err(_) => break,
        }
    }
    let _ = store.delete(&[id(2), id(BLOCKS)]).await;
    let _ = store.digest(PG, BlockId::MIN, BlockId::MAX).await;
    let _ = store.flush().await;
    match store.close().await {
        Ok(()) | Err(StoreError::Full | StoreError::Closed | StoreError::Failed(_)) => {}
        Err(error) => panic!("only what is named may go wrong on a sound device: {error:?}"),
    }
}

/// A listing ascends, whatever it was made from.
async fn check_listing(store: &BlockStore) {
    for pg in store.pgs().await.unwrap_or_default() {
        let listed = store.list(pg, None, 1000).await.unwrap_or_default();
        let ids: BTreeSet<BlockId> = listed.iter().map(|block| block.id).collect();
        assert!(ids.len() == listed.len() && ids.into_iter().eq(listed.iter().map(|b| b.id)));
    }
}

/// Forgeries of each field that recovery goes by.
pub fn samples_of_logs() -> Vec<Vec<u8>> {
    let forgery = |slot: u8, page: u8, kind: u8, field: u8, value: [u8; 8]| {
        [&[slot, page, kind, field][..], &value].concat()
    };
    // Of a record: slot, page, life, sequence, previous, durable, pg, length, page size, count.
    let fields = [32, 36, 40, 48, 56, 64, 72, 76, 84, 88];
    let mut samples = vec![vec![], vec![1]];
    for field in fields {
        for (flags, value) in [(0, [1; 8]), (1, [0xff; 8]), (1, [9, 0, 0, 0, 0, 0, 0, 0])] {
            samples.push([vec![flags], forgery(0, 1, 0xe3, field, value)].concat());
        }
    }
    for kind in 0..4 {
        let whole = forgery(3, 0, 0xe0 | kind, 40, [0xff; 8]);
        let record = forgery(1, 5, 0x20 | kind, 200, [kind + 2, 4, 60, 0, 0, 0, 0, 0]);
        samples.push([vec![kind & 1], whole, record].concat());
    }
    samples
}
