//! The first page of a segment file. Everything is in its first 512 bytes, which a disk writes
//! whole or not at all, so that a crash leaves the old header or the new one.

use super::bytes::{array, is_sealed, put, seal, u32_at, u64_at};
use super::{COUNT_MAX, FORMAT_VERSION, Reason, StoreId};
use everhold_env::AlignedBuf;

const MAGIC: &[u8; 8] = b"EHSEGMNT";
/// Bytes under the checksum: one sector.
const SECTOR: usize = 512;

/// Whether the records of a segment count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SegmentUse {
    /// They are dead: the file waits to be used again.
    Free,
    /// Those of this life count.
    InUse,
}

/// A segment header: magic 0..8, version 8..12, checksum 12..16, store 16..32, slot 32..36, use
/// 36..40, life 40..48, zeroes to 512.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentHeader {
    /// Number of the file.
    pub(crate) slot: u32,
    /// Whether its records count.
    pub(crate) use_: SegmentUse,
    /// Which use of the file this is; grows over all segments, so it orders the log.
    pub(crate) life: u64,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, store: &StoreId) -> AlignedBuf {
        let mut page = AlignedBuf::zeroed(super::HEADER_BYTES);
        put(&mut page, 0, MAGIC);
        put(&mut page, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut page, 16, store);
        put(&mut page, 32, &self.slot.to_le_bytes());
        put(&mut page, 36, &u32::from(self.use_ == SegmentUse::InUse).to_le_bytes());
        put(&mut page, 40, &self.life.to_le_bytes());
        seal(&mut page[..SECTOR], 12);
        page
    }

    pub(crate) fn decode(page: &[u8], store: &StoreId, slot: u32) -> Result<Self, Reason> {
        if page.len() < SECTOR || &page[..8] != MAGIC {
            return Err("not a segment header");
        }
        if !is_sealed(&page[..SECTOR], 12) {
            return Err("segment header checksum does not hold");
        }
        if u32_at(page, 8) != FORMAT_VERSION {
            return Err("segment header of another version");
        }
        if &array::<16>(page, 16) != store || u32_at(page, 32) != slot {
            return Err("segment header of another place");
        }
        let use_ = match u32_at(page, 36) {
            0 => SegmentUse::Free,
            1 => SegmentUse::InUse,
            _ => return Err("segment header with an unknown use"),
        };
        let life = u64_at(page, 40);
        if life > COUNT_MAX {
            return Err("segment header with an impossible life");
        }
        Ok(SegmentHeader { slot, use_, life })
    }
}
