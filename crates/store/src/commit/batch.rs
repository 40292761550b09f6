//! Records that are written and synced together.

use crate::StoreError;
use crate::catalog::{Catalog, Head};
use crate::format::{Body, HEADER_BYTES, Place, RecordHeader};
use crate::index::Entry;
use everhold_env::{AlignedBuf, Witness};
use everhold_proto::BlockId;
use std::collections::BTreeSet;
use std::path::Path;

/// Records up to this size are copied together into one write: copying 64 KiB takes 10 µs, another
/// system call on another thread about 20.
const SMALL_BYTES: usize = 68 << 10;
/// Bytes of small records in one write.
const TOGETHER_BYTES: usize = 1 << 20;

/// What a record does to the catalog once it is durable.
pub(super) enum Effect {
    Put { id: BlockId, entry: Entry, old: Option<Entry> },
    Delete { id: BlockId, old: Entry },
}

impl Effect {
    fn id(&self) -> BlockId {
        match self {
            Effect::Put { id, .. } | Effect::Delete { id, .. } => *id,
        }
    }

    pub(super) fn show(&self, dir: &Path, witness: &dyn Witness) {
        match self {
            Effect::Put { id, entry, .. } => witness.stored(dir, entry.pg, entry.listed(*id)),
            Effect::Delete { id, .. } => witness.deleted(dir, *id),
        }
    }

    pub(super) fn apply(self, catalog: &mut Catalog) {
        match self {
            Effect::Put { id, entry, old } => catalog.put(id, entry, old),
            Effect::Delete { id, old } => catalog.delete(id, old),
        }
    }
}

type Answer = Box<dyn FnOnce(Result<(), StoreError>) + Send>;

/// A batch in the making.
pub(super) struct Batch {
    head: Option<Head>,
    start: u64,
    segment_bytes: u64,
    /// What was durable before.
    durable: u64,
    records: Vec<(u64, AlignedBuf)>,
    touched: BTreeSet<BlockId>,
    effects: Vec<Effect>,
    answers: Vec<Answer>,
}

/// A batch that is complete.
pub(super) struct Written {
    pub(super) slot: u32,
    pub(super) writes: Vec<(u64, AlignedBuf)>,
    pub(super) end: u64,
    /// Sequence of the last record; `None` if there is none to write.
    pub(super) last: Option<u64>,
    pub(super) effects: Vec<Effect>,
    pub(super) answers: Vec<Answer>,
}

impl Batch {
    pub(super) fn new(head: Option<Head>, segment_bytes: u64, durable: u64) -> Self {
        Batch {
            head,
            start: head.map_or(0, |head| head.end),
            segment_bytes,
            durable,
            records: Vec::new(),
            touched: BTreeSet::new(),
            effects: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.answers.is_empty()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.head.map_or(0, |head| head.end - self.start)
    }

    pub(super) fn touches(&self, id: BlockId) -> bool {
        self.touched.contains(&id)
    }

    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.head.is_some_and(|head| head.end + bytes <= self.segment_bytes)
    }

    /// The header of the next record.
    pub(super) fn header(&self, sequence: u64, body: Body) -> RecordHeader {
        let head = self.head.expect("room was found first");
        RecordHeader {
            place: Place::at(head.slot, head.end),
            life: head.life,
            sequence,
            previous: head.previous,
            durable: self.durable,
            body,
        }
    }

    /// Adds the record that `header` was made for.
    pub(super) fn push(&mut self, header: &RecordHeader, buf: AlignedBuf) {
        let head = self.head.as_mut().expect("room was found first");
        assert_eq!(header.place.offset(), head.end);
        assert_eq!(buf.padded().len() as u64, header.record_bytes());
        self.records.push((head.end, buf));
        head.end += header.record_bytes();
        head.previous = header.sequence;
    }

    pub(super) fn effect(&mut self, effect: Effect) {
        self.touched.insert(effect.id());
        self.effects.push(effect);
    }

    /// Whom to tell how it ended.
    pub(super) fn answer(&mut self, answer: impl FnOnce(Result<(), StoreError>) + Send + 'static) {
        self.answers.push(Box::new(answer));
    }

    /// The finished batch; `None` if nobody waits for it.
    pub(super) fn into_written(self) -> Option<Written> {
        let head = self.head.filter(|_| !self.answers.is_empty())?;
        Some(Written {
            slot: head.slot,
            writes: together(self.records),
            end: head.end,
            last: (head.end > self.start).then_some(head.previous),
            effects: self.effects,
            answers: self.answers,
        })
    }
}

/// Joins small neighbours into larger writes.
fn together(records: Vec<(u64, AlignedBuf)>) -> Vec<(u64, AlignedBuf)> {
    let mut writes: Vec<(u64, AlignedBuf)> = Vec::new();
    let is_small = |buf: &AlignedBuf| buf.padded().len() <= SMALL_BYTES;
    let small = records.iter().filter(|(_, buf)| is_small(buf)).count();
    if small < 2 {
        return records;
    }
    let mut open = false;
    for (offset, buf) in records {
        match writes.last_mut() {
            Some((_, last))
                if open && is_small(&buf) && last.len() + buf.padded().len() <= last.capacity() =>
            {
                last.extend_from_slice(buf.padded());
            }
            _ if is_small(&buf) => {
                let mut joined = AlignedBuf::with_capacity(
                    TOGETHER_BYTES.min(small * (SMALL_BYTES + HEADER_BYTES)),
                );
                joined.extend_from_slice(buf.padded());
                writes.push((offset, joined));
                open = true;
            }
            _ => {
                writes.push((offset, buf));
                open = false;
            }
        }
    }
    writes
}
