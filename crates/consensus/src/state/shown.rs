//! The state as reads see it: what the file had at its last commit, and in memory what was applied since. A commit
//! costs about as much as ten commands, and most commands write rows that the one before them wrote too, so many
//! share one; whoever waits for an answer does not wait for it.

use super::db::View;
use crate::types::{LogId, StoredMembership};
use everhold_proto::kv::{KvRead, KvResult, KvTxn, Visit, Writes};
use std::sync::Arc;

/// Rows in memory after which they are committed; a reader that stays makes the next batch copy them once.
const ROWS_MAX: usize = 2048;
/// Bytes of them.
const BYTES_MAX: usize = 1 << 20;

/// What was applied since the last commit.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent {
    pub writes: Writes,
    pub membership: Option<StoredMembership>,
}

/// The state at one point. Clones share it.
#[derive(Clone)]
pub(super) struct Shown {
    base: Arc<View>,
    recent: Arc<Recent>,
    /// The last entry that is in it.
    pub applied: Option<LogId>,
}

impl Shown {
    /// What a file has.
    pub(super) fn of(base: View) -> Self {
        let applied = base.applied;
        Shown { base: Arc::new(base), recent: Arc::default(), applied }
    }

    /// What is only in memory; `None` when nothing is.
    pub(super) fn recent(&self) -> Option<Arc<Recent>> {
        (self.applied != self.base.applied).then(|| self.recent.clone())
    }

    /// What is in the file.
    pub(super) fn base(&self) -> Arc<View> {
        self.base.clone()
    }

    /// Takes in what a batch that ends with `last` did; tells whether it is time for a commit.
    pub(super) fn absorb(&mut self, done: Recent, last: LogId) -> bool {
        let recent = Arc::make_mut(&mut self.recent);
        recent.writes.absorb(done.writes);
        recent.membership = done.membership.or(recent.membership.take());
        self.applied = Some(last);
        recent.writes.len() >= ROWS_MAX || recent.writes.bytes() >= BYTES_MAX
    }
}

impl KvRead for Shown {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        self.recent.writes.get_over(&self.base.kv, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        self.recent.writes.scan_over(&self.base.kv, from, to, visit)
    }
}

/// The transaction of one batch: nobody else sees its writes before they are absorbed.
pub(super) struct BatchTxn {
    pub shown: Shown,
    pub writes: Writes,
}

impl KvRead for BatchTxn {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        self.writes.get_over(&self.shown, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        self.writes.scan_over(&self.shown, from, to, visit)
    }
}

impl KvTxn for BatchTxn {
    fn put(&mut self, key: &[u8], value: &[u8]) -> KvResult<()> {
        self.writes.put(key, value);
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> KvResult<()> {
        self.writes.delete(key);
        Ok(())
    }

    fn absorb(&mut self, writes: Writes) -> KvResult<()> {
        self.writes.absorb(writes);
        Ok(())
    }
}
