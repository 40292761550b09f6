//! `copy_file_range` without copying: two files share blocks.

use crate::extents::{collect, cut};
use crate::failure::Outcome;
use crate::tree::Tree;
use everhold_proto::fs::{ChangeKind, Extent, FsError, FsReply, Source};
use everhold_proto::ids::*;
use everhold_proto::limits::{COMMAND_BYTES_MAX, COMMIT_EXTENTS_MAX, FILE_BYTES_MAX};

/// What is cloned, and where to.
pub(super) struct Clone {
    pub(super) source: InodeId,
    pub(super) source_offset: u64,
    pub(super) length: u64,
    pub(super) target: InodeId,
    pub(super) target_offset: u64,
}

pub(super) fn clone_range(tree: &mut Tree<'_, '_>, clone: &Clone) -> Outcome<FsReply> {
    let Clone { source, source_offset, target, target_offset, .. } = *clone;
    let source_size = tree.file(source)?.size;
    let target_size = tree.file(target)?.size;
    let source_end = source_offset.saturating_add(clone.length).min(source_size);
    let length = source_end.saturating_sub(source_offset);
    if length == 0 {
        return Ok(FsReply::Attr(tree.attr(target)?));
    }
    let target_end = target_offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX);
    let target_end = target_end.ok_or(FsError::TooLarge)?;
    if source == target && source_offset < target_end && target_offset < source_end {
        return Err(FsError::Invalid.into());
    }
    let shared = tree.extents_to_share(source, source_offset, source_end)?;
    // No extent lies beyond the end of a file.
    if target_offset < target_size {
        tree.clear(target, target_offset, target_end)?;
    }
    for extent in shared {
        let offset = extent.offset - source_offset + target_offset;
        tree.insert(target, &Extent { offset, ..extent })?;
    }
    tree.clear_privileges(target)?;
    tree.touch_content(target)?.size = target_size.max(target_end);
    tree.record(ChangeKind::Write, target, None, None)?;
    Ok(FsReply::Attr(tree.attr(target)?))
}

impl Tree<'_, '_> {
    /// What `[from, to)` of a file is made of; `TooLarge` when it is too much for one request.
    fn extents_to_share(&mut self, inode: InodeId, from: u64, to: u64) -> Outcome<Vec<Extent>> {
        let (mut shared, mut inline_bytes) = (Vec::new(), 0);
        for part in self.inode(inode)?.parts(inode, from, to) {
            let room = COMMIT_EXTENTS_MAX + 1 - shared.len();
            for extent in collect(&*self.ctx.kv, part, room)? {
                let extent = cut(&extent, extent.offset.max(part.from), extent.end().min(part.to));
                if let Source::Inline(bytes) = &extent.source {
                    inline_bytes += bytes.len();
                }
                shared.push(extent);
            }
            if shared.len() > COMMIT_EXTENTS_MAX || inline_bytes > COMMAND_BYTES_MAX {
                return Err(FsError::TooLarge.into());
            }
        }
        Ok(shared)
    }
}
