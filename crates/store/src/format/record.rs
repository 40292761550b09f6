//! A record of the log: one header page, then (for a block) the data padded to whole pages.
//!
//! The header says where it stands (store, slot, page, life), so a write that went to the wrong
//! place is recognised, and carries three sequence numbers: its own; that of the record before it
//! in the segment, so that a destroyed record is noticed; and the last one that was durable before
//! its batch was written, which tells a record torn by a crash from one that decayed later.

use super::bytes::{array, is_sealed, put, seal, u16_at, u32_at, u64_at};
use super::{COUNT_MAX, FORMAT_VERSION, Reason, StoreId};
use everhold_proto::checksum::crc32c;
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::{BlockId, PgId};
use std::ops::Range;

/// Bytes of a header, and the unit of placement.
pub(crate) const HEADER_BYTES: usize = 4096;
/// Where the page checksums or the tombstones begin.
const ENTRIES_AT: usize = 112;
const TOMBSTONE_BYTES: usize = 40;
/// Tombstones in one record.
pub(crate) const TOMBSTONES_MAX: usize = (HEADER_BYTES - ENTRIES_AT) / TOMBSTONE_BYTES;
const PAGE_CRCS_MAX: usize = (HEADER_BYTES - ENTRIES_AT) / 4;

const MAGIC: &[u8; 8] = b"EHRECORD";
const KIND_BLOCK: u16 = 1;
const KIND_TOMBSTONES: u16 = 2;
const KIND_VOID: u16 = 3;

/// Where a record is: a segment file and a page in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) slot: u32,
    /// In units of `HEADER_BYTES`.
    pub(crate) page: u32,
}

impl Place {
    /// Byte offset in the segment file.
    pub(crate) fn offset(self) -> u64 {
        u64::from(self.page) * HEADER_BYTES as u64
    }

    pub(crate) fn at(slot: u32, offset: u64) -> Self {
        Place { slot, page: (offset / HEADER_BYTES as u64) as u32 }
    }
}

/// What the first page of a record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecordHeader {
    pub(crate) place: Place,
    /// Life of the segment at the time.
    pub(crate) life: u64,
    /// Position in the log; only grows.
    pub(crate) sequence: u64,
    /// Sequence of the record before it in this segment and life, 0 for the first.
    pub(crate) previous: u64,
    /// Everything up to this sequence was durable before this record was written.
    pub(crate) durable: u64,
    pub(crate) body: Body,
}

/// What a record is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    Block(BlockBody),
    Tombstones(Vec<Tombstone>),
    /// Ends what a crash left unfinished: whatever older record follows it does not count.
    Void,
}

/// A block's description; its data follows the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlockBody {
    pub(crate) id: BlockId,
    pub(crate) pg: PgId,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) page_bytes: u32,
    pub(crate) page_crcs: Vec<u32>,
}

/// Says that the records of `id` up to sequence `killed` are dead. It names the place of the one
/// that it killed: once that segment is gone, the tombstone may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tombstone {
    pub(crate) id: BlockId,
    pub(crate) killed: u64,
    pub(crate) life: u64,
    pub(crate) slot: u32,
    pub(crate) pg: PgId,
}

/// Why data did not pass.
pub(crate) type PageCheck = Result<(), Reason>;

/// Bytes on disk of `length` bytes of data.
pub(crate) fn padded(length: u32) -> u64 {
    u64::from(length).next_multiple_of(HEADER_BYTES as u64)
}

impl BlockBody {
    /// Bytes of the record on disk.
    pub(crate) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + padded(self.length)
    }

    /// Checks `data`, which are the pages from number `first` on.
    pub(crate) fn check_pages(&self, first: usize, data: &[u8]) -> PageCheck {
        for (i, page) in data.chunks(self.page_bytes as usize).enumerate() {
            if self.page_crcs.get(first + i) != Some(&crc32c(page)) {
                return Err("a page's checksum does not hold");
            }
        }
        Ok(())
    }

    /// The whole pages that cover `range`, in bytes of the block.
    pub(crate) fn covering(&self, range: &Range<u32>) -> Range<u32> {
        let start = range.start / self.page_bytes * self.page_bytes;
        start..range.end.next_multiple_of(self.page_bytes).min(self.length)
    }
}

impl RecordHeader {
    /// Bytes of the record on disk, header included.
    pub(crate) fn record_bytes(&self) -> u64 {
        match &self.body {
            Body::Block(block) => block.record_bytes(),
            Body::Tombstones(_) | Body::Void => HEADER_BYTES as u64,
        }
    }

    /// Writes the header into `page`, which is `HEADER_BYTES` long.
    pub(crate) fn encode(&self, store: &StoreId, page: &mut [u8]) {
        assert_eq!(page.len(), HEADER_BYTES);
        page.fill(0);
        put(page, 0, MAGIC);
        put(page, 12, &(FORMAT_VERSION as u16).to_le_bytes());
        put(page, 16, store);
        put(page, 32, &self.place.slot.to_le_bytes());
        put(page, 36, &self.place.page.to_le_bytes());
        put(page, 40, &self.life.to_le_bytes());
        put(page, 48, &self.sequence.to_le_bytes());
        put(page, 56, &self.previous.to_le_bytes());
        put(page, 64, &self.durable.to_le_bytes());
        let kind = match &self.body {
            Body::Block(block) => {
                encode_block(block, page);
                KIND_BLOCK
            }
            Body::Tombstones(tombstones) => {
                encode_tombstones(tombstones, page);
                KIND_TOMBSTONES
            }
            Body::Void => KIND_VOID,
        };
        put(page, 14, &kind.to_le_bytes());
        seal(page, 8);
    }

    /// Reads a header page. Whether it stands where it says is for the caller to compare.
    pub(crate) fn decode(page: &[u8], store: &StoreId) -> Result<Self, Reason> {
        if page.len() < HEADER_BYTES || &page[..8] != MAGIC {
            return Err("not a record header");
        }
        let page = &page[..HEADER_BYTES];
        if !is_sealed(page, 8) {
            return Err("record header checksum does not hold");
        }
        if u32::from(u16_at(page, 12)) != FORMAT_VERSION {
            return Err("record header of another version");
        }
        if &array::<16>(page, 16) != store {
            return Err("record header of another store");
        }
        let counts = [u64_at(page, 40), u64_at(page, 48), u64_at(page, 56), u64_at(page, 64)];
        if counts.iter().any(|count| *count > COUNT_MAX) {
            return Err("record header with an impossible life or sequence");
        }
        let [life, sequence, previous, durable] = counts;
        let body = match u16_at(page, 14) {
            KIND_BLOCK => Body::Block(decode_block(page)?),
            KIND_TOMBSTONES => Body::Tombstones(decode_tombstones(page)?),
            KIND_VOID => Body::Void,
            _ => return Err("record of an unknown kind"),
        };
        Ok(RecordHeader {
            place: Place { slot: u32_at(page, 32), page: u32_at(page, 36) },
            life,
            sequence,
            previous,
            durable,
            body,
        })
    }
}

fn encode_block(block: &BlockBody, page: &mut [u8]) {
    assert!(block.page_crcs.len() <= PAGE_CRCS_MAX, "page size too small for the block");
    put(page, 72, &block.pg.0.to_le_bytes());
    put(page, 76, &block.length.to_le_bytes());
    put(page, 80, &block.crc.to_le_bytes());
    put(page, 84, &block.page_bytes.to_le_bytes());
    put(page, 88, &(block.page_crcs.len() as u32).to_le_bytes());
    put(page, 96, &block.id.to_bytes());
    for (i, crc) in block.page_crcs.iter().enumerate() {
        put(page, ENTRIES_AT + 4 * i, &crc.to_le_bytes());
    }
}

fn decode_block(page: &[u8]) -> Result<BlockBody, Reason> {
    let (length, page_bytes, count) = (u32_at(page, 76), u32_at(page, 84), u32_at(page, 88));
    if length == 0 || length as usize > BLOCK_BYTES_MAX {
        return Err("block length is impossible");
    }
    if !page_bytes.is_power_of_two() || (page_bytes as usize) < HEADER_BYTES {
        return Err("page size is impossible");
    }
    if count != length.div_ceil(page_bytes) || count as usize > PAGE_CRCS_MAX {
        return Err("number of page checksums is impossible");
    }
    Ok(BlockBody {
        id: BlockId::from_bytes(array(page, 96)),
        pg: PgId(u32_at(page, 72)),
        length,
        crc: u32_at(page, 80),
        page_bytes,
        page_crcs: (0..count as usize).map(|i| u32_at(page, ENTRIES_AT + 4 * i)).collect(),
    })
}

fn encode_tombstones(tombstones: &[Tombstone], page: &mut [u8]) {
    assert!(tombstones.len() <= TOMBSTONES_MAX);
    put(page, 88, &(tombstones.len() as u32).to_le_bytes());
    for (i, tombstone) in tombstones.iter().enumerate() {
        let at = ENTRIES_AT + i * TOMBSTONE_BYTES;
        put(page, at, &tombstone.id.to_bytes());
        put(page, at + 16, &tombstone.killed.to_le_bytes());
        put(page, at + 24, &tombstone.life.to_le_bytes());
        put(page, at + 32, &tombstone.slot.to_le_bytes());
        put(page, at + 36, &tombstone.pg.0.to_le_bytes());
    }
}

fn decode_tombstones(page: &[u8]) -> Result<Vec<Tombstone>, Reason> {
    let count = u32_at(page, 88) as usize;
    if count > TOMBSTONES_MAX {
        return Err("number of tombstones is impossible");
    }
    let tombstone = |i: usize| {
        let at = ENTRIES_AT + i * TOMBSTONE_BYTES;
        Tombstone {
            id: BlockId::from_bytes(array(page, at)),
            killed: u64_at(page, at + 16),
            life: u64_at(page, at + 24),
            slot: u32_at(page, at + 32),
            pg: PgId(u32_at(page, at + 36)),
        }
    };
    Ok((0..count).map(tombstone).collect())
}
