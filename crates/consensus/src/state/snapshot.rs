//! Snapshots. The state is a durable redb file already, so a snapshot is a *view* of it: a read
//! transaction with its log position, streamed row by row to a member that needs it. That member
//! loads the rows into a fresh file beside its own ([`Staging`]); only a complete, verified and
//! durable one ([`Staged`]) can be installed.

use super::db::{StateDb, View};
use super::kv::engine;
use crate::types::SnapshotMeta;
use bytes::Bytes;
use everhold_proto::checksum::Digest;
use everhold_proto::kv::{KvError, KvResult, KvTxn};
use everhold_proto::planted::{self, Bug};
use everhold_proto::tables::Table;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Bytes of rows in one chunk: big enough to amortise a round trip, small against an RPC's limit.
const CHUNK_BYTES: usize = 1 << 20;

/// What openraft carries as a snapshot.
pub(crate) enum SnapshotData {
    /// Of this replica's own state: to be sent.
    Live(Arc<View>),
    /// Received: to be installed.
    Staged(Staged),
}

/// Running summary of a stream of rows, made alike by sender and receiver.
#[derive(Default)]
pub(crate) struct Summary {
    digest: Digest,
    rows: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, chunk: &[u8], rows: u64) {
        self.digest.update(chunk);
        self.rows += rows;
    }

    pub(crate) fn totals(&self) -> (u64, u32) {
        (self.rows, self.digest.finish())
    }
}

/// Some rows in key order: key length, key, value length, value.
pub(crate) struct Chunk {
    pub bytes: Bytes,
    pub rows: u64,
    /// The last key; `None` when there was no row left.
    pub last_key: Option<Vec<u8>>,
}

impl View {
    /// The rows behind `after`, about [`CHUNK_BYTES`] of them. Blocks on reads.
    pub(crate) fn chunk(&self, after: Option<&[u8]>) -> KvResult<Chunk> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut chunk = Chunk { bytes: Bytes::new(), rows: 0, last_key: None };
        let mut bytes = Vec::new();
        for row in self.kv.0.range::<&[u8]>((from, Bound::Unbounded)).map_err(engine)? {
            let (key, value) = row.map_err(engine)?;
            if is_forgotten(key.value()) {
                chunk.last_key = Some(key.value().to_vec());
                continue;
            }
            for part in [key.value(), value.value()] {
                bytes.extend_from_slice(&(part.len() as u32).to_le_bytes());
                bytes.extend_from_slice(part);
            }
            chunk.rows += 1;
            if bytes.len() >= CHUNK_BYTES {
                chunk.last_key = Some(key.value().to_vec());
                break;
            }
            chunk.last_key = Some(key.value().to_vec());
        }
        chunk.bytes = bytes.into();
        Ok(chunk)
    }

    pub(crate) fn meta(&self) -> KvResult<SnapshotMeta> {
        Ok(SnapshotMeta { last_log_id: self.applied, last_membership: self.membership()? })
    }
}

/// Rows that a planted bug leaves out of a snapshot.
fn is_forgotten(key: &[u8]) -> bool {
    let is_of = |table| key.first() == Some(&(table as u8));
    planted::has(Bug::SnapshotWithoutSessions) && is_of(Table::Session)
        || planted::has(Bug::SnapshotWithoutMissing) && is_of(Table::Missing)
}

/// Rows that are not the rows of a snapshot, or a store that failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LoadError {
    #[error("snapshot chunk is malformed: {0}")]
    Malformed(&'static str),
    #[error(transparent)]
    Store(#[from] KvError),
}

/// A state file that rows are loaded into.
pub(crate) struct Staging {
    db: StateDb,
    summary: Summary,
    last_key: Option<Vec<u8>>,
}

/// A complete and durable state file that is not in use yet.
pub(crate) struct Staged {
    pub(super) db: StateDb,
    pub(super) meta: SnapshotMeta,
}

/// A key and its value.
pub(crate) type Row<'a> = (&'a [u8], &'a [u8]);

impl Staging {
    pub(super) fn new(db: StateDb) -> Self {
        Staging { db, summary: Summary::default(), last_key: None }
    }

    /// Its file in the directory of the state.
    pub(super) fn path(&self, dir: &Path) -> PathBuf {
        super::db::path(dir, self.db.number)
    }

    /// Adds one chunk; its keys must follow those before. Blocks.
    pub(crate) fn load(&mut self, chunk: &[u8]) -> Result<(), LoadError> {
        let rows = parse_rows(chunk)?;
        let mut last = self.last_key.as_deref();
        for (key, _) in &rows {
            if last.is_some_and(|last| last >= *key) {
                return Err(LoadError::Malformed("keys do not ascend"));
            }
            last = Some(key);
        }
        self.last_key = last.map(<[u8]>::to_vec);
        self.db
            .write(None, None, |kv| rows.iter().try_for_each(|(key, value)| kv.put(key, value)))?;
        self.summary.add(chunk, rows.len() as u64);
        Ok(())
    }

    /// Checks that it is whole and makes it durable. Blocks.
    pub(crate) fn seal(
        &mut self,
        meta: &SnapshotMeta,
        totals: (u64, u32),
    ) -> Result<(), LoadError> {
        if self.summary.totals() != totals {
            return Err(LoadError::Malformed("rows are missing or altered"));
        }
        self.db.write(meta.last_log_id, Some(&meta.last_membership), |_| Ok(()))?;
        self.db.flush(meta.last_log_id, None)?;
        Ok(())
    }

    /// What may be installed, once it was sealed under `meta`.
    pub(crate) fn into_staged(self, meta: SnapshotMeta) -> Staged {
        Staged { db: self.db, meta }
    }
}

/// The rows of a chunk.
pub(crate) fn parse_rows(chunk: &[u8]) -> Result<Vec<Row<'_>>, LoadError> {
    fn part<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
        let (len, tail) = rest.split_first_chunk::<4>()?;
        let (part, tail) = tail.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *rest = tail;
        Some(part)
    }
    let mut rest = chunk;
    let mut rows = Vec::new();
    while !rest.is_empty() {
        let row = part(&mut rest).zip(part(&mut rest));
        rows.push(row.ok_or(LoadError::Malformed("a row is cut short"))?);
    }
    Ok(rows)
}
