//! New content of a file: checked completely, then made part of it.
//!
//! Whatever a client may have written into a command is judged here: nothing of it panics, and nothing
//! is changed before all of it is found right.

use crate::failure::{Failure, Outcome};
use crate::tree::Tree;
use everhold_cluster::table;
use everhold_proto::fs::{Content, Extent, FsError, Source};
use everhold_proto::ids::*;
use everhold_proto::kv::get_row;
use everhold_proto::limits::{
    BLOCK_BYTES_MAX, COMMIT_EXTENTS_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX,
};
use everhold_proto::table::{BlockRow, NewBlock};
use everhold_proto::tables;
use std::collections::{BTreeMap, BTreeSet};

/// A whole block as an extent names it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Named {
    pg: PgId,
    length: u32,
    crc: u32,
}

impl Tree<'_, '_> {
    /// Checks content that is to be put at `base`; the answer is the offset right after its last extent.
    pub(crate) fn check_content(&mut self, content: &Content, base: u64) -> Outcome<u64> {
        let end = check_shape(content, base)?;
        let named = named_blocks(&content.extents)?;
        let new = new_blocks(&content.blocks)?;
        if !new.keys().all(|id| named.contains_key(id)) {
            return Err(FsError::Invalid.into());
        }
        for (id, block) in &named {
            let right = match new.get(id) {
                Some(new) => *block == Named { pg: new.pg, length: new.length, crc: new.crc },
                None => self.is_live(*id, block)?,
            };
            if !right {
                return Err(FsError::Invalid.into());
            }
        }
        if !content.blocks.is_empty() {
            let Tree { ctx, grant, .. } = self;
            let refused = table::judge(&*ctx.kv, grant.session, grant.floor, &content.blocks)?;
            if !refused.is_empty() {
                return Err(FsError::BlocksRefused(refused).into());
            }
        }
        Ok(end)
    }

    /// Whether the block table has this very block, referred to by some file.
    fn is_live(&self, id: BlockId, block: &Named) -> Outcome<bool> {
        let row: Option<BlockRow> = get_row(&*self.ctx.kv, &tables::block(block.pg, id))?;
        Ok(row.is_some_and(|row| {
            row.references > 0 && row.length == block.length && row.crc == block.crc
        }))
    }

    /// Makes checked content part of a file, in place of what was there.
    pub(crate) fn put_content(
        &mut self,
        inode: InodeId,
        content: &Content,
        base: u64,
    ) -> Outcome<()> {
        let size = self.inode(inode)?.size;
        for (from, to) in runs(&content.extents, base) {
            // No extent lies beyond the end of a file, so appending needs no room.
            if from < size {
                self.clear(inode, from, to)?;
            }
        }
        for block in &content.blocks {
            table::admit(self.ctx, block)?;
        }
        for extent in &content.extents {
            let placed = Extent { offset: extent.offset + base, ..extent.clone() };
            self.insert(inode, &placed)?;
        }
        Ok(())
    }
}

fn check_shape(content: &Content, base: u64) -> Outcome<u64> {
    let too_many = |n: usize| n > COMMIT_EXTENTS_MAX;
    if too_many(content.extents.len()) || too_many(content.blocks.len()) {
        return Err(FsError::Invalid.into());
    }
    let mut end = 0;
    for extent in &content.extents {
        if extent.offset < end || extent.length == 0 || !source_fits(extent) {
            return Err(FsError::Invalid.into());
        }
        end = extent.offset.checked_add(extent.length).ok_or(FsError::TooLarge)?;
    }
    match end.checked_add(base) {
        Some(end) if end <= FILE_BYTES_MAX => Ok(end),
        _ => Err(FsError::TooLarge.into()),
    }
}

fn source_fits(extent: &Extent) -> bool {
    match &extent.source {
        Source::Inline(bytes) => {
            bytes.len() as u64 == extent.length && bytes.len() <= INLINE_BYTES_MAX
        }
        Source::Block { offset, block_length, .. } => {
            *block_length as usize <= BLOCK_BYTES_MAX
                && u64::from(*offset)
                    .checked_add(extent.length)
                    .is_some_and(|end| end <= u64::from(*block_length))
        }
    }
}

/// The blocks that extents name; each must be described in the same way every time.
fn named_blocks(extents: &[Extent]) -> Outcome<BTreeMap<BlockId, Named>> {
    let mut named = BTreeMap::new();
    for extent in extents {
        if let Source::Block { id, pg, block_length, crc, .. } = &extent.source {
            let block = Named { pg: *pg, length: *block_length, crc: *crc };
            if *named.entry(*id).or_insert(block) != block {
                return Err(FsError::Invalid.into());
            }
        }
    }
    Ok(named)
}

fn new_blocks(blocks: &[NewBlock]) -> Outcome<BTreeMap<BlockId, &NewBlock>> {
    let twice = || Failure::from(FsError::Invalid);
    let mut seen = BTreeSet::new();
    blocks
        .iter()
        .map(|block| if seen.insert(block.id) { Ok((block.id, block)) } else { Err(twice()) })
        .collect()
}

/// The ranges that extents cover, neighbours joined.
fn runs(extents: &[Extent], base: u64) -> Vec<(u64, u64)> {
    let mut runs: Vec<(u64, u64)> = Vec::new();
    for extent in extents {
        let (from, to) = (extent.offset + base, extent.end() + base);
        match runs.last_mut() {
            Some(last) if last.1 == from => last.1 = to,
            _ => runs.push((from, to)),
        }
    }
    runs
}
