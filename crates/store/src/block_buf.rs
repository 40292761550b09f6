//! The memory that a block travels in from the network to the disk without being copied.

use crate::StoreError;
use crate::format::{BlockBody, HEADER_BYTES};
use everhold_env::AlignedBuf;
use everhold_proto::checksum::{Digest, crc32c};
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::{BlockId, PgId};

/// The bytes of a block, aligned for direct I/O and with room in front for the record's header, so
/// that header and data are one write.
#[derive(Debug)]
pub struct BlockBuf {
    record: AlignedBuf,
    limit: usize,
}

impl BlockBuf {
    /// An empty buffer for a block of at most `len` bytes (which is at most `BLOCK_BYTES_MAX`).
    pub fn with_capacity(len: usize) -> Result<Self, StoreError> {
        if len == 0 || len > BLOCK_BYTES_MAX {
            return Err(StoreError::Invalid("a block has 1 byte to 4 MiB"));
        }
        let mut record = AlignedBuf::with_capacity(HEADER_BYTES + len);
        record.set_len(HEADER_BYTES);
        Ok(BlockBuf { record, limit: len })
    }

    /// A buffer with a copy of `data`.
    pub fn copy_of(data: &[u8]) -> Result<Self, StoreError> {
        let mut buf = BlockBuf::with_capacity(data.len())?;
        buf.extend_from_slice(data)?;
        Ok(buf)
    }

    /// Appends data; more than the capacity is the sender's fault.
    pub fn extend_from_slice(&mut self, data: &[u8]) -> Result<(), StoreError> {
        if data.len() > self.remaining() {
            return Err(StoreError::Invalid("more bytes than the block was announced with"));
        }
        self.record.extend_from_slice(data);
        Ok(())
    }

    /// How many bytes still fit.
    pub fn remaining(&self) -> usize {
        self.limit - self.data().len()
    }

    /// The block's bytes so far.
    pub fn data(&self) -> &[u8] {
        &self.record[HEADER_BYTES..]
    }

    /// CRC32C of the block's bytes.
    pub fn crc(&self) -> u32 {
        crc32c(self.data())
    }

    /// Header and data.
    pub(crate) fn into_record(self) -> AlignedBuf {
        self.record
    }

    /// Describes the block, checksums included.
    pub(crate) fn describe(&self, id: BlockId, pg: PgId, page_bytes: u32) -> BlockBody {
        let data = self.data();
        let (page_crcs, crc) = checksums(data, page_bytes as usize);
        BlockBody { id, pg, length: data.len() as u32, crc, page_bytes, page_crcs }
    }
}

/// Checksums of the pages of `data` and of the whole. Both are taken while a page is in the cache,
/// which is cheaper than to combine the pages' checksums afterwards.
pub(crate) fn checksums(data: &[u8], page_bytes: usize) -> (Vec<u32>, u32) {
    let mut whole = Digest::default();
    let pages = data
        .chunks(page_bytes)
        .map(|page| {
            whole.update(page);
            crc32c(page)
        })
        .collect();
    (pages, whole.finish())
}
