//! Questions about the tree and their answers.

use super::{Attr, Extent, LockInfo, LockKind, LockOwner, LockSpace, Name, Source};
use crate::ids::*;
#[cfg(doc)]
use crate::limits;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// A question about the tree, answered at one point of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsQuery {
    /// Attributes of an inode. Answer: `Attr`.
    Attr {
        /// The inode.
        inode: InodeId,
    },
    /// One name in a directory. Answer: `Attr`.
    Lookup {
        /// Directory.
        parent: InodeId,
        /// Name.
        name: Name,
    },
    /// A whole path, symbolic links followed (the last one when `follow`). With `read`, a file's
    /// extents up to [`limits::COMMIT_EXTENTS_MAX`] come along. Answer: `Resolved`.
    Resolve {
        /// Start; absolute link targets start at the root.
        base: InodeId,
        /// Components; `.` and `..` and empty ones are handled here.
        path: Bytes,
        /// Follow a symbolic link in the last place.
        follow: bool,
        /// Also give the extents.
        read: bool,
    },
    /// Entries of a directory after a name, in byte order. Answer: `Entries`.
    ReadDir {
        /// Directory.
        inode: InodeId,
        /// Continue after this name.
        after: Option<Name>,
        /// At most so many ([`limits::PAGE_ENTRIES_MAX`] caps it).
        limit: u32,
    },
    /// Extents that overlap `[from, to)`, with the attributes of the same version. Answer: `Extents`.
    Extents {
        /// The file.
        inode: InodeId,
        /// From this offset.
        from: u64,
        /// To this offset.
        to: u64,
        /// At most so many ([`limits::PAGE_ENTRIES_MAX`] caps it).
        limit: u32,
    },
    /// Target of a symbolic link. Answer: `Target`.
    ReadLink {
        /// The link.
        inode: InodeId,
    },
    /// One extended attribute. Answer: `Value`.
    GetXattr {
        /// The inode.
        inode: InodeId,
        /// Its name.
        name: Bytes,
    },
    /// Names of the extended attributes. Answer: `Names`.
    ListXattr {
        /// The inode.
        inode: InodeId,
    },
    /// The first lock that is in the way of one that somebody wants, if any. Answer: `Lock`.
    TestLock {
        /// The inode.
        inode: InodeId,
        /// The session of who wants it.
        session: SessionId,
        /// `fcntl` or `flock`.
        space: LockSpace,
        /// Who, within the session.
        owner: LockOwner,
        /// Shared or alone.
        kind: LockKind,
        /// First byte.
        start: u64,
        /// Last byte; `u64::MAX` is the end of the file.
        end: u64,
    },
    /// Totals. Answer: `Usage`.
    Usage,
}

/// Answer to a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FsAnswer {
    /// Attributes.
    Attr(Attr),
    /// A resolved path: the parent directory and last name when the last component is missing (`attr`
    /// is `None`), so that a create needs no second question.
    Resolved {
        /// Directory of the last component (the root itself for `/`).
        parent: InodeId,
        /// Last component's name; `None` for `/` or a path that ends in `..` or `.`.
        name: Option<Name>,
        /// What is there.
        attr: Option<Attr>,
        /// With `read`, for files: the first extents.
        extents: Vec<Extent>,
    },
    /// Directory entries.
    Entries {
        /// Names and what they are.
        entries: Vec<(Name, Attr)>,
        /// Whether there are more.
        more: bool,
    },
    /// Extents and the attributes of the same version.
    Extents {
        /// Attributes.
        attr: Attr,
        /// Ascending extents; the first may begin before `from`, the last end after `to`.
        extents: Vec<Extent>,
        /// Whether there are more before `to`.
        more: bool,
    },
    /// Target of a link.
    Target(Bytes),
    /// Value of an attribute.
    Value(Bytes),
    /// Names of attributes.
    Names(Vec<Bytes>),
    /// A lock that is in the way.
    Lock(Option<LockInfo>),
    /// Totals.
    Usage(Usage),
}

impl FsAnswer {
    /// Bytes that it takes encoded, at most.
    pub fn bytes_max(&self) -> usize {
        // Numbers, tags and lengths of one structure.
        const FIXED: usize = 256;
        let extents = |list: &[Extent]| {
            let each = |extent: &Extent| match &extent.source {
                Source::Inline(bytes) => FIXED / 4 + bytes.len(),
                Source::Block { .. } => FIXED / 2,
            };
            list.iter().map(each).sum::<usize>()
        };
        FIXED
            + match self {
                FsAnswer::Attr(_) | FsAnswer::Lock(_) | FsAnswer::Usage(_) => 0,
                FsAnswer::Resolved { name, extents: list, .. } => {
                    FIXED + name.as_ref().map_or(0, |name| name.as_bytes().len()) + extents(list)
                }
                FsAnswer::Entries { entries, .. } => {
                    entries.iter().map(|(name, _)| FIXED + name.as_bytes().len()).sum()
                }
                FsAnswer::Extents { extents: list, .. } => extents(list),
                FsAnswer::Target(bytes) | FsAnswer::Value(bytes) => bytes.len(),
                FsAnswer::Names(names) => names.iter().map(|name| 8 + name.len()).sum(),
            }
    }
}

/// Totals of the tree.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Inodes.
    pub inodes: u64,
    /// Live bytes in files, holes not counted.
    pub bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::encode;
    use crate::fuzzing::found;

    #[test]
    fn no_answer_takes_more_than_its_bound() {
        let answers: Vec<FsAnswer> = (0..3000).filter_map(found).collect();
        assert!(answers.len() > 1000);
        for answer in answers {
            assert!(encode(&answer).len() <= answer.bytes_max(), "{answer:?}");
        }
    }

    #[test]
    fn large_numbers_fit_too() {
        let largest = Extent {
            offset: u64::MAX,
            length: u64::MAX,
            source: Source::Block {
                id: BlockId { session: SessionId(u64::MAX), counter: u64::MAX },
                pg: PgId(u32::MAX),
                offset: u32::MAX,
                block_length: u32::MAX,
                crc: u32::MAX,
            },
        };
        let attr: Attr = (0..).find_map(found).expect("some seed gives attributes");
        let answer = FsAnswer::Extents { attr, extents: vec![largest; 1000], more: true };
        assert!(encode(&answer).len() <= answer.bytes_max());
    }
}
