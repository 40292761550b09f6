//! The segment files: opening a bounded number of them, making new ones, changing their headers.

use crate::format::{HEADER_BYTES, SLOTS_MAX, SegmentHeader, SegmentUse, StoreId};
use everhold_env::{Disk, File, OpenMode};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files kept open. Well below the usual limit of 1024 descriptors of a process.
const OPEN_FILES_MAX: usize = 256;

/// The files under `segments/`.
pub(crate) struct SegmentFiles {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    store: StoreId,
    segment_bytes: u64,
    open: Mutex<OpenFiles>,
}

#[derive(Default)]
struct OpenFiles {
    files: BTreeMap<u32, (Arc<dyn File>, u64)>,
    uses: u64,
}

impl SegmentFiles {
    pub(crate) fn new(disk: Arc<dyn Disk>, dir: &Path, store: StoreId, segment_bytes: u64) -> Self {
        let dir = dir.join("segments");
        SegmentFiles { disk, dir, store, segment_bytes, open: Mutex::default() }
    }

    /// The numbers of the files that exist. Other names are left alone, and so are numbers that no
    /// store gives to a file.
    pub(crate) async fn slots(&self) -> io::Result<Vec<u32>> {
        let slot = |path: &PathBuf| {
            let name = path.file_name()?.to_str()?;
            let slot = name.strip_suffix(".seg")?.parse().ok()?;
            (name == Self::name(slot) && slot < SLOTS_MAX).then_some(slot)
        };
        Ok(self.disk.list(&self.dir).await?.iter().filter_map(slot).collect())
    }

    fn name(slot: u32) -> String {
        format!("{slot:08}.seg")
    }

    /// The file of a segment.
    pub(crate) async fn get(&self, slot: u32) -> io::Result<Arc<dyn File>> {
        if let Some(file) = self.cached(slot) {
            return Ok(file);
        }
        let file = self.open_file(slot, false).await?;
        self.remember(slot, file.clone());
        Ok(file)
    }

    fn cached(&self, slot: u32) -> Option<Arc<dyn File>> {
        let mut open = self.open.lock();
        open.uses += 1;
        let uses = open.uses;
        let (file, used) = open.files.get_mut(&slot)?;
        *used = uses;
        Some(file.clone())
    }

    fn remember(&self, slot: u32, file: Arc<dyn File>) {
        let mut open = self.open.lock();
        let uses = open.uses;
        open.files.insert(slot, (file, uses));
        if open.files.len() > OPEN_FILES_MAX
            && let Some(oldest) = open.files.iter().min_by_key(|(_, (_, used))| *used)
        {
            let oldest = *oldest.0;
            open.files.remove(&oldest);
        }
    }

    async fn open_file(&self, slot: u32, create: bool) -> io::Result<Arc<dyn File>> {
        self.disk.open(&self.dir.join(Self::name(slot)), OpenMode { create, direct: true }).await
    }

    /// Makes a file that is free to be used: reading as zeroes, with a header, its name durable.
    pub(crate) async fn create(&self, slot: u32) -> io::Result<()> {
        let file = self.open_file(slot, true).await?;
        let made = async {
            // Not zero-filled: that would double the bytes that a new disk writes under load, and cost
            // a third of its rate, to make small writes cheaper that are rare before it is recycled.
            file.allocate(self.segment_bytes).await?;
            let header = SegmentHeader { slot, use_: SegmentUse::Free, life: 0 };
            file.write_at(0, header.encode(&self.store)).await?;
            file.sync_data().await?;
            self.disk.sync_dir(&self.dir).await
        };
        if let Err(e) = made.await {
            // The space it took so far is given back; a file without a header is made anew anyway.
            if let Err(e) = self.disk.remove(&self.dir.join(Self::name(slot))).await {
                tracing::warn!(slot, error = %e, "cannot remove an unfinished segment");
            }
            return Err(e);
        }
        self.remember(slot, file);
        Ok(())
    }

    /// Replaces a header, durably.
    pub(crate) async fn set_header(&self, header: SegmentHeader) -> io::Result<()> {
        let file = self.get(header.slot).await?;
        file.write_at(0, header.encode(&self.store)).await?;
        file.sync_data().await
    }

    /// The header of a segment; the inner error says that there is none to rely on.
    pub(crate) async fn header(
        &self,
        slot: u32,
    ) -> io::Result<Result<SegmentHeader, &'static str>> {
        let file = self.get(slot).await?;
        if file.len().await? < self.segment_bytes {
            return Ok(Err("segment file is shorter than a segment"));
        }
        let page = file.read_at(0, HEADER_BYTES).await?;
        Ok(SegmentHeader::decode(&page, &self.store, slot))
    }
}
