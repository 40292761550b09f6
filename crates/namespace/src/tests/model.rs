//! A file system that a reader can check at a glance: a map of nodes with their bytes.

use super::world::*;
use bytes::Bytes;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use std::collections::BTreeMap;

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) kind: FileKind,
    pub(super) bytes: Vec<u8>,
    /// For each byte whether an extent covers it.
    pub(super) covered: Vec<bool>,
    pub(super) nlink: u32,
    pub(super) entries: BTreeMap<Name, InodeId>,
    parent: InodeId,
    pub(super) xattrs: BTreeMap<Bytes, Bytes>,
    handles: BTreeMap<SessionId, u32>,
    pub(super) mode: u32,
}

impl Node {
    fn new(kind: FileKind, parent: InodeId) -> Self {
        Node {
            kind,
            bytes: Vec::new(),
            covered: Vec::new(),
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            entries: BTreeMap::new(),
            parent,
            xattrs: BTreeMap::new(),
            handles: BTreeMap::new(),
            mode: if kind == FileKind::Symlink { 0o777 } else { OWNER.mode },
        }
    }

    pub(super) fn is_directory(&self) -> bool {
        self.kind == FileKind::Directory
    }

    fn resize(&mut self, size: usize) {
        self.bytes.resize(size, 0);
        self.covered.resize(size, false);
    }

    fn punch(&mut self, from: usize, to: usize) {
        let to = to.min(self.bytes.len());
        for i in from..to {
            (self.bytes[i], self.covered[i]) = (0, false);
        }
    }

    fn write(&mut self, base: usize, pieces: &[(usize, Vec<u8>)]) {
        for (offset, piece) in pieces {
            let (from, to) = (base + offset, base + offset + piece.len());
            self.resize(self.bytes.len().max(to));
            self.bytes[from..to].copy_from_slice(piece);
            self.covered[from..to].fill(true);
        }
    }
}

pub(super) struct Model {
    pub(super) nodes: BTreeMap<InodeId, Node>,
}

type Verdict = Result<(), FsError>;

impl Model {
    pub(super) fn new() -> Self {
        let root = Node { mode: 0o755, ..Node::new(FileKind::Directory, ROOT) };
        Model { nodes: [(ROOT, root)].into() }
    }

    fn node(&mut self, id: InodeId) -> Result<&mut Node, FsError> {
        self.nodes.get_mut(&id).ok_or(FsError::NotFound)
    }

    fn file(&mut self, id: InodeId) -> Result<&mut Node, FsError> {
        let node = self.node(id)?;
        match node.kind {
            FileKind::File => Ok(node),
            FileKind::Directory => Err(FsError::IsDirectory),
            _ => Err(FsError::Invalid),
        }
    }

    fn lookup(&mut self, parent: InodeId, name: &Name) -> Result<Option<InodeId>, FsError> {
        let node = self.node(parent)?;
        if !node.is_directory() {
            return Err(FsError::NotDirectory);
        }
        if node.nlink == 0 {
            return Err(FsError::NotFound);
        }
        Ok(node.entries.get(name).copied())
    }

    fn free_if_unused(&mut self, id: InodeId) {
        if self.nodes[&id].nlink == 0 && self.nodes[&id].handles.is_empty() {
            self.nodes.remove(&id);
        }
    }

    fn enter(&mut self, parent: InodeId, name: &Name, id: InodeId) {
        let is_directory = self.nodes[&id].is_directory();
        self.nodes.get_mut(&id).unwrap().parent = parent;
        let node = self.nodes.get_mut(&parent).unwrap();
        node.nlink += u32::from(is_directory);
        node.entries.insert(name.clone(), id);
    }

    fn leave(&mut self, parent: InodeId, name: &Name, id: InodeId) {
        let is_directory = self.nodes[&id].is_directory();
        let node = self.nodes.get_mut(&parent).unwrap();
        node.nlink -= u32::from(is_directory);
        node.entries.remove(name);
    }

    fn drop_link(&mut self, id: InodeId) {
        let node = self.nodes.get_mut(&id).unwrap();
        node.nlink = if node.is_directory() { 0 } else { node.nlink - 1 };
        self.free_if_unused(id);
    }

    fn is_below(&self, mut at: InodeId, top: InodeId) -> bool {
        while at != top && at != ROOT {
            at = self.nodes[&at].parent;
        }
        at == top
    }

    fn rename(
        &mut self,
        (parent, name): (InodeId, &Name),
        (new_parent, new_name): (InodeId, &Name),
        mode: RenameMode,
    ) -> Verdict {
        let source = self.lookup(parent, name)?;
        let target = self.lookup(new_parent, new_name)?;
        let source = source.ok_or(FsError::NotFound)?;
        let is_directory = |model: &Self, id| model.nodes[&id].is_directory();
        if mode == RenameMode::NoReplace && target.is_some() {
            return Err(FsError::Exists);
        }
        let moves = parent != new_parent;
        if moves && is_directory(self, source) && self.is_below(new_parent, source) {
            return Err(FsError::Invalid);
        }
        let Some(target) = target else {
            if mode == RenameMode::Exchange {
                return Err(FsError::NotFound);
            }
            self.leave(parent, name, source);
            self.enter(new_parent, new_name, source);
            return Ok(());
        };
        if source == target {
            return Ok(());
        }
        if mode == RenameMode::Exchange {
            if moves && is_directory(self, target) && self.is_below(parent, target) {
                return Err(FsError::Invalid);
            }
            self.leave(parent, name, source);
            self.leave(new_parent, new_name, target);
            self.enter(new_parent, new_name, source);
            self.enter(parent, name, target);
            return Ok(());
        }
        match (is_directory(self, source), is_directory(self, target)) {
            (true, false) => return Err(FsError::NotDirectory),
            (false, true) => return Err(FsError::IsDirectory),
            _ if !self.nodes[&target].entries.is_empty() => return Err(FsError::NotEmpty),
            _ => {}
        }
        self.leave(parent, name, source);
        self.leave(new_parent, new_name, target);
        self.enter(new_parent, new_name, source);
        self.drop_link(target);
        Ok(())
    }

    /// What the operation must answer; `made` is the inode of a creation.
    pub(super) fn perform(
        &mut self,
        session: SessionId,
        blocks: &BTreeMap<BlockId, Vec<u8>>,
        op: &FsOp,
        made: Option<InodeId>,
    ) -> Verdict {
        match op {
            FsOp::Create { parent, name, kind, open, .. } => {
                if self.lookup(*parent, name)?.is_some() {
                    return Err(FsError::Exists);
                }
                let (kind, bytes) = match kind {
                    NewKind::Directory => (FileKind::Directory, vec![]),
                    NewKind::Symlink(target) => (FileKind::Symlink, target.to_vec()),
                    _ => (FileKind::File, vec![]),
                };
                let id = made.unwrap();
                let mut node = Node::new(kind, *parent);
                node.bytes = bytes;
                node.handles.extend(open.then_some((session, 1)));
                self.nodes.insert(id, node);
                self.enter(*parent, name, id);
            }
            FsOp::PutFile { parent, name, size, content, replace, .. } => {
                let old = self.lookup(*parent, name)?;
                match old.map(|old| self.nodes[&old].kind) {
                    None => {}
                    Some(FileKind::File) if *replace => {}
                    Some(FileKind::Directory) if *replace => return Err(FsError::IsDirectory),
                    Some(_) => return Err(FsError::Exists),
                }
                let id = made.unwrap();
                let mut node = Node::new(FileKind::File, *parent);
                node.write(0, &pieces(content, blocks));
                node.resize(*size as usize);
                self.nodes.insert(id, node);
                if let Some(old) = old {
                    self.leave(*parent, name, old);
                    self.drop_link(old);
                }
                self.enter(*parent, name, id);
            }
            FsOp::Commit { inode, content, size_at_least, append, .. } => {
                let node = self.file(*inode)?;
                let base = if *append { node.bytes.len() } else { 0 };
                node.write(base, &pieces(content, blocks));
                node.resize(node.bytes.len().max(*size_at_least as usize));
            }
            FsOp::Fold { inode, .. } => {
                self.file(*inode)?;
            }
            FsOp::Punch { inode, offset, length } => {
                let node = self.file(*inode)?;
                if *length == 0 {
                    return Err(FsError::Invalid);
                }
                node.punch(*offset as usize, (offset + length) as usize);
            }
            FsOp::Link { inode, parent, name } => {
                let node = self.node(*inode)?;
                if node.is_directory() {
                    return Err(FsError::NotPermitted);
                }
                if node.nlink == 0 {
                    return Err(FsError::NotFound);
                }
                if self.lookup(*parent, name)?.is_some() {
                    return Err(FsError::Exists);
                }
                self.node(*inode)?.nlink += 1;
                self.enter(*parent, name, *inode);
            }
            FsOp::Unlink { parent, name, linger: false } => {
                let id = self.lookup(*parent, name)?.ok_or(FsError::NotFound)?;
                if self.nodes[&id].is_directory() {
                    return Err(FsError::IsDirectory);
                }
                self.leave(*parent, name, id);
                self.drop_link(id);
            }
            FsOp::Rmdir { parent, name } => {
                let id = self.lookup(*parent, name)?.ok_or(FsError::NotFound)?;
                if !self.nodes[&id].is_directory() {
                    return Err(FsError::NotDirectory);
                }
                if !self.nodes[&id].entries.is_empty() {
                    return Err(FsError::NotEmpty);
                }
                self.leave(*parent, name, id);
                self.drop_link(id);
            }
            FsOp::Rename { parent, name, new_parent, new_name, mode } => {
                self.rename((*parent, name), (*new_parent, new_name), *mode)?;
            }
            FsOp::SetAttr { inode, set } => {
                if let Some(size) = set.size {
                    self.file(*inode)?.resize(size as usize);
                }
                let node = self.node(*inode)?;
                node.mode = set.mode.unwrap_or(node.mode);
            }
            FsOp::SetXattr { inode, name, value, mode } => {
                let xattrs = &mut self.node(*inode)?.xattrs;
                match (mode, xattrs.contains_key(name)) {
                    (XattrMode::Create, true) => return Err(FsError::Exists),
                    (XattrMode::Replace, false) => return Err(FsError::NoAttribute),
                    _ => xattrs.insert(name.clone(), value.clone()),
                };
            }
            FsOp::RemoveXattr { inode, name } => {
                self.node(*inode)?.xattrs.remove(name).ok_or(FsError::NoAttribute)?;
            }
            FsOp::Open { inode } => {
                *self.node(*inode)?.handles.entry(session).or_default() += 1;
            }
            FsOp::Release { inode } => {
                let handles = &mut self.nodes.get_mut(inode).ok_or(FsError::NotFound)?.handles;
                let count = handles.get_mut(&session).ok_or(FsError::NotFound)?;
                *count -= 1;
                if *count == 0 {
                    handles.remove(&session);
                    self.free_if_unused(*inode);
                }
            }
            _ => return Err(FsError::NotPermitted),
        }
        Ok(())
    }

    pub(super) fn end_session(&mut self, session: SessionId) {
        let ids: Vec<InodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            if self.nodes.get_mut(&id).unwrap().handles.remove(&session).is_some() {
                self.free_if_unused(id);
            }
        }
    }
}

fn pieces(content: &Content, blocks: &BTreeMap<BlockId, Vec<u8>>) -> Vec<(usize, Vec<u8>)> {
    let bytes = |extent: &Extent| match &extent.source {
        Source::Inline(bytes) => bytes.to_vec(),
        Source::Block { id, offset, .. } => {
            blocks[id][*offset as usize..][..extent.length as usize].to_vec()
        }
    };
    content.extents.iter().map(|e| (e.offset as usize, bytes(e))).collect()
}
