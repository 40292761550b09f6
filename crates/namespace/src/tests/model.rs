//! A file system that a reader can check at a glance: a map of nodes with their bytes.

mod node;

pub(super) use self::node::{LAST_BYTE, Node};

use self::node::locked;
use super::world::*;
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use std::collections::BTreeMap;

pub(super) struct Model {
    pub(super) nodes: BTreeMap<InodeId, Node>,
    /// Log time of what happens.
    pub(super) now_ms: u64,
}

type Verdict = Result<(), FsError>;

impl Model {
    pub(super) fn new() -> Self {
        let root = Node { mode: 0o755, ..Node::new(FileKind::Directory, ROOT) };
        Model { nodes: [(ROOT, root)].into(), now_ms: 0 }
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
        let node = &self.nodes[&id];
        if node.nlink == 0 && node.handles.is_empty() && node.lingers_since.is_none() {
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

    /// Takes out what lingered and is gone; nothing else may be.
    pub(super) fn forget_gone(&mut self, is_there: impl Fn(InodeId) -> bool) {
        self.nodes.retain(|id, node| {
            let gone = !is_there(*id);
            assert!(!gone || (node.is_expired(self.now_ms) && node.handles.is_empty()), "{id}");
            !gone
        });
    }

    /// Whether something is there that should have been reaped.
    pub(super) fn is_overdue(&self) -> bool {
        let overdue = |node: &Node| node.is_expired(self.now_ms) && node.handles.is_empty();
        self.nodes.values().any(overdue)
    }

    fn drop_link(&mut self, id: InodeId, linger: bool) {
        let now_ms = self.now_ms;
        let node = self.nodes.get_mut(&id).unwrap();
        node.nlink = if node.is_directory() { 0 } else { node.nlink - 1 };
        if linger && node.nlink == 0 && !node.is_directory() {
            node.lingers_since = Some(now_ms);
        }
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
        self.drop_link(target, true);
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
                    self.drop_link(old, true);
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
                if node.nlink == 0 && !node.linkable {
                    return Err(FsError::NotFound);
                }
                if self.lookup(*parent, name)?.is_some() {
                    return Err(FsError::Exists);
                }
                let node = self.node(*inode)?;
                node.nlink += 1;
                node.linkable = false;
                self.enter(*parent, name, *inode);
            }
            FsOp::Unlink { parent, name, linger } => {
                let id = self.lookup(*parent, name)?.ok_or(FsError::NotFound)?;
                if self.nodes[&id].is_directory() {
                    return Err(FsError::IsDirectory);
                }
                self.leave(*parent, name, id);
                self.drop_link(id, *linger);
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
                self.drop_link(id, false);
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
            FsOp::Delegate { .. } | FsOp::Undelegate { .. } | FsOp::Reserve { .. } => {
                unreachable!("delegations have tests of their own")
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
            FsOp::CreateUnnamed { parent, linkable, .. } => {
                let directory = self.node(*parent)?;
                if !directory.is_directory() {
                    return Err(FsError::NotDirectory);
                }
                if directory.nlink == 0 {
                    return Err(FsError::NotFound);
                }
                let mut node = Node::new(FileKind::File, *parent);
                node.nlink = 0;
                node.linkable = *linkable;
                node.handles.insert(session, 1);
                self.nodes.insert(made.unwrap(), node);
            }
            FsOp::CloneRange { source, source_offset, length, target, target_offset } => {
                let from = *source_offset as usize;
                let node = self.file(*source)?.clone();
                self.file(*target)?;
                let end = (from + *length as usize).min(node.bytes.len());
                if from >= end {
                    return Ok(());
                }
                let (at, count) = (*target_offset as usize, end - from);
                if source == target && from < at + count && at < end {
                    return Err(FsError::Invalid);
                }
                let copy = self.file(*target)?;
                copy.resize(copy.bytes.len().max(at + count));
                copy.bytes[at..at + count].copy_from_slice(&node.bytes[from..end]);
                copy.covered[at..at + count].copy_from_slice(&node.covered[from..end]);
            }
            FsOp::Lock { inode, space, owner, kind, start, end, .. } => {
                let bytes = locked(*space, *start, *end);
                let node = self.node(*inode)?;
                if node.is_locked((*space, session, *owner), &bytes, *kind) {
                    return Err(FsError::Locked);
                }
                node.locks.extend(bytes.map(|at| ((*space, session, *owner, at), *kind)));
            }
            FsOp::Unlock { inode, space, owner, start, end } => {
                let bytes = locked(*space, *start, *end);
                self.node(*inode)?.locks.retain(|(s, se, o, at), _| {
                    (*s, *se, *o) != (*space, session, *owner) || !bytes.contains(at)
                });
            }
        }
        Ok(())
    }

    pub(super) fn end_session(&mut self, session: SessionId) {
        let ids: Vec<InodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            let node = self.nodes.get_mut(&id).unwrap();
            node.locks.retain(|(_, holder, ..), _| *holder != session);
            if node.handles.remove(&session).is_some() {
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
