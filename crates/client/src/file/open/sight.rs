//! The committed file as an open file saw it last: one version, its attributes and extents.

use super::OpenFile;
use crate::blocks::{Piece, plan};
use crate::cache::Content;
use crate::error::Result;
use bytes::Bytes;
use everhold_namespace::cut;
use everhold_proto::fs::{Attr, Extent};
use std::sync::Arc;

/// One version of a file, or a part of it.
pub(super) struct Sight {
    pub(super) attr: Attr,
    /// All extents that overlap `[from, to)`.
    pub(super) extents: Vec<Extent>,
    from: u64,
    to: u64,
    /// The same from the cache, for a small file.
    content: Option<Arc<Content>>,
}

impl OpenFile {
    /// Up to `length` bytes at `offset`, if they are here and nothing waits for a commit: without a question, and
    /// without waiting.
    pub fn peek(&self, offset: u64, length: usize) -> Option<Bytes> {
        let (sight, changes) = {
            let state = self.state.lock();
            if !state.overlay.is_empty() {
                return None;
            }
            (state.sight.clone(), state.changes)
        };
        let sight = match sight {
            Some(sight) => sight,
            None => self.sight_of_cache(changes)?,
        };
        sight.peek(offset, offset.saturating_add(length as u64))
    }

    /// The file as the cache knows it now; kept unless it has changed since.
    fn sight_of_cache(&self, changes: u64) -> Option<Arc<Sight>> {
        let content = self.client.peek_content(self.inode)?;
        let (attr, extents) = (content.attr.clone(), content.extents.clone());
        let sight = Sight { attr, extents, from: 0, to: u64::MAX, content: Some(content) };
        Some(self.keep(sight, changes))
    }

    fn keep(&self, sight: Sight, changes: u64) -> Arc<Sight> {
        let sight = Arc::new(sight);
        let mut state = self.state.lock();
        if state.changes == changes {
            state.sight = Some(sight.clone());
        }
        sight
    }

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
            let content = sight.content.as_ref().filter(|content| content.has_blocks());
            let now = self.client.env.clock.now();
            let half = now + deadline.saturating_duration_since(now) / 2;
            if let Some(content) = content
                && let Ok(all) = content.bytes(&self.client, half).await
            {
                let to = to.min(all.len() as u64) as usize;
                return Ok(all.slice((offset as usize).min(to)..to));
            }
            // Also when another part of a small file cannot be read.
            match self.client.read_extents(&sight.extents, offset, to, deadline).await {
                Ok(bytes) => return Ok(bytes),
                // Blocks of an old version leave after a while: ask again, and read the new one.
                Err(e) => {
                    self.changed();
                    self.client.forget_content(self.inode);
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
        if let Some(sight) = self.sight_of_cache(changes) {
            return Ok(sight);
        }
        // From the beginning where one page may show all of it.
        let deadline = self.client.deadline();
        let from = if from < FROM_START_BELOW { 0 } else { from };
        let (attr, extents, more) =
            self.client.extents_and_ahead(self.inode, from, deadline).await?;
        let to = match extents.last() {
            Some(last) if more => last.end(),
            _ => u64::MAX,
        };
        Ok(self.keep(Sight { attr, extents, from, to, content: None }, changes))
    }
}

/// Reads below this offset look at the whole file: a page of extents is 4 GiB of full blocks.
const FROM_START_BELOW: u64 = 1 << 30;

impl Sight {
    /// Of a file without content.
    pub(super) fn empty(attr: Attr) -> Self {
        Sight { attr, extents: Vec::new(), from: 0, to: u64::MAX, content: None }
    }

    /// The bytes `[from, to)`, if they are here.
    fn peek(&self, from: u64, to: u64) -> Option<Bytes> {
        let to = to.min(self.attr.size);
        if from >= to {
            return Some(Bytes::new());
        }
        if !self.shows(from, to) {
            return None;
        }
        if let Some(all) = self.content.as_ref().and_then(|content| content.peek()) {
            return (to <= all.len() as u64).then(|| all.slice(from as usize..to as usize));
        }
        match &plan(&self.extents, from, to).ok()?[..] {
            [Piece::Inline(bytes)] => Some(bytes.clone()),
            _ => None,
        }
    }

    fn shows(&self, from: u64, to: u64) -> bool {
        self.from <= from && to.min(self.attr.size) <= self.to
    }

    /// The next version, which differs by these extents and attributes; `None`: nobody knows what else changed, or not
    /// all of it was seen.
    pub(super) fn next(&self, attr: &Attr, new: &[Extent]) -> Option<Sight> {
        let is_whole = self.from == 0 && self.to == u64::MAX;
        if !is_whole || attr.version != self.attr.version + 1 {
            return None;
        }
        let mut extents = self.extents.clone();
        new.iter().for_each(|extent| lay_over(&mut extents, extent));
        Some(Sight { attr: attr.clone(), extents, from: 0, to: u64::MAX, content: None })
    }
}

/// Puts an extent over ascending ones that do not overlap.
fn lay_over(extents: &mut Vec<Extent>, new: &Extent) {
    let first = extents.partition_point(|extent| extent.end() <= new.offset);
    let last = extents.partition_point(|extent| extent.offset < new.end());
    let over = &extents[first..last];
    let before = over.first().filter(|extent| extent.offset < new.offset);
    let before = before.map(|extent| cut(extent, extent.offset, new.offset));
    let after = over.last().filter(|extent| new.end() < extent.end());
    let after = after.map(|extent| cut(extent, new.end(), extent.end()));
    let rest = [before, Some(new.clone()), after];
    extents.splice(first..last, rest.into_iter().flatten());
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::fs::Source;
    use everhold_proto::{BlockId, PgId, SessionId};
    use proptest::prelude::*;

    /// An extent of which each byte can be told from others: by what it is, or where it is in its block.
    fn extent(offset: u64, length: u64, fill: u8, inline: bool) -> Extent {
        let source = match inline {
            true => Source::Inline(vec![fill; length as usize].into()),
            false => Source::Block {
                id: BlockId { session: SessionId(1), counter: fill.into() },
                pg: PgId(0),
                offset: 7,
                block_length: 1000,
                crc: 0,
            },
        };
        Extent { offset, length, source }
    }

    fn show(extents: &[Extent]) -> Vec<Option<(u64, u32)>> {
        let mut shown = vec![None; 120];
        let mut end = 0;
        for extent in extents {
            assert!(extent.length > 0 && extent.offset >= end, "ascending, not overlapping");
            end = extent.end();
            for i in 0..extent.length {
                shown[(extent.offset + i) as usize] = Some(match &extent.source {
                    Source::Inline(bytes) => (u64::from(bytes[i as usize]), u32::MAX),
                    Source::Block { id, offset, .. } => (1000 + id.counter, offset + i as u32),
                });
            }
            if let Source::Inline(bytes) = &extent.source {
                assert_eq!(bytes.len() as u64, extent.length);
            }
        }
        shown
    }

    proptest! {
        #[test]
        fn what_was_written_last_is_shown(
            writes in proptest::collection::vec((0u64..100, 1u64..20, any::<u8>(), any::<bool>()), 1..30)
        ) {
            let (mut extents, mut expected) = (Vec::new(), vec![None; 120]);
            for (offset, length, fill, inline) in writes {
                let new = extent(offset, length, fill, inline);
                for (at, byte) in show(std::slice::from_ref(&new)).into_iter().enumerate() {
                    if byte.is_some() {
                        expected[at] = byte;
                    }
                }
                lay_over(&mut extents, &new);
                prop_assert_eq!(show(&extents), expected.clone());
            }
        }
    }
}
