//! Names: lookup, creation, removal, renaming.

use crate::convert;
use crate::edge::Edge;
use crate::failure::Outcome;
use everhold_proto::InodeId;
use everhold_proto::fs::{
    Attr, FsAnswer, FsOp, FsQuery, FsReply, Name, NewKind, Owner, RenameMode,
};
use fuser::{Errno, RenameFlags};
use std::sync::Arc;

impl Edge {
    pub(crate) async fn lookup(self: Arc<Self>, parent: InodeId, name: Name) -> Outcome<Attr> {
        Ok(self.client.lookup(parent, name).await?)
    }

    pub(crate) async fn create_node(
        self: Arc<Self>,
        parent: InodeId,
        name: Name,
        kind: NewKind,
        owner: Owner,
    ) -> Outcome<Attr> {
        let create = FsOp::Create { parent, name, kind, owner, open: false };
        Ok(self.client.execute_attr(create).await?)
    }

    pub(crate) async fn readlink(self: Arc<Self>, inode: InodeId) -> Outcome<bytes::Bytes> {
        match self.client.query(FsQuery::ReadLink { inode }).await? {
            FsAnswer::Target(target) => Ok(target),
            _ => Err(Errno::EIO.into()),
        }
    }

    pub(crate) async fn link(
        self: Arc<Self>,
        inode: InodeId,
        parent: InodeId,
        name: Name,
    ) -> Outcome<Attr> {
        let attr = self.client.execute_attr(FsOp::Link { inode, parent, name }).await?;
        Ok(attr)
    }

    pub(crate) async fn unlink(self: Arc<Self>, parent: InodeId, name: Name) -> Outcome<()> {
        done(self.client.execute(FsOp::Unlink { parent, name }).await?)
    }

    pub(crate) async fn rmdir(self: Arc<Self>, parent: InodeId, name: Name) -> Outcome<()> {
        done(self.client.execute(FsOp::Rmdir { parent, name }).await?)
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
            _ => return Err(Errno::EINVAL.into()),
        };
        let rename = FsOp::Rename { parent, name, new_parent, new_name, mode };
        self.client.execute(rename).await?;
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

/// An answer without content.
pub(crate) fn done(reply: FsReply) -> Outcome<()> {
    match reply {
        FsReply::Done | FsReply::Attr(_) => Ok(()),
    }
}
