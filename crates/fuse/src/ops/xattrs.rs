//! Extended attributes. Who may use which is checked by the kernel.

use super::names::done;
use crate::edge::Edge;
use crate::failure::Outcome;
use bytes::Bytes;
use everhold_proto::InodeId;
use everhold_proto::fs::{FsAnswer, FsOp, FsQuery, XattrMode};
use fuser::Errno;
use std::sync::Arc;

/// Statistics of the mount, on its root; not listed.
pub(crate) const STATS: &[u8] = b"user.everhold.stats";

/// A value, or only its length when the program asked for that.
pub(crate) enum Sized {
    Data(Bytes),
    Length(u32),
}

fn sized(value: Bytes, size: u32) -> Outcome<Sized> {
    match size {
        0 => Ok(Sized::Length(value.len() as u32)),
        size if value.len() <= size as usize => Ok(Sized::Data(value)),
        _ => Err(Errno::ERANGE.into()),
    }
}

impl Edge {
    pub(crate) async fn getxattr(
        self: Arc<Self>,
        inode: InodeId,
        name: Bytes,
        size: u32,
    ) -> Outcome<Sized> {
        if inode == InodeId::ROOT && name == STATS {
            let text = serde_json::to_vec(&self.stats.snapshot()).map_err(|_| Errno::EIO)?;
            return sized(text.into(), size);
        }
        match self.client.query(FsQuery::GetXattr { inode, name }).await? {
            FsAnswer::Value(value) => sized(value, size),
            _ => Err(Errno::EIO.into()),
        }
    }

    pub(crate) async fn listxattr(self: Arc<Self>, inode: InodeId, size: u32) -> Outcome<Sized> {
        let FsAnswer::Names(names) = self.client.query(FsQuery::ListXattr { inode }).await? else {
            return Err(Errno::EIO.into());
        };
        let mut list = Vec::new();
        for name in names {
            list.extend_from_slice(&name);
            list.push(0);
        }
        sized(list.into(), size)
    }

    pub(crate) async fn setxattr(
        self: Arc<Self>,
        inode: InodeId,
        name: Bytes,
        value: Bytes,
        flags: i32,
    ) -> Outcome<()> {
        let mode = match flags {
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            0 => XattrMode::Set,
            _ => return Err(Errno::EINVAL.into()),
        };
        done(self.client.execute(FsOp::SetXattr { inode, name, value, mode }).await?)
    }

    pub(crate) async fn removexattr(self: Arc<Self>, inode: InodeId, name: Bytes) -> Outcome<()> {
        done(self.client.execute(FsOp::RemoveXattr { inode, name }).await?)
    }
}
