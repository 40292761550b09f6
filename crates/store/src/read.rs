//! Reading blocks. Every byte that leaves here was covered by a checksum that held.
//!
//! Readers take no locks: if compaction moved a block while it was read, what was found in the old
//! place does not pass, the index names another place by then, and the read starts again there.

use crate::StoreError;
use crate::format::{BlockBody, Body, HEADER_BYTES, RecordHeader};
use crate::index::Entry;
use crate::scan::read_record;
use crate::shared::Shared;
use bytes::Bytes;
use everhold_env::{AlignedBuf, File};
use everhold_proto::BlockId;
use everhold_proto::planted::{self, Bug};
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// A block that is read while it moves this often is taken for damaged: each move takes a whole
/// compaction, so this does not happen.
const MOVES_MAX: usize = 8;
/// Up to this distance the header and the wanted pages are read in one go.
const NEAR_BYTES: u32 = 128 << 10;

/// Why one attempt to read did not succeed.
enum Attempt {
    Damaged(&'static str),
    Failed(StoreError),
}

impl From<StoreError> for Attempt {
    fn from(error: StoreError) -> Self {
        Attempt::Failed(error)
    }
}

impl Shared {
    /// Reads a whole record, verified: (what the index says, header, header and data).
    pub(crate) async fn read_whole(
        &self,
        id: BlockId,
    ) -> Result<(Entry, BlockBody, AlignedBuf), StoreError> {
        self.read_with(id, |entry| self.try_whole(id, entry)).await
    }

    /// Reads `range` of a block, verified.
    pub(crate) async fn read_range(
        &self,
        id: BlockId,
        range: Range<u32>,
    ) -> Result<Bytes, StoreError> {
        self.read_with(id, |entry| self.try_range(id, entry, range.clone())).await
    }

    /// Tries where the index says, again if the block moved meanwhile.
    async fn read_with<T, F: Future<Output = Result<T, Attempt>>>(
        &self,
        id: BlockId,
        attempt: impl Fn(Entry) -> F,
    ) -> Result<T, StoreError> {
        let mut entry = self.lookup(id).await?.ok_or(StoreError::NotFound(id))?;
        for _ in 0..MOVES_MAX {
            let reason = match attempt(entry).await {
                Ok(value) => return Ok(value),
                Err(Attempt::Failed(error)) => return Err(error),
                Err(Attempt::Damaged(reason)) => reason,
            };
            let now = self.lookup(id).await?.ok_or(StoreError::NotFound(id))?;
            if now == entry {
                self.checksum_errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(block = %id, slot = entry.place.slot, reason, "damaged block");
                return Err(StoreError::Corrupt { id, reason });
            }
            entry = now;
        }
        Err(StoreError::Corrupt { id, reason: "it moves too often to be read" })
    }

    async fn try_whole(
        &self,
        id: BlockId,
        entry: Entry,
    ) -> Result<(Entry, BlockBody, AlignedBuf), Attempt> {
        let file = self.file_of(&entry).await?;
        let read = read_record(&*file, &self.store, entry.place, entry.record_bytes()).await;
        let (record, buf) =
            read.map_err(StoreError::io("read a block"))?.map_err(Attempt::Damaged)?;
        let block = expect_block(record, id, &entry)?;
        Ok((entry, block, buf))
    }

    async fn try_range(
        &self,
        id: BlockId,
        entry: Entry,
        range: Range<u32>,
    ) -> Result<Bytes, Attempt> {
        if range.is_empty() || range.end > entry.length {
            return Err(StoreError::Invalid("range is not within the block").into());
        }
        let file = self.file_of(&entry).await?;
        let error = StoreError::io("read a block");
        let offset = entry.place.offset();
        let last_page = range.end.next_multiple_of(self.config.page_bytes).min(entry.length);
        let first_bytes = match range.start <= NEAR_BYTES {
            true => HEADER_BYTES + last_page as usize,
            false => HEADER_BYTES,
        };
        let front = file.read_at(offset, first_bytes).await.map_err(&error)?;
        let record = RecordHeader::decode(&front, &self.store).map_err(Attempt::Damaged)?;
        let block = expect_block(record, id, &entry)?;
        // The pages are those of the record, which another page size may have been in use for.
        let pages = block.covering(&range);
        let within = |start: u32| (range.start - start) as usize..(range.end - start) as usize;
        let in_front = HEADER_BYTES + pages.start as usize..HEADER_BYTES + pages.end as usize;
        if let Some(data) = front.get(in_front.clone()) {
            check_range(&block, &pages, data)?;
            let data = within(pages.start);
            let data = in_front.start + data.start..in_front.start + data.end;
            return Ok(front.into_bytes().slice(data));
        }
        // Page sizes are multiples of the alignment, and so are the starts of pages.
        let at = offset + HEADER_BYTES as u64 + u64::from(pages.start);
        let data = file.read_at(at, (pages.end - pages.start) as usize).await.map_err(&error)?;
        let whole = data.get(..(pages.end - pages.start) as usize).unwrap_or_default();
        check_range(&block, &pages, whole)?;
        Ok(data.into_bytes().slice(within(pages.start)))
    }

    async fn file_of(&self, entry: &Entry) -> Result<Arc<dyn File>, Attempt> {
        let file = self.files.get(entry.place.slot).await;
        file.map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => Attempt::Damaged("its segment is gone"),
            _ => Attempt::Failed(StoreError::io("open a segment")(e)),
        })
    }
}

/// The block of a record, if it is the one that the index means.
fn expect_block(record: RecordHeader, id: BlockId, entry: &Entry) -> Result<BlockBody, Attempt> {
    let same_record = record.place == entry.place && record.sequence == entry.sequence;
    match record.body {
        Body::Block(block)
            if same_record
                && block.id == id
                && block.pg == entry.pg
                && block.length == entry.length
                && block.crc == entry.crc =>
        {
            Ok(block)
        }
        _ => Err(Attempt::Damaged("another record is in its place")),
    }
}

fn check_range(block: &BlockBody, pages: &Range<u32>, data: &[u8]) -> Result<(), Attempt> {
    if data.len() != (pages.end - pages.start) as usize {
        return Err(Attempt::Damaged("the record is cut off"));
    }
    let checked = block.check_pages((pages.start / block.page_bytes) as usize, data);
    checked
        .or_else(|e| if planted::has(Bug::ServeUnverified) { Ok(()) } else { Err(e) })
        .map_err(Attempt::Damaged)
}

/// The data of a record that was read whole, without a copy.
pub(crate) fn data_of(record: AlignedBuf) -> Bytes {
    record.into_bytes().slice(HEADER_BYTES..)
}
