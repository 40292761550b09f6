//! What is in the log, in memory: Raft's log pointers, the recent entries themselves, and where the
//! frames with older ones are. Pure: no file, no task. Reads see an entry as soon as it was appended,
//! before it is durable, as openraft requires.
//!
//! **Invariant:** the cache holds every entry that is not yet durable, and is contiguous:
//! `cached_from .. next_index`. Entries before `cached_from` are in `frames`.

use crate::types::{Entry, LogId, Vote, entry_bytes};
use std::collections::VecDeque;

/// Where entries are on disk: one frame, and the run of entries in it that is still valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameRef {
    pub segment: u64,
    pub offset: u64,
    pub frame_bytes: usize,
    /// Bytes of the entries, as snapshots and purging count them.
    pub entry_bytes: usize,
    pub first: u64,
    pub last: u64,
}

impl FrameRef {
    /// What snapshots and purging count: the entries, but at least an eighth of what the frame takes
    /// on disk, so that single small commits, padded to a page, do not fill the disk unnoticed.
    fn weight(&self) -> u64 {
        self.entry_bytes.max(self.frame_bytes / 8) as u64
    }
}

/// An append or purge that does not continue the log.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log entry {found} where {expected} is next")]
pub(crate) struct Hole {
    expected: u64,
    found: u64,
}

/// How to answer a read: older entries from these frames, then the cached ones.
#[derive(Debug, Default)]
pub(crate) struct ReadPlan {
    pub frames: Vec<FrameRef>,
    /// Indexes wanted from the frames: `from..upto`.
    pub from: u64,
    pub upto: u64,
    pub cached: Vec<Entry>,
}

#[derive(Debug)]
pub(crate) struct Index {
    /// The last vote that is durable.
    pub vote: Option<Vote>,
    /// The commit point, as last told.
    pub committed: Option<LogId>,
    pub purged: Option<LogId>,
    pub last: Option<LogId>,
    cache: VecDeque<Entry>,
    cached_from: u64,
    cache_bytes: usize,
    cache_bytes_max: usize,
    /// Entries before it are durable, so they may leave the cache.
    durable_next: u64,
    /// Raised whenever entries become void: a write that began before says nothing about newer ones.
    pub generation: u64,
    frames: VecDeque<FrameRef>,
}

impl Index {
    pub(crate) fn new(cache_bytes_max: usize) -> Self {
        Index {
            vote: None,
            committed: None,
            purged: None,
            last: None,
            cache: VecDeque::new(),
            cached_from: 0,
            cache_bytes: 0,
            cache_bytes_max,
            durable_next: 0,
            generation: 0,
            frames: VecDeque::new(),
        }
    }

    /// Starts as the segments that are gone left it.
    pub(crate) fn rebase(&mut self, purged: Option<LogId>, last: Option<LogId>) {
        (self.purged, self.last) = (purged, last);
        self.cached_from = self.next_index();
        self.durable_next = self.next_index();
    }

    /// The index of the entry that comes next.
    pub(crate) fn next_index(&self) -> u64 {
        self.last.map_or(0, |last| last.index + 1)
    }

    pub(crate) fn append(&mut self, entry: Entry) -> Result<(), Hole> {
        let (expected, found) = (self.next_index(), entry.log_id.index);
        if expected != found {
            return Err(Hole { expected, found });
        }
        self.last = Some(entry.log_id);
        self.cache_bytes += entry_bytes(&entry);
        self.cache.push_back(entry);
        Ok(())
    }

    /// Makes everything behind `after` void.
    pub(crate) fn truncate(&mut self, after: Option<LogId>) {
        let next = after.map_or(0, |after| after.index + 1);
        let purged_next = self.purged.map_or(0, |p| p.index + 1);
        assert!(next >= purged_next, "truncation to {next} below the purged {purged_next}");
        if next >= self.next_index() {
            return;
        }
        while self.next_index() > next && self.pop_newest() {
            self.last = self.cache.back().map(|e| e.log_id);
        }
        self.last = after;
        self.cached_from = self.cached_from.min(next);
        self.durable_next = self.durable_next.min(next);
        self.generation += 1;
    }

    fn pop_newest(&mut self) -> bool {
        match self.cache.pop_back() {
            Some(entry) => {
                self.cache_bytes -= entry_bytes(&entry);
                true
            }
            None => false,
        }
    }

    fn pop_oldest(&mut self) {
        if let Some(entry) = self.cache.pop_front() {
            self.cache_bytes -= entry_bytes(&entry);
            self.cached_from = entry.log_id.index + 1;
        }
    }

    /// Forgets entries up to `upto`; a snapshot may lie ahead of the log, which then begins anew.
    pub(crate) fn purge(&mut self, upto: LogId) {
        if self.purged.is_some_and(|purged| purged >= upto) {
            return;
        }
        self.purged = Some(upto);
        while self.cache.front().is_some_and(|e| e.log_id.index <= upto.index) {
            self.pop_oldest();
        }
        if self.next_index() <= upto.index {
            assert!(self.cache.is_empty(), "every entry is at or below the purged one");
            self.last = Some(upto);
            self.generation += 1;
            self.durable_next = upto.index + 1;
        }
        self.cached_from = self.cached_from.max(upto.index + 1).min(self.next_index());
        if self.cache.is_empty() {
            self.cached_from = self.next_index();
        }
    }

    /// The frame on disk is durable. Called in the order of the log.
    pub(crate) fn add_frame(&mut self, frame: FrameRef) {
        self.frames.push_back(frame);
    }

    /// Entries before `next` are durable, as far as the caller's `generation` knows.
    pub(crate) fn set_durable(&mut self, next: u64, generation: u64) {
        if generation == self.generation {
            self.durable_next = self.durable_next.max(next);
        }
        while self.cache_bytes > self.cache_bytes_max
            && self.cache.front().is_some_and(|e| e.log_id.index < self.durable_next)
        {
            self.pop_oldest();
        }
    }

    /// The truncation is durable: frames forget their void entries.
    pub(crate) fn truncate_frames(&mut self, after: Option<LogId>) {
        let next = after.map_or(0, |after| after.index + 1);
        while self.frames.back().is_some_and(|f| f.first >= next) {
            self.frames.pop_back();
        }
        if let Some(frame) = self.frames.back_mut() {
            frame.last = frame.last.min(next.saturating_sub(1));
        }
    }

    /// The purge is durable: frames with nothing else are forgotten.
    pub(crate) fn purge_frames(&mut self, upto: u64) {
        while self.frames.front().is_some_and(|f| f.last <= upto) {
            self.frames.pop_front();
        }
    }

    /// How to read `start..end`, about `bytes_max` of it but at least one entry.
    pub(crate) fn plan(&self, start: u64, end: u64, bytes_max: usize) -> ReadPlan {
        let start = start.max(self.purged.map_or(0, |p| p.index + 1));
        let end = end.min(self.next_index());
        let mut plan = ReadPlan {
            from: start,
            upto: end.min(self.cached_from).max(start),
            ..Default::default()
        };
        let mut bytes = 0;
        let first = self.frames.partition_point(|f| f.last < start);
        let from_disk = self.frames.range(first..).filter(|_| plan.upto > start);
        for frame in from_disk.take_while(|f| f.first < end.min(self.cached_from)) {
            if bytes >= bytes_max {
                plan.upto = frame.first;
                return plan;
            }
            bytes += frame.entry_bytes;
            plan.frames.push(*frame);
        }
        let skip = start.saturating_sub(self.cached_from) as usize;
        for entry in self.cache.iter().skip(skip).take_while(|e| e.log_id.index < end) {
            if bytes >= bytes_max && (bytes > 0) {
                break;
            }
            bytes += entry_bytes(entry);
            plan.cached.push(entry.clone());
        }
        plan
    }

    /// Bytes of the entries behind `index` that are on disk.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.frames.iter().rev().take_while(|f| f.last > index).map(FrameRef::weight).sum()
    }

    /// The last index such that about `keep_bytes` of entries follow it; `None` when there is less.
    pub(crate) fn index_before_last(&self, keep_bytes: u64) -> Option<u64> {
        let mut bytes = 0;
        for frame in self.frames.iter().rev() {
            bytes += frame.weight();
            if bytes >= keep_bytes {
                return frame.first.checked_sub(1);
            }
        }
        None
    }

    /// The index of the oldest entry on disk.
    pub(crate) fn oldest_on_disk(&self) -> Option<u64> {
        self.frames.front().map(|f| f.first)
    }
}
