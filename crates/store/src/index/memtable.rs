//! Changes of the index that are only in memory (and in the segments).

use super::Entry;
use everhold_proto::{BlockId, PgId};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// What became of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It is there.
    Put(Entry),
    /// It was deleted; it had been in this PG.
    Delete(PgId),
}

/// The newest change of each block, also in the order of listings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memtable {
    changes: BTreeMap<BlockId, Change>,
    order: BTreeSet<(PgId, BlockId)>,
}

impl Memtable {
    /// Nothing.
    pub(crate) const EMPTY: Memtable =
        Memtable { changes: BTreeMap::new(), order: BTreeSet::new() };

    pub(crate) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn get(&self, id: BlockId) -> Option<Change> {
        self.changes.get(&id).copied()
    }

    pub(crate) fn set(&mut self, id: BlockId, change: Change) {
        let pg = match change {
            Change::Put(entry) => entry.pg,
            Change::Delete(pg) => pg,
        };
        self.order.insert((pg, id));
        self.changes.insert(id, change);
    }

    /// Adds what `newer` says.
    pub(crate) fn merge(&mut self, newer: &Memtable) {
        newer.changes.iter().for_each(|(id, change)| self.set(*id, *change));
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (BlockId, Change)> {
        self.changes.iter().map(|(id, change)| (*id, *change))
    }

    /// The next change of a PG after `after` (from the start for `None`), up to and with `last`.
    pub(crate) fn next(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
    ) -> Option<(BlockId, Change)> {
        let mut range = self.keys(pg, after, last);
        // A block that was deleted and put again under another PG is here twice; only one is true.
        range.find_map(|id| match self.get(id)? {
            Change::Put(entry) if entry.pg != pg => Some((id, Change::Delete(pg))),
            change => Some((id, change)),
        })
    }

    /// The id of the `n`-th such change.
    pub(crate) fn nth(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
        n: usize,
    ) -> Option<BlockId> {
        self.keys(pg, after, last).nth(n.checked_sub(1)?)
    }

    fn keys(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
    ) -> impl Iterator<Item = BlockId> {
        let start = match after {
            Some(id) => Bound::Excluded((pg, id.min(last))),
            None => Bound::Included((pg, BlockId::MIN)),
        };
        // `range` panics on a start beyond the end, hence the minimum above.
        self.order.range((start, Bound::Included((pg, last)))).map(|(_, id)| *id)
    }

    /// The PGs that occur, in order.
    pub(crate) fn pgs(&self) -> BTreeSet<PgId> {
        self.order.iter().map(|(pg, _)| *pg).collect()
    }

    /// Each key of the listing order with the block there, `None` when it is not (any more).
    pub(crate) fn order(&self) -> impl Iterator<Item = (PgId, BlockId, Option<Entry>)> {
        self.order.iter().map(|(pg, id)| match self.changes.get(id) {
            Some(Change::Put(entry)) if entry.pg == *pg => (*pg, *id, Some(*entry)),
            _ => (*pg, *id, None),
        })
    }
}
