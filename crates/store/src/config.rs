//! What an operator or a test may choose about a store.

use everhold_proto::limits::PAGE_BYTES;
use everhold_proto::{ClusterId, DiskId};
use std::time::Duration;

/// Segments that only compaction and deletion may take, so that they always can: one to copy into
/// and one for the tombstones written meanwhile.
pub(crate) const RESERVE_SEGMENTS: u64 = 2;

/// Parameters of a store. `segment_bytes` counts only when the disk is formatted.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// The cluster that the disk must belong to.
    pub cluster: ClusterId,
    /// The disk's id, once the cluster has given it one. A disk that has another one is refused.
    pub disk: Option<DiskId>,
    /// Bytes of a segment file. Large: fewer files and syncs of names; small: less space in reserve.
    pub segment_bytes: u64,
    /// Most bytes of segments; `None`: whatever the file system has.
    pub capacity_bytes: Option<u64>,
    /// Unit of checksums of new blocks; a power of two from 8 KiB, so that the checksums of the
    /// largest block fit into a record's header page.
    pub page_bytes: u32,
    /// Memory of the index's page cache.
    pub index_cache_bytes: usize,
    /// Index changes kept in memory before they are written; four times as many stop the writer.
    pub memtable_entries_max: usize,
    /// How long index changes stay only in memory (a crash replays them from the segments).
    pub flush_interval: Duration,
    /// Most bytes that one sync makes durable: bounds the latency that a batch adds.
    pub batch_bytes_max: u64,
    /// Most bytes of blocks that wait for the writer, in memory.
    pub queue_bytes_max: u64,
    /// How long a call waits for a place in the queue before it is told `Busy`.
    pub queue_wait: Duration,
    /// How long any call waits for the device before it gives up.
    pub io_deadline: Duration,
    /// Space kept in a file of its own, given to the index when the file system is full.
    pub reserve_bytes: u64,
    /// Share of live bytes, in percent, from which no new placement should come here.
    pub nearfull_percent: u64,
    /// Share of live bytes, in percent, from which writes are refused.
    pub full_percent: u64,
}

impl StoreConfig {
    /// Defaults for `cluster`.
    pub fn new(cluster: ClusterId) -> Self {
        StoreConfig {
            cluster,
            disk: None,
            segment_bytes: 256 << 20,
            capacity_bytes: None,
            page_bytes: PAGE_BYTES as u32,
            index_cache_bytes: 16 << 20,
            memtable_entries_max: 64 << 10,
            flush_interval: Duration::from_secs(5),
            batch_bytes_max: 32 << 20,
            queue_bytes_max: 64 << 20,
            queue_wait: Duration::from_secs(5),
            io_deadline: Duration::from_secs(30),
            reserve_bytes: 64 << 20,
            nearfull_percent: 85,
            full_percent: 95,
        }
    }

    /// The same with segments and reserve in proportion to a small disk: 1/256 of it, 16 to 256 MiB.
    pub fn sized_for(mut self, capacity_bytes: u64) -> Self {
        let share = (capacity_bytes / 256).clamp(16 << 20, 256 << 20);
        self.segment_bytes = share.next_multiple_of(1 << 20);
        self.reserve_bytes = self.segment_bytes.min(64 << 20);
        self
    }
}
