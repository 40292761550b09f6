//! Everything the store knows in memory, behind one short lock: the changes that the index file
//! does not have yet, the counts of the segments, and the head of the log. Does no I/O.
//!
//! **Invariant:** it only ever shows what is durable; the writer applies a record after its sync.

use crate::format::{Place, Tombstone};
use crate::index::{Change, Entry, Flush, Mark, Memtable};
use crate::segments::{Segments, State};
use everhold_proto::BlockId;
use std::sync::Arc;

/// Where the next record goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) slot: u32,
    pub(crate) life: u64,
    pub(crate) end: u64,
    /// Sequence of the last record in it, 0 if there is none.
    pub(crate) previous: u64,
}

/// See the module.
pub(crate) struct Catalog {
    active: Memtable,
    /// Being written to the index file.
    frozen: Option<Arc<Memtable>>,
    pub(crate) segments: Segments,
    pub(crate) head: Option<Head>,
    /// Sequence of the last record that is durable.
    pub(crate) sequence: u64,
    /// The greatest life of any segment.
    pub(crate) life: u64,
    /// While the log is replayed: the mark that the index file keeps until all of it is applied.
    pub(crate) replaying: Option<Mark>,
}

/// What is known about a block without the index file.
pub(crate) enum Known {
    Here(Entry),
    Gone,
    AskTheFile,
}

impl Catalog {
    pub(crate) fn new(segments: Segments) -> Self {
        Catalog {
            active: Memtable::default(),
            frozen: None,
            segments,
            head: None,
            sequence: 0,
            life: 0,
            replaying: None,
        }
    }

    pub(crate) fn lookup(&self, id: BlockId) -> Known {
        let frozen = || self.frozen.as_ref().and_then(|frozen| frozen.get(id));
        match self.active.get(id).or_else(frozen) {
            Some(Change::Put(entry)) => Known::Here(entry),
            Some(Change::Delete(_)) => Known::Gone,
            None => Known::AskTheFile,
        }
    }

    /// The memtables from old to new, to be laid over a snapshot of the file that is taken under
    /// the same lock.
    pub(crate) fn layers(&self) -> [&Memtable; 2] {
        const NONE: &Memtable = &Memtable::EMPTY;
        [self.frozen.as_deref().unwrap_or(NONE), &self.active]
    }

    /// How many changes wait for the index file.
    pub(crate) fn pending(&self) -> usize {
        self.active.len() + self.frozen.as_ref().map_or(0, |frozen| frozen.len())
    }

    /// A block is now at `entry`; `old` is where it was.
    pub(crate) fn put(&mut self, id: BlockId, entry: Entry, old: Option<Entry>) {
        if let Some(old) = old {
            self.segments.remove_live(old.place.slot, old.record_bytes());
        }
        self.segments.add_live(entry.place.slot, entry.record_bytes());
        self.active.set(id, Change::Put(entry));
    }

    /// A block is gone.
    pub(crate) fn delete(&mut self, id: BlockId, old: Entry) {
        self.segments.remove_live(old.place.slot, old.record_bytes());
        self.active.set(id, Change::Delete(old.pg));
    }

    /// The tombstone that kills `entry`.
    pub(crate) fn tombstone(&self, id: BlockId, entry: &Entry) -> Tombstone {
        let Place { slot, .. } = entry.place;
        let life = self.segments.get(slot).map_or(0, |segment| segment.life);
        Tombstone { id, killed: entry.sequence, life, slot, pg: entry.pg }
    }

    /// The log grew up to `end` of the head; `last` is durable.
    pub(crate) fn advance(&mut self, end: u64, last: u64) {
        let head = self.head.as_mut().expect("records are written to a head");
        head.end = end;
        head.previous = last;
        self.sequence = last;
        self.segments.change(head.slot).end = end;
    }

    /// `slot` becomes the head.
    pub(crate) fn begin_segment(&mut self, slot: u32, life: u64, end: u64) {
        self.seal_head();
        self.head = Some(Head { slot, life, end, previous: 0 });
        self.life = life;
        let segment = self.segments.change(slot);
        (segment.state, segment.life, segment.end) = (State::Head, life, end);
    }

    /// No more records go to the head.
    pub(crate) fn seal_head(&mut self) {
        if let Some(head) = self.head.take() {
            self.segments.change(head.slot).state = State::Sealed;
        }
    }

    fn mark(&self) -> Mark {
        if let Some(mark) = self.replaying {
            return mark;
        }
        match self.head {
            Some(head) => Mark {
                life: head.life,
                end: head.end,
                sequence: self.sequence,
                previous: head.previous,
            },
            // All segments so far are complete, to their ends.
            None => Mark { life: self.life, end: u64::MAX, sequence: self.sequence, previous: 0 },
        }
    }

    /// Takes what the index file lacks; `None` when it lacks nothing. A flush that was given up
    /// left its changes in `frozen`: they go first.
    pub(crate) fn freeze(&mut self) -> Option<Flush> {
        let epoch = self.segments.epoch;
        let segments: Vec<_> = self
            .segments
            .iter()
            .filter(|(_, segment)| segment.changed != 0)
            .map(|(slot, segment)| (slot, segment.clone()))
            .collect();
        if self.active.is_empty() && self.frozen.is_none() && segments.is_empty() {
            return None;
        }
        let mut changes = self.frozen.take().map_or_else(Memtable::default, |frozen| {
            Arc::try_unwrap(frozen).unwrap_or_else(|shared| (*shared).clone())
        });
        match changes.is_empty() {
            true => changes = std::mem::take(&mut self.active),
            false => changes.merge(&std::mem::take(&mut self.active)),
        }
        let changes = Arc::new(changes);
        self.frozen = Some(changes.clone());
        self.segments.epoch = epoch + 1;
        Some(Flush { changes, segments, mark: self.mark() })
    }

    /// The index file has what `flush` took.
    pub(crate) fn flushed(&mut self, flush: &Flush) {
        self.frozen = None;
        for (slot, written) in &flush.segments {
            self.segments.forget_change(*slot, written.changed);
        }
    }
}
