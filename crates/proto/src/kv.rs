//! The ordered key-value transaction that the state machine is a function over: redb's in
//! production, a `BTreeMap` in tests.

mod writes;

pub use writes::Writes;

use std::collections::BTreeMap;
use std::ops::ControlFlow;

/// A failed store. The state machine cannot go on after one: the process ends.
#[derive(Debug, thiserror::Error)]
pub enum KvError {
    /// The engine failed.
    #[error("metadata store failed: {0}")]
    Engine(String),
    /// A stored row does not decode.
    #[error("metadata row {key}: {source}")]
    Row {
        /// The key, in hexadecimal.
        key: String,
        /// What the decoder found.
        #[source]
        source: crate::codec::DecodeError,
    },
}

/// Result of a store operation.
pub type KvResult<T> = Result<T, KvError>;
/// Called for each (key, value) of a scan, in key order; `Break` ends the scan.
pub type Visit<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> ControlFlow<()>;

/// Reads at one consistent point.
pub trait KvRead {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>>;
    /// Visits the pairs with `from <= key < to` in ascending order.
    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()>;
}

/// Reads and writes of one transaction; a read sees the writes before it.
pub trait KvTxn: KvRead {
    /// Sets `key`.
    fn put(&mut self, key: &[u8], value: &[u8]) -> KvResult<()>;
    /// Removes `key`; removing what is not there is fine.
    fn delete(&mut self, key: &[u8]) -> KvResult<()>;

    /// Makes all of `writes`.
    fn absorb(&mut self, writes: Writes) -> KvResult<()> {
        writes.make(self)
    }
}

/// The first key after every key that starts with `prefix` (for `scan`'s upper bound).
pub fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![u8::MAX; 64]
}

/// Reads and decodes a row.
pub fn get_row<T: serde::de::DeserializeOwned>(
    kv: &(impl KvRead + ?Sized),
    key: &[u8],
) -> KvResult<Option<T>> {
    kv.get(key)?.map(|bytes| decode_at(key, &bytes)).transpose()
}

/// Encodes and writes a row.
pub fn put_row<T: serde::Serialize>(
    kv: &mut (impl KvTxn + ?Sized),
    key: &[u8],
    value: &T,
) -> KvResult<()> {
    kv.put(key, &crate::codec::encode_row(value))
}

/// Decodes the row found under `key`.
pub fn decode_at<T: serde::de::DeserializeOwned>(key: &[u8], bytes: &[u8]) -> KvResult<T> {
    crate::codec::decode_row(bytes).map_err(|source| KvError::Row {
        key: key.iter().map(|b| format!("{b:02x}")).collect(),
        source,
    })
}

/// Decodes up to `limit` rows with `from <= key < to`; `keep` maps (key, row) to what is collected.
pub fn scan_rows<T: serde::de::DeserializeOwned, R>(
    kv: &(impl KvRead + ?Sized),
    from: &[u8],
    to: &[u8],
    limit: usize,
    mut keep: impl FnMut(&[u8], T) -> Option<R>,
) -> KvResult<Vec<R>> {
    let (mut rows, mut failed) = (Vec::new(), None);
    if limit == 0 {
        return Ok(rows);
    }
    kv.scan(from, to, &mut |key, value| {
        match decode_at(key, value) {
            Ok(row) => rows.extend(keep(key, row)),
            Err(e) => failed = Some(e),
        }
        if failed.is_some() || rows.len() >= limit {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })?;
    failed.map_or(Ok(rows), Err)
}

/// An in-memory store for tests and models.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemKv(pub BTreeMap<Vec<u8>, Vec<u8>>);

impl KvRead for MemKv {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        if from >= to {
            return Ok(());
        }
        for (key, value) in self
            .0
            .range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Excluded(to)))
        {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl KvTxn for MemKv {
    fn put(&mut self, key: &[u8], value: &[u8]) -> KvResult<()> {
        self.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    }

    fn delete(&mut self, key: &[u8]) -> KvResult<()> {
        self.0.remove(key);
        Ok(())
    }
}
