//! The tree by paths: attributes, directories, names. A path is bytes; relative ones start at the root.

mod list;
mod remove;

pub use list::Entry;

use crate::client::Client;
use crate::error::{ClientError, Result, unexpected};
use crate::meta::attr_of;
use bytes::Bytes;
use everhold_proto::InodeId;
use everhold_proto::fs::{
    Attr, Extent, FileKind, FsAnswer, FsError, FsOp, FsQuery, FsReply, Name, NewKind, RenameMode,
    SetAttr, Usage,
};
use everhold_proto::limits::PATH_DEPTH_MAX;
use std::sync::Arc;

/// Where a path leads.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// Directory of the last component.
    pub parent: InodeId,
    /// Its name there; `None` for the root and for paths that end in a dot.
    pub name: Option<Name>,
    /// What is there, if anything.
    pub attr: Option<Attr>,
}

impl Client {
    /// Where `path` leads; a symbolic link in the last place is followed when `follow`.
    pub async fn resolve(
        self: &Arc<Self>,
        path: impl AsRef<[u8]>,
        follow: bool,
    ) -> Result<Resolved> {
        let path = path.as_ref();
        let (resolved, _) = self.resolve_with(path, follow, false).await.map_err(|e| e.at(path))?;
        Ok(resolved)
    }

    /// Attributes of what `path` leads to, symbolic links followed.
    pub async fn stat(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<Attr> {
        self.existing(path.as_ref(), true).await.map_err(|e| e.at(path))
    }

    /// Attributes of what is at `path`, a symbolic link itself.
    pub async fn lstat(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<Attr> {
        self.existing(path.as_ref(), false).await.map_err(|e| e.at(path))
    }

    /// Creates a directory.
    pub async fn mkdir(self: &Arc<Self>, path: impl AsRef<[u8]>, mode: u32) -> Result<Attr> {
        let path = path.as_ref();
        self.create_at(path, NewKind::Directory, mode).await.map_err(|e| e.at(path))
    }

    /// Creates a directory and what is missing on the way to it; one that is there is fine.
    pub async fn mkdir_all(self: &Arc<Self>, path: impl AsRef<[u8]>, mode: u32) -> Result<Attr> {
        let path = path.as_ref();
        self.mkdir_missing(path, mode).await.map_err(|e| e.at(path))
    }

    /// Creates a symbolic link at `path` to `target`.
    pub async fn symlink(
        self: &Arc<Self>,
        target: impl AsRef<[u8]>,
        path: impl AsRef<[u8]>,
    ) -> Result<Attr> {
        let target = Bytes::copy_from_slice(target.as_ref());
        let made = self.create_at(path.as_ref(), NewKind::Symlink(target), 0o777).await;
        made.map_err(|e| e.at(path))
    }

    /// Target of the symbolic link at `path`.
    pub async fn readlink(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<Bytes> {
        let inode = self.lstat(path.as_ref()).await?.inode;
        self.readlink_inode(inode).await.map_err(|e| e.at(path))
    }

    /// Target of a symbolic link.
    pub async fn readlink_inode(self: &Arc<Self>, inode: InodeId) -> Result<Bytes> {
        match self.query(FsQuery::ReadLink { inode }).await? {
            FsAnswer::Target(target) => Ok(target),
            _ => Err(unexpected("a question for a link's target")),
        }
    }

    /// Gives what is at `existing` another name.
    pub async fn hard_link(
        self: &Arc<Self>,
        existing: impl AsRef<[u8]>,
        path: impl AsRef<[u8]>,
    ) -> Result<Attr> {
        let inode = self.lstat(existing).await?.inode;
        let (parent, name) = self.place_of_name(path.as_ref()).await.map_err(|e| e.at(&path))?;
        let reply = self.execute(FsOp::Link { inode, parent, name }).await;
        attr_of(reply.map_err(|e| e.at(path))?)
    }

    /// Moves what is at `from` to `to`.
    pub async fn rename(
        self: &Arc<Self>,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        mode: RenameMode,
    ) -> Result<Attr> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let places = (self.place_of_name(from), self.place_of_name(to));
        let (source, target) = futures_util::future::join(places.0, places.1).await;
        let (parent, name) = source.map_err(|e| e.at(from))?;
        let (new_parent, new_name) = target.map_err(|e| e.at(to))?;
        let rename = FsOp::Rename { parent, name, new_parent, new_name, mode };
        attr_of(self.execute(rename).await.map_err(|e| e.at(from))?)
    }

    /// Changes attributes of what `path` leads to.
    pub async fn set_attr(self: &Arc<Self>, path: impl AsRef<[u8]>, set: SetAttr) -> Result<Attr> {
        let inode = self.stat(path.as_ref()).await?.inode;
        attr_of(self.execute(FsOp::SetAttr { inode, set }).await.map_err(|e| e.at(path))?)
    }

    /// Totals of the tree.
    pub async fn usage(self: &Arc<Self>) -> Result<Usage> {
        match self.query(FsQuery::Usage).await? {
            FsAnswer::Usage(usage) => Ok(usage),
            _ => Err(unexpected("a question for totals")),
        }
    }

    /// One name in a directory.
    pub async fn lookup(self: &Arc<Self>, parent: InodeId, name: Name) -> Result<Attr> {
        match self.query(FsQuery::Lookup { parent, name }).await? {
            FsAnswer::Attr(attr) => Ok(attr),
            _ => Err(unexpected("a lookup")),
        }
    }

    /// Directory and name for a file at `path`, whether it exists or not; links are followed.
    pub(crate) async fn place(self: &Arc<Self>, path: &[u8]) -> Result<(InodeId, Name)> {
        let (resolved, _) = self.resolve_with(path, true, false).await?;
        Ok((resolved.parent, resolved.name.ok_or(FsError::IsDirectory)?))
    }

    /// Directory and name of the entry at `path` itself.
    pub(crate) async fn place_of_name(self: &Arc<Self>, path: &[u8]) -> Result<(InodeId, Name)> {
        let (resolved, _) = self.resolve_with(path, false, false).await?;
        Ok((resolved.parent, resolved.name.ok_or(FsError::Invalid)?))
    }

    /// Attributes and first extents of the file at `path`.
    pub(crate) async fn resolve_to_read(
        self: &Arc<Self>,
        path: &[u8],
    ) -> Result<(Attr, Vec<Extent>)> {
        let (resolved, extents) = self.resolve_with(path, true, true).await?;
        Ok((resolved.attr.ok_or(FsError::NotFound)?, extents))
    }

    async fn existing(self: &Arc<Self>, path: &[u8], follow: bool) -> Result<Attr> {
        let (resolved, _) = self.resolve_with(path, follow, false).await?;
        Ok(resolved.attr.ok_or(FsError::NotFound)?)
    }

    async fn resolve_with(
        self: &Arc<Self>,
        path: &[u8],
        follow: bool,
        read: bool,
    ) -> Result<(Resolved, Vec<Extent>)> {
        let path = Bytes::copy_from_slice(path);
        let query = FsQuery::Resolve { base: InodeId::ROOT, path, follow, read };
        match self.query(query).await? {
            FsAnswer::Resolved { parent, name, attr, extents } => {
                Ok((Resolved { parent, name, attr }, extents))
            }
            _ => Err(unexpected("a resolution")),
        }
    }

    async fn create_at(self: &Arc<Self>, path: &[u8], kind: NewKind, mode: u32) -> Result<Attr> {
        let (parent, name) = self.place_of_name(path).await?;
        self.create_inode(parent, name, kind, mode).await
    }

    /// Creates an entry in a directory.
    pub async fn create_inode(
        self: &Arc<Self>,
        parent: InodeId,
        name: Name,
        kind: NewKind,
        mode: u32,
    ) -> Result<Attr> {
        let owner = self.owner(mode);
        let create = FsOp::Create { parent, name, kind, owner, open: false };
        attr_of(self.execute(create).await?)
    }

    /// Creates a directory in a directory, or finds the one that is there.
    pub async fn ensure_dir(
        self: &Arc<Self>,
        parent: InodeId,
        name: Name,
        mode: u32,
    ) -> Result<Attr> {
        match self.create_inode(parent, name.clone(), NewKind::Directory, mode).await {
            Err(e) if e.is_exists() => {}
            other => return other,
        }
        let attr = self.lookup(parent, name).await?;
        match attr.kind {
            FileKind::Directory => Ok(attr),
            _ => Err(FsError::Exists.into()),
        }
    }

    async fn mkdir_missing(self: &Arc<Self>, path: &[u8], mode: u32) -> Result<Attr> {
        // From the longest prefix that exists, downwards.
        let ends = component_ends(path);
        if ends.len() > PATH_DEPTH_MAX {
            return Err(FsError::NameTooLong.into());
        }
        let mut missing = Vec::new();
        let mut deepest = None;
        for end in ends.iter().rev().copied() {
            match self.resolve_with(&path[..end], true, false).await {
                Ok((Resolved { attr: Some(attr), .. }, _)) => {
                    deepest = Some(attr);
                    break;
                }
                Ok(_) => missing.push(end),
                Err(e) if e.is_not_found() => missing.push(end),
                Err(e) => return Err(e),
            }
        }
        let mut attr = match deepest {
            Some(attr) => attr,
            None => self.attr(InodeId::ROOT).await?,
        };
        for end in missing.into_iter().rev() {
            let name = last_component(&path[..end]);
            attr =
                self.ensure_dir(attr.inode, Name::new(Bytes::copy_from_slice(name))?, mode).await?;
        }
        match attr.kind {
            FileKind::Directory => Ok(attr),
            _ => Err(FsError::NotDirectory.into()),
        }
    }
}

/// The ends of the components of a path.
fn component_ends(path: &[u8]) -> Vec<usize> {
    let ends_here = |i: &usize| path[*i] != b'/' && path.get(i + 1).is_none_or(|b| *b == b'/');
    (0..path.len()).filter(ends_here).map(|i| i + 1).collect()
}

fn last_component(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or_default()
}

/// An answer without content.
pub(crate) fn done(reply: FsReply) -> Result<()> {
    match reply {
        FsReply::Done | FsReply::Numbers(..) => Ok(()),
        FsReply::Attr(_) => Err::<(), ClientError>(unexpected("attributes")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cut_at_components() {
        let prefixes = |path: &'static str| -> Vec<&str> {
            component_ends(path.as_bytes()).into_iter().map(|end| &path[..end]).collect()
        };
        assert_eq!(prefixes("/a/bc//d/"), ["/a", "/a/bc", "/a/bc//d"]);
        assert_eq!(prefixes("x"), ["x"]);
        assert!(prefixes("/").is_empty());
        assert_eq!(last_component(b"/a/bc"), b"bc");
    }
}
