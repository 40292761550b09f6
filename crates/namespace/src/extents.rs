//! The extents of a file: make room, insert, cut, drop.
//!
//! Making room for a range drops the extents in it one by one when they are few. When they are many,
//! the range is given a fresh *fork* (an empty set of extents) and what the old fork holds there becomes
//! a doomed range that `reap` drops in steps: so the work of a request is bounded, and the change is
//! visible at once.
//!
//! **Invariant:** the references and live bytes of every block in the table are the number and the
//! lengths of the extent rows that name it, doomed ones included.

use crate::failure::Outcome;
use crate::limits::{DROP_EXTENTS_MIN, SEGMENTS_MAX};
use crate::rows::{self, DoomedRow, ExtentRow, InodeRow, Part, Segment};
use crate::tree::Tree;
use everhold_proto::codec::DecodeError;
use everhold_proto::fs::{Content, Extent, Source};
use everhold_proto::ids::*;
use everhold_proto::kv::{KvError, KvRead, KvResult, decode_at, get_row, put_row};
use everhold_proto::limits::INLINE_BYTES_MAX;
use std::ops::ControlFlow;

/// Visits the extents of a fork that overlap a range, ascending.
pub(crate) fn scan(
    kv: &(impl KvRead + ?Sized),
    part: Part,
    visit: &mut dyn FnMut(Extent) -> ControlFlow<()>,
) -> KvResult<()> {
    let from = rows::extent(part.fork, part.from.saturating_add(1));
    let mut failed = None;
    kv.scan(&from, &rows::extents_end(part.fork), &mut |key, value| match decode(key, value) {
        Ok(extent) if extent.offset >= part.to => ControlFlow::Break(()),
        Ok(extent) => visit(extent),
        Err(e) => {
            failed = Some(e);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

fn decode(key: &[u8], value: &[u8]) -> KvResult<Extent> {
    let row: ExtentRow = decode_at(key, value)?;
    row.at(key).ok_or_else(|| KvError::Row {
        key: key.iter().map(|b| format!("{b:02x}")).collect(),
        source: DecodeError { what: "extent", reason: "longer than its end".into() },
    })
}

/// Up to `limit` extents of a fork that overlap a range.
pub(crate) fn collect(
    kv: &(impl KvRead + ?Sized),
    part: Part,
    limit: usize,
) -> KvResult<Vec<Extent>> {
    let mut found = Vec::new();
    scan(kv, part, &mut |extent| {
        found.push(extent);
        if found.len() >= limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    Ok(found)
}

/// The part of an extent in `[from, to)`, which lies within it.
pub fn cut(extent: &Extent, from: u64, to: u64) -> Extent {
    let skip = from - extent.offset;
    let source = match &extent.source {
        Source::Inline(bytes) => {
            Source::Inline(bytes.slice(skip as usize..(to - extent.offset) as usize))
        }
        Source::Block { id, pg, offset, block_length, crc } => Source::Block {
            id: *id,
            pg: *pg,
            offset: offset + skip as u32,
            block_length: *block_length,
            crc: *crc,
        },
    };
    Extent { offset: from, length: to - from, source }
}

impl Tree<'_, '_> {
    /// Makes `[from, to)` of a file a hole.
    pub(crate) fn clear(&mut self, id: InodeId, from: u64, to: u64) -> Outcome<()> {
        let row = self.inode(id)?;
        let whole = from == 0 && to == u64::MAX && row.segments.is_empty();
        let may_fork = row.segments.len() < SEGMENTS_MAX;
        let mut forked = Vec::new();
        for part in row.parts(id, from, to) {
            let limit = self.grant.drops.max(DROP_EXTENTS_MIN);
            let wanted = if may_fork { limit + 1 } else { usize::MAX };
            let found = collect(&*self.ctx.kv, part, wanted)?;
            if may_fork && found.len() > limit {
                self.doom(id, part, whole)?;
                forked.push(part);
            } else {
                self.grant.drops = self.grant.drops.saturating_sub(found.len());
                for extent in &found {
                    self.drop_within(id, part, extent)?;
                }
            }
        }
        if !forked.is_empty() {
            let fork = self.next_number();
            let row = self.inode_mut(id)?;
            row.segments = with_fork(row, id, &forked, fork);
        }
        Ok(())
    }

    /// How many bytes of the ranges that content covers are covered by extents now.
    pub(crate) fn covered(&mut self, id: InodeId, content: &Content) -> Outcome<u64> {
        let row = self.inode(id)?;
        let ranges = content.extents.iter().map(|e| (e.offset, e.end()));
        let parts: Vec<Part> = ranges.flat_map(|(from, to)| row.parts(id, from, to)).collect();
        let mut covered = 0;
        for part in parts {
            scan(&*self.ctx.kv, part, &mut |extent| {
                covered += extent.end().min(part.to) - extent.offset.max(part.from);
                ControlFlow::Continue(())
            })?;
        }
        Ok(covered)
    }

    /// Puts a range of a fork on the list of what `reap` drops.
    fn doom(&mut self, id: InodeId, part: Part, whole: bool) -> Outcome<()> {
        self.split_at(id, part.fork, part.from)?;
        self.split_at(id, part.fork, part.to)?;
        if whole {
            // Nothing of this file is doomed yet, so its allocated bytes are all in this range.
            let row = self.inode_mut(id)?;
            let allocated = std::mem::take(&mut row.allocated);
            self.ctx.header.bytes = self.ctx.header.bytes.saturating_sub(allocated);
        }
        let row = DoomedRow { to: part.to, counted_in: (!whole).then_some(id) };
        Ok(put_row(self.ctx.kv, &rows::doomed(part.fork, part.from), &row)?)
    }

    /// Cuts the extent of which `at` lies inside.
    fn split_at(&mut self, id: InodeId, fork: u64, at: u64) -> Outcome<()> {
        let here = Part { fork, from: at, to: at.saturating_add(1) };
        for extent in collect(&*self.ctx.kv, here, 1)? {
            if extent.offset < at {
                self.delete_extent(id, fork, &extent)?;
                self.put_extent(id, fork, cut(&extent, extent.offset, at))?;
                self.put_extent(id, fork, cut(&extent, at, extent.end()))?;
            }
        }
        Ok(())
    }

    /// Drops of an extent what lies in the range, and keeps what lies before and after it.
    fn drop_within(&mut self, id: InodeId, part: Part, extent: &Extent) -> Outcome<()> {
        self.delete_extent(id, part.fork, extent)?;
        if extent.offset < part.from {
            self.put_extent(id, part.fork, cut(extent, extent.offset, part.from))?;
        }
        if extent.end() > part.to {
            self.put_extent(id, part.fork, cut(extent, part.to, extent.end()))?;
        }
        Ok(())
    }

    /// Adds an extent where there is room. Small inline neighbours become one row, so that a file that
    /// grows by small appends does not become a row per append.
    pub(crate) fn insert(&mut self, id: InodeId, extent: &Extent) -> Outcome<()> {
        let parts = self.inode(id)?.parts(id, extent.offset, extent.end());
        for part in parts {
            let piece = cut(extent, part.from, part.to);
            let piece = self.merged_with_previous(id, part.fork, piece)?;
            self.put_extent(id, part.fork, piece)?;
        }
        Ok(())
    }

    fn merged_with_previous(&mut self, id: InodeId, fork: u64, piece: Extent) -> Outcome<Extent> {
        let (Source::Inline(bytes), Some(before)) = (&piece.source, piece.offset.checked_sub(1))
        else {
            return Ok(piece);
        };
        let row = self.inode(id)?;
        let same_fork = row.parts(id, before, piece.offset).iter().all(|p| p.fork == fork);
        if row.allocated == 0 || !same_fork || bytes.len() >= INLINE_BYTES_MAX {
            return Ok(piece);
        }
        let key = rows::extent(fork, piece.offset);
        let previous: Option<ExtentRow> = get_row(&*self.ctx.kv, &key)?;
        let Some(previous) = previous.and_then(|row| row.at(&key)) else { return Ok(piece) };
        match &previous.source {
            Source::Inline(left) if left.len() + bytes.len() <= INLINE_BYTES_MAX => {
                let joined = [&left[..], &bytes[..]].concat();
                let (offset, length) = (previous.offset, joined.len() as u64);
                self.delete_extent(id, fork, &previous)?;
                Ok(Extent { offset, length, source: Source::Inline(joined.into()) })
            }
            _ => Ok(piece),
        }
    }

    fn put_extent(&mut self, id: InodeId, fork: u64, extent: Extent) -> Outcome<()> {
        self.refer(&extent, 1);
        self.inode_mut(id)?.allocated += extent.length;
        self.ctx.header.bytes += extent.length;
        let key = rows::extent(fork, extent.end());
        let row = ExtentRow { length: extent.length, source: extent.source };
        Ok(put_row(self.ctx.kv, &key, &row)?)
    }

    fn delete_extent(&mut self, id: InodeId, fork: u64, extent: &Extent) -> Outcome<()> {
        self.drop_row(fork, extent)?;
        let row = self.inode_mut(id)?;
        row.allocated = row.allocated.saturating_sub(extent.length);
        self.ctx.header.bytes = self.ctx.header.bytes.saturating_sub(extent.length);
        Ok(())
    }

    /// Removes the row of an extent and its reference, but not its bytes from any total.
    pub(crate) fn drop_row(&mut self, fork: u64, extent: &Extent) -> KvResult<()> {
        self.refer(extent, -1);
        self.dropped += 1;
        self.ctx.kv.delete(&rows::extent(fork, extent.end()))
    }

    fn refer(&mut self, extent: &Extent, sign: i64) {
        if let Source::Block { id, pg, .. } = &extent.source {
            let delta = self.references.entry((*pg, *id)).or_default();
            delta.0 += sign;
            // A block has at most 4 MiB, and so has an extent of it.
            delta.1 += sign * extent.length as i64;
        }
    }
}

/// The segments of a file after `fork` took over some parts, each of which lies in one segment.
fn with_fork(row: &InodeRow, id: InodeId, parts: &[Part], fork: u64) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    let mut push = |from: u64, to: u64, fork: u64| {
        if from < to && segments.last().is_none_or(|last| last.fork != fork) {
            segments.push(Segment { from, fork });
        }
    };
    for old in row.parts(id, 0, u64::MAX) {
        match parts.iter().find(|p| old.from <= p.from && p.to <= old.to) {
            Some(part) => {
                push(old.from, part.from, old.fork);
                push(part.from, part.to, fork);
                push(part.to, old.to, old.fork);
            }
            None => push(old.from, old.to, old.fork),
        }
    }
    segments
}
