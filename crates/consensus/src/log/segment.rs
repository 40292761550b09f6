//! Segment files: `NNNNNNNN.wal`, created full of zeroes and recycled, because a file whose blocks are
//! allocated and written syncs faster (one metadata update less) than one that grows.

use super::frame::{self, HEADER_BYTES, Header};
use super::record::INDEX_MAX;
use crate::ConsensusError;
use everhold_env::{ALIGNMENT, AlignedBuf, Env, File, OpenMode};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file that waits to become the next segment.
const SPARE: &str = "spare.free";
/// A longer file is not one of ours; recovery reads a segment into memory at once.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// A segment in use.
#[derive(Clone)]
pub(crate) struct Segment {
    pub file: Arc<dyn File>,
    /// The greatest index of an entry in it that is not void; the segment goes when it is purged.
    pub last_index: Option<u64>,
}

pub(crate) fn path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.wal"))
}

/// The numbers of the segments in `dir`, ascending. A number that cannot be counted on from is not one.
pub(crate) async fn list(env: &Env, dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers: Vec<u64> = env
        .disk
        .list(dir)
        .await?
        .iter()
        .filter(|p| p.extension().is_some_and(|e| e == "wal"))
        .filter_map(|p| p.file_stem()?.to_str()?.parse().ok())
        .filter(|number| *number <= INDEX_MAX)
        .collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Makes the file of segment `number`, zero-filled and with a durable name, from the spare if there is one.
pub(crate) async fn create(
    env: &Env,
    dir: &Path,
    number: u64,
    bytes: u64,
) -> io::Result<Arc<dyn File>> {
    let (spare, path) = (dir.join(SPARE), path(dir, number));
    match env.disk.rename(&spare, &path).await {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let file = env.disk.open(&path, OpenMode { create: true, direct: true }).await?;
    if file.len().await? != bytes {
        file.set_len_zeroed(bytes).await?;
    }
    env.disk.sync_dir(dir).await?;
    Ok(file)
}

/// Prepares a spare, unless there is one.
pub(crate) async fn prepare_spare(env: &Env, dir: &Path, bytes: u64) -> io::Result<()> {
    let preparing = dir.join("spare.new");
    let spare = dir.join(SPARE);
    if env.disk.list(dir).await?.contains(&spare) {
        return Ok(());
    }
    let file = env.disk.open(&preparing, OpenMode { create: true, direct: true }).await?;
    file.set_len_zeroed(bytes).await?;
    drop(file);
    env.disk.rename(&preparing, &spare).await
}

/// Takes segment `number` out of the log: it becomes the spare, or goes if there is one. The caller
/// syncs the directory before the spare may be used: else after a crash a name of the old segment
/// could lead to the new one's bytes.
pub(crate) async fn retire(env: &Env, dir: &Path, number: u64) -> io::Result<()> {
    let spare = dir.join(SPARE);
    if env.disk.list(dir).await?.contains(&spare) {
        env.disk.remove(&path(dir, number)).await
    } else {
        env.disk.rename(&path(dir, number), &spare).await
    }
}

/// Reads and checks the frame at `offset`; `None` when there is no such valid frame.
pub(crate) async fn read_frame(
    file: &Arc<dyn File>,
    segment: u64,
    offset: u64,
    frame_bytes: usize,
) -> io::Result<Option<bytes::Bytes>> {
    let bytes = file.read_at(offset, frame_bytes).await?.into_bytes();
    let Some(header) = Header::decode(&bytes, segment) else { return Ok(None) };
    let end = HEADER_BYTES + header.payload_bytes as usize;
    if end > bytes.len() || !frame::payload_matches(&header, &bytes[HEADER_BYTES..end]) {
        return Ok(None);
    }
    Ok(Some(bytes.slice(HEADER_BYTES..end)))
}

/// A segment file read into memory.
pub(crate) struct Image {
    pub file: Arc<dyn File>,
    pub bytes: AlignedBuf,
    number: u64,
}

impl Image {
    pub(crate) async fn read(env: &Env, dir: &Path, number: u64) -> Result<Image, ConsensusError> {
        let path = path(dir, number);
        let what = || format!("read {}", path.display());
        let mode = OpenMode { create: false, direct: true };
        let file = env.disk.open(&path, mode).await.map_err(ConsensusError::io(what()))?;
        let len = file.len().await.map_err(ConsensusError::io(what()))?;
        if len > SEGMENT_BYTES_MAX {
            return Err(ConsensusError::Corrupt { path, reason: format!("{len} bytes long") });
        }
        let bytes = file.read_at(0, len as usize).await.map_err(ConsensusError::io(what()))?;
        Ok(Image { file, bytes, number })
    }

    /// The valid frame at `offset` with its payload, if `sequence` (when given) is its number.
    pub(crate) fn frame_at(&self, offset: u64, sequence: Option<u64>) -> Option<(Header, &[u8])> {
        let rest = self.bytes.get(offset as usize..)?;
        let header = Header::decode(rest, self.number)?;
        let payload = rest.get(HEADER_BYTES..HEADER_BYTES + header.payload_bytes as usize)?;
        let expected = sequence.is_none_or(|s| s == header.sequence);
        (expected && frame::payload_matches(&header, payload)).then_some((header, payload))
    }

    /// Whether a frame later than `sequence` lies behind `end`: then the bytes at `end` were durable once.
    pub(crate) fn has_frame_after(&self, end: u64, sequence: u64) -> bool {
        let pages = (end as usize + ALIGNMENT..self.bytes.len()).step_by(ALIGNMENT);
        pages
            .filter_map(|at| Header::decode(&self.bytes[at..], self.number))
            .any(|header| header.sequence > sequence)
    }
}
