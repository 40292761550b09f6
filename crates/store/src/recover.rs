//! Opening: makes memory from the disk.
//!
//! The index file is complete up to its mark; the records after it are read from the segments. In
//! the last segment their data is verified too: what a crash tore is cut off (it was never
//! acknowledged), what decayed is reported as lost, so that the cluster repairs it.

mod replay;

use crate::catalog::Catalog;
use crate::files::SegmentFiles;
use crate::format::{HEADER_BYTES, SegmentHeader, SegmentUse, Superblock};
use crate::index::{IndexError, IndexFile, Mark};
use crate::segments::{Segment, Segments, State};
use crate::shared::Shared;
use crate::{StoreConfig, StoreError};
use everhold_env::Env;
use everhold_proto::BlockId;
use futures_util::{StreamExt, TryStreamExt, stream};
use replay::Replay;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

/// Its presence says that the index must be made anew.
pub(crate) const REBUILD_MARKER: &str = "index.damaged";
const INDEX: &str = "index.redb";
/// Headers read at once.
const READS_AT_ONCE: usize = 16;
/// Lost or torn blocks that are reported by name.
const NAMED_MAX: usize = 10_000;

/// What opening found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpenReport {
    /// The disk was empty and was formatted.
    pub formatted: bool,
    /// The index was missing or damaged and was made anew.
    pub rebuilt: bool,
    /// Records read from the segments because the index did not have them yet.
    pub replayed: u64,
    /// Blocks whose write a crash interrupted. They were never acknowledged and are gone.
    pub torn: Vec<BlockId>,
    /// Blocks that were durable and are damaged now; they count as not here.
    pub lost: Vec<BlockId>,
    /// Places where a record is missing that cannot be named.
    pub gaps: u64,
    /// Pages that the device would not read.
    pub unreadable_pages: u64,
    /// Segments whose header was damaged.
    pub damaged_segments: Vec<u32>,
}

impl OpenReport {
    fn name(list: &mut Vec<BlockId>, id: BlockId) {
        if list.len() < NAMED_MAX {
            list.push(id);
        }
    }
}

/// Opens the store in `dir`, formatting an empty directory.
pub(crate) async fn open(
    env: &Env,
    dir: &Path,
    config: StoreConfig,
) -> Result<(Arc<Shared>, OpenReport, u64), StoreError> {
    check_config(&config)?;
    let mut report = OpenReport::default();
    let disk = &env.disk;
    disk.create_dir_all(&dir.join("segments")).await.map_err(StoreError::io("make a directory"))?;
    let superblock = read_superblock(env, dir, &config, &mut report).await?;
    let index = open_index(env, dir, &config, &superblock, &mut report).await?;
    let files = SegmentFiles::new(disk.clone(), dir, superblock.store, superblock.segment_bytes);
    let (mark, rows) = read_index(&index)?;
    let headers = read_headers(&files).await?;
    let segments = Segments::new(superblock.segment_bytes);
    let catalog = Catalog::new(segments);
    let shared = Shared::new(env.clone(), config, dir.to_owned(), superblock, index, catalog);
    let mut replay = Replay::new(&shared, mark, report);
    replay.run(headers, rows).await?;
    let (report, sequence) = replay.finish();
    shared.sync_recovered().await?;
    shared.prepare_space().await?;
    shared.flush_index().await?;
    Ok((Arc::new(shared), report, sequence))
}

fn check_config(config: &StoreConfig) -> Result<(), StoreError> {
    let page = config.page_bytes as usize;
    if !page.is_power_of_two() || page < 2 * HEADER_BYTES {
        return Err(StoreError::Invalid("the page size must be a power of two from 8 KiB"));
    }
    let segment = config.segment_bytes;
    if !segment.is_multiple_of(HEADER_BYTES as u64) || !(8 * 4096..=1 << 34).contains(&segment) {
        return Err(StoreError::Invalid("a segment must have 32 KiB to 16 GiB in whole pages"));
    }
    Ok(())
}

/// Reads the superblock and compares whose disk it is; writes one to an empty directory.
async fn read_superblock(
    env: &Env,
    dir: &Path,
    config: &StoreConfig,
    report: &mut OpenReport,
) -> Result<Superblock, StoreError> {
    let path = dir.join("superblock");
    let bytes = match env.disk.read_small(&path, 4096).await {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let segments = env.disk.list(&dir.join("segments")).await;
            if !segments.map_err(StoreError::io("list the segments"))?.is_empty() {
                return Err(StoreError::BadSuperblock("it is missing, but there are segments"));
            }
            report.formatted = true;
            return format(env, &path, config).await;
        }
        Err(e) => return Err(StoreError::io("read the superblock")(e)),
    };
    let found = Superblock::decode(&bytes)?;
    let foreign = |what, found: &dyn ToString, expected: &dyn ToString| {
        Err(StoreError::Foreign { what, found: found.to_string(), expected: expected.to_string() })
    };
    if found.cluster != config.cluster {
        return foreign("cluster", &found.cluster, &config.cluster);
    }
    match (found.disk, config.disk) {
        (Some(found), Some(expected)) if found != expected => foreign("disk", &found, &expected),
        (None, Some(disk)) => {
            let superblock = Superblock { disk: Some(disk), ..found };
            let written = env.disk.write_atomic(&path, &superblock.encode()).await;
            written.map_err(StoreError::io("write the superblock"))?;
            Ok(superblock)
        }
        _ => Ok(found),
    }
}

async fn format(env: &Env, path: &Path, config: &StoreConfig) -> Result<Superblock, StoreError> {
    let mut store = [0; 16];
    env.entropy.fill(&mut store);
    let superblock = Superblock {
        cluster: config.cluster,
        store,
        disk: config.disk,
        segment_bytes: config.segment_bytes,
    };
    let written = env.disk.write_atomic(path, &superblock.encode()).await;
    written.map_err(StoreError::io("write the superblock"))?;
    Ok(superblock)
}

/// Opens the index file; a damaged one is removed and begun anew.
async fn open_index(
    env: &Env,
    dir: &Path,
    config: &StoreConfig,
    superblock: &Superblock,
    report: &mut OpenReport,
) -> Result<IndexFile, StoreError> {
    let (path, marker) = (dir.join(INDEX), dir.join(REBUILD_MARKER));
    let is_marked = env.disk.read_small(&marker, 4096).await.is_ok();
    if is_marked {
        remove(env, &path).await?;
    }
    let open = async || {
        let backend = env.disk.redb_backend(&path).map_err(StoreError::io("open the index"))?;
        let (cache, store) = (config.index_cache_bytes, superblock.store);
        Ok(env.tasks.blocking(move || IndexFile::open(backend, cache, &store)).await)
    };
    let index = match open().await? {
        Err(IndexError::Damaged(reason)) => {
            tracing::warn!(dir = %dir.display(), %reason, "the index is damaged, making it anew");
            remove(env, &path).await?;
            report.rebuilt = true;
            open().await?
        }
        other => other,
    };
    let index = index.map_err(|e| match e {
        IndexError::InUse => StoreError::InUse,
        IndexError::Closed => StoreError::Closed,
        IndexError::Damaged(reason) | IndexError::Failed(reason) => StoreError::Failed(reason),
    })?;
    env.disk.sync_dir(dir).await.map_err(StoreError::io("sync a directory"))?;
    if is_marked {
        report.rebuilt = true;
        remove(env, &marker).await?;
        env.disk.sync_dir(dir).await.map_err(StoreError::io("sync a directory"))?;
    }
    Ok(index)
}

async fn remove(env: &Env, path: &Path) -> Result<(), StoreError> {
    match env.disk.remove(path).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(StoreError::io("remove a file")(e)),
        _ => Ok(()),
    }
}

fn read_index(index: &IndexFile) -> Result<(Mark, BTreeMap<u32, Segment>), StoreError> {
    let read = || {
        let snapshot = index.snapshot()?;
        Ok((snapshot.mark()?, snapshot.segments()?.into_iter().collect()))
    };
    read().map_err(|e: IndexError| StoreError::Failed(e.to_string().into()))
}

/// The header of each segment file, `None` when it is damaged.
async fn read_headers(
    files: &SegmentFiles,
) -> Result<BTreeMap<u32, Option<SegmentHeader>>, StoreError> {
    let slots = files.slots().await.map_err(StoreError::io("list the segments"))?;
    stream::iter(slots)
        .map(|slot| async move {
            let header = files.header(slot).await.map_err(StoreError::io("read a segment"))?;
            Ok((slot, header.ok()))
        })
        .buffer_unordered(READS_AT_ONCE)
        .try_collect()
        .await
}

/// What is known of a segment before its records are read.
fn place_segment(
    header: Option<SegmentHeader>,
    row: Option<&Segment>,
    segment_bytes: u64,
) -> Option<Segment> {
    let unknown = Segment {
        state: State::Sealed,
        life: 0,
        end: segment_bytes,
        live_bytes: 0,
        live_blocks: 0,
        shadowed: false,
        stuck: false,
        changed: 0,
    };
    match (header, row) {
        (Some(header), _) if header.use_ == SegmentUse::Free => {
            Some(Segment { state: State::Free, life: header.life, end: 0, ..unknown })
        }
        (Some(header), Some(row)) if row.life == header.life && row.state == State::Sealed => {
            Some(row.clone())
        }
        (Some(header), _) => Some(Segment { life: header.life, ..unknown }),
        // The header decayed; the index still knows what is there.
        (None, Some(row)) if row.state == State::Sealed => Some(row.clone()),
        (None, _) => None,
    }
}
