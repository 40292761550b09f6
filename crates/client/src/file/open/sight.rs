//! The committed file as an open file saw it last: one version, its attributes and extents.

use super::OpenFile;
use crate::error::Result;
use bytes::Bytes;
use everhold_proto::fs::{Attr, Extent};
use std::sync::Arc;

/// One version of a file, or a part of it.
pub(super) struct Sight {
    pub(super) attr: Attr,
    /// All extents that overlap `[from, to)`.
    extents: Vec<Extent>,
    from: u64,
    to: u64,
}

impl OpenFile {
    /// What is committed at `offset`.
    pub(super) async fn read_committed(
        self: &Arc<Self>,
        offset: u64,
        length: usize,
    ) -> Result<Bytes> {
        let deadline = self.client.deadline();
        let to = offset.saturating_add(length as u64);
        loop {
            let sight = self.sight(offset, to).await?;
            let to = to.min(sight.attr.size);
            if offset >= to {
                return Ok(Bytes::new());
            }
            if sight.to < to {
                // More extents than one page holds: rare, and rightly read without a shortcut.
                return Ok(self.client.read_inode(self.inode, offset, length).await?.1);
            }
            match self.client.read_extents(&sight.extents, offset, to, deadline).await {
                Ok(bytes) => return Ok(bytes),
                // Blocks of an old version leave after a while: ask again, and read the new one.
                Err(e) => {
                    self.changed();
                    self.client.pause_or(e, deadline).await?;
                }
            }
        }
    }

    /// The file as it was seen last, if that shows `[from, to)`, or else as it is now.
    pub(super) async fn sight(self: &Arc<Self>, from: u64, to: u64) -> Result<Arc<Sight>> {
        let changes = {
            let state = self.state.lock();
            if let Some(sight) = &state.sight
                && (sight.shows(from, to) || sight.attr.size <= from)
            {
                return Ok(sight.clone());
            }
            state.changes
        };
        // From the beginning where one page may show all of it.
        let deadline = self.client.deadline();
        let from = if from < FROM_START_BELOW { 0 } else { from };
        let (attr, extents, more) =
            self.client.extents(self.inode, from, u64::MAX, deadline).await?;
        let to = match extents.last() {
            Some(last) if more => last.end(),
            _ => u64::MAX,
        };
        let sight = Arc::new(Sight { attr, extents, from, to });
        let mut state = self.state.lock();
        if state.changes == changes {
            state.sight = Some(sight.clone());
        }
        Ok(sight)
    }
}

/// Reads below this offset look at the whole file: a page of extents is 4 GiB of full blocks.
const FROM_START_BELOW: u64 = 1 << 30;

impl Sight {
    /// Of a file without content.
    pub(super) fn empty(attr: Attr) -> Self {
        Sight { attr, extents: Vec::new(), from: 0, to: u64::MAX }
    }

    fn shows(&self, from: u64, to: u64) -> bool {
        self.from <= from && to.min(self.attr.size) <= self.to
    }
}
