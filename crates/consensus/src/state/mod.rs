//! The state machine's host: applies committed commands in memory, commits them to a redb file, many at a time,
//! makes the file durable now and then, and serves reads and snapshots.
//!
//! **Invariants.** An answer is sent only after reads show the batch it belongs to, so whoever got it reads its
//! effect. The log is purged only below what is durable here: what is only in memory, or committed without a sync,
//! is applied again after a crash. A store that failed ends the replica: half-applied state must never be read.

mod apply;
mod db;
mod kv;
mod shown;
mod snapshot;

pub(crate) use db::View;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) use snapshot::parse_rows;
pub(crate) use snapshot::{SnapshotData, Staging, Summary};

use crate::fatal::Fatal;
use crate::log::PurgeLimit;
use crate::types::LogId;
use crate::{ConsensusConfig, ConsensusError};
use db::StateDb;
use everhold_env::Env;
use everhold_proto::LogIndex;
use everhold_proto::kv::{KvError, KvRead, KvResult, KvTxn};
use parking_lot::{Mutex, RwLock};
use shown::Shown;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::{Notify, watch};

/// What the replicated commands do. Must be a pure function of the transaction and its arguments:
/// every replica applies the same commands in the same order and must get the same state and answer.
pub trait StateMachine: Send + Sync + 'static {
    /// Applies one committed command and answers it. A refusal is an answer; an error means that the store
    /// failed, and ends the process.
    fn apply(&self, txn: &mut dyn KvTxn, index: LogIndex, command: &[u8]) -> KvResult<Vec<u8>>;
}

/// The host; clones share it.
#[derive(Clone)]
pub(crate) struct Host(Arc<Inner>);

struct Inner {
    env: Env,
    dir: PathBuf,
    cache_bytes: usize,
    flush_entries: u64,
    machine: Arc<dyn StateMachine>,
    fatal: Fatal,
    purge_limit: PurgeLimit,
    /// What reads see. Ends before the file that it looks into.
    shown: RwLock<Shown>,
    current: RwLock<Arc<StateDb>>,
    /// Held by whoever changes `shown` or writes to redb; waiting for it here does not block a thread.
    writer: Arc<tokio::sync::Mutex<()>>,
    /// The next index to apply: entries below it are visible to reads.
    applied_next: watch::Sender<u64>,
    /// Entries below it are on stable storage.
    durable_next: watch::Sender<u64>,
    unflushed: Mutex<u64>,
    flush_wanted: Notify,
    /// The number that the next staged file gets.
    next_number: Mutex<u64>,
}

fn next(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index + 1)
}

impl Host {
    /// Opens the state in `dir`, as of its last durable commit.
    pub(crate) async fn open(
        env: &Env,
        dir: &Path,
        config: &ConsensusConfig,
        machine: Arc<dyn StateMachine>,
        purge_limit: PurgeLimit,
        fatal: Fatal,
    ) -> Result<Host, ConsensusError> {
        let failed = || ConsensusError::io(format!("open state in {}", dir.display()));
        env.disk.create_dir_all(dir).await.map_err(failed())?;
        let number = match db::read_current(env, dir).await? {
            Some(number) => number,
            None => {
                db::write_current(env, dir, 1).await.map_err(failed())?;
                1
            }
        };
        db::remove_others(env, dir, number, true).await.map_err(failed())?;
        let db = open_db(env, dir, number, config.store_cache_bytes).await?;
        env.disk.sync_dir(dir).await.map_err(failed())?;
        let shown = Shown::of(db.view().map_err(|e| ConsensusError::Store(e.to_string()))?);
        let applied = shown.applied;
        purge_limit.raise(next(applied));
        Ok(Host(Arc::new(Inner {
            env: env.clone(),
            dir: dir.to_owned(),
            cache_bytes: config.store_cache_bytes,
            flush_entries: config.flush_entries,
            machine,
            fatal,
            purge_limit,
            shown: RwLock::new(shown),
            current: RwLock::new(Arc::new(db)),
            writer: Arc::default(),
            applied_next: watch::Sender::new(next(applied)),
            durable_next: watch::Sender::new(next(applied)),
            unflushed: Mutex::new(0),
            flush_wanted: Notify::new(),
            next_number: Mutex::new(number + 1),
        })))
    }

    fn current(&self) -> Arc<StateDb> {
        self.0.current.read().clone()
    }

    fn shown(&self) -> Shown {
        self.0.shown.read().clone()
    }

    /// The last entry that reads show.
    pub(crate) fn applied(&self) -> Option<LogId> {
        self.0.shown.read().applied
    }

    /// All that was applied, in the file.
    async fn view(&self) -> io::Result<Arc<View>> {
        let writer = self.0.writer.lock().await;
        self.check_sound()?;
        self.commit(&writer)?;
        Ok(self.shown().base())
    }

    /// Commits what is only in memory, without a sync. The caller holds `writer`.
    fn commit(&self, _writer: &tokio::sync::MutexGuard<'_, ()>) -> io::Result<()> {
        let shown = self.shown();
        let Some(recent) = shown.recent() else { return Ok(()) };
        let db = self.current();
        let committed = db
            .write(shown.applied, recent.membership.as_ref(), |kv| recent.writes.make(kv))
            .and_then(|()| db.view());
        self.show(Shown::of(committed.map_err(|e| self.fail(e))?));
        Ok(())
    }

    fn show(&self, shown: Shown) {
        let before = std::mem::replace(&mut *self.0.shown.write(), shown);
        drop(before); // what it held goes when readers are let in again
    }

    /// Reads at one point; `read` gets the index applied at that very point.
    pub(crate) fn read<R>(
        &self,
        read: impl FnOnce(&dyn KvRead, LogIndex) -> KvResult<R>,
    ) -> KvResult<R> {
        let shown = self.shown();
        read(&shown, LogIndex(shown.applied.map_or(0, |id| id.index)))
    }

    /// Follows the next index to apply.
    pub(crate) fn applied_next(&self) -> watch::Receiver<u64> {
        self.0.applied_next.subscribe()
    }

    /// Follows the lowest index that is not durable here.
    pub(crate) fn durable_next(&self) -> watch::Receiver<u64> {
        self.0.durable_next.subscribe()
    }

    /// Returns when a flush is due because much was applied.
    pub(crate) async fn flush_wanted(&self) {
        self.0.flush_wanted.notified().await;
    }

    /// Whether there is something to make durable.
    pub(crate) fn is_dirty(&self) -> bool {
        *self.0.applied_next.borrow() > *self.0.durable_next.borrow()
    }

    /// Makes all that was applied durable.
    pub(crate) async fn flush(&self) -> io::Result<()> {
        let inner = self.0.clone();
        let writer = inner.writer.clone().lock_owned().await;
        self.check_sound()?;
        *inner.unflushed.lock() = 0;
        let host = self.clone();
        let flushed = self.0.env.tasks.blocking(move || {
            let (db, shown) = (host.current(), host.shown());
            let flushed = db.flush(shown.applied, shown.recent().as_deref());
            let flushed = flushed.and_then(|()| db.view()).map_err(|e| host.fail(e));
            // A failure is announced before anybody else may write.
            let result = flushed.map(|view| host.show(Shown::of(view)));
            drop(writer);
            result.map(|()| shown.applied)
        });
        let applied = flushed.await?;
        inner.purge_limit.raise(next(applied));
        inner.durable_next.send_if_modified(|durable| {
            let moved = next(applied) > *durable;
            *durable = next(applied).max(*durable);
            moved
        });
        Ok(())
    }

    /// Opens a fresh state file for a snapshot that is about to arrive.
    pub(crate) async fn stage(&self) -> Result<Box<Staging>, ConsensusError> {
        let number = {
            let mut number = self.0.next_number.lock();
            *number += 1;
            *number - 1
        };
        let db = open_db(&self.0.env, &self.0.dir, number, self.0.cache_bytes).await?;
        Ok(Box::new(Staging::new(db)))
    }

    /// Removes the file of a staging that was given up.
    pub(crate) async fn abandon(&self, staging: Box<Staging>) {
        let path = staging.path(&self.0.dir);
        drop(staging);
        if let Err(error) = self.0.env.disk.remove(&path).await {
            tracing::warn!(path = %path.display(), %error, "abandoned snapshot stays until the next start");
        }
    }

    /// An error once the replica has failed: its state must not get any further.
    fn check_sound(&self) -> io::Result<()> {
        match self.0.fatal.reason() {
            Some(reason) => Err(io::Error::other(reason)),
            None => Ok(()),
        }
    }

    /// Announces that the store failed.
    fn fail(&self, error: KvError) -> io::Error {
        self.0.fatal.trip(format!("state machine: {error}"));
        io::Error::other(error)
    }
}

async fn open_db(
    env: &Env,
    dir: &Path,
    number: u64,
    cache_bytes: usize,
) -> Result<StateDb, ConsensusError> {
    let (env, dir) = (env.clone(), dir.to_owned());
    let tasks = env.tasks;
    tasks.blocking(move || StateDb::open(&env, &dir, number, cache_bytes)).await
}
