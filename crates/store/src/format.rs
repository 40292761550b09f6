//! The bytes on disk; `docs/format/store.md` shows them. Integers are little-endian but for block
//! ids, which are big-endian so that byte order is id order.
//!
//! **Invariant:** every decoder takes any bytes and answers with a value or an error.

mod bytes;
mod record;
mod segment_header;
mod superblock;

pub(crate) use record::{
    BlockBody, Body, HEADER_BYTES, PageCheck, Place, RecordHeader, TOMBSTONES_MAX, Tombstone,
    padded,
};
pub(crate) use segment_header::{SegmentHeader, SegmentUse};
pub(crate) use superblock::Superblock;

#[cfg(any(test, feature = "fuzzing"))]
mod forged;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use forged::{seal_record, seal_segment, seal_superblock};

#[cfg(test)]
mod tests;

/// Version of everything in this module; raised by any change of the bytes.
pub(crate) const FORMAT_VERSION: u32 = 1;

/// Identity of one formatting of a disk, drawn at random: what another store wrote, or this one
/// before it was formatted anew, never passes for a record of this one.
pub(crate) type StoreId = [u8; 16];

/// Lives and sequence numbers stay below it, so that counting on from one that was read never overflows:
/// a disk that writes a million records a second needs 140,000 years to get there.
pub(crate) const COUNT_MAX: u64 = u64::MAX / 4;

/// Segment files that there may be: 256 TiB in files of 256 MiB. What is kept per file is an array, so
/// a number that was read must not make it huge.
pub(crate) const SLOTS_MAX: u32 = 1 << 20;

/// Why bytes are not what they should be.
pub(crate) type Reason = &'static str;
