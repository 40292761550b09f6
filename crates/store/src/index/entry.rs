//! Rows of the index.

use crate::format::{BlockBody, COUNT_MAX, Place, SLOTS_MAX, padded};
use crate::segments::{Segment, State};
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::table::BlockEntry;
use everhold_proto::{BlockId, PgId};

/// Where a block is and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) pg: PgId,
    pub(crate) place: Place,
    pub(crate) length: u32,
    pub(crate) crc: u32,
    pub(crate) sequence: u64,
}

impl Entry {
    pub(crate) fn of(block: &BlockBody, place: Place, sequence: u64) -> Self {
        let (pg, length, crc) = (block.pg, block.length, block.crc);
        Entry { pg, place, length, crc, sequence }
    }

    /// Bytes of the record on disk.
    pub(crate) fn record_bytes(&self) -> u64 {
        crate::format::HEADER_BYTES as u64 + padded(self.length)
    }

    pub(crate) fn listed(&self, id: BlockId) -> BlockEntry {
        BlockEntry { id, length: self.length, crc: self.crc }
    }

    pub(crate) fn encode(&self) -> [u8; 28] {
        let mut row = [0; 28];
        row[..4].copy_from_slice(&self.pg.0.to_le_bytes());
        row[4..8].copy_from_slice(&self.place.slot.to_le_bytes());
        row[8..12].copy_from_slice(&self.place.page.to_le_bytes());
        row[12..16].copy_from_slice(&self.length.to_le_bytes());
        row[16..20].copy_from_slice(&self.crc.to_le_bytes());
        row[20..].copy_from_slice(&self.sequence.to_le_bytes());
        row
    }

    /// `None` for what no store writes. The index file has no checksums of its own that every read
    /// compares, so a row may be anything.
    pub(crate) fn decode(row: &[u8; 28]) -> Option<Self> {
        let word = |at: usize| u32::from_le_bytes([row[at], row[at + 1], row[at + 2], row[at + 3]]);
        let entry = Entry {
            pg: PgId(word(0)),
            place: Place { slot: word(4), page: word(8) },
            length: word(12),
            crc: word(16),
            sequence: u64::from(word(20)) | u64::from(word(24)) << 32,
        };
        let is_possible = entry.place.slot < SLOTS_MAX
            && (1..=BLOCK_BYTES_MAX).contains(&(entry.length as usize))
            && entry.sequence <= COUNT_MAX;
        is_possible.then_some(entry)
    }
}

/// Up to where the index is complete: every record before it in the log is in the index.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mark {
    /// Life of the head segment; the segments of earlier lives are complete.
    pub(crate) life: u64,
    /// Offset in that segment.
    pub(crate) end: u64,
    /// Sequence of the last record.
    pub(crate) sequence: u64,
    /// Sequence of the last record in the head segment, 0 if it has none.
    pub(crate) previous: u64,
}

/// A row of the table of segments.
pub(super) fn encode_segment(segment: &Segment) -> [u8; 32] {
    let mut row = [0; 32];
    row[..8].copy_from_slice(&segment.life.to_le_bytes());
    row[8..16].copy_from_slice(&segment.end.to_le_bytes());
    row[16..24].copy_from_slice(&segment.live_bytes.to_le_bytes());
    row[24..28].copy_from_slice(&segment.live_blocks.to_le_bytes());
    row[28] = u8::from(segment.shadowed);
    row[29] = u8::from(segment.state == State::Free);
    row
}

/// The inverse; what was not free is taken as sealed.
pub(super) fn decode_segment(row: &[u8; 32]) -> Segment {
    let long = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&row[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    Segment {
        state: if row[29] == 1 { State::Free } else { State::Sealed },
        life: long(0),
        end: long(8),
        live_bytes: long(16),
        live_blocks: long(24) as u32,
        shadowed: row[28] == 1,
        stuck: false,
        changed: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that a decayed index shows must not be believed: its segment's number sizes an array.
    #[test]
    fn impossible_rows_are_refused() {
        let place = Place { slot: SLOTS_MAX - 1, page: 1 };
        let whole = Entry { pg: PgId(1), place, length: 1, crc: 2, sequence: COUNT_MAX };
        assert_eq!(Entry::decode(&whole.encode()), Some(whole));
        for entry in [
            Entry { place: Place { slot: SLOTS_MAX, page: 1 }, ..whole },
            Entry { length: 0, ..whole },
            Entry { length: u32::MAX, ..whole },
            Entry { sequence: u64::MAX, ..whole },
        ] {
            assert_eq!(Entry::decode(&entry.encode()), None, "{entry:?}");
        }
    }
}
