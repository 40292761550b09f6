//! Names: lookup, creation, removal, renaming.

use crate::convert;
use crate::edge::Edge;
use crate::failure::Outcome;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Name, NewKind, Owner, RenameMode};
use fuser::{Errno, RenameFlags};
use std::sync::Arc;

impl Edge {
    /// What a name stands for; `None`: nothing.
    pub(crate) async fn lookup(
        self: Arc<Self>,
        parent: InodeId,
        name: Name,
    ) -> Outcome<Option<Attr>> {
        let Some(attr) = self.client.cached_lookup(parent, &name).await? else { return Ok(None) };
        match self.files.dirty(attr.inode) {
            // The kernel takes size and times from the answer.
            Some(file) => Ok(Some(self.attr_of_dirty(file).await?)),
            None => Ok(Some(attr)),
        }
    }

    pub(crate) async fn create_node(
        self: Arc<Self>,
        parent: InodeId,
        name: Name,
        kind: NewKind,
        owner: Owner,
    ) -> Outcome<Attr> {
        Ok(self.client.create_node(parent, name, kind, owner, false).await?)
    }

    pub(crate) async fn readlink(self: Arc<Self>, inode: InodeId) -> Outcome<bytes::Bytes> {
        Ok(self.client.readlink_inode(inode).await?)
    }

    pub(crate) async fn link(
        self: Arc<Self>,
        inode: InodeId,
        parent: InodeId,
        name: Name,
    ) -> Outcome<Attr> {
        if let Some(file) = self.files.dirty(inode) {
            file.flush().await?;
        }
        Ok(self.client.link(inode, parent, name).await?)
    }

    pub(crate) async fn unlink(self: Arc<Self>, parent: InodeId, name: Name) -> Outcome<()> {
        self.may_lose(parent, &name);
        Ok(self.client.unlink(parent, name, true).await?)
    }

    /// Who has open what a name stands for keeps it.
    fn may_lose(&self, parent: InodeId, name: &Name) {
        if let Some(Some(attr)) = self.client.peek_lookup(parent, name) {
            self.client.may_lose_name(attr.inode);
        }
    }

    pub(crate) async fn rmdir(self: Arc<Self>, parent: InodeId, name: Name) -> Outcome<()> {
        Ok(self.client.rmdir(parent, name).await?)
    }

    pub(crate) async fn rename(
        self: Arc<Self>,
        (parent, name): (InodeId, Name),
        (new_parent, new_name): (InodeId, Name),
        flags: RenameFlags,
    ) -> Outcome<()> {
        let mode = match flags {
            f if f.is_empty() => RenameMode::Replace,
            RenameFlags::RENAME_NOREPLACE => RenameMode::NoReplace,
            RenameFlags::RENAME_EXCHANGE => RenameMode::Exchange,
            RenameFlags::RENAME_WHITEOUT => RenameMode::Whiteout,
            _ => return Err(Errno::EINVAL.into()),
        };
        self.may_lose(new_parent, &new_name);
        self.client.rename_in(parent, name, new_parent, new_name, mode).await?;
        Ok(())
    }

    /// A device number or kind that `mknod` was asked for.
    pub(crate) async fn mknod(
        self: Arc<Self>,
        parent: InodeId,
        name: Name,
        (mode, rdev): (u32, u32),
        owner: Owner,
    ) -> Outcome<Attr> {
        let kind = convert::node_kind(mode, rdev)?;
        self.create_node(parent, name, kind, owner).await
    }
}
