use super::*;
use everhold_env::AlignedBuf;
use everhold_proto::{BlockId, ClusterId, DiskId, PgId, SessionId};
use proptest::prelude::*;
use std::path::Path;

const STORE: StoreId = *b"0123456789abcdef";

/// Compares with a file that an earlier version wrote; with EVERHOLD_WRITE_GOLDEN set, writes it.
fn golden(name: &str, bytes: &[u8]) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/format/golden").join(name);
    let used = bytes.len() - bytes.iter().rev().take_while(|b| **b == 0).count();
    let lines = bytes[..used].chunks(16).map(|line| {
        let hex: Vec<String> = line.iter().map(|b| format!("{b:02x}")).collect();
        hex.join(" ") + "\n"
    });
    let text: String = lines.collect();
    if std::env::var_os("EVERHOLD_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "{name}: the format changed");
}

fn block() -> BlockBody {
    let (id, pg) = (BlockId { session: SessionId(0x1122), counter: 0x3344 }, PgId(0x55));
    let (length, crc) = (20_000, 0xdead_beef);
    BlockBody { id, pg, length, crc, page_bytes: 16384, page_crcs: vec![0x0102_0304, 0x0506_0708] }
}

fn record(body: Body) -> RecordHeader {
    let place = Place { slot: 6, page: 77 };
    RecordHeader { place, life: 8, sequence: 1000, previous: 999, durable: 990, body }
}

fn encoded(record: &RecordHeader) -> Vec<u8> {
    let mut page = vec![0; HEADER_BYTES];
    record.encode(&STORE, &mut page);
    page
}

fn tombstone() -> Tombstone {
    Tombstone { id: block().id, killed: 900, life: 7, slot: 2, pg: PgId(0x55) }
}

/// The bytes of version 1, for ever.
#[test]
fn bytes_are_those_of_version_1() {
    let superblock = Superblock {
        cluster: ClusterId([0xcc; 16]),
        store: STORE,
        disk: Some(DiskId(9)),
        segment_bytes: 256 << 20,
    };
    golden("superblock.hex", &superblock.encode());
    assert_eq!(Superblock::decode(&superblock.encode()).unwrap(), superblock);
    let header = SegmentHeader { slot: 6, use_: SegmentUse::InUse, life: 8 };
    golden("segment_header.hex", &header.encode(&STORE));
    assert_eq!(SegmentHeader::decode(&header.encode(&STORE), &STORE, 6), Ok(header));
    for (name, body) in [
        ("block.hex", Body::Block(block())),
        ("tombstones.hex", Body::Tombstones(vec![tombstone(); 2])),
        ("void.hex", Body::Void),
    ] {
        let record = record(body);
        golden(name, &encoded(&record));
        assert_eq!(RecordHeader::decode(&encoded(&record), &STORE), Ok(record));
    }
}

/// Every single flipped bit is noticed.
#[test]
fn flipped_bits_are_noticed() {
    let page = encoded(&record(Body::Block(block())));
    for bit in 0..page.len() * 8 {
        let mut damaged = page.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(RecordHeader::decode(&damaged, &STORE).is_err(), "bit {bit}");
    }
    let header = SegmentHeader { slot: 6, use_: SegmentUse::Free, life: 8 }.encode(&STORE);
    for bit in 0..512 * 8 {
        let mut damaged = AlignedBuf::copy_of(&header);
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(SegmentHeader::decode(&damaged, &STORE, 6).is_err(), "bit {bit}");
    }
}

/// What another store wrote, or what stands elsewhere, is not ours.
#[test]
fn foreign_headers_are_refused() {
    let page = encoded(&record(Body::Void));
    assert!(RecordHeader::decode(&page, b"another store 16").is_err());
    let header = SegmentHeader { slot: 6, use_: SegmentUse::Free, life: 8 }.encode(&STORE);
    assert!(SegmentHeader::decode(&header, b"another store 16", 6).is_err());
    assert!(SegmentHeader::decode(&header, &STORE, 5).is_err());
}

/// A life or sequence that nothing could be counted on from is not taken, though its checksum holds.
#[test]
fn impossible_counts_are_refused() {
    let whole = record(Body::Void);
    for record in [
        RecordHeader { life: COUNT_MAX + 1, ..whole.clone() },
        RecordHeader { sequence: u64::MAX, ..whole.clone() },
        RecordHeader { previous: u64::MAX, ..whole.clone() },
        RecordHeader { durable: u64::MAX, ..whole },
    ] {
        assert!(RecordHeader::decode(&encoded(&record), &STORE).is_err(), "{record:?}");
    }
    let header = SegmentHeader { slot: 6, use_: SegmentUse::Free, life: u64::MAX };
    assert!(SegmentHeader::decode(&header.encode(&STORE), &STORE, 6).is_err());
}

proptest! {
    /// Decoders take any bytes, also those whose checksum holds.
    #[test]
    fn decoders_take_any_bytes(
        fields in proptest::collection::vec((0..140usize, any::<u8>()), 0..12),
        random in proptest::collection::vec(any::<u8>(), 0..200),
        kind in 0..3usize,
    ) {
        let body = [Body::Block(block()), Body::Tombstones(vec![tombstone(); 5]), Body::Void];
        let mut page = encoded(&record(body[kind].clone()));
        fields.iter().for_each(|(at, value)| page[*at] = *value);
        super::bytes::seal(&mut page, 8);
        if let Ok(record) = RecordHeader::decode(&page, &STORE) {
            prop_assert!(record.record_bytes() <= (4 << 20) + 4096);
            prop_assert_eq!(encoded(&record).len(), page.len());
        }
        prop_assert!(RecordHeader::decode(&random, &STORE).is_err());
        prop_assert!(SegmentHeader::decode(&random, &STORE, 0).is_err());
        prop_assert!(Superblock::decode(&random).is_err());
    }
}
