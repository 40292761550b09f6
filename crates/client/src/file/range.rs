//! Reads and writes of ranges of existing files, by inode or by path.

use super::commit::{compact, inline};
use crate::blocks::{Piece, plan};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::meta::attr_of;
use bytes::{Bytes, BytesMut};
use everhold_proto::fs::{Attr, Extent, FsError, FsOp, SetAttr};
use everhold_proto::limits::{BLOCK_BYTES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX};
use everhold_proto::planted::{self, Bug};
use everhold_proto::{Error, InodeId, Kind};
use futures_util::StreamExt;
use futures_util::future::try_join_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Blocks that one call reads or writes at once; a write of at most so many is atomic.
const AT_ONCE: usize = 8;
/// Pause before a read is started again.
const PAUSE: Duration = Duration::from_millis(20);

impl Client {
    /// Reads up to `length` bytes at `offset`, all of one version of the file; fewer at its end. Gives
    /// the attributes of that version along.
    pub async fn read_inode(
        self: &Arc<Self>,
        inode: InodeId,
        offset: u64,
        length: usize,
    ) -> Result<(Attr, Bytes)> {
        if planted::has(Bug::MixVersions) && length > 1 {
            return self.read_halves(inode, offset, length).await;
        }
        self.read_once(inode, offset, length).await
    }

    /// For a planted bug: two reads, each right in itself.
    async fn read_halves(
        self: &Arc<Self>,
        inode: InodeId,
        offset: u64,
        length: usize,
    ) -> Result<(Attr, Bytes)> {
        let (_, first) = self.read_once(inode, offset, length / 2).await?;
        let middle = offset.saturating_add(first.len() as u64);
        let (attr, second) = self.read_once(inode, middle, length - length / 2).await?;
        Ok((attr, [first, second].concat().into()))
    }

    async fn read_once(
        self: &Arc<Self>,
        inode: InodeId,
        offset: u64,
        length: usize,
    ) -> Result<(Attr, Bytes)> {
        let deadline = self.deadline();
        let to = offset.saturating_add(length as u64);
        loop {
            let (attr, extents) = self.extents_of(inode, offset, to, deadline).await?;
            let to = to.min(attr.size);
            if offset >= to {
                return Ok((attr, Bytes::new()));
            }
            match self.read_extents(&extents, offset, to, deadline).await {
                Ok(bytes) => return Ok((attr, bytes)),
                // Blocks of an old version leave after a while: ask again, and read the new one.
                Err(e) => self.pause_or(e, deadline).await?,
            }
        }
    }

    /// Writes `data` at `offset` of a file; durable and visible when this returns. Up to 32 MiB are
    /// one atomic change.
    pub async fn write_inode(
        self: &Arc<Self>,
        inode: InodeId,
        offset: u64,
        data: Bytes,
    ) -> Result<Attr> {
        let end = offset.checked_add(data.len() as u64).filter(|end| *end <= FILE_BYTES_MAX);
        end.ok_or(FsError::TooLarge)?;
        self.write_parts(inode, Some(offset), data).await
    }

    /// Writes `data` at the end of a file, wherever that is then. Up to 32 MiB are one atomic change.
    pub async fn append_inode(self: &Arc<Self>, inode: InodeId, data: Bytes) -> Result<Attr> {
        self.write_parts(inode, None, data).await
    }

    /// As [`Client::read_inode`], by path.
    pub async fn read_at(
        self: &Arc<Self>,
        path: impl AsRef<[u8]>,
        offset: u64,
        length: usize,
    ) -> Result<Bytes> {
        let deadline = self.deadline();
        loop {
            let inode = self.stat(path.as_ref()).await?.inode;
            match self.read_inode(inode, offset, length).await {
                Err(e) if self.was_replaced(&e, deadline) => {}
                read => return Ok(read.map_err(|e| e.at(path))?.1),
            }
        }
    }

    /// As [`Client::write_inode`], by path of an existing file.
    pub async fn write_at(
        self: &Arc<Self>,
        path: impl AsRef<[u8]>,
        offset: u64,
        data: Bytes,
    ) -> Result<Attr> {
        let deadline = self.deadline();
        loop {
            let inode = self.stat(path.as_ref()).await?.inode;
            match self.write_inode(inode, offset, data.clone()).await {
                Err(e) if self.was_replaced(&e, deadline) => {}
                written => return written.map_err(|e| e.at(path)),
            }
        }
    }

    /// As [`Client::append_inode`], by path of an existing file.
    pub async fn append(self: &Arc<Self>, path: impl AsRef<[u8]>, data: Bytes) -> Result<Attr> {
        let deadline = self.deadline();
        loop {
            let inode = self.stat(path.as_ref()).await?.inode;
            match self.append_inode(inode, data.clone()).await {
                Err(e) if self.was_replaced(&e, deadline) => {}
                appended => return appended.map_err(|e| e.at(path)),
            }
        }
    }

    /// Whether an operation on an inode failed because the file is gone, and there is time to ask its path
    /// again: if another file took its place, the path was never without one.
    pub(super) fn was_replaced(&self, e: &ClientError, deadline: Instant) -> bool {
        e.is_not_found() && self.env.clock.now() < deadline
    }

    /// Makes an existing file `size` bytes long; what is added reads as zeroes.
    pub async fn truncate(self: &Arc<Self>, path: impl AsRef<[u8]>, size: u64) -> Result<Attr> {
        self.set_attr(path, SetAttr { size: Some(size), ..SetAttr::default() }).await
    }

    /// Extents that overlap `[from, to)`, all of one version.
    pub async fn extents_of(
        self: &Arc<Self>,
        inode: InodeId,
        from: u64,
        to: u64,
        deadline: Instant,
    ) -> Result<(Attr, Vec<Extent>)> {
        'version: loop {
            let (attr, mut extents, mut more) = self.extents(inode, from, to, deadline).await?;
            while more {
                let Some(at) = extents.last().map(Extent::end).filter(|at| *at > from) else {
                    return Err(crate::error::unexpected("a page of extents"));
                };
                let (next, page, again) = self.extents(inode, at, to, deadline).await?;
                if next.version != attr.version {
                    let changing = || Error::new(Kind::Busy, "the file keeps changing");
                    self.pause_or(changing(), deadline).await?;
                    continue 'version;
                }
                if page.is_empty() && again {
                    return Err(crate::error::unexpected("a page of extents"));
                }
                extents.extend(page);
                more = again;
            }
            return Ok((attr, extents));
        }
    }

    /// The bytes `[from, to)` of a file with these extents; several blocks are read at once. All of them
    /// come into memory, so the caller bounds the range. An extent's block leaves a while after the file
    /// shows others: then the extents must be asked for again.
    pub async fn read_extents(
        &self,
        extents: &[Extent],
        from: u64,
        to: u64,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let pieces = plan(extents, from, to)?;
        if let [Piece::Inline(bytes)] = &pieces[..] {
            return Ok(bytes.clone());
        }
        if let [piece @ Piece::Block { .. }] = &pieces[..] {
            return self.read_piece(piece, deadline).await;
        }
        let total = usize::try_from(to - from)
            .map_err(|_| Error::new(Kind::Invalid, "the range does not fit into memory"))?;
        let mut whole = BytesMut::with_capacity(total);
        // Owned pieces: a future that borrows from the iterator is not `Send` for every lifetime.
        let read = pieces.into_iter().map(|piece| async move {
            match &piece {
                Piece::Block { .. } => self.read_piece(&piece, deadline).await.map(Ok),
                Piece::Inline(bytes) => Ok(Ok(bytes.clone())),
                Piece::Hole(length) => Ok(Err(*length as usize)),
            }
        });
        let mut read = futures_util::stream::iter(read).buffered(AT_ONCE);
        while let Some(part) = read.next().await {
            match part? {
                Ok(bytes) => whole.extend_from_slice(&bytes),
                Err(zeroes) => whole.resize(whole.len() + zeroes, 0),
            }
        }
        Ok(whole.freeze())
    }

    /// Waits a little before another try, or gives the error back when there is no time for one.
    pub(crate) async fn pause_or(&self, e: Error, deadline: Instant) -> Result<()> {
        let wait = PAUSE.mul_f64(0.5 + self.env.entropy.unit());
        if self.env.clock.now() + wait >= deadline {
            return Err(e.into());
        }
        tracing::debug!(error = %e, "trying again");
        self.env.clock.sleep(wait).await;
        Ok(())
    }

    /// Writes `data` at `offset`, or at the end.
    async fn write_parts(
        self: &Arc<Self>,
        inode: InodeId,
        offset: Option<u64>,
        mut data: Bytes,
    ) -> Result<Attr> {
        if data.is_empty() {
            return self.attr(inode).await;
        }
        let commit = |content, size_at_least| FsOp::Commit {
            inode,
            expected_version: None,
            content,
            size_at_least,
            append: offset.is_none(),
        };
        let mut at = offset.unwrap_or(0);
        let size = |end: u64| if offset.is_some() { end } else { 0 };
        if data.len() <= INLINE_BYTES_MAX {
            let end = at + data.len() as u64;
            let content = inline(at, compact(&data));
            return attr_of(self.execute(commit(content, size(end))).await?);
        }
        let policy = self.attr(inode).await?.policy;
        loop {
            let deadline = self.deadline();
            let (part, end) = self.write_part(policy, at, &mut data, deadline).await?;
            let make = |content| commit(content, size(end));
            let attr = self.commit(policy, part, deadline, make).await?;
            if data.is_empty() {
                return Ok(attr);
            }
            at = if offset.is_some() { end } else { 0 };
        }
    }

    /// Takes up to [`AT_ONCE`] blocks off `data` and writes them; gives the offset after them.
    async fn write_part(
        self: &Arc<Self>,
        policy: everhold_proto::PolicyId,
        mut at: u64,
        data: &mut Bytes,
        deadline: Instant,
    ) -> Result<(Vec<crate::blocks::Written>, u64)> {
        let want =
            data.len().div_ceil(BLOCK_BYTES_MAX).min(AT_ONCE).min(self.options.buffers.max(1));
        // All at once or none: whoever waits for memory holds none.
        let memory = self.memory.clone().acquire_many_owned(want as u32);
        let memory = self.env.clock.until(deadline, memory).await?;
        let mut memory = memory.map_err(|_| ClientError::new(Kind::Internal, "no memory"))?;
        let mut writes = Vec::with_capacity(want);
        for _ in 0..want {
            let block = data.split_to(data.len().min(BLOCK_BYTES_MAX));
            let (offset, permit) = (at, memory.split(1));
            at += block.len() as u64;
            writes.push(self.write_block(policy, offset, block, permit, deadline));
        }
        Ok((try_join_all(writes).await?, at))
    }
}
