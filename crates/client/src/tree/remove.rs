//! Removing names, one or a whole tree.

use super::done;
use crate::client::Client;
use crate::error::Result;
use everhold_proto::InodeId;
use everhold_proto::fs::{FileKind, FsError, FsOp, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use futures_util::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// Removals under way at once; they share log entries.
const AT_ONCE: usize = 256;
/// Directories listed at once.
const LISTED_AT_ONCE: usize = 16;

/// A directory on the way to be removed.
#[derive(Clone, Debug)]
struct Doomed {
    parent: InodeId,
    name: Name,
    inode: InodeId,
}

impl Client {
    /// Removes a file, link or empty directory.
    pub async fn remove(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<()> {
        let path = path.as_ref();
        let resolved = self.resolve(path, false).await?;
        let work = async {
            let attr = resolved.attr.ok_or(FsError::NotFound)?;
            let name = resolved.name.ok_or(FsError::Invalid)?;
            self.remove_entry(resolved.parent, name, attr.kind).await
        };
        work.await.map_err(|e| e.at(path))
    }

    /// Removes a name, with everything below it. What is gone already is fine, so that several may
    /// remove the same tree. Gives the number of names removed.
    pub async fn remove_all(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<u64> {
        let path = path.as_ref();
        let resolved = self.resolve(path, false).await?;
        let work = async {
            let attr = resolved.attr.ok_or(FsError::NotFound)?;
            let Some(name) = resolved.name else {
                return Err(FsError::Invalid.into()); // the root stays
            };
            if attr.kind != FileKind::Directory {
                return self.remove_entry(resolved.parent, name, attr.kind).await.map(|()| 1);
            }
            let top = Doomed { parent: resolved.parent, name, inode: attr.inode };
            self.remove_tree(top).await
        };
        work.await.map_err(|e| e.at(path))
    }

    async fn remove_entry(
        self: &Arc<Self>,
        parent: InodeId,
        name: Name,
        kind: FileKind,
    ) -> Result<()> {
        done(
            self.execute(match kind {
                FileKind::Directory => FsOp::Rmdir { parent, name },
                _ => FsOp::Unlink { parent, name, linger: true },
            })
            .await?,
        )
    }

    /// Files go while directories are found, level by level; then directories, the deepest first.
    async fn remove_tree(self: &Arc<Self>, top: Doomed) -> Result<u64> {
        let mut removed = 0;
        let mut levels = vec![vec![top]];
        while let Some(level) = levels.last().filter(|level| !level.is_empty()) {
            let emptied = futures_util::stream::iter(level.clone())
                .map(|dir| self.remove_files_of(dir.inode))
                .buffer_unordered(LISTED_AT_ONCE)
                .try_collect::<Vec<_>>()
                .await?;
            let mut next = Vec::new();
            for (count, dirs) in emptied {
                removed += count;
                next.extend(dirs);
            }
            levels.push(next);
        }
        for level in levels.into_iter().rev() {
            let count = level.len() as u64;
            futures_util::stream::iter(level)
                .map(|dir| self.remove_emptied(dir))
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
            removed += count;
        }
        Ok(removed)
    }

    /// Removes what is no directory, and gives the number of those and the directories.
    async fn remove_files_of(self: &Arc<Self>, inode: InodeId) -> Result<(u64, Vec<Doomed>)> {
        let (mut count, mut dirs, mut after) = (0, Vec::new(), None);
        loop {
            let page = self.list_page(inode, after, PAGE_ENTRIES_MAX).await;
            let (entries, more) = match page {
                Err(e) if e.is_not_found() => return Ok((count, dirs)),
                other => other?,
            };
            after = entries.last().map(|(name, _)| name.clone());
            let mut files = Vec::new();
            for (name, attr) in entries {
                match attr.kind {
                    FileKind::Directory => {
                        dirs.push(Doomed { parent: inode, name, inode: attr.inode });
                    }
                    kind => files.push((name, kind)),
                }
            }
            count += files.len() as u64;
            futures_util::stream::iter(files)
                .map(|(name, kind)| async move {
                    gone_is_fine(self.remove_entry(inode, name, kind).await)
                })
                .buffer_unordered(AT_ONCE)
                .try_collect::<()>()
                .await?;
            if !more {
                return Ok((count, dirs));
            }
        }
    }

    async fn remove_emptied(self: &Arc<Self>, dir: Doomed) -> Result<()> {
        let Doomed { parent, name, .. } = dir;
        gone_is_fine(self.remove_entry(parent, name, FileKind::Directory).await)
    }
}

fn gone_is_fine(result: Result<()>) -> Result<()> {
    match result {
        Err(e) if e.is_not_found() => Ok(()),
        other => other,
    }
}
