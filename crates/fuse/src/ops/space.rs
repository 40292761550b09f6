//! Space: `statfs`, `fallocate`, `SEEK_DATA` and `SEEK_HOLE`, `copy_file_range`.

use crate::coherence::has_set_id;
use crate::edge::Edge;
use crate::failure::Outcome;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Content, Extent, FsAnswer, FsError, FsOp, FsQuery};
use everhold_proto::limits::{FILE_BYTES_MAX, PAGE_ENTRIES_MAX};
use fuser::Errno;
use std::sync::Arc;

/// Unit of `statfs`.
pub(crate) const STAT_UNIT: u64 = 4096;
/// Inodes are bounded by nothing but space; `df -i` likes a number.
const INODES_MAX: u64 = 1 << 40;

/// Bytes that one request copies; programs ask again for the rest.
const COPY_BYTES_MAX: u64 = 1 << 30;

/// Totals for `statfs`, in [`STAT_UNIT`]s.
pub(crate) struct Space {
    pub(crate) blocks: u64,
    pub(crate) free: u64,
    pub(crate) inodes: u64,
    pub(crate) inodes_free: u64,
}

impl Edge {
    pub(crate) async fn statfs(self: Arc<Self>) -> Outcome<Space> {
        let usage = self.client.usage().await?;
        let map = self.client.map();
        let copies = map.policies.values().map(|p| u64::from(p.copies)).max().unwrap_or(1).max(1);
        let capacity: u64 = map.disks.values().map(|d| d.capacity_bytes).sum();
        let used: u64 = map.disks.values().map(|d| d.used_bytes).sum();
        Ok(Space {
            blocks: capacity / copies / STAT_UNIT,
            free: capacity.saturating_sub(used) / copies / STAT_UNIT,
            inodes: INODES_MAX,
            inodes_free: INODES_MAX.saturating_sub(usage.inodes),
        })
    }

    pub(crate) async fn fallocate(
        self: Arc<Self>,
        handle: u64,
        offset: u64,
        length: u64,
        mode: i32,
    ) -> Outcome<()> {
        let file = self.handle_to_change(handle).await?.file.clone();
        let inode = file.inode();
        let end = offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX);
        let end = end.ok_or(Errno::EFBIG)?;
        let keeps = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        file.flush().await?;
        match mode & !libc::FALLOC_FL_KEEP_SIZE {
            // Space is not set aside: blocks are allocated when they are written, and a full cluster says so.
            0 if keeps => self.take_privileges(inode).await?,
            0 => {}
            libc::FALLOC_FL_PUNCH_HOLE if keeps => {
                self.client.punch(inode, offset, length).await?;
            }
            libc::FALLOC_FL_ZERO_RANGE => {
                self.client.punch(inode, offset, length).await?;
            }
            _ => return Err(Errno::EOPNOTSUPP.into()),
        }
        if !keeps {
            self.write_nothing(inode, end).await?;
        }
        file.changed();
        Ok(())
    }

    /// Takes set-id bits and capabilities of a program of which nothing is changed by a write, if it has any.
    async fn take_privileges(&self, inode: InodeId) -> Outcome<()> {
        let attr = self.client.cached_attr(inode).await?;
        match has_set_id(&attr) || attr.xattrs > 0 {
            true => self.write_nothing(inode, 0).await,
            false => Ok(()),
        }
    }

    /// A write without bytes; the file has at least `size_at_least` bytes afterwards.
    async fn write_nothing(&self, inode: InodeId, size_at_least: u64) -> Outcome<()> {
        let nothing = FsOp::Commit {
            inode,
            expected_version: None,
            content: Content::default(),
            size_at_least,
            append: false,
        };
        self.client.execute(nothing).await?;
        Ok(())
    }

    /// Lets a range of one file share the blocks of a range of another. Says how many bytes: fewer at the
    /// end of the source.
    pub(crate) async fn copy(
        self: Arc<Self>,
        (from, from_offset): (u64, u64),
        (to, to_offset): (u64, u64),
        length: u64,
    ) -> Outcome<u32> {
        let target = self.handle_to_change(to).await?.file.clone();
        let source = self.handle(from)?.file.clone();
        source.flush().await?;
        target.flush().await?;
        let size = self.client.attr(source.inode()).await?.size;
        let length = length.min(size.saturating_sub(from_offset)).min(COPY_BYTES_MAX);
        if length == 0 {
            return Ok(0);
        }
        let (source, inode) = (source.inode(), target.inode());
        self.client.clone_range(source, from_offset, length, inode, to_offset).await?;
        target.changed();
        Ok(length as u32)
    }

    /// The next data or hole at or after an offset.
    pub(crate) async fn seek(
        self: Arc<Self>,
        handle: u64,
        offset: i64,
        whence: i32,
    ) -> Outcome<i64> {
        let file = self.handle(handle)?.file.clone();
        let from = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
        file.flush().await?;
        let mut at = from;
        loop {
            let (attr, extents, more) = self.extents(file.inode(), at).await?;
            if from >= attr.size {
                return Err(Errno::ENXIO.into());
            }
            if whence == libc::SEEK_DATA {
                let found = extents.first().map(|e| e.offset.max(from));
                let found = found.filter(|at| *at < attr.size).ok_or(Errno::ENXIO)?;
                return Ok(found as i64);
            }
            // A hole: the first offset that no extent covers; the end of the file is one.
            for extent in &extents {
                if extent.offset > at {
                    break;
                }
                at = extent.end();
            }
            let through = extents.last().is_some_and(|last| last.end() == at);
            if !(more && through) {
                return Ok(at.min(attr.size) as i64);
            }
        }
    }

    async fn extents(&self, inode: InodeId, from: u64) -> Outcome<(Attr, Vec<Extent>, bool)> {
        let limit = PAGE_ENTRIES_MAX as u32;
        let query = FsQuery::Extents { inode, from, to: u64::MAX, limit };
        match self.client.query(query).await? {
            FsAnswer::Extents { attr, extents, more } => Ok((attr, extents, more)),
            _ => Err(FsError::Invalid.into()),
        }
    }
}
