//! Listing directories, with and without attributes.

use crate::coherence::Moment;
use crate::dirs::{Dir, Stream};
use crate::edge::Edge;
use crate::failure::Outcome;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Name};
use fuser::Errno;
use std::sync::Arc;
use std::time::Duration;

/// `.` and `..` come first.
const DOTS: u64 = 2;
/// Entries that one answer may carry; the kernel's buffer is full long before.
const ANSWER_MAX: usize = 2048;
/// The same with attributes: the kernel's buffer is a program's, usually of 32 KiB.
const PLUS_MAX: usize = 256;

/// Entries for one answer of the kernel's, each with the offset after it.
pub(crate) struct Listing {
    pub(crate) inode: InodeId,
    /// Whether `.` and `..` are still to be given: from this offset on.
    dots_from: u64,
    pub(crate) entries: Vec<Listed>,
}

/// An entry, the offset after it, and how long the kernel may keep it and its attributes.
pub(crate) struct Listed {
    pub(crate) next: u64,
    pub(crate) name: Name,
    pub(crate) attr: Attr,
    pub(crate) keep: Duration,
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
        self.dirs.insert(Dir::new(inode, self.client.losses().mark()))
    }

    /// The entries from `offset` on: a page of them.
    pub(crate) async fn readdir(self: Arc<Self>, handle: u64, offset: u64) -> Outcome<Listing> {
        let dir = self.dirs.get(handle).ok_or(Errno::EBADF)?;
        let position = offset.saturating_sub(DOTS);
        let stream = dir.at(&self.client, position).await?;
        Ok(listing(&dir, &stream, offset, ANSWER_MAX))
    }

    /// The same with attributes that are those of now.
    pub(crate) async fn readdirplus(
        self: Arc<Self>,
        handle: u64,
        offset: u64,
        mut moment: Moment,
    ) -> Outcome<Listing> {
        let dir = self.dirs.get(handle).ok_or(Errno::EBADF)?;
        let position = offset.saturating_sub(DOTS);
        let mut stream = dir.at(&self.client, position).await?;
        let mut listed = listing(&dir, &stream, offset, PLUS_MAX);
        if !self.bring_up_to_date(&mut listed) {
            moment = self.moment();
            stream.renew(&self.client, dir.inode, position).await?;
            listed = listing(&dir, &stream, offset, PLUS_MAX);
        }
        for entry in &mut listed.entries {
            if let Some(file) = self.files.dirty(entry.attr.inode) {
                match self.attr_of_dirty(file).await {
                    Ok(attr) => entry.attr = attr,
                    Err(e) if e.is_not_found() => {} // it was removed elsewhere meanwhile
                    Err(e) => return Err(e),
                }
            }
            self.gone.saw(&entry.attr);
            let keep = self.keep_entry(dir.inode, &entry.attr, moment);
            entry.keep = keep.attr.min(keep.entry);
        }
        Ok(listed)
    }

    /// Takes the attributes that the cache has now; `false`: it does not have them all.
    fn bring_up_to_date(&self, listed: &mut Listing) -> bool {
        let parent = listed.inode;
        listed.entries.iter_mut().all(|entry| match self.client.peek_lookup(parent, &entry.name) {
            Some(Some(attr)) => {
                entry.attr = attr;
                true
            }
            Some(None) | None => false,
        })
    }
}

fn listing(dir: &Dir, stream: &Stream, offset: u64, limit: usize) -> Listing {
    let position = offset.saturating_sub(DOTS);
    let entries = stream.from(position).take(limit).map(|(next, name, attr)| Listed {
        next: next + DOTS,
        name: name.clone(),
        attr: attr.clone(),
        keep: Duration::ZERO,
    });
    Listing { inode: dir.inode, dots_from: offset, entries: entries.collect() }
}
