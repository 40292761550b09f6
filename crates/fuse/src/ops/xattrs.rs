//! Extended attributes. Who may use which is checked by the kernel.

use crate::edge::Edge;
use crate::failure::Outcome;
use bytes::Bytes;
use everhold_proto::InodeId;
use everhold_proto::fs::XattrMode;
use fuser::Errno;
use std::sync::Arc;

/// Statistics of the mount, on its root; not listed.
const STATS: &[u8] = b"user.everhold.stats";
/// The number of the process that serves it, likewise.
const PROCESS: &[u8] = b"user.everhold.process";

/// What a program may do beyond its user; a write takes it.
const CAPABILITY: &[u8] = b"security.capability";

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
    /// Whether it is known that an inode has no such attribute. The mount's own ones are nobody's but its.
    pub(crate) fn lacks_xattr(&self, inode: InodeId, name: &[u8]) -> bool {
        ![STATS, PROCESS].contains(&name) && self.client.peek_lacks(inode, name)
    }

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
        if inode == InodeId::ROOT && name == PROCESS {
            return sized(std::process::id().to_string().into(), size);
        }
        let mut value = match self.client.cached_xattr(inode, &name).await {
            Err(e) if e.is_not_found() && self.gone.went(inode).is_some() => None,
            other => other?,
        };
        // What was written takes it when it is committed.
        if name == CAPABILITY
            && value.is_some()
            && let Some(file) = self.files.dirty(inode)
        {
            self.attr_of_dirty(file).await?;
            value = self.client.cached_xattr(inode, &name).await?;
        }
        sized(value.ok_or(Errno::ENODATA)?, size)
    }

    pub(crate) async fn listxattr(self: Arc<Self>, inode: InodeId, size: u32) -> Outcome<Sized> {
        let mut list = Vec::new();
        let names = match self.client.cached_xattr_names(inode).await {
            Err(e) if e.is_not_found() && self.gone.went(inode).is_some() => Vec::new(),
            other => other?,
        };
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
        Ok(self.client.set_xattr(inode, name, value, mode).await?)
    }

    pub(crate) async fn removexattr(self: Arc<Self>, inode: InodeId, name: Bytes) -> Outcome<()> {
        Ok(self.client.remove_xattr(inode, name).await?)
    }
}
