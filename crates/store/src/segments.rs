//! What is in each segment, counted: who may be recycled, who is worth compacting, how full it is.
//! Pure; the changes come from the writer and from recovery.

use crate::config::RESERVE_SEGMENTS;
use crate::format::HEADER_BYTES;

/// What a segment file is used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Its number is known, the file is not usable yet (or never was made).
    Missing,
    /// Zero-filled or dead: may become the head.
    Free,
    /// Records are appended to it.
    Head,
    /// Full.
    Sealed,
}

/// One segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) state: State,
    /// Which use of the file this is.
    pub(crate) life: u64,
    /// Bytes used, the header page included.
    pub(crate) end: u64,
    /// Bytes of records that the index points at.
    pub(crate) live_bytes: u64,
    /// How many those are.
    pub(crate) live_blocks: u32,
    /// It holds older copies of blocks that live elsewhere without a tombstone that says so: a
    /// compaction of it was begun. No tombstone may be dropped while there is such a segment.
    pub(crate) shadowed: bool,
    /// Compaction found damaged blocks in it; it is left alone until they are replaced or deleted.
    pub(crate) stuck: bool,
    /// In which epoch it last changed; 0 when the index file has it as it is.
    pub(crate) changed: u64,
}

/// Who asks for a new head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    /// New blocks: not from the reserve.
    Ordinary,
    /// Deletion and compaction.
    Reserved,
}

/// All segments of a store, by number.
#[derive(Clone, Debug)]
pub(crate) struct Segments {
    all: Vec<Segment>,
    pub(crate) segment_bytes: u64,
    /// How many files there may be.
    pub(crate) count_max: u64,
    /// Which flush the next changes belong to.
    pub(crate) epoch: u64,
}

const EMPTY: Segment = Segment {
    state: State::Missing,
    life: 0,
    end: 0,
    live_bytes: 0,
    live_blocks: 0,
    shadowed: false,
    stuck: false,
    changed: 0,
};

impl Segments {
    pub(crate) fn new(segment_bytes: u64) -> Self {
        Segments { all: Vec::new(), segment_bytes, count_max: 0, epoch: 1 }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Segment)> {
        self.all.iter().enumerate().map(|(slot, segment)| (slot as u32, segment))
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Segment> {
        self.all.get(slot as usize).filter(|segment| segment.state != State::Missing)
    }

    /// The segment for a change, made known when it is not. `slot` is one that files exist for.
    pub(crate) fn change(&mut self, slot: u32) -> &mut Segment {
        if self.all.len() <= slot as usize {
            self.all.resize(slot as usize + 1, EMPTY);
        }
        let segment = &mut self.all[slot as usize];
        segment.changed = self.epoch;
        segment
    }

    /// The index file has the segment as it was when `changed` was set.
    pub(crate) fn forget_change(&mut self, slot: u32, changed: u64) {
        match self.all.get_mut(slot as usize) {
            Some(segment) if segment.changed == changed => segment.changed = 0,
            _ => {}
        }
    }

    /// A record became live.
    pub(crate) fn add_live(&mut self, slot: u32, bytes: u64) {
        let segment = self.change(slot);
        segment.live_bytes += bytes;
        segment.live_blocks += 1;
    }

    /// A record died. Saturating, because after damage the count is only an estimate.
    pub(crate) fn remove_live(&mut self, slot: u32, bytes: u64) {
        let segment = self.change(slot);
        segment.live_bytes = segment.live_bytes.saturating_sub(bytes);
        segment.live_blocks = segment.live_blocks.saturating_sub(1);
        segment.stuck = false;
    }

    /// A segment becomes free.
    pub(crate) fn set_free(&mut self, slot: u32, life: u64) {
        let changed = self.epoch;
        *self.change(slot) = Segment { state: State::Free, life, changed, ..EMPTY };
    }

    /// Takes a free segment, unless that would touch the reserve of another class.
    pub(crate) fn take_free(&self, class: Class) -> Option<u32> {
        if class == Class::Ordinary && self.free() <= RESERVE_SEGMENTS {
            return None;
        }
        let slot = self.all.iter().position(|segment| segment.state == State::Free)?;
        Some(slot as u32)
    }

    /// The number of a new file, if there may be one more for `class`.
    pub(crate) fn may_grow(&self, class: Class) -> Option<u32> {
        if class == Class::Ordinary && self.available() <= RESERVE_SEGMENTS {
            return None;
        }
        let missing = self.all.iter().position(|segment| segment.state == State::Missing);
        let slot = missing.unwrap_or(self.all.len());
        (self.files() < self.count_max).then_some(slot as u32)
    }

    pub(crate) fn free(&self) -> u64 {
        self.all.iter().filter(|segment| segment.state == State::Free).count() as u64
    }

    pub(crate) fn files(&self) -> u64 {
        self.all.iter().filter(|segment| segment.state != State::Missing).count() as u64
    }

    /// Segments that can still be filled: free ones and those not made yet.
    pub(crate) fn available(&self) -> u64 {
        self.free() + self.count_max.saturating_sub(self.files())
    }

    pub(crate) fn live_bytes(&self) -> u64 {
        self.all.iter().map(|segment| segment.live_bytes).sum()
    }

    pub(crate) fn blocks(&self) -> u64 {
        self.all.iter().map(|segment| u64::from(segment.live_blocks)).sum()
    }

    /// Bytes written and no longer live.
    pub(crate) fn dead_bytes(&self) -> u64 {
        let dead = |s: &Segment| match s.state {
            State::Head | State::Sealed => s.end.saturating_sub(s.live_bytes),
            State::Free | State::Missing => 0,
        };
        self.all.iter().map(dead).sum()
    }

    /// Whether a segment other than `slot` holds hidden copies.
    pub(crate) fn shadows_elsewhere(&self, slot: u32) -> bool {
        self.iter().any(|(other, segment)| other != slot && segment.shadowed)
    }

    /// Whether the record that a tombstone names may still be on the disk, outside `victim`.
    pub(crate) fn may_hold(&self, slot: u32, life: u64, victim: u32) -> bool {
        let used = |s: &Segment| matches!(s.state, State::Head | State::Sealed) && s.life == life;
        slot != victim && self.get(slot).is_some_and(used)
    }

    /// The segment to compact next: one whose compaction was begun, else the one with the most dead
    /// bytes, if it has enough of them. The emptier the disk, the more it takes to be worth it.
    pub(crate) fn victim(&self) -> Option<u32> {
        let candidates =
            || self.iter().filter(|(_, s)| s.state == State::Sealed && !s.stuck && s.life > 0);
        if let Some((slot, _)) = candidates().find(|(_, segment)| segment.shadowed) {
            return Some(slot);
        }
        let dead = |s: &Segment| s.end.saturating_sub(s.live_bytes);
        let (slot, segment) = candidates().max_by_key(|(_, segment)| dead(segment))?;
        let live_percent_max = match self.available() {
            free if free <= RESERVE_SEGMENTS + 1 => 95,
            free if free * 10 < self.count_max => 80,
            _ => 50,
        };
        let is_sparse = segment.live_bytes * 100 <= self.segment_bytes * live_percent_max;
        // A segment that is only badly filled (the next record was too long) gains nothing.
        let dead_bytes = segment.end.saturating_sub(HEADER_BYTES as u64 + segment.live_bytes);
        (is_sparse && dead_bytes * 16 >= self.segment_bytes).then_some(slot)
    }
}
