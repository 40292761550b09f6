//! Puts the checksum of a changed structure right, so that what is behind the checksum is tested.

use super::bytes::seal;

/// Of a whole superblock.
pub(crate) fn seal_superblock(bytes: &mut [u8]) {
    seal(bytes, 12);
}

/// Of the first sector of a segment.
pub(crate) fn seal_segment(sector: &mut [u8]) {
    seal(sector, 12);
}

/// Of a record's header page.
pub(crate) fn seal_record(page: &mut [u8]) {
    seal(page, 8);
}
