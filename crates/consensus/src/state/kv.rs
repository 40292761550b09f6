//! The namespace's transaction trait over redb, one table of bytes to bytes.

use everhold_proto::kv::{KvError, KvRead, KvResult, KvTxn, Visit};
use redb::{ReadOnlyTable, ReadableTable, Table};

pub(super) type Bytes = &'static [u8];

pub(super) fn engine(e: impl std::fmt::Display) -> KvError {
    KvError::Engine(e.to_string())
}

fn get(table: &impl ReadableTable<Bytes, Bytes>, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
    Ok(table.get(key).map_err(engine)?.map(|value| value.value().to_vec()))
}

fn scan(
    table: &impl ReadableTable<Bytes, Bytes>,
    from: &[u8],
    to: &[u8],
    visit: Visit<'_>,
) -> KvResult<()> {
    if from >= to {
        return Ok(());
    }
    for row in table.range::<&[u8]>(from..to).map_err(engine)? {
        let (key, value) = row.map_err(engine)?;
        if visit(key.value(), value.value()).is_break() {
            break;
        }
    }
    Ok(())
}

/// The state table inside a write transaction.
pub(super) struct WriteKv<'t>(pub Table<'t, Bytes, Bytes>);

impl KvRead for WriteKv<'_> {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        get(&self.0, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        scan(&self.0, from, to, visit)
    }
}

impl KvTxn for WriteKv<'_> {
    fn put(&mut self, key: &[u8], value: &[u8]) -> KvResult<()> {
        self.0.insert(key, value).map_err(engine).map(drop)
    }

    fn delete(&mut self, key: &[u8]) -> KvResult<()> {
        self.0.remove(key).map_err(engine).map(drop)
    }
}

/// The state table at one point.
pub(super) struct ReadKv(pub ReadOnlyTable<Bytes, Bytes>);

impl KvRead for ReadKv {
    fn get(&self, key: &[u8]) -> KvResult<Option<Vec<u8>>> {
        get(&self.0, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], visit: Visit<'_>) -> KvResult<()> {
        scan(&self.0, from, to, visit)
    }
}
