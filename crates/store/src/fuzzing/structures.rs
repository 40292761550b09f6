//! Superblock, segment header, record header and the rows of the index.

use crate::format::{
    BlockBody, Body, HEADER_BYTES, Place, RecordHeader, SegmentHeader, SegmentUse, StoreId,
    Superblock, TOMBSTONES_MAX, Tombstone, seal_record, seal_segment, seal_superblock,
};
use crate::index::Entry;
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::{BlockId, ClusterId, DiskId, PgId, SessionId};

const STORE: StoreId = *b"0123456789abcdef";
const SLOT: u32 = 6;
const SECTOR: usize = 512;

/// A structure of the disk. The first byte says which, and whether its checksum is put right first:
/// without that hardly any input would get past it.
pub fn decode_structure(bytes: &[u8]) {
    let Some((choice, rest)) = bytes.split_first() else { return };
    let is_sealed = choice & 0x80 != 0;
    match choice % 4 {
        0 => decode_superblock(rest, is_sealed),
        1 => decode_segment_header(rest, is_sealed),
        2 => decode_record(rest, is_sealed),
        _ => decode_entry(rest),
    }
}

fn padded_to(length: usize, bytes: &[u8]) -> Vec<u8> {
    let mut page = bytes.to_vec();
    page.resize(length, 0);
    page
}

fn decode_superblock(bytes: &[u8], is_sealed: bool) {
    let mut bytes = bytes.to_vec();
    if is_sealed {
        bytes.resize(Superblock::BYTES, 0);
        seal_superblock(&mut bytes);
    }
    if let Ok(superblock) = Superblock::decode(&bytes) {
        assert_eq!(Superblock::decode(&superblock.encode()).ok(), Some(superblock));
    }
}

fn decode_segment_header(bytes: &[u8], is_sealed: bool) {
    let mut page = bytes.to_vec();
    if is_sealed {
        page = padded_to(HEADER_BYTES, bytes);
        seal_segment(&mut page[..SECTOR]);
    }
    if let Ok(header) = SegmentHeader::decode(&page, &STORE, SLOT) {
        assert_eq!(SegmentHeader::decode(&header.encode(&STORE), &STORE, SLOT), Ok(header));
    }
}

fn decode_record(bytes: &[u8], is_sealed: bool) {
    let mut page = bytes.to_vec();
    if is_sealed {
        page = padded_to(HEADER_BYTES, bytes);
        seal_record(&mut page);
    }
    let Ok(record) = RecordHeader::decode(&page, &STORE) else { return };
    assert!(record.record_bytes() <= (BLOCK_BYTES_MAX + HEADER_BYTES) as u64);
    assert!(record.record_bytes().is_multiple_of(HEADER_BYTES as u64));
    let mut again = vec![0; HEADER_BYTES];
    record.encode(&STORE, &mut again);
    match &record.body {
        Body::Block(block) => check_block(block, bytes),
        Body::Tombstones(tombstones) => assert!(tombstones.len() <= TOMBSTONES_MAX),
        Body::Void => {}
    }
    assert_eq!(RecordHeader::decode(&again, &STORE), Ok(record));
}

/// Ranges of an accepted block stay within it, and foreign data does not pass its checksums.
fn check_block(block: &BlockBody, data: &[u8]) {
    for range in [0..1, 0..block.length, block.length - 1..block.length] {
        let covering = block.covering(&range);
        assert!(covering.start <= range.start && covering.end >= range.end);
        assert!(covering.end <= block.length && covering.start.is_multiple_of(block.page_bytes));
    }
    if block.check_pages(0, data).is_ok() {
        assert!(data.len() <= block.page_crcs.len() * block.page_bytes as usize);
    }
}

fn decode_entry(bytes: &[u8]) {
    if let Some(row) = bytes.first_chunk::<28>() {
        let Some(entry) = Entry::decode(row) else { return };
        assert_eq!(entry.encode(), *row);
        assert!(entry.record_bytes() > u64::from(entry.length));
    }
}

/// The records that the samples are made of, also for a log.
pub(super) fn sample_bodies() -> Vec<Body> {
    let (id, pg) = (BlockId { session: SessionId(5), counter: 3 }, PgId(3));
    let block = |length: u32, page_bytes: u32| {
        let page_crcs = vec![7; length.div_ceil(page_bytes) as usize];
        Body::Block(BlockBody { id, pg, length, crc: 9, page_bytes, page_crcs })
    };
    let tombstone = Tombstone { id, killed: 900, life: 7, slot: 2, pg };
    vec![
        block(1, 8 << 10),
        block(20_000, 16 << 10),
        block(4 << 20, 8 << 10),
        Body::Tombstones(vec![tombstone; 2]),
        Body::Tombstones(vec![tombstone; TOMBSTONES_MAX]),
        Body::Void,
    ]
}

/// One valid structure of each kind.
pub fn samples_of_structures() -> Vec<Vec<u8>> {
    let disk = Some(DiskId(9));
    let superblock =
        Superblock { cluster: ClusterId([0xcc; 16]), store: STORE, disk, segment_bytes: 256 << 20 };
    let segment = SegmentHeader { slot: SLOT, use_: SegmentUse::InUse, life: 8 };
    let place = Place { slot: SLOT, page: 77 };
    let entry = Entry { pg: PgId(3), place, length: 20_000, crc: 9, sequence: 1000 };
    let mut samples = vec![
        [&[0][..], &superblock.encode()].concat(),
        [&[0x80][..], &superblock.encode()].concat(),
        [&[0x81][..], &segment.encode(&STORE)[..SECTOR]].concat(),
        [&[3][..], &entry.encode()].concat(),
    ];
    for body in sample_bodies() {
        let record =
            RecordHeader { place, life: 8, sequence: 1000, previous: 999, durable: 990, body };
        let mut page = vec![0; HEADER_BYTES];
        record.encode(&STORE, &mut page);
        samples.push([&[0x82][..], &page[..HEADER_BYTES - 1]].concat());
    }
    samples
}
