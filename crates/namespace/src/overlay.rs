//! The write buffer of one request. A request writes here and reads through it; its writes reach the
//! transaction only when it has succeeded, so a failing request leaves no trace.

use everhold_proto::kv::{KvRead, KvResult, KvTxn, Visit};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

/// Writes of one request over a transaction.
pub(crate) struct Overlay<'a> {
    base: &'a mut dyn KvTxn,
    /// `None`: deleted.
    writes: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
}

impl<'a> Overlay<'a> {
    pub(crate) fn new(base: &'a mut dyn KvTxn) -> Self {
        Overlay { base, writes: BTreeMap::new() }
    }

    /// Hands the writes down.
    pub(crate) fn commit(self) -> KvResult<()> {
        for (key, value) in self.writes {
            match value {
                Some(value) => self.base.put(&key, &value)?,
                None => self.base.delete(&key)?,
            }
        }
        Ok(())
    }
}

impl KvRead for Overlay<'_> {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        if from >= to {
            return Ok(());
        }
        let range = (Bound::Included(from), Bound::Excluded(to));
        let mut ours = self.writes.range::<[u8], _>(range).peekable();
        let mut ended = false;
        self.base.scan(from, to, &mut |key, value| {
            while let Some((k, v)) = ours.next_if(|(k, _)| k.as_slice() < key) {
                if let Some(v) = v
                    && visit(k, v).is_break()
                {
                    ended = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match ours.next_if(|(k, _)| k.as_slice() == key) {
                Some((_, None)) => ControlFlow::Continue(()),
                Some((k, Some(v))) => visit(k, v),
                None => visit(key, value),
            };
            ended = flow.is_break();
            flow
        })?;
        if !ended {
            for (k, v) in ours {
                if let Some(v) = v
                    && visit(k, v).is_break()
                {
                    break;
                }
            }
        }
        Ok(())
    }
}

impl KvTxn for Overlay<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> KvResult<()> {
        self.writes.insert(key.to_vec(), Some(value.to_vec()));
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> KvResult<()> {
        self.writes.insert(key.to_vec(), None);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::kv::MemKv;
    use proptest::prelude::*;

    fn pairs(kv: &dyn KvRead, from: u8, to: u8, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut found = Vec::new();
        kv.scan(&[from], &[to], &mut |k, v| {
            found.push((k.to_vec(), v.to_vec()));
            if found.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })
        .unwrap();
        found
    }

    proptest! {
        /// An overlay reads exactly like the store would with its writes applied, before and after commit.
        #[test]
        fn overlay_equals_direct_writes(
            before in prop::collection::btree_map(0u8..32, any::<u8>(), 0..20),
            writes in prop::collection::vec((0u8..32, any::<Option<u8>>()), 0..20),
            from in 0u8..32, to in 0u8..34, limit in 1usize..9,
        ) {
            let mut base = MemKv::default();
            for (k, v) in before {
                base.put(&[k], &[v]).unwrap();
            }
            let mut direct = base.clone();
            let mut overlay = Overlay::new(&mut base);
            for (k, v) in writes {
                for kv in [&mut direct as &mut dyn KvTxn, &mut overlay] {
                    match v {
                        Some(v) => kv.put(&[k], &[v]).unwrap(),
                        None => kv.delete(&[k]).unwrap(),
                    }
                }
            }
            prop_assert_eq!(pairs(&overlay, from, to, limit), pairs(&direct, from, to, limit));
            for k in 0..32 {
                prop_assert_eq!(overlay.get(&[k]).unwrap(), direct.get(&[k]).unwrap());
            }
            overlay.commit().unwrap();
            prop_assert_eq!(base, direct);
        }
    }
}
