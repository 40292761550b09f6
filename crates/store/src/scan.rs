//! Walks over the records of a segment by their own headers.

use crate::format::{BlockBody, Body, HEADER_BYTES, PageCheck, Place, RecordHeader, StoreId};
use everhold_env::{AlignedBuf, File};
use std::io;
use std::sync::Arc;

/// Bytes read at a time: many headers of small records, little waste before large ones.
const WINDOW_BYTES: usize = 256 << 10;

/// Finds the valid records of one life of a segment, in order. Whatever is between them is skipped:
/// pages that do not decode, records of earlier lives, records that stand in the wrong place, and
/// records older than one that was already found (left behind by a crash).
pub(crate) struct Scanner {
    file: Arc<dyn File>,
    store: StoreId,
    slot: u32,
    life: u64,
    at: u64,
    limit: u64,
    last: u64,
    window: AlignedBuf,
    window_at: u64,
    /// Pages that the device would not read.
    pub(crate) unreadable: u64,
}

/// Where a scan begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ScanFrom {
    pub(crate) slot: u32,
    pub(crate) life: u64,
    pub(crate) offset: u64,
    /// Sequence of the record before it.
    pub(crate) previous: u64,
    /// End of the part to look at.
    pub(crate) limit: u64,
}

impl Scanner {
    pub(crate) fn new(file: Arc<dyn File>, store: StoreId, from: ScanFrom) -> Self {
        Scanner {
            file,
            store,
            slot: from.slot,
            life: from.life,
            at: from.offset.max(HEADER_BYTES as u64),
            limit: from.limit,
            last: from.previous,
            window: AlignedBuf::with_capacity(0),
            window_at: 0,
            unreadable: 0,
        }
    }

    /// The next record.
    pub(crate) async fn next(&mut self) -> Option<RecordHeader> {
        while self.at + (HEADER_BYTES as u64) <= self.limit {
            self.fill_window().await;
            let within = (self.at - self.window_at) as usize;
            let page = self.window.get(within..within + HEADER_BYTES).unwrap_or_default();
            match RecordHeader::decode(page, &self.store) {
                Ok(record) if self.fits(&record) => {
                    self.last = record.sequence;
                    self.at += record.record_bytes();
                    return Some(record);
                }
                _ => self.at += HEADER_BYTES as u64,
            }
        }
        None
    }

    fn fits(&self, record: &RecordHeader) -> bool {
        record.place == Place::at(self.slot, self.at)
            && record.life == self.life
            && record.sequence > self.last
            && record.record_bytes() <= self.limit - self.at
    }

    /// Makes the window cover the page at `at`. What the device cannot read looks like zeroes.
    async fn fill_window(&mut self) {
        let end = self.window_at + self.window.len() as u64;
        if self.at >= self.window_at && self.at + HEADER_BYTES as u64 <= end {
            return;
        }
        self.window_at = self.at;
        let bytes = (self.limit - self.at).min(WINDOW_BYTES as u64) as usize;
        let large = self.file.read_at(self.at, bytes).await;
        let read = match large {
            Ok(window) => Ok(window),
            Err(_) => self.file.read_at(self.at, HEADER_BYTES).await,
        };
        self.window = match read {
            Ok(window) if window.len() >= HEADER_BYTES => window,
            Ok(_) => AlignedBuf::zeroed(HEADER_BYTES), // the file is shorter than it should be
            Err(e) => {
                tracing::warn!(slot = self.slot, offset = self.at, error = %e, "unreadable page");
                self.unreadable += 1;
                AlignedBuf::zeroed(HEADER_BYTES)
            }
        };
    }
}

/// Reads a whole record and checks that it is the one expected and that its data is whole.
pub(crate) async fn read_record(
    file: &dyn File,
    store: &StoreId,
    place: Place,
    record_bytes: u64,
) -> io::Result<Result<(RecordHeader, AlignedBuf), &'static str>> {
    let mut buf = file.read_at(place.offset(), record_bytes as usize).await?;
    let record = match RecordHeader::decode(&buf, store) {
        Ok(record) if record.place == place && record.record_bytes() == record_bytes => record,
        Ok(_) => return Ok(Err("another record is in its place")),
        Err(reason) => return Ok(Err(reason)),
    };
    if let Body::Block(block) = &record.body {
        if let Err(reason) = check_data(block, &buf) {
            return Ok(Err(reason));
        }
        buf.set_len(HEADER_BYTES + block.length as usize);
    }
    Ok(Ok((record, buf)))
}

/// Checks the data of a record that was read with its header.
pub(crate) fn check_data(block: &BlockBody, record: &[u8]) -> PageCheck {
    match record.get(HEADER_BYTES..HEADER_BYTES + block.length as usize) {
        Some(data) => block.check_pages(0, data),
        None => Err("the record is cut off"),
    }
}
