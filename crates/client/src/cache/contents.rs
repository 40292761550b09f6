//! What small files contain, by inode and version. Pure but for the one read of a file's blocks.
//!
//! A version of a file never changes, so nothing here has to be forgotten: who asks names the version that the
//! file has now, which the cache of attributes knows.

use super::generations::Generations;
use crate::client::Client;
use bytes::Bytes;
use everhold_proto::fs::{Attr, Consistency, Extent, Source};
use everhold_proto::{Error, InodeId, Kind};
use std::sync::Arc;
use tokio::sync::OnceCell;
use tokio::time::Instant;

/// Longest file that is held.
pub(super) const FILE_MAX: u64 = 128 << 10;
/// Bytes of all files that are held, with [`OVERHEAD`] for each and for each extent.
const ALL_MAX: usize = 64 << 20;
const OVERHEAD: usize = 256;

/// One version of a small file.
#[derive(Debug)]
pub(crate) struct Content {
    pub(crate) attr: Attr,
    /// All of them, with bytes of their own.
    pub(crate) extents: Vec<Extent>,
    /// What its blocks hold, once it was read.
    read: OnceCell<Bytes>,
}

#[derive(Debug)]
pub(super) struct Contents(Generations<InodeId, Arc<Content>>);

impl Default for Contents {
    fn default() -> Self {
        Contents(Generations::weighed(ALL_MAX, |content| {
            OVERHEAD * (1 + content.extents.len()) + content.attr.size as usize
        }))
    }
}

impl Contents {
    /// Whether a file is to be held at all.
    pub(super) fn is_fit(attr: &Attr) -> bool {
        attr.size <= FILE_MAX && attr.consistency != Consistency::Strict
    }

    pub(super) fn get(&mut self, inode: InodeId, version: u64) -> Option<Arc<Content>> {
        let content = self.0.get(&inode)?;
        (content.attr.version == version).then(|| content.clone())
    }

    /// Takes all extents of a version, unless it is here already or a newer one is.
    pub(super) fn hold(&mut self, attr: &Attr, extents: &[Extent]) {
        let has = self.0.get(&attr.inode).map(|content| content.attr.version);
        if Self::is_fit(attr) && has.is_none_or(|version| version < attr.version) {
            let extents = extents.iter().map(own).collect();
            let content = Content { attr: attr.clone(), extents, read: OnceCell::new() };
            self.0.insert(attr.inode, Arc::new(content));
        }
    }

    pub(super) fn forget(&mut self, inode: InodeId) {
        self.0.remove(&inode);
    }
}

/// A copy of an extent that does not keep the answer in memory which it came in.
fn own(extent: &Extent) -> Extent {
    let source = match &extent.source {
        Source::Inline(bytes) => Source::Inline(Bytes::copy_from_slice(bytes)),
        other => other.clone(),
    };
    Extent { source, ..extent.clone() }
}

impl Content {
    /// Whether any byte is in a block.
    pub(crate) fn has_blocks(&self) -> bool {
        self.extents.iter().any(|extent| matches!(extent.source, Source::Block { .. }))
    }

    /// All bytes of the file, if they were read already.
    pub(crate) fn peek(&self) -> Option<&Bytes> {
        self.read.get()
    }

    /// All bytes of the file: read once, whoever asks first.
    pub(crate) async fn bytes(&self, client: &Client, deadline: Instant) -> Result<Bytes, Error> {
        let read = || async {
            let read = client.read_extents(&self.extents, 0, self.attr.size, deadline).await?;
            Ok::<_, Error>(Bytes::copy_from_slice(&read))
        };
        let bytes = client.env.clock.until(deadline, self.read.get_or_try_init(read)).await;
        let late = |_| Error::new(Kind::Retry, "the file was not read in time");
        bytes.map_err(late)?.cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(inode: u64, version: u64, size: u64) -> Attr {
        let any: Attr = (0..).find_map(everhold_proto::fuzzing::found).expect("some bytes decode");
        let consistency = Consistency::CloseToOpen;
        Attr { inode: InodeId(inode), version, size, consistency, ..any }
    }

    fn inline(bytes: &'static [u8]) -> Extent {
        let source = Source::Inline(Bytes::from_static(bytes));
        Extent { offset: 0, length: bytes.len() as u64, source }
    }

    #[test]
    fn a_version_is_found_and_no_other_one() {
        let mut contents = Contents::default();
        contents.hold(&file(7, 3, 2), &[inline(b"ab")]);
        assert_eq!(contents.get(InodeId(7), 3).expect("is held").extents, [inline(b"ab")]);
        assert!(contents.get(InodeId(7), 2).is_none() && contents.get(InodeId(7), 4).is_none());
        contents.hold(&file(7, 2, 2), &[inline(b"xy")]);
        assert!(contents.get(InodeId(7), 3).is_some(), "an answer that was late is not taken");
        contents.hold(&file(7, 4, 2), &[inline(b"cd")]);
        assert_eq!(contents.get(InodeId(7), 4).expect("is held").extents, [inline(b"cd")]);
        contents.forget(InodeId(7));
        assert!(contents.get(InodeId(7), 4).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let mut contents = Contents::default();
        let many = 2 * ALL_MAX as u64 / FILE_MAX;
        (0..many).for_each(|inode| contents.hold(&file(inode, 1, FILE_MAX), &[]));
        let held = (0..many).filter(|inode| contents.0.get(&InodeId(*inode)).is_some()).count();
        assert!(held as u64 * FILE_MAX <= ALL_MAX as u64 && held as u64 > many / 8, "{held}");
        contents.hold(&file(many, 1, FILE_MAX + 1), &[]);
        let strict = Attr { consistency: Consistency::Strict, ..file(many + 1, 1, 1) };
        contents.hold(&strict, &[]);
        assert!((many..many + 2).all(|inode| contents.get(InodeId(inode), 1).is_none()));
    }
}
