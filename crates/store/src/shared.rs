//! What the calls, the writer and the background work of a store have in common.

use crate::catalog::{Catalog, Known};
use crate::files::SegmentFiles;
use crate::format::{StoreId, Superblock};
use crate::index::{Entry, IndexError, IndexFile};
use crate::{StoreConfig, StoreError};
use everhold_env::Env;
use everhold_proto::BlockId;
use parking_lot::Mutex;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use tokio::sync::{Mutex as AsyncMutex, Notify};

/// See the module.
pub(crate) struct Shared {
    pub(crate) env: Env,
    pub(crate) config: StoreConfig,
    pub(crate) dir: PathBuf,
    pub(crate) store: StoreId,
    pub(crate) superblock: AsyncMutex<Superblock>,
    pub(crate) files: SegmentFiles,
    pub(crate) catalog: Mutex<Catalog>,
    pub(crate) index: Arc<IndexFile>,
    /// Why the store stopped, once it did.
    failed: Mutex<Option<Arc<str>>>,
    pub(crate) growing: AsyncMutex<()>,
    pub(crate) flushing: AsyncMutex<()>,
    pub(crate) compacting: AsyncMutex<()>,
    /// Wakes the maintenance task.
    pub(crate) maintenance: Notify,
    pub(crate) reserve_is_whole: AtomicBool,
    /// Checksum errors found since the store was opened.
    pub(crate) checksum_errors: AtomicU64,
}

impl Shared {
    pub(crate) fn new(
        env: Env,
        config: StoreConfig,
        dir: PathBuf,
        superblock: Superblock,
        index: IndexFile,
        catalog: Catalog,
    ) -> Self {
        let (store, bytes) = (superblock.store, superblock.segment_bytes);
        Shared {
            files: SegmentFiles::new(env.disk.clone(), &dir, store, bytes),
            env,
            config,
            dir,
            store,
            superblock: AsyncMutex::new(superblock),
            catalog: Mutex::new(catalog),
            index: Arc::new(index),
            failed: Mutex::new(None),
            growing: AsyncMutex::new(()),
            flushing: AsyncMutex::new(()),
            compacting: AsyncMutex::new(()),
            maintenance: Notify::new(),
            reserve_is_whole: AtomicBool::new(false),
            checksum_errors: AtomicU64::new(0),
        }
    }

    /// Ends the store: nothing is known about what is on the disk any more. Returns the error that
    /// every call gets from now on.
    pub(crate) fn fail(&self, what: &str, error: &dyn std::fmt::Display) -> StoreError {
        let mut failed = self.failed.lock();
        let reason = failed.get_or_insert_with(|| {
            tracing::error!(dir = %self.dir.display(), what, error = %error, "disk failed");
            Arc::from(format!("cannot {what}: {error}"))
        });
        StoreError::Failed(reason.clone())
    }

    /// An error if the store has failed.
    pub(crate) fn check(&self) -> Result<(), StoreError> {
        match &*self.failed.lock() {
            Some(reason) => Err(StoreError::Failed(reason.clone())),
            None => Ok(()),
        }
    }

    /// Why the store stopped, if it did.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failed.lock().as_deref().map(str::to_owned)
    }

    /// Ends the store because of its index. A damaged one is made anew when the store next opens.
    pub(crate) async fn fail_index(&self, error: IndexError) -> StoreError {
        if matches!(error, IndexError::Closed) {
            return StoreError::Closed;
        }
        if matches!(error, IndexError::Damaged(_)) {
            let marker = self.dir.join(crate::recover::REBUILD_MARKER);
            if let Err(e) = self.env.disk.write_atomic(&marker, b"damaged").await {
                tracing::error!(error = %e, "cannot mark the index as damaged");
            }
        }
        self.fail("use the index", &error)
    }

    /// Makes what was replayed durable: a process that was killed leaves records that it never synced, and
    /// they were read back from the page cache. Older segments were synced before the newest was begun.
    pub(crate) async fn sync_recovered(&self) -> Result<(), StoreError> {
        let newest = {
            let catalog = self.catalog.lock();
            let used = catalog.segments.iter().max_by_key(|(_, segment)| segment.life);
            used.map(|(slot, _)| slot)
        };
        let Some(slot) = newest else { return Ok(()) };
        let file = self.files.get(slot).await.map_err(StoreError::io("open a segment"))?;
        file.sync_data().await.map_err(StoreError::io("sync a segment"))
    }

    /// Where a block is.
    pub(crate) async fn lookup(&self, id: BlockId) -> Result<Option<Entry>, StoreError> {
        self.check()?;
        match self.lookup_now(id) {
            Ok(found) => Ok(found),
            Err(e) => Err(self.fail_index(e).await),
        }
    }

    /// The same without a wait; reading the index file takes some microseconds when it is cached.
    pub(crate) fn lookup_now(&self, id: BlockId) -> Result<Option<Entry>, IndexError> {
        match self.catalog.lock().lookup(id) {
            Known::Here(entry) => return Ok(Some(entry)),
            Known::Gone => return Ok(None),
            Known::AskTheFile => {}
        }
        self.index.snapshot()?.get(id)
    }

    /// Writes to the index file what it lacks.
    pub(crate) async fn flush_index(&self) -> Result<(), StoreError> {
        let _one_at_a_time = self.flushing.lock().await;
        self.check()?;
        let pending = self.catalog.lock().pending();
        self.make_room_for_index(pending).await?;
        let Some(flush) = self.catalog.lock().freeze() else { return Ok(()) };
        let index = self.index.clone();
        let (flush, written) = self
            .env
            .tasks
            .blocking(move || {
                let written = index.flush(&flush);
                (flush, written)
            })
            .await;
        if let Err(e) = written {
            return Err(self.fail_index(e).await);
        }
        self.catalog.lock().flushed(&flush);
        Ok(())
    }

    /// Waits for the device, but not for ever.
    pub(crate) async fn within_deadline<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        match self.env.clock.within(self.config.io_deadline, call).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Timeout),
        }
    }
}
