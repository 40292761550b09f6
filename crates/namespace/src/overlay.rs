//! The write buffer of one request. A request writes here and reads through it; its writes reach the
//! transaction only when it has succeeded, so a failing request leaves no trace.

use everhold_proto::kv::{KvRead, KvResult, KvTxn, Visit, Writes};

/// Writes of one request over a transaction.
pub(crate) struct Overlay<'a> {
    base: &'a mut dyn KvTxn,
    writes: Writes,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(base: &'a mut dyn KvTxn) -> Self {
        Overlay { base, writes: Writes::default() }
    }

    /// Hands the writes down.
    pub(crate) fn commit(self) -> KvResult<()> {
        self.base.absorb(self.writes)
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        self.writes.get_over(&*self.base, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        self.writes.scan_over(&*self.base, from, to, visit)
    }
}

impl KvTxn for Overlay<'_> {
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
