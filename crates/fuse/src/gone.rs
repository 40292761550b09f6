//! Directories that are gone while somebody still has them open, or works in them.
//!
//! The cluster keeps nothing of a directory without a name. A working directory has no handle either that would say
//! that it is in use. So the mount remembers the attributes of directories that the kernel knows, until the kernel forgets
//! them, and answers from that when the cluster says that one is gone. Inode numbers are never used again.

use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FileKind};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Directories that are remembered, about 15 MiB. Beyond it an arbitrary part is forgotten.
const REMEMBERED_MAX: usize = 65_536;

/// Directories that the kernel knows.
#[derive(Default)]
pub(crate) struct Gone(Mutex<HashMap<InodeId, Attr>>);

impl Gone {
    /// The kernel is told these attributes.
    pub(crate) fn saw(&self, attr: &Attr) {
        if attr.kind != FileKind::Directory {
            return;
        }
        let mut known = self.0.lock();
        if known.len() >= REMEMBERED_MAX && !known.contains_key(&attr.inode) {
            // The order of a hash map is arbitrary. Those that are gone are few, and the cluster tells of them no more.
            let mut kept = 0;
            known.retain(|_, attr| {
                kept += 1;
                attr.nlink == 0 || kept % 4 != 0
            });
        }
        if known.len() < REMEMBERED_MAX || known.contains_key(&attr.inode) {
            known.insert(attr.inode, attr.clone());
        }
    }

    /// The cluster says that an inode is gone: what `stat` shows of it, if it was a directory that the kernel knows.
    pub(crate) fn went(&self, inode: InodeId) -> Option<Attr> {
        let mut known = self.0.lock();
        let attr = known.get_mut(&inode)?;
        (attr.nlink, attr.size, attr.xattrs) = (0, 0, 0);
        Some(attr.clone())
    }

    /// The kernel does not know an inode any more.
    pub(crate) fn forget(&self, inode: InodeId) {
        self.0.lock().remove(&inode);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(inode: u64) -> Attr {
        let attr: Attr = (0..).find_map(everhold_proto::fuzzing::found).unwrap();
        Attr { inode: InodeId(inode), kind: FileKind::Directory, nlink: 3, size: 7, ..attr }
    }

    #[test]
    fn a_directory_is_shown_until_the_kernel_forgets_it() {
        let (gone, inode) = (Gone::default(), InodeId(5));
        assert_eq!(gone.went(inode), None, "it was never known");
        gone.saw(&directory(5));
        let left = gone.went(inode).unwrap();
        assert_eq!((left.nlink, left.size, left.mode), (0, 0, directory(5).mode));
        assert_eq!(gone.went(inode), Some(left.clone()));
        gone.saw(&directory(5));
        assert_eq!(gone.went(inode), Some(left), "it was told of late");
        gone.forget(inode);
        assert_eq!(gone.went(inode), None);
    }

    #[test]
    fn only_directories_are_remembered() {
        let gone = Gone::default();
        gone.saw(&Attr { kind: FileKind::File, ..directory(5) });
        assert_eq!(gone.went(InodeId(5)), None);
    }

    #[test]
    fn a_full_memory_keeps_those_that_are_gone() {
        let gone = Gone::default();
        gone.saw(&directory(1));
        gone.went(InodeId(1));
        for inode in 2..REMEMBERED_MAX as u64 + 10 {
            gone.saw(&directory(inode));
        }
        assert!(gone.0.lock().len() <= REMEMBERED_MAX);
        assert!(gone.went(InodeId(1)).is_some());
        assert!(gone.went(InodeId(REMEMBERED_MAX as u64 + 9)).is_some(), "the newest");
    }
}
