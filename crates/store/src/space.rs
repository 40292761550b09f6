//! How full the disk is, and getting room: new segments, spare ones, the reserve.

use crate::StoreError;
use crate::config::RESERVE_SEGMENTS;
use crate::format::{HEADER_BYTES, SLOTS_MAX, SegmentHeader, SegmentUse};
use crate::segments::{Class, Segments};
use crate::shared::Shared;
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::map::Fullness;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// How full a disk is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What blocks may take, the reserve not counted.
    pub capacity: u64,
    /// Records that are live.
    pub live: u64,
    /// Records that are dead and not given back yet.
    pub dead: u64,
    /// What can be written now.
    pub free: u64,
    /// How many blocks are live.
    pub blocks: u64,
    /// What may still be done.
    pub level: Fullness,
}

/// The thresholds, in percent of live bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Levels {
    pub(crate) nearfull_percent: u64,
    pub(crate) full_percent: u64,
}

impl Space {
    pub(crate) fn of(segments: &Segments, head_room: u64, levels: Levels) -> Self {
        let ordinary = segments.available().saturating_sub(RESERVE_SEGMENTS);
        let capacity = segments.count_max.saturating_sub(RESERVE_SEGMENTS) * segments.segment_bytes;
        let (live, dead) = (segments.live_bytes(), segments.dead_bytes());
        let free = ordinary * segments.segment_bytes + head_room;
        let percent = |part: u64| capacity / 100 * part;
        // The largest block must still fit, or writes would fail one by one before it says so.
        let largest = (BLOCK_BYTES_MAX + 2 * HEADER_BYTES) as u64;
        let is_short = ordinary == 0 && head_room < largest.min(segments.segment_bytes / 4);
        // While compaction lives on the reserve, new blocks in its head would use that up.
        let in_reserve = segments.available() < RESERVE_SEGMENTS;
        let level = if is_short || in_reserve || live >= percent(levels.full_percent) {
            Fullness::Full
        } else if ordinary == 0 || live >= percent(levels.nearfull_percent) {
            Fullness::Nearfull
        } else {
            Fullness::Normal
        };
        Space { capacity, live, dead, free, blocks: segments.blocks(), level }
    }
}

impl Shared {
    /// How full the disk is now.
    pub(crate) fn space(&self) -> Space {
        let catalog = self.catalog.lock();
        let segment_bytes = catalog.segments.segment_bytes;
        let head_room = catalog.head.map_or(0, |head| segment_bytes.saturating_sub(head.end));
        let levels = Levels {
            nearfull_percent: self.config.nearfull_percent,
            full_percent: self.config.full_percent,
        };
        Space::of(&catalog.segments, head_room, levels)
    }

    /// Makes a free segment the head, creating it if need be.
    pub(crate) async fn new_head(&self, class: Class) -> Result<(), StoreError> {
        let slot = self.take_segment(class).await?;
        let life = self.catalog.lock().life + 1;
        let header = SegmentHeader { slot, use_: SegmentUse::InUse, life };
        self.files.set_header(header).await.map_err(|e| self.fail("begin a segment", &e))?;
        self.catalog.lock().begin_segment(slot, life, HEADER_BYTES as u64);
        self.maintenance.notify_one();
        Ok(())
    }

    async fn take_segment(&self, class: Class) -> Result<u32, StoreError> {
        loop {
            if let Some(slot) = self.catalog.lock().segments.take_free(class) {
                return Ok(slot);
            }
            self.grow(class).await?;
        }
    }

    /// Makes one more free segment; there may be none.
    async fn grow(&self, class: Class) -> Result<(), StoreError> {
        let _one_at_a_time = self.growing.lock().await;
        let slot = {
            let catalog = self.catalog.lock();
            if catalog.segments.free() > RESERVE_SEGMENTS {
                return Ok(()); // somebody else made one
            }
            catalog.segments.may_grow(class).ok_or(StoreError::Full)?
        };
        match self.files.create(slot).await {
            Ok(()) => {
                self.catalog.lock().segments.set_free(slot, 0);
                Ok(())
            }
            Err(e) => {
                let error = StoreError::io("create a segment")(e);
                if matches!(error, StoreError::Full) {
                    self.stop_growing();
                }
                Err(error)
            }
        }
    }

    /// The file system is full: what there is must do, until space is found again.
    fn stop_growing(&self) {
        let mut catalog = self.catalog.lock();
        catalog.segments.count_max = catalog.segments.files();
    }

    /// Looks how much there may be, and keeps the reserve and one spare segment ready. Called when
    /// the store opens and by the maintenance task.
    pub(crate) async fn prepare_space(&self) -> Result<(), StoreError> {
        self.measure().await?;
        loop {
            let (free, growable) = {
                let catalog = self.catalog.lock();
                (catalog.segments.free(), catalog.segments.may_grow(Class::Reserved).is_some())
            };
            if free > RESERVE_SEGMENTS || !growable {
                break;
            }
            match self.grow(Class::Reserved).await {
                Ok(()) => {}
                Err(StoreError::Full) => break,
                Err(e) => return Err(e),
            }
        }
        self.restore_reserve().await
    }

    /// How many segments there may be.
    pub(crate) async fn measure(&self) -> Result<(), StoreError> {
        let (_, available) =
            self.env.disk.space(&self.dir).await.map_err(StoreError::io("measure the disk"))?;
        let mut catalog = self.catalog.lock();
        let segments = &mut catalog.segments;
        let more = available.saturating_sub(self.config.reserve_bytes) / segments.segment_bytes;
        let by_disk = segments.files() + more;
        let by_config =
            self.config.capacity_bytes.map_or(u64::MAX, |bytes| bytes / segments.segment_bytes);
        segments.count_max = by_disk.min(by_config).min(u64::from(SLOTS_MAX));
        Ok(())
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join("reserve")
    }

    /// Fills the reserve file while there is plenty of space.
    async fn restore_reserve(&self) -> Result<(), StoreError> {
        let wanted = self.config.reserve_bytes;
        if self.reserve_is_whole.load(Ordering::Relaxed) || wanted == 0 {
            return Ok(());
        }
        let space = self.env.disk.space(&self.dir).await;
        if space.map_err(StoreError::io("measure the disk"))?.1 < 2 * wanted {
            return Ok(());
        }
        match self.set_reserve(wanted).await {
            Ok(()) => self.reserve_is_whole.store(true, Ordering::Relaxed),
            Err(StoreError::Full) => {}
            Err(e) => return Err(e),
        }
        Ok(())
    }

    async fn set_reserve(&self, bytes: u64) -> Result<(), StoreError> {
        let mode = everhold_env::OpenMode { create: true, direct: true };
        let resize = async {
            let file = self.env.disk.open(&self.reserve_path(), mode).await?;
            match file.len().await? == bytes {
                true => Ok(()),
                false => file.allocate(bytes).await,
            }
        };
        resize.await.map_err(StoreError::io("resize the reserve"))
    }

    /// Sees to it that the index file can grow by what a flush of `changes` may take, if need be
    /// out of the reserve. Twelve hundred bytes is what a change takes when every page splits.
    pub(crate) async fn make_room_for_index(&self, changes: usize) -> Result<(), StoreError> {
        let needed = changes as u64 * 1200 + (1 << 20);
        let available = async || {
            let space = self.env.disk.space(&self.dir).await;
            space.map(|(_, free)| free).map_err(StoreError::io("measure the disk"))
        };
        if available().await? >= needed {
            return Ok(());
        }
        self.reserve_is_whole.store(false, Ordering::Relaxed);
        self.set_reserve(0).await?;
        match available().await? >= needed {
            true => Ok(()),
            false => Err(StoreError::Full),
        }
    }
}
