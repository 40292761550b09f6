//! The redb file of the state machine. Commands are committed without a sync, many at a time; a durable commit makes all
//! before it durable. What was applied is recorded in the same transaction as its effects, so a
//! state and its log position never part.
//!
//! The file's name is in the file `CURRENT`: a snapshot is loaded beside the file in use, made
//! durable, and becomes the state by the atomic replacement of that one small file.

use super::kv::{Bytes, ReadKv, WriteKv, engine};
use super::shown::Recent;
use crate::ConsensusError;
use crate::types::{LogId, StoredMembership};
use everhold_env::Env;
use everhold_proto::codec;
use everhold_proto::kv::{KvError, KvResult};
use redb::{
    Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};
use std::io;
use std::path::{Path, PathBuf};

const STATE: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("state");
const META: TableDefinition<'static, Bytes, Bytes> = TableDefinition::new("meta");
const APPLIED: &[u8] = b"applied";
const MEMBERSHIP: &[u8] = b"membership";
const FLUSHED: &[u8] = b"flushed";
const CURRENT: &str = "CURRENT";

/// One redb file.
pub(crate) struct StateDb {
    db: Database,
    pub number: u64,
}

/// The state at one point, with the log position it belongs to.
pub(crate) struct View {
    pub(super) kv: ReadKv,
    pub applied: Option<LogId>,
    meta: ReadOnlyTable<Bytes, Bytes>,
}

pub(super) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("state-{number:08}.redb"))
}

/// The number in `CURRENT`; `None` when there is none yet.
pub(super) async fn read_current(env: &Env, dir: &Path) -> Result<Option<u64>, ConsensusError> {
    let file = dir.join(CURRENT);
    match env.disk.read_small(&file, 64).await {
        Ok(bytes) => match std::str::from_utf8(&bytes).ok().and_then(|s| s.trim().parse().ok()) {
            Some(number) => Ok(Some(number)),
            None => {
                Err(ConsensusError::Corrupt { path: file, reason: "it holds no number".into() })
            }
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(ConsensusError::Io { what: format!("read {}", file.display()), source }),
    }
}

/// Makes `number` the state, atomically and durably.
pub(super) async fn write_current(env: &Env, dir: &Path, number: u64) -> io::Result<()> {
    env.disk.write_atomic(&dir.join(CURRENT), format!("{number}\n").as_bytes()).await
}

/// Removes state files older than `keep`; with `newer` also later ones, which are abandoned snapshots.
pub(super) async fn remove_others(env: &Env, dir: &Path, keep: u64, newer: bool) -> io::Result<()> {
    let keep = path(dir, keep);
    for file in env.disk.list(dir).await? {
        // Numbers have a fixed width, so names sort as numbers do.
        if file.extension().is_some_and(|e| e == "redb") && (file < keep || (newer && file != keep))
        {
            env.disk.remove(&file).await?;
        }
    }
    env.disk.sync_dir(dir).await
}

impl StateDb {
    /// Opens or creates state file `number` in `dir`. Blocks.
    pub(super) fn open(
        env: &Env,
        dir: &Path,
        number: u64,
        cache_bytes: usize,
    ) -> Result<StateDb, ConsensusError> {
        let path = path(dir, number);
        let backend = env
            .disk
            .redb_backend(&path)
            .map_err(ConsensusError::io(format!("open {}", path.display())))?;
        let store =
            |e: &dyn std::fmt::Display| ConsensusError::Store(format!("{}: {e}", path.display()));
        let db = redb::Builder::new()
            .set_cache_size(cache_bytes)
            .create_with_backend(backend)
            .map_err(|e| store(&e))?;
        let db = StateDb { db, number };
        db.create_tables().map_err(|e| store(&e))?;
        Ok(db)
    }

    fn create_tables(&self) -> KvResult<()> {
        let txn = self.begin(Durability::Immediate)?;
        txn.open_table(STATE).map_err(engine)?;
        txn.open_table(META).map_err(engine)?;
        txn.commit().map_err(engine)
    }

    fn begin(&self, durability: Durability) -> KvResult<WriteTransaction> {
        let mut txn = self.db.begin_write().map_err(engine)?;
        // Quick repair stores the allocator's state, so that opening after a crash need not walk the tree.
        txn.set_quick_repair(matches!(durability, Durability::Immediate));
        txn.set_durability(durability).map_err(engine)?;
        Ok(txn)
    }

    /// Runs `change` on the state and commits it together with its log position, without a sync.
    pub(super) fn write(
        &self,
        applied: Option<LogId>,
        membership: Option<&StoredMembership>,
        change: impl FnOnce(&mut WriteKv<'_>) -> KvResult<()>,
    ) -> KvResult<()> {
        let txn = self.begin(Durability::None)?;
        fill(&txn, applied, membership, change)?;
        txn.commit().map_err(engine)
    }

    /// Makes all that was committed durable, and `recent` with it. Blocks for the sync.
    pub(super) fn flush(&self, applied: Option<LogId>, recent: Option<&Recent>) -> KvResult<()> {
        let txn = self.begin(Durability::Immediate)?;
        let membership = recent.and_then(|recent| recent.membership.as_ref());
        fill(&txn, applied, membership, |kv| {
            recent.map_or(Ok(()), |recent| recent.writes.make(kv))
        })?;
        {
            let mut meta = txn.open_table(META).map_err(engine)?;
            meta.insert(FLUSHED, codec::encode_row(&applied).as_slice()).map_err(engine)?;
        }
        txn.commit().map_err(engine)
    }

    /// The state as of the last commit.
    pub(crate) fn view(&self) -> KvResult<View> {
        let txn = self.db.begin_read().map_err(engine)?;
        let meta = txn.open_table(META).map_err(engine)?;
        let applied = row(&meta, APPLIED)?;
        let kv = ReadKv(txn.open_table(STATE).map_err(engine)?);
        Ok(View { kv, applied, meta })
    }
}

/// Changes the state and its log position in one transaction.
fn fill(
    txn: &WriteTransaction,
    applied: Option<LogId>,
    membership: Option<&StoredMembership>,
    change: impl FnOnce(&mut WriteKv<'_>) -> KvResult<()>,
) -> KvResult<()> {
    change(&mut WriteKv(txn.open_table(STATE).map_err(engine)?))?;
    let mut meta = txn.open_table(META).map_err(engine)?;
    if let Some(applied) = applied {
        meta.insert(APPLIED, codec::encode_row(&applied).as_slice()).map_err(engine)?;
    }
    if let Some(membership) = membership {
        meta.insert(MEMBERSHIP, codec::encode_row(membership).as_slice()).map_err(engine)?;
    }
    Ok(())
}

impl View {
    /// The membership at that point.
    pub(crate) fn membership(&self) -> KvResult<StoredMembership> {
        Ok(row(&self.meta, MEMBERSHIP)?.unwrap_or_default())
    }
}

fn row<T: serde::de::DeserializeOwned>(
    table: &impl ReadableTable<Bytes, Bytes>,
    key: &[u8],
) -> KvResult<Option<T>> {
    let Some(value) = table.get(key).map_err(engine)? else { return Ok(None) };
    codec::decode_row(value.value())
        .map(Some)
        .map_err(|source| KvError::Row { key: String::from_utf8_lossy(key).into_owned(), source })
}
