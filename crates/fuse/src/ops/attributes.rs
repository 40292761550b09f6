//! `stat`, `chmod`, `chown`, `truncate`, `utimensat`.

use super::files::of_open;
use crate::edge::Edge;
use crate::failure::Outcome;
use everhold_client::OpenFile;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, SetAttr};
use fuser::Errno;
use std::sync::Arc;

impl Edge {
    /// Attributes, with everything committed that was written here: size and times are then everybody's. A directory
    /// that is gone, and that the kernel knows, has those that it had, without links.
    pub(crate) async fn getattr(self: Arc<Self>, inode: InodeId) -> Outcome<Attr> {
        match self.files.dirty(inode) {
            Some(file) => self.attr_of_dirty(file).await,
            None => match self.client.cached_attr(inode).await {
                Err(e) if e.is_not_found() && self.gone.went(inode).is_some() => {
                    Ok(self.gone.went(inode).ok_or(e)?)
                }
                // The kernel asks before it reads beyond the end that it knows.
                Err(e) if self.files.of(inode).is_some() => Err(of_open(e)),
                other => Ok(other?),
            },
        }
    }

    /// Attributes of an open file with everything committed. That goes on if the question is dropped.
    pub(crate) async fn attr_of_dirty(&self, file: Arc<OpenFile>) -> Outcome<Attr> {
        let asked = self.runtime.spawn(async move { file.attr().await });
        Ok(asked.await.map_err(|_| Errno::EIO)??)
    }

    /// Changes attributes. What was written before is committed first, so that a commit behind it neither
    /// grows a truncated file nor moves a time that was set.
    pub(crate) async fn setattr(self: Arc<Self>, inode: InodeId, set: SetAttr) -> Outcome<Attr> {
        let file = self.files.of(inode);
        if let Some(file) = &file {
            file.flush().await?;
        }
        let attr = self.client.set_attr_of(inode, set).await?;
        if let Some(file) = &file {
            file.changed();
        }
        Ok(attr)
    }

    /// The same through an open file, whose locks must still be there if the size is to change.
    pub(crate) async fn setattr_through(
        self: Arc<Self>,
        handle: Option<u64>,
        inode: InodeId,
        set: SetAttr,
    ) -> Outcome<Attr> {
        if let (Some(_), Some(handle)) = (set.size, handle) {
            self.handle_to_change(handle).await?;
        }
        self.setattr(inode, set).await
    }
}
