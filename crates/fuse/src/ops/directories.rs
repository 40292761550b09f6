//! Listing directories.

use crate::dirs::Dir;
use crate::edge::Edge;
use crate::failure::Outcome;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Name};
use fuser::Errno;
use std::sync::Arc;

/// `.` and `..` come first.
const DOTS: u64 = 2;
/// Entries that one answer may carry; the kernel's buffer is full long before.
const ANSWER_MAX: usize = 2048;

/// Entries for one answer of the kernel's, each with the offset after it.
pub(crate) struct Listing {
    pub(crate) inode: InodeId,
    /// Whether `.` and `..` are still to be given: from this offset on.
    dots_from: u64,
    pub(crate) entries: Vec<(u64, Name, Attr)>,
}

impl Listing {
    /// `.` and `..` as far as they are still to be given, each with the offset after it.
    pub(crate) fn dots(&self) -> impl Iterator<Item = (u64, InodeId, &'static str)> {
        let inode = self.inode;
        let dots = [(1, inode, "."), (2, inode, "..")];
        dots.into_iter().skip(self.dots_from as usize)
    }
}

impl Edge {
    pub(crate) fn opendir(&self, inode: InodeId) -> u64 {
        self.dirs.insert(Dir::new(inode))
    }

    /// The entries from `offset` on: a page of them.
    pub(crate) async fn readdir(self: Arc<Self>, handle: u64, offset: u64) -> Outcome<Listing> {
        let dir = self.dirs.get(handle).ok_or(Errno::EBADF)?;
        let position = offset.saturating_sub(DOTS);
        let stream = dir.at(&self.client, position).await?;
        let entries = stream.from(position).take(ANSWER_MAX);
        let entries = entries.map(|(next, name, attr)| (next + DOTS, name.clone(), attr.clone()));
        let entries = entries.collect();
        Ok(Listing { inode: dir.inode, dots_from: offset, entries })
    }
}
