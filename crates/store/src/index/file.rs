//! The redb file under the index.

use super::entry::{decode_segment, encode_segment};
use super::{Change, Entry, Mark, Memtable};
use crate::format::{FORMAT_VERSION, StoreId};
use crate::segments::Segment;
use everhold_env::disk::RedbBackend;
use everhold_proto::{BlockId, PgId};
use parking_lot::RwLock;
use redb::{
    Database, DatabaseError, Durability, ReadOnlyTable, ReadTransaction, ReadableDatabase,
    ReadableTable, StorageError, TableDefinition,
};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

/// Block id to entry.
const BLOCKS: TableDefinition<&[u8; 16], &[u8; 28]> = TableDefinition::new("blocks");
/// PG and block id, big-endian, to length and checksum: the order of listings.
const ORDER: TableDefinition<&[u8; 20], &[u8; 8]> = TableDefinition::new("order");
/// Segment number to its counts.
const SEGMENTS: TableDefinition<u32, &[u8; 32]> = TableDefinition::new("segments");
/// The mark, and whose index this is.
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// The index cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum IndexError {
    /// Someone else has it open.
    #[error("the index is in use")]
    InUse,
    /// It is damaged, or not the index of this store: it must be made anew from the segments.
    #[error("the index is damaged: {0}")]
    Damaged(Arc<str>),
    /// The store was closed.
    #[error("the index is closed")]
    Closed,
    /// The device failed under it.
    #[error("the index failed: {0}")]
    Failed(Arc<str>),
}

impl IndexError {
    fn of(error: impl Into<redb::Error>) -> Self {
        let error = error.into();
        let text = Arc::from(error.to_string());
        match error {
            redb::Error::DatabaseAlreadyOpen => IndexError::InUse,
            redb::Error::Io(e) if e.kind() != std::io::ErrorKind::InvalidData => {
                IndexError::Failed(text)
            }
            redb::Error::PreviousIo | redb::Error::DatabaseClosed => IndexError::Failed(text),
            _ => IndexError::Damaged(text),
        }
    }
}

/// Runs a call into redb. It checks its pages only where it must, and panics on some that are damaged; bytes
/// from disk must not end a node, so that is a damaged index like any other.
fn guarded<T>(call: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    // What the call leaves half done is behind redb's own transaction, and after this the index is not
    // used again before it is made anew.
    std::panic::catch_unwind(AssertUnwindSafe(call))
        .unwrap_or_else(|_| Err(IndexError::Damaged("its pages contradict each other".into())))
}

/// What one transaction writes.
pub(crate) struct Flush {
    pub(crate) changes: Arc<Memtable>,
    pub(crate) segments: Vec<(u32, Segment)>,
    pub(crate) mark: Mark,
}

/// The file.
pub(crate) struct IndexFile {
    /// `None` once it is closed.
    database: RwLock<Option<Database>>,
}

impl IndexFile {
    /// Opens the file, or begins a new one. May block.
    pub(crate) fn open(
        backend: RedbBackend,
        cache_bytes: usize,
        store: &StoreId,
    ) -> Result<Self, IndexError> {
        guarded(|| {
            let mut builder = Database::builder();
            builder.set_cache_size(cache_bytes);
            let database = builder.create_with_backend(backend).map_err(|e| match e {
                DatabaseError::DatabaseAlreadyOpen => IndexError::InUse,
                DatabaseError::Storage(StorageError::Io(e))
                    if e.kind() == std::io::ErrorKind::UnexpectedEof =>
                {
                    IndexError::Damaged(Arc::from("the file is cut off"))
                }
                other => IndexError::of(other),
            })?;
            let file = IndexFile { database: RwLock::new(Some(database)) };
            file.check_owner(store)?;
            Ok(file)
        })
    }

    /// Writes the identity of the store into a new file, and compares it in an old one.
    fn check_owner(&self, store: &StoreId) -> Result<(), IndexError> {
        let halves = |id: &StoreId| {
            let n = u128::from_le_bytes(*id);
            [(n >> 64) as u64, n as u64]
        };
        let [high, low] = halves(store);
        let expected = [("format", u64::from(FORMAT_VERSION)), ("high", high), ("low", low)];
        let write = self.begin()?;
        {
            let mut meta = write.open_table(META).map_err(IndexError::of)?;
            write.open_table(BLOCKS).map_err(IndexError::of)?;
            write.open_table(ORDER).map_err(IndexError::of)?;
            write.open_table(SEGMENTS).map_err(IndexError::of)?;
            for (key, value) in expected {
                let found = meta.insert(key, value).map_err(IndexError::of)?.map(|v| v.value());
                if found.is_some_and(|found| found != value) {
                    return Err(IndexError::Damaged("it belongs to another store".into()));
                }
            }
        }
        write.commit().map_err(IndexError::of)
    }

    fn begin(&self) -> Result<redb::WriteTransaction, IndexError> {
        let mut write = {
            let database = self.database.read();
            let database = database.as_ref().ok_or(IndexError::Closed)?;
            database.begin_write().map_err(IndexError::of)?
        };
        write.set_durability(Durability::Immediate).map_err(IndexError::of)?;
        write.set_quick_repair(true);
        Ok(write)
    }

    /// A consistent view.
    pub(crate) fn snapshot(&self) -> Result<Snapshot, IndexError> {
        let database = self.database.read();
        let database = database.as_ref().ok_or(IndexError::Closed)?;
        guarded(|| Ok(Snapshot(database.begin_read().map_err(IndexError::of)?)))
    }

    /// Lets go of the file. May block.
    pub(crate) fn close(&self) {
        drop(self.database.write().take());
    }

    /// Makes the changes durable. May block for long.
    pub(crate) fn flush(&self, flush: &Flush) -> Result<(), IndexError> {
        guarded(|| self.write(flush))
    }

    fn write(&self, flush: &Flush) -> Result<(), IndexError> {
        let write = self.begin()?;
        {
            let mut blocks = write.open_table(BLOCKS).map_err(IndexError::of)?;
            for (id, change) in flush.changes.iter() {
                match change {
                    Change::Put(entry) => {
                        blocks.insert(&id.to_bytes(), &entry.encode()).map_err(IndexError::of)?
                    }
                    Change::Delete(_) => blocks.remove(&id.to_bytes()).map_err(IndexError::of)?,
                };
            }
            let mut order = write.open_table(ORDER).map_err(IndexError::of)?;
            for (pg, id, entry) in flush.changes.order() {
                let key = order_key(pg, id);
                match entry {
                    Some(entry) => order.insert(&key, &listed(&entry)).map_err(IndexError::of)?,
                    None => order.remove(&key).map_err(IndexError::of)?,
                };
            }
            let mut segments = write.open_table(SEGMENTS).map_err(IndexError::of)?;
            for (slot, segment) in &flush.segments {
                segments.insert(slot, &encode_segment(segment)).map_err(IndexError::of)?;
            }
            let mut meta = write.open_table(META).map_err(IndexError::of)?;
            let Mark { life, end, sequence, previous } = flush.mark;
            let mark =
                [("life", life), ("end", end), ("sequence", sequence), ("previous", previous)];
            for (key, value) in mark {
                meta.insert(key, value).map_err(IndexError::of)?;
            }
        }
        write.commit().map_err(IndexError::of)
    }
}

fn order_key(pg: PgId, id: BlockId) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&pg.0.to_be_bytes());
    key[4..].copy_from_slice(&id.to_bytes());
    key
}

fn split_order_key(key: &[u8; 20]) -> (PgId, BlockId) {
    let (mut pg, mut id) = ([0; 4], [0; 16]);
    pg.copy_from_slice(&key[..4]);
    id.copy_from_slice(&key[4..]);
    (PgId(u32::from_be_bytes(pg)), BlockId::from_bytes(id))
}

fn entry_of(row: &[u8; 28]) -> Result<Entry, IndexError> {
    Entry::decode(row).ok_or_else(|| IndexError::Damaged("a row is impossible".into()))
}

fn listed(entry: &Entry) -> [u8; 8] {
    (u64::from(entry.length) << 32 | u64::from(entry.crc)).to_be_bytes()
}

/// A consistent view of the file.
pub(crate) struct Snapshot(ReadTransaction);

/// Blocks of a PG in id order: (id, length, checksum).
pub(crate) type Listing = Vec<(BlockId, u32, u32)>;

impl Snapshot {
    fn blocks(&self) -> Result<ReadOnlyTable<&'static [u8; 16], &'static [u8; 28]>, IndexError> {
        self.0.open_table(BLOCKS).map_err(IndexError::of)
    }

    pub(crate) fn get(&self, id: BlockId) -> Result<Option<Entry>, IndexError> {
        guarded(|| {
            let row = self.blocks()?.get(&id.to_bytes()).map_err(IndexError::of)?;
            row.map(|row| entry_of(row.value())).transpose()
        })
    }

    /// Up to `limit` blocks of a PG after `after`, up to and with `last`.
    pub(crate) fn list(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
        limit: usize,
    ) -> Result<Listing, IndexError> {
        guarded(|| self.read_list(pg, after, last, limit))
    }

    fn read_list(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        last: BlockId,
        limit: usize,
    ) -> Result<Listing, IndexError> {
        let first = match after.map(BlockId::next) {
            None => BlockId::MIN,
            Some(Some(next)) if next <= last => next,
            Some(_) => return Ok(Vec::new()),
        };
        let order = self.0.open_table(ORDER).map_err(IndexError::of)?;
        let (first, last) = (order_key(pg, first), order_key(pg, last));
        let mut listing = Vec::new();
        for row in order.range::<&[u8; 20]>(&first..=&last).map_err(IndexError::of)?.take(limit) {
            let (key, value) = row.map_err(IndexError::of)?;
            let value = u64::from_be_bytes(*value.value());
            listing.push((split_order_key(key.value()).1, (value >> 32) as u32, value as u32));
        }
        Ok(listing)
    }

    /// The PGs that have blocks, found by jumping from one to the next.
    pub(crate) fn pgs(&self) -> Result<Vec<PgId>, IndexError> {
        guarded(|| self.read_pgs())
    }

    fn read_pgs(&self) -> Result<Vec<PgId>, IndexError> {
        let order = self.0.open_table(ORDER).map_err(IndexError::of)?;
        let (mut pgs, mut from) = (Vec::new(), Some(PgId(0)));
        while let Some(pg) = from {
            let start = order_key(pg, BlockId::MIN);
            let mut range = order.range::<&[u8; 20]>(&start..).map_err(IndexError::of)?;
            let Some(row) = range.next() else { break };
            let found = split_order_key(row.map_err(IndexError::of)?.0.value()).0;
            pgs.push(found);
            from = found.0.checked_add(1).map(PgId);
        }
        Ok(pgs)
    }

    /// The blocks that the index places in segment `slot`. Reads everything.
    pub(crate) fn in_segment(&self, slot: u32) -> Result<Vec<(BlockId, Entry)>, IndexError> {
        guarded(|| self.read_in_segment(slot))
    }

    fn read_in_segment(&self, slot: u32) -> Result<Vec<(BlockId, Entry)>, IndexError> {
        let mut found = Vec::new();
        for row in self.blocks()?.iter().map_err(IndexError::of)? {
            let (id, entry) = row.map_err(IndexError::of)?;
            let entry = entry_of(entry.value())?;
            if entry.place.slot == slot {
                found.push((BlockId::from_bytes(*id.value()), entry));
            }
        }
        Ok(found)
    }

    /// The counts of all segments.
    pub(crate) fn segments(&self) -> Result<Vec<(u32, Segment)>, IndexError> {
        guarded(|| self.read_segments())
    }

    fn read_segments(&self) -> Result<Vec<(u32, Segment)>, IndexError> {
        let segments = self.0.open_table(SEGMENTS).map_err(IndexError::of)?;
        let rows = segments.iter().map_err(IndexError::of)?;
        rows.map(|row| {
            let (slot, segment) = row.map_err(IndexError::of)?;
            Ok((slot.value(), decode_segment(segment.value())))
        })
        .collect()
    }

    /// Up to where the file is complete; all zero for a new one.
    pub(crate) fn mark(&self) -> Result<Mark, IndexError> {
        guarded(|| self.read_mark())
    }

    fn read_mark(&self) -> Result<Mark, IndexError> {
        let meta = self.0.open_table(META).map_err(IndexError::of)?;
        let get = |key| -> Result<u64, IndexError> {
            Ok(meta.get(key).map_err(IndexError::of)?.map_or(0, |value| value.value()))
        };
        Ok(Mark {
            life: get("life")?,
            end: get("end")?,
            sequence: get("sequence")?,
            previous: get("previous")?,
        })
    }
}
