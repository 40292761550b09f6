//! Directories made, moved, listed and removed by several clients at once. A client works in directories
//! by their inodes, as programs with open directories do; a directory's tag travels as its owner.

use super::Worker;
use super::ops::{Ops, visible};
use crate::history::{FileName, Node, ObjectId, Tag, TreeInput, TreeOutput};
use everhold_client::ClientError;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, FileKind, FsError, FsOp, Name, NewKind, Owner, RenameMode};
use rand::RngExt;
use std::collections::BTreeMap;

/// Directories that a client remembers; it forgets the oldest.
const REMEMBERED_MAX: usize = 12;

/// Names in a directory: few, so that clients meet.
const NAMES_MAX: usize = 3;

/// The directories of one tree that a client knows.
pub(super) type Known = BTreeMap<Tag, InodeId>;

/// What may be done next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Mkdir,
    Create,
    Rmdir,
    Unlink,
    Rename(RenameMode),
    List,
    Walk,
}

const WEIGHTS: [(u32, Next); 9] = [
    (20, Next::Mkdir),
    (14, Next::Create),
    (10, Next::Rmdir),
    (6, Next::Unlink),
    (14, Next::Rename(RenameMode::Replace)),
    (4, Next::Rename(RenameMode::NoReplace)),
    (4, Next::Rename(RenameMode::Exchange)),
    (16, Next::List),
    (12, Next::Walk),
];

impl Worker {
    pub(super) async fn trees(&mut self) {
        let objects = self.ops.plan.tree_objects();
        let mut names = self.ops.plan.file_names();
        names.truncate(NAMES_MAX);
        let mut known: BTreeMap<ObjectId, Known> = BTreeMap::new();
        while !self.is_stopped() && !objects.is_empty() {
            let object = &objects[self.rng.random_range(0..objects.len())];
            let known = known.entry(object.clone()).or_default();
            if known.is_empty() {
                match self.ops.directory(object).await {
                    Ok(inode) => drop(known.insert(Tag::INITIAL, inode)),
                    Err(_) => {
                        self.pause().await;
                        continue;
                    }
                }
            }
            let next = self.choose(&WEIGHTS);
            let input = self.tree_input(next, known, &names);
            self.ops.tree_step(object, known, input).await;
            self.pause().await;
        }
    }

    fn tree_input(&mut self, next: Next, known: &Known, names: &[FileName]) -> TreeInput {
        let tags: Vec<Tag> = known.keys().copied().collect();
        let (from, to) =
            (self.rng.random_range(0..tags.len()), self.rng.random_range(0..tags.len()));
        let (name, new) =
            (self.rng.random_range(0..names.len()), self.rng.random_range(0..names.len()));
        let (dir, name) = (tags[from], names[name].clone());
        let fresh = || self.ops.recorder.fresh_tag(self.ops.number);
        match next {
            Next::Mkdir => TreeInput::Mkdir(dir, name, fresh()),
            Next::Create => TreeInput::Create(dir, name, fresh()),
            Next::Rmdir => TreeInput::Rmdir(dir, name),
            Next::Unlink => TreeInput::Unlink(dir, name),
            Next::Rename(mode) => {
                TreeInput::Rename((dir, name), (tags[to], names[new].clone()), mode)
            }
            Next::List => TreeInput::List(dir),
            Next::Walk => {
                let depth = self.rng.random_range(1..=3);
                let names =
                    (0..depth).map(|_| names[self.rng.random_range(0..names.len())].clone());
                TreeInput::Walk(names.collect())
            }
        }
    }
}

impl Ops {
    /// Carries an operation out, and learns the directories that its answer shows.
    pub(super) async fn tree_step(
        &self,
        object: &ObjectId,
        known: &mut Known,
        input: TreeInput,
    ) -> Option<TreeOutput> {
        let mut learned = Vec::new();
        let perform = self.perform_tree(object, known, &input, &mut learned);
        let answer = self.tree(object, input.clone(), perform).await;
        for attr in learned.iter().filter(|attr| attr.kind == FileKind::Directory) {
            known.insert(Tag(attr.uid.into()), attr.inode);
        }
        if let (TreeInput::List(dir), Some(TreeOutput::Refused(_))) = (&input, &answer) {
            known.remove(dir); // it is gone
        }
        while known.len() > REMEMBERED_MAX && !self.is_final {
            let oldest = known.keys().copied().find(|tag| *tag != Tag::INITIAL);
            oldest.map(|tag| known.remove(&tag));
        }
        answer
    }

    async fn perform_tree(
        &self,
        object: &ObjectId,
        known: &Known,
        input: &TreeInput,
        learned: &mut Vec<Attr>,
    ) -> Result<TreeOutput, ClientError> {
        let entry = |dir: &Tag, name: &FileName| -> Result<(InodeId, Name), ClientError> {
            let inode = known.get(dir).copied().ok_or(FsError::NotFound)?;
            Ok((inode, Name::new(name.as_bytes().to_vec())?))
        };
        let op = match input {
            TreeInput::Mkdir(dir, name, tag) => create(entry(dir, name)?, *tag, NewKind::Directory),
            TreeInput::Create(dir, name, tag) => create(entry(dir, name)?, *tag, NewKind::File),
            TreeInput::Rmdir(dir, name) => {
                let (parent, name) = entry(dir, name)?;
                FsOp::Rmdir { parent, name }
            }
            TreeInput::Unlink(dir, name) => {
                let (parent, name) = entry(dir, name)?;
                FsOp::Unlink { parent, name, linger: true }
            }
            TreeInput::Rename(from, to, mode) => {
                let (parent, name) = entry(&from.0, &from.1)?;
                let (new_parent, new_name) = entry(&to.0, &to.1)?;
                FsOp::Rename { parent, name, new_parent, new_name, mode: *mode }
            }
            TreeInput::List(dir) => {
                let inode = known.get(dir).copied().ok_or(FsError::NotFound)?;
                let entries = self.client.list_inode(inode).await?;
                learned.extend(entries.iter().map(|(_, attr)| attr.clone()));
                return Ok(TreeOutput::Entries(visible(entries, node)));
            }
            // One step from a directory that stays may come from the cache.
            TreeInput::Walk(path) if self.client.follows() && path.len() == 1 => {
                let (parent, name) = entry(&Tag::INITIAL, &path[0])?;
                let found = self.client.cached_lookup(parent, &name).await?;
                let attr = found.ok_or(FsError::NotFound)?;
                learned.push(attr.clone());
                return Ok(TreeOutput::Node(node(&attr)));
            }
            TreeInput::Walk(path) => {
                let path = self.plan.path(object, Some(&path.join("/")));
                let attr = self.client.lstat(path).await?;
                learned.push(attr.clone());
                return Ok(TreeOutput::Node(node(&attr)));
            }
        };
        match self.client.execute(op).await? {
            everhold_proto::fs::FsReply::Attr(attr) => learned.push(attr),
            everhold_proto::fs::FsReply::Done | everhold_proto::fs::FsReply::Numbers(..) => {}
        }
        Ok(TreeOutput::Done)
    }
}

fn create((parent, name): (InodeId, Name), tag: Tag, kind: NewKind) -> FsOp {
    let uid = u32::try_from(tag.0).expect("a run draws fewer than 2^24 tags");
    let owner = Owner { uid, gid: 0, mode: 0o755, umask: 0 };
    FsOp::Create { parent, name, kind, owner, open: false }
}

fn node(attr: &Attr) -> Node {
    match attr.kind {
        FileKind::Directory => Node::Directory(Tag(attr.uid.into())),
        _ => Node::File(Tag(attr.uid.into())),
    }
}
