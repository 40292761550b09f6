//! An open file: reads and writes at offsets, as a mount needs them. Writes are gathered in memory and
//! committed together; reads see them at once.
//!
//! **Invariants:** what was written before a flush began is committed when the flush returns without an
//! error. A read is of one version of the file with everything over it that was written here. Memory is
//! bounded for each file and for the client.

mod abandon;
mod doubt;
mod flush;
mod fold;
mod overlay;
mod sight;

pub(crate) use overlay::SMALL_MAX;

use crate::client::Client;
use crate::error::{ClientError, Result};
use bytes::Bytes;
use everhold_proto::fs::{Attr, FsError};
use everhold_proto::limits::FILE_BYTES_MAX;
use everhold_proto::{InodeId, Kind};
use fold::Inline;
use overlay::Overlay;
use parking_lot::Mutex;
use sight::Sight;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::Instant;

/// Bytes of one file that wait before a flush is started behind the writer: a few blocks at once.
const FLUSH_BEGINS: usize = 16 << 20;
/// Bytes of one file that wait before its writers wait too.
const FILE_DIRTY_MAX: usize = 48 << 20;
/// Bytes of all open files of a client that wait before writers flush theirs at once.
const ALL_DIRTY_MAX: usize = 256 << 20;

/// Bytes that all open files of a client hold back.
#[derive(Default)]
pub(crate) struct Dirty(AtomicUsize);

/// An open file of a client. All openings of one inode in one process share one, so that they see each
/// other's writes.
pub struct OpenFile {
    client: Arc<Client>,
    inode: InodeId,
    state: Mutex<State>,
    /// Held by the one flush at a time that takes what waits and writes its blocks.
    writing: tokio::sync::Mutex<()>,
    /// Held by the one that commits them. It is taken before the other one is released, so that flushes commit in
    /// their order.
    committing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    overlay: Overlay,
    /// The committed file as it was seen last.
    sight: Option<Arc<Sight>>,
    /// Changed whenever `sight` may be outdated, so that a late answer is not kept.
    changes: u64,
    /// When the oldest byte that waits was written.
    dirty_since: Option<Instant>,
    /// The version that the file had when this client saw or changed it last, if it did nothing else to it since.
    version: Option<u64>,
    /// A flush behind the writer takes what waits, or is about to.
    behind: bool,
    /// A flush ended before it had committed what it took.
    left: bool,
    inline: Inline,
}

impl OpenFile {
    /// Opens a regular file.
    pub fn new(client: Arc<Client>, inode: InodeId) -> Arc<OpenFile> {
        Arc::new(OpenFile {
            client,
            inode,
            state: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
            committing: tokio::sync::Mutex::default(),
        })
    }

    /// Its inode.
    pub fn inode(&self) -> InodeId {
        self.inode
    }

    /// Whether bytes wait for a commit.
    pub fn is_dirty(&self) -> bool {
        !self.state.lock().overlay.is_empty()
    }

    /// Whether nothing waits for a commit.
    pub fn is_clean(&self) -> bool {
        !self.is_dirty()
    }

    /// When the oldest byte that waits was written.
    pub fn dirty_since(&self) -> Option<Instant> {
        self.state.lock().dirty_since
    }

    /// Somebody else changed the file: the next read asks for it again.
    pub fn changed(&self) {
        let mut state = self.state.lock();
        state.sight = None;
        state.version = None;
        state.changes += 1;
    }

    /// The file was created just now, with these attributes: there is nothing in it to ask for.
    pub fn is_new(&self, attr: &Attr) {
        let mut state = self.state.lock();
        state.version = Some(attr.version);
        state.sight = Some(Arc::new(Sight::empty(attr.clone())));
    }

    /// Attributes, with everything committed that was written here.
    pub async fn attr(self: &Arc<Self>) -> Result<Attr> {
        self.flush().await?;
        self.client.cached_attr(self.inode).await
    }

    /// The newest attributes are these: what was seen of another version is not used any more.
    pub fn saw(&self, attr: &Attr) {
        let mut state = self.state.lock();
        state.version = Some(attr.version);
        // Without one, an answer of another version may be on its way.
        if state.sight.as_ref().is_none_or(|sight| sight.attr.version != attr.version) {
            state.sight = None;
            state.changes += 1;
        }
    }

    /// Up to `length` bytes at `offset`; fewer at the end of the file.
    pub async fn read(self: &Arc<Self>, offset: u64, length: usize) -> Result<Bytes> {
        let to = offset.saturating_add(length as u64);
        // Before the committed bytes are read: what is committed meanwhile is in both.
        let (over, all, end) = {
            let state = self.state.lock();
            let overlay = &state.overlay;
            (overlay.slices(offset, to), overlay.covers(offset, to), overlay.end())
        };
        if all && length > 0 {
            return Ok(lay_over(Vec::new(), offset, length, over));
        }
        let below = self.read_committed(offset, length).await?;
        if over.is_empty() && end <= offset {
            return Ok(below);
        }
        let length = (below.len() as u64).max(end.min(to).saturating_sub(offset)) as usize;
        match over.is_empty() && length == below.len() {
            true => Ok(below),
            false => Ok(lay_over(below.into(), offset, length, over)),
        }
    }

    /// Writes `data` at `offset`. It is visible to reads of this file at once, and committed by the next
    /// flush, or earlier.
    pub async fn write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        end.ok_or(FsError::TooLarge)?;
        if data.is_empty() {
            return Ok(());
        }
        let (dirty, behind) = {
            let mut state = self.state.lock();
            let before = state.overlay.dirty();
            state.overlay.write(offset, data, self.client.wire.buffers());
            state.dirty_since.get_or_insert_with(|| self.client.env.clock.now());
            let dirty = state.overlay.dirty();
            self.client.dirty.add(dirty - before.min(dirty));
            let behind = dirty >= FLUSH_BEGINS && !state.behind;
            state.behind |= behind;
            (dirty, behind)
        };
        if behind {
            let file = self.clone();
            self.client.env.tasks.detach(async move { file.flush_behind().await });
        }
        if dirty >= FILE_DIRTY_MAX || self.client.dirty.is_over() {
            self.flush().await?;
        }
        Ok(())
    }

    /// Commits everything that was written before the call, and waits until it is durable and seen by all. Fails also when
    /// something of the file was lost before and nobody was told; whoever keeps a [`crate::LossMark`] for each opening
    /// flushes, calls [`Client::until_settled`], and asks [`Client::losses`] instead.
    pub async fn sync(self: &Arc<Self>) -> Result<()> {
        let flushed = self.flush().await;
        let settled = self.client.settle(self.inode).await;
        flushed.and(settled)
    }

    /// Writes `data` at the end of the file, wherever that is by then: atomic and committed when this
    /// returns. Gives the attributes after it.
    pub async fn append(self: &Arc<Self>, data: Bytes) -> Result<Attr> {
        self.flush().await?;
        let attr = self.client.append_inode(self.inode, data).await;
        self.changed();
        attr
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        let lost = self.state.get_mut().overlay.held();
        self.client.dirty.remove(lost);
        if lost > 0 {
            tracing::warn!(inode = %self.inode, bytes = lost, "written bytes were never committed");
        }
    }
}

impl Dirty {
    fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }

    fn remove(&self, bytes: usize) {
        self.0.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) >= ALL_DIRTY_MAX
    }
}

/// `below` made `length` long, with slices over it.
fn lay_over(mut below: Vec<u8>, offset: u64, length: usize, over: Vec<(u64, Bytes)>) -> Bytes {
    below.resize(length, 0);
    for (at, bytes) in over {
        let start = (at - offset) as usize;
        let count = bytes.len().min(length.saturating_sub(start));
        below[start..start + count].copy_from_slice(&bytes[..count]);
    }
    below.into()
}

fn too_busy() -> ClientError {
    ClientError::new(Kind::Retry, "the file is still being flushed; see `everhold status`")
}
