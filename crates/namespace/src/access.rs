//! Permissions of what is created and changed: modes, and the lists that go with them.

use crate::acl::{self, Acl};
use crate::failure::Outcome;
use crate::rows;
use crate::tree::{MODE_MASK, Tree};
use bytes::Bytes;
use everhold_proto::fs::{FileKind, FsError, Owner};
use everhold_proto::ids::*;
use everhold_proto::kv::get_row;

/// What a new inode gets from its creator and its directory.
pub(crate) struct Permissions {
    pub(crate) mode: u32,
    /// Attributes to set on it.
    lists: Vec<(&'static [u8], Bytes)>,
}

impl Tree<'_, '_> {
    /// The permissions of something new: a default list of the directory takes the place of the umask,
    /// and directories hand it on. Symbolic links know neither.
    pub(crate) fn permissions(
        &mut self,
        kind: FileKind,
        owner: Owner,
        parent: InodeId,
    ) -> Outcome<Permissions> {
        let mode = owner.mode & MODE_MASK;
        if kind == FileKind::Symlink {
            return Ok(Permissions { mode, lists: Vec::new() });
        }
        let Some(default) = self.acl(parent, acl::DEFAULT)? else {
            return Ok(Permissions { mode: mode & !(owner.umask & 0o777), lists: Vec::new() });
        };
        let (mode, access) = default.create(mode);
        let access = access.map(|list| (acl::ACCESS, list));
        let handed_on = (kind == FileKind::Directory).then_some((acl::DEFAULT, default));
        let lists = access.into_iter().chain(handed_on);
        let lists = lists.map(|(name, list)| (name, list.to_bytes().into())).collect();
        Ok(Permissions { mode, lists })
    }

    /// Sets the lists of a new inode; its mode is in the row already.
    pub(crate) fn give_lists(&mut self, inode: InodeId, permissions: Permissions) -> Outcome<()> {
        let mut lists = permissions.lists.into_iter();
        lists.try_for_each(|(name, value)| self.put_xattr(inode, name, &value))
    }

    /// Sets the mode, and what an access list says of the same permissions.
    pub(crate) fn chmod(&mut self, inode: InodeId, mode: u32) -> Outcome<()> {
        if let Some(mut list) = self.acl(inode, acl::ACCESS)? {
            list.chmod(mode);
            self.put_xattr(inode, acl::ACCESS, &list.to_bytes().into())?;
        }
        self.inode_mut(inode)?.mode = mode & MODE_MASK;
        Ok(())
    }

    /// Sets or, with a list that has no entries, removes the list `name` of an inode; an access list
    /// changes the mode, and one that says no more than the mode is not kept.
    pub(crate) fn set_acl(&mut self, inode: InodeId, name: &[u8], value: &[u8]) -> Outcome<()> {
        let row = self.inode(inode)?;
        let (kind, mode) = (row.kind, row.mode);
        let list = Acl::parse(value)?;
        let has_place = match name {
            acl::DEFAULT => kind == FileKind::Directory,
            _ => kind != FileKind::Symlink,
        };
        if list.is_some() && !has_place {
            return Err(FsError::NotPermitted.into());
        }
        let kept = match list {
            Some(list) if name == acl::ACCESS => {
                let (mode, minimal) = list.equivalent_mode(mode);
                self.inode_mut(inode)?.mode = mode;
                (!minimal).then_some(list)
            }
            other => other,
        };
        match kept {
            Some(list) => self.put_xattr(inode, name, &list.to_bytes().into()),
            None => self.delete_xattr(inode, name).map(drop),
        }
    }

    /// A list of an inode. `Invalid` when what is kept is none: it was set before lists were checked.
    fn acl(&mut self, inode: InodeId, name: &[u8]) -> Outcome<Option<Acl>> {
        if self.inode(inode)?.xattrs == 0 {
            return Ok(None);
        }
        let value: Option<Bytes> = get_row(&*self.ctx.kv, &rows::xattr(inode, name))?;
        Ok(value.map_or(Ok(None), |value| Acl::parse(&value))?)
    }
}
