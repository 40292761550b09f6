//! Applies the records that the index file lacks.

use super::{OpenReport, place_segment};
use crate::StoreError;
use crate::format::{
    BlockBody, Body, HEADER_BYTES, Place, RecordHeader, SegmentHeader, SegmentUse, Tombstone,
};
use crate::index::{Entry, Mark};
use crate::scan::{ScanFrom, Scanner, read_record};
use crate::segments::{Segment, State};
use crate::shared::Shared;
use everhold_env::{AlignedBuf, File};
use everhold_proto::BlockId;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The replay of one store.
pub(super) struct Replay<'a> {
    shared: &'a Shared,
    mark: Mark,
    report: OpenReport,
    /// The greatest sequence seen, torn records included.
    sequence: u64,
    /// Durable blocks that turned out damaged, unless a later record says otherwise.
    damaged: BTreeSet<BlockId>,
}

/// What is in the place of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// The record, as it was written.
    Whole,
    /// Not all of it: torn by a crash, or decayed.
    Broken,
    /// The device does not say. It may be whole, so it is not cut off as if it were torn.
    Unread,
}

/// The records of the last segment, verified.
struct Tail {
    /// In order: (record, what is in its place).
    records: Vec<(RecordHeader, Found)>,
    /// Everything up to here was durable before the crash.
    durable: u64,
}

impl<'a> Replay<'a> {
    pub(super) fn new(shared: &'a Shared, mark: Mark, report: OpenReport) -> Self {
        Replay { shared, mark, report, sequence: mark.sequence, damaged: BTreeSet::new() }
    }

    /// Fills the catalog.
    pub(super) async fn run(
        &mut self,
        headers: BTreeMap<u32, Option<SegmentHeader>>,
        rows: BTreeMap<u32, Segment>,
    ) -> Result<(), StoreError> {
        for (slot, header) in headers {
            self.add_segment(slot, header, rows.get(&slot)).await?;
        }
        let mut lives: Vec<_> = {
            let mut catalog = self.shared.catalog.lock();
            catalog.sequence = self.mark.sequence;
            catalog.replaying = Some(self.mark);
            let newest = catalog.segments.iter().map(|(_, s)| s.life).max();
            catalog.life = newest.unwrap_or(0).max(self.mark.life);
            let used = catalog.segments.iter().filter(|(_, s)| s.state == State::Sealed);
            used.map(|(slot, segment)| (segment.life, slot)).collect()
        };
        lives.sort_unstable();
        let last = lives.pop();
        for (life, slot) in lives {
            self.replay_sealed(slot, life).await?;
        }
        if let Some((life, slot)) = last {
            self.replay_last(slot, life).await?;
        }
        self.shared.catalog.lock().replaying = None;
        Ok(())
    }

    /// What was found, and the sequence after which new records go on.
    pub(super) fn finish(mut self) -> (OpenReport, u64) {
        for id in std::mem::take(&mut self.damaged) {
            OpenReport::name(&mut self.report.lost, id);
        }
        (self.report, self.sequence)
    }

    async fn add_segment(
        &mut self,
        slot: u32,
        header: Option<SegmentHeader>,
        row: Option<&Segment>,
    ) -> Result<(), StoreError> {
        let bytes = self.shared.superblock.lock().await.segment_bytes;
        let segment = match place_segment(header, row, bytes) {
            Some(segment) => segment,
            None => match self.life_by_records(slot, bytes).await? {
                Some(life) => {
                    self.report.damaged_segments.push(slot);
                    let header = SegmentHeader { slot, use_: SegmentUse::InUse, life };
                    let segment = place_segment(Some(header), row, bytes);
                    segment.expect("a header is enough")
                }
                None => {
                    // Never finished when it was made, or nothing in it: made anew.
                    self.shared
                        .files
                        .create(slot)
                        .await
                        .map_err(StoreError::io("make a segment"))?;
                    self.shared.catalog.lock().segments.set_free(slot, 0);
                    return Ok(());
                }
            },
        };
        if header.is_none() && !self.report.damaged_segments.contains(&slot) {
            self.report.damaged_segments.push(slot);
        }
        let mut catalog = self.shared.catalog.lock();
        let changed = catalog.segments.epoch;
        *catalog.segments.change(slot) = Segment { changed, ..segment };
        Ok(())
    }

    /// The life of a segment without a header: that of its newest record.
    async fn life_by_records(&self, slot: u32, bytes: u64) -> Result<Option<u64>, StoreError> {
        let file = self.file(slot).await?;
        let len = file.len().await.map_err(StoreError::io("read a segment"))?;
        let (mut newest, mut at) = (None, HEADER_BYTES as u64);
        while at < len.min(bytes) {
            let window =
                file.read_at(at, 256 << 10).await.unwrap_or_else(|_| AlignedBuf::zeroed(0));
            for (i, page) in window.chunks_exact(HEADER_BYTES).enumerate() {
                let place = Place::at(slot, at + (i * HEADER_BYTES) as u64);
                match RecordHeader::decode(page, &self.shared.store) {
                    Ok(record) if record.place == place => newest = newest.max(Some(record.life)),
                    _ => {}
                }
            }
            at += (window.len() as u64).max(HEADER_BYTES as u64);
        }
        Ok(newest)
    }

    async fn file(&self, slot: u32) -> Result<Arc<dyn File>, StoreError> {
        self.shared.files.get(slot).await.map_err(StoreError::io("open a segment"))
    }

    /// Where the records of a segment begin that the index file lacks; `None`: it has them all.
    fn start(&self, slot: u32, life: u64) -> Option<ScanFrom> {
        let limit = self.shared.catalog.lock().segments.segment_bytes;
        match life.cmp(&self.mark.life) {
            std::cmp::Ordering::Less => None,
            std::cmp::Ordering::Equal => {
                let (offset, previous) = (self.mark.end.min(limit), self.mark.previous);
                Some(ScanFrom { slot, life, offset, previous, limit })
            }
            std::cmp::Ordering::Greater => {
                Some(ScanFrom { slot, life, offset: 0, previous: 0, limit })
            }
        }
    }

    /// A segment that was full when the next one was begun: all in it was durable.
    async fn replay_sealed(&mut self, slot: u32, life: u64) -> Result<(), StoreError> {
        let Some(from) = self.start(slot, life) else { return Ok(()) };
        let mut scanner = Scanner::new(self.file(slot).await?, self.shared.store, from);
        let (mut previous, mut end) = (from.previous, from.offset.max(HEADER_BYTES as u64));
        while let Some(record) = scanner.next().await {
            self.report.gaps += u64::from(record.previous != previous);
            (previous, end) = (record.sequence, record.place.offset() + record.record_bytes());
            self.apply(record).await?;
        }
        self.report.unreadable_pages += scanner.unreadable;
        let mut catalog = self.shared.catalog.lock();
        catalog.segments.change(slot).end = end.min(catalog.segments.segment_bytes);
        Ok(())
    }

    /// The segment that was being written.
    async fn replay_last(&mut self, slot: u32, life: u64) -> Result<(), StoreError> {
        let Some(from) = self.start(slot, life) else { return Ok(()) };
        let file = self.file(slot).await?;
        // What is read below may still be in the device's cache only; from here on it is durable.
        file.sync_data().await.map_err(|e| self.shared.fail("sync a segment", &e))?;
        let tail = self.read_tail(file.clone(), from).await?;
        let mut end = from.offset.max(HEADER_BYTES as u64).min(from.limit);
        let mut previous = from.previous;
        let mut cut = None;
        for (record, found) in tail.records {
            let is_torn = if record.previous != previous {
                record.previous > tail.durable
            } else {
                found == Found::Broken && record.sequence > tail.durable
            };
            if is_torn || cut.is_some() {
                cut.get_or_insert(end);
                self.drop_torn(&record);
                continue;
            }
            self.report.gaps += u64::from(record.previous != previous);
            previous = record.sequence;
            end = record.place.offset() + record.record_bytes();
            match (found, &record.body) {
                (Found::Broken | Found::Unread, Body::Block(block)) => self.note_damaged(block.id),
                _ => self.apply(record).await?,
            }
        }
        {
            let mut catalog = self.shared.catalog.lock();
            catalog.begin_segment(slot, life, end);
            catalog.advance(end, self.sequence.max(self.mark.sequence));
            catalog.head.as_mut().expect("it was just begun").previous = previous;
        }
        match cut {
            Some(at) => self.write_void(&*file, Place::at(slot, at), life, previous).await,
            None => Ok(()),
        }
    }

    async fn read_tail(&mut self, file: Arc<dyn File>, from: ScanFrom) -> Result<Tail, StoreError> {
        let mut scanner = Scanner::new(file.clone(), self.shared.store, from);
        let mut tail = Tail { records: Vec::new(), durable: self.mark.sequence };
        while let Some(record) = scanner.next().await {
            self.sequence = self.sequence.max(record.sequence);
            let found = self.look_at(&*file, &record).await;
            if found == Found::Whole {
                tail.durable = tail.durable.max(record.durable);
            }
            tail.records.push((record, found));
        }
        self.report.unreadable_pages += scanner.unreadable;
        Ok(tail)
    }

    /// What is in the place of a record. A read that fails says nothing of that, and is tried once more.
    async fn look_at(&self, file: &dyn File, record: &RecordHeader) -> Found {
        for _ in 0..2 {
            let (place, bytes) = (record.place, record.record_bytes());
            match read_record(file, &self.shared.store, place, bytes).await {
                Ok(Ok(_)) => return Found::Whole,
                Ok(Err(_)) => return Found::Broken,
                Err(e) => tracing::warn!(offset = place.offset(), error = %e, "unreadable record"),
            }
        }
        Found::Unread
    }

    fn drop_torn(&mut self, record: &RecordHeader) {
        if let Body::Block(block) = &record.body {
            OpenReport::name(&mut self.report.torn, block.id);
        }
    }

    /// Covers the first record of what was cut off; by its greater sequence, the records behind it
    /// never count again either.
    async fn write_void(
        &mut self,
        file: &dyn File,
        place: Place,
        life: u64,
        previous: u64,
    ) -> Result<(), StoreError> {
        self.sequence += 1;
        let (sequence, durable) = (self.sequence, previous);
        let void = RecordHeader { place, life, sequence, previous, durable, body: Body::Void };
        let mut page = AlignedBuf::zeroed(HEADER_BYTES);
        void.encode(&self.shared.store, &mut page);
        let written = async {
            file.write_at(place.offset(), page).await?;
            file.sync_data().await
        };
        written.await.map_err(|e| self.shared.fail("repair the end of the log", &e))?;
        let end = place.offset() + HEADER_BYTES as u64;
        self.shared.catalog.lock().advance(end, sequence);
        Ok(())
    }

    /// One record in the order of the log.
    async fn apply(&mut self, record: RecordHeader) -> Result<(), StoreError> {
        self.sequence = self.sequence.max(record.sequence);
        self.report.replayed += 1;
        match &record.body {
            Body::Block(block) => self.apply_block(block, record.place, record.sequence)?,
            Body::Tombstones(tombstones) => {
                tombstones.iter().try_for_each(|tombstone| self.apply_tombstone(tombstone))?;
            }
            Body::Void => {}
        }
        let pending = self.shared.catalog.lock().pending();
        match pending > self.shared.config.memtable_entries_max {
            // The mark stays: after a crash the replay begins again, with the same result.
            true => self.shared.flush_index().await,
            false => Ok(()),
        }
    }

    fn apply_block(
        &mut self,
        block: &BlockBody,
        place: Place,
        sequence: u64,
    ) -> Result<(), StoreError> {
        let (id, entry) = (block.id, Entry::of(block, place, sequence));
        self.damaged.remove(&id);
        let old = self.lookup(id)?;
        if old.is_some_and(|old| old.sequence >= sequence) {
            return Ok(()); // the index file is ahead of its mark here
        }
        let mut catalog = self.shared.catalog.lock();
        catalog.put(id, entry, old);
        if let Some(old) = old {
            // A copy made by a compaction that did not end.
            catalog.segments.change(old.place.slot).shadowed = true;
        }
        Ok(())
    }

    fn apply_tombstone(&mut self, tombstone: &Tombstone) -> Result<(), StoreError> {
        self.damaged.remove(&tombstone.id);
        match self.lookup(tombstone.id)? {
            Some(old) if old.sequence <= tombstone.killed => {
                self.shared.catalog.lock().delete(tombstone.id, old);
            }
            _ => {}
        }
        Ok(())
    }

    /// A durable record whose data does not hold. An older copy of the block is as good.
    fn note_damaged(&mut self, id: BlockId) {
        if matches!(self.lookup(id), Ok(None)) {
            self.damaged.insert(id);
        }
    }

    fn lookup(&self, id: BlockId) -> Result<Option<Entry>, StoreError> {
        let shared = self.shared;
        shared.lookup_now(id).map_err(|e| shared.fail("use the index", &e))
    }
}
