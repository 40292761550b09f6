//! Listing directories, page by page.

use crate::client::Client;
use crate::error::{Result, unexpected};
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FsAnswer, FsError, FsQuery, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use std::sync::Arc;

/// A directory entry: its name and the attributes of what it names.
pub type Entry = (Name, Attr);

impl Client {
    /// Up to `limit` entries of a directory after a name, in byte order, and whether there are more.
    pub async fn list_page(
        self: &Arc<Self>,
        inode: InodeId,
        after: Option<Name>,
        limit: usize,
    ) -> Result<(Vec<Entry>, bool)> {
        let limit = limit.clamp(1, PAGE_ENTRIES_MAX) as u32;
        match self.query(FsQuery::ReadDir { inode, after, limit }).await? {
            FsAnswer::Entries { entries, more } if entries.is_empty() && more => {
                Err(unexpected("an empty page"))
            }
            FsAnswer::Entries { entries, more } => Ok((entries, more)),
            _ => Err(unexpected("a listing")),
        }
    }

    /// All entries of the directory at `path`, or the one entry if it is no directory.
    pub async fn list(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<Vec<Entry>> {
        let path = path.as_ref();
        let attr = self.stat(path).await?;
        match self.list_inode(attr.inode).await {
            Err(e) if matches!(e.fs(), Some(FsError::NotDirectory)) => {
                let last = path.rsplit(|b| *b == b'/').find(|part| !part.is_empty());
                let name = Name::new(last.unwrap_or_default().to_vec())?;
                Ok(vec![(name, attr)])
            }
            other => other.map_err(|e| e.at(path)),
        }
    }

    /// All entries of a directory. The caller bounds the memory: use [`Client::list_page`] for
    /// directories of any size.
    pub async fn list_inode(self: &Arc<Self>, inode: InodeId) -> Result<Vec<Entry>> {
        let mut all: Vec<Entry> = Vec::new();
        loop {
            let after = all.last().map(|(name, _)| name.clone());
            let (page, more) = self.list_page(inode, after, PAGE_ENTRIES_MAX).await?;
            all.extend(page);
            if !more {
                return Ok(all);
            }
        }
    }
}
