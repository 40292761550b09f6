//! Writes that a store has not got yet, read as if it had: what a request has done before it has succeeded, and
//! what was applied since the last commit of the store.

use super::{KvRead, KvResult, KvTxn, Visit};
use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

/// Values by key, in key order; what was deleted hides what the store has. Clones share keys and values.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    rows: BTreeMap<Arc<[u8]>, Option<Arc<[u8]>>>,
    bytes: usize,
}

fn len(value: Option<&Arc<[u8]>>) -> usize {
    value.map_or(0, |value| value.len())
}

impl Writes {
    /// Sets `key`.
    pub fn put(&mut self, key: &[u8], value: &[u8]) {
        self.set(key.into(), Some(value.into()));
    }

    /// Removes `key`, also from the store.
    pub fn delete(&mut self, key: &[u8]) {
        self.set(key.into(), None);
    }

    /// Takes in `later`, which was made after these.
    pub fn absorb(&mut self, later: Writes) {
        if self.rows.is_empty() {
            *self = later;
            return;
        }
        for (key, value) in later.rows {
            self.set(key, value);
        }
    }

    fn set(&mut self, key: Arc<[u8]>, value: Option<Arc<[u8]>>) {
        let key_len = key.len();
        self.bytes += key_len + len(value.as_ref());
        if let Some(old) = self.rows.insert(key, value) {
            self.bytes -= key_len + len(old.as_ref());
        }
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Keys that are set or removed.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The value of `key` in `below` with these writes.
    pub fn get_over(
        &self,
        below: &(impl KvRead + ?Sized),
        key: &[u8],
    ) -> KvResult<Option<Vec<u8>>> {
        match self.rows.get(key) {
            Some(value) => Ok(value.as_ref().map(|value| value.to_vec())),
            None => below.get(key),
        }
    }

    /// A scan of `below` with these writes.
    pub fn scan_over(
        &self,
        below: &(impl KvRead + ?Sized),
        from: &[u8],
        to: &[u8],
        visit: Visit<'_>,
    ) -> KvResult<()> {
        if from >= to {
            return Ok(());
        }
        let mut ours =
            self.rows.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to))).peekable();
        if ours.peek().is_none() {
            return below.scan(from, to, visit);
        }
        let mut ended = false;
        below.scan(from, to, &mut |key, value| {
            while let Some((k, v)) = ours.next_if(|(k, _)| k.as_ref() < key) {
                if let Some(v) = v
                    && visit(k, v).is_break()
                {
                    ended = true;
                    return ControlFlow::Break(());
                }
            }
            let flow = match ours.next_if(|(k, _)| k.as_ref() == key) {
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

    /// Makes the writes, in key order.
    pub fn make(&self, txn: &mut (impl KvTxn + ?Sized)) -> KvResult<()> {
        self.rows.iter().try_for_each(|(key, value)| match value {
            Some(value) => txn.put(key, value),
            None => txn.delete(key),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::MemKv;
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

    struct Over<'a>(&'a Writes, &'a dyn KvRead);

    impl KvRead for Over<'_> {
        fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
            self.0.get_over(self.1, key)
        }

        fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
            self.0.scan_over(self.1, from, to, visit)
        }
    }

    type Made = Vec<(u8, Option<u8>)>;

    fn made() -> impl Strategy<Value = Made> {
        prop::collection::vec((0u8..32, any::<Option<u8>>()), 0..20)
    }

    proptest! {
        /// A store reads with writes over it as it does with the writes made; so it does with later writes over
        /// these, and with both taken together.
        #[test]
        fn writes_over_a_store_are_the_writes_made(
            before in prop::collection::btree_map(0u8..32, any::<u8>(), 0..20),
            earlier in made(), later in made(),
            from in 0u8..32, to in 0u8..34, limit in 1usize..9,
        ) {
            let mut base = MemKv::default();
            for (k, v) in before {
                base.put(&[k], &[v]).unwrap();
            }
            let mut direct = base.clone();
            let mut writes = [Writes::default(), Writes::default()];
            for (writes, made) in writes.iter_mut().zip([earlier, later]) {
                for (k, v) in made {
                    match v {
                        Some(v) => (writes.put(&[k], &[v]), direct.put(&[k], &[v]).unwrap()).0,
                        None => (writes.delete(&[k]), direct.delete(&[k]).unwrap()).0,
                    }
                }
            }
            let [mut earlier, later] = writes;
            let below = Over(&earlier, &base);
            let both = Over(&later, &below);
            prop_assert_eq!(pairs(&both, from, to, limit), pairs(&direct, from, to, limit));
            for k in 0..32 {
                prop_assert_eq!(both.get(&[k]).unwrap(), direct.get(&[k]).unwrap());
            }
            earlier.absorb(later);
            let bytes: usize = earlier.rows.iter().map(|(k, v)| k.len() + len(v.as_ref())).sum();
            prop_assert_eq!(earlier.bytes(), bytes);
            prop_assert_eq!(pairs(&Over(&earlier, &base), from, to, limit), pairs(&direct, from, to, limit));
            earlier.make(&mut base).unwrap();
            prop_assert_eq!(base, direct);
        }
    }
}
