//! Folding: many small writes, each of which travelled inside its commit, move into blocks, so that the metadata of
//! the cluster does not grow with what is written.
//!
//! Nothing else of the same file is committed here meanwhile. Another client's change makes it fail, and it is tried
//! again after more was written.

use super::flush::pack;
use super::{OpenFile, too_busy};
use crate::behind::Block;
use crate::client::Client;
use crate::error::Result;
use bytes::Bytes;
use everhold_proto::fs::{Content, Extent, FsOp, Source};
use everhold_proto::limits::{BLOCK_BYTES_MAX, COMMIT_EXTENTS_MAX};
use everhold_proto::{InodeId, PolicyId};
use std::sync::Arc;

/// Bytes that were committed inline before they are folded.
const FOLD_BYTES: u64 = 1 << 20;
/// Blocks that are filled at once: writers wait meanwhile.
const BLOCKS_MAX: usize = 4;

/// What is known of a file's inline bytes.
#[derive(Default)]
pub(super) struct Inline {
    /// Committed since they were folded last.
    bytes: u64,
    /// There may be others.
    may_have_more: bool,
    /// They were looked for in this opening.
    looked: bool,
    folding: bool,
}

impl OpenFile {
    /// Starts to fold when it is worth it.
    pub(super) fn fold_behind(self: &Arc<Self>) {
        {
            let mut state = self.state.lock();
            let is_worth = state.inline.bytes >= FOLD_BYTES || state.inline.may_have_more;
            if !is_worth || state.inline.folding {
                return;
            }
            state.inline.folding = true;
        }
        let file = self.clone();
        self.client.env.tasks.detach(async move {
            if let Err(e) = file.fold().await {
                tracing::debug!(inode = %file.inode, error = %e, "inline bytes were not folded");
            }
            file.state.lock().inline.folding = false;
        });
    }

    async fn fold(self: &Arc<Self>) -> Result<()> {
        let (clock, deadline) = (self.client.env.clock, self.client.deadline());
        let busy = |_| too_busy();
        let _writing = clock.until(deadline, self.writing.lock()).await.map_err(busy)?;
        let _committing = clock.until(deadline, self.committing.lock()).await.map_err(busy)?;
        let policy = self.client.cached_attr(self.inode).await?.policy;
        self.state.lock().inline.begin();
        let (mut from, mut left, mut version) = (0, BLOCKS_MAX, None);
        while left > 0 {
            let (attr, extents, more) =
                self.client.extents(self.inode, from, u64::MAX, deadline).await?;
            if version.is_some_and(|version| version != attr.version) {
                break; // somebody else writes
            }
            let mut current = attr.version;
            from = extents.last().map_or(0, Extent::end);
            for group in groups_of(&extents) {
                left = left.saturating_sub(1);
                current = self.client.fold_group(self.inode, policy, current, group).await?;
                self.changed();
            }
            version = Some(current);
            if !more {
                return Ok(());
            }
        }
        self.state.lock().inline.may_have_more = true; // with the next flush
        Ok(())
    }
}

impl Inline {
    /// Bytes were committed inline to a file that has so many bytes now.
    pub(super) fn add(&mut self, bytes: u64, size: u64) {
        self.bytes += bytes;
        // What earlier openings left inline is looked for once.
        self.may_have_more |= !self.looked && size >= FOLD_BYTES;
    }

    fn begin(&mut self) {
        *self = Inline { looked: true, folding: true, ..Inline::default() };
    }
}

/// Inline extents, divided into blocks.
fn groups_of(extents: &[Extent]) -> Vec<Vec<(u64, Bytes)>> {
    let mut groups: Vec<Vec<(u64, Bytes)>> = Vec::new();
    let mut room = 0;
    for extent in extents {
        let Source::Inline(bytes) = &extent.source else { continue };
        match groups.last_mut() {
            Some(group) if group.len() < COMMIT_EXTENTS_MAX && bytes.len() <= room => {
                room -= bytes.len();
                group.push((extent.offset, bytes.clone()));
            }
            _ => {
                room = BLOCK_BYTES_MAX - bytes.len();
                groups.push(vec![(extent.offset, bytes.clone())]);
            }
        }
    }
    groups
}

impl Client {
    /// Writes inline extents as one block and lets the file show them there. Gives the file's version after it.
    async fn fold_group(
        self: &Arc<Self>,
        inode: InodeId,
        policy: PolicyId,
        version: u64,
        group: Vec<(u64, Bytes)>,
    ) -> Result<u64> {
        let deadline = self.deadline();
        let (bytes, parts) = pack(&group);
        let offset = group.first().map_or(0, |(offset, _)| *offset);
        let written =
            self.write_one(policy, Block { offset, bytes, parts }, None, deadline).await?;
        let make = move |content: Content| FsOp::Fold { inode, expected_version: version, content };
        Ok(self.commit(policy, vec![written], deadline, make).await?.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::limits::INLINE_BYTES_MAX;

    #[test]
    fn groups_fit_a_block_and_a_commit() {
        let extent = |n: u64, length: usize| Extent {
            offset: n * 10_000,
            length: length as u64,
            source: Source::Inline(vec![n as u8; length].into()),
        };
        let tiny: Vec<Extent> = (0..600).map(|n| extent(n, 10)).collect();
        assert_eq!(groups_of(&tiny).iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
        let large: Vec<Extent> = (0..600).map(|n| extent(n, INLINE_BYTES_MAX)).collect();
        let groups = groups_of(&large);
        assert!(groups.iter().all(|group| {
            let bytes: usize = group.iter().map(|(_, bytes)| bytes.len()).sum();
            group.len() <= COMMIT_EXTENTS_MAX && bytes <= BLOCK_BYTES_MAX
        }));
        assert_eq!(groups.iter().map(Vec::len).sum::<usize>(), 600);
        assert!(groups_of(&[]).is_empty());
    }
}
