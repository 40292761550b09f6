//! A small tree of directories, each known by the tag it was made with. The order of the checks is the
//! namespace's: directories first, then names, then cycles, then what would be replaced.

use crate::check::Model;
use crate::history::{FileName, Node, Tag, TreeInput, TreeOutput};
use everhold_proto::fs::{FsError, RenameMode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Tree;

/// All directories with their entries; the tree's own directory is [`Tag::INITIAL`].
pub type TreeState = BTreeMap<Tag, BTreeMap<FileName, Node>>;

impl Model for Tree {
    type State = TreeState;
    type Input = TreeInput;
    type Output = TreeOutput;

    fn initial(&self) -> TreeState {
        TreeState::from([(Tag::INITIAL, BTreeMap::new())])
    }

    fn apply(&self, tree: &mut TreeState, input: &TreeInput) -> TreeOutput {
        let answer = match input {
            TreeInput::Mkdir(dir, name, tag) => {
                let made = enter_new(tree, *dir, name, Node::Directory(*tag));
                made.map(|()| drop(tree.insert(*tag, BTreeMap::new()))).map(done)
            }
            TreeInput::Create(dir, name, tag) => {
                enter_new(tree, *dir, name, Node::File(*tag)).map(done)
            }
            TreeInput::Rmdir(dir, name) => remove_directory(tree, *dir, name).map(done),
            TreeInput::Unlink(dir, name) => remove_file(tree, *dir, name).map(done),
            TreeInput::Rename(from, to, mode) => rename(tree, from, to, *mode).map(done),
            TreeInput::List(dir) => entries(tree, *dir).map(|entries| {
                let entries = entries.iter().map(|(name, node)| (name.clone(), *node));
                TreeOutput::Entries(entries.collect())
            }),
            TreeInput::Walk(path) => walk(tree, path).map(TreeOutput::Node),
        };
        answer.unwrap_or_else(TreeOutput::Refused)
    }

    fn only_observes(&self, input: &TreeInput, output: Option<&TreeOutput>) -> bool {
        matches!(input, TreeInput::List(_) | TreeInput::Walk(_))
            || matches!(output, Some(TreeOutput::Refused(_)))
    }

    fn shows(&self, output: &TreeOutput, input: &TreeInput) -> bool {
        let made = match input {
            TreeInput::Mkdir(_, _, tag) => Node::Directory(*tag),
            TreeInput::Create(_, _, tag) => Node::File(*tag),
            _ => return false,
        };
        match output {
            TreeOutput::Node(node) => *node == made,
            TreeOutput::Entries(entries) => entries.iter().any(|(_, node)| *node == made),
            TreeOutput::Done | TreeOutput::Refused(_) => false,
        }
    }

    fn leaves(&self, input: &TreeInput) -> bool {
        matches!(input, TreeInput::Mkdir(..) | TreeInput::Create(..))
    }

    /// Files that nothing shows are alike. Directories are not: others may be below them.
    fn blurred(&self, input: &TreeInput) -> TreeInput {
        match input {
            TreeInput::Create(dir, name, _) => TreeInput::Create(*dir, name.clone(), Tag(u64::MAX)),
            other => other.clone(),
        }
    }

    fn scope(&self, _: &TreeInput) -> Option<Vec<Arc<str>>> {
        None
    }

    fn is_forgettable(&self, _: &TreeInput, _: &[&TreeInput]) -> bool {
        false
    }

    fn describe(&self, tree: &TreeState) -> String {
        let dirs = tree.iter().map(|(tag, entries)| {
            let entries = entries.iter().map(|(name, node)| (name.clone(), *node)).collect();
            format!("{tag}: {}", TreeOutput::Entries(entries))
        });
        dirs.collect::<Vec<_>>().join("; ")
    }
}

type Entries = BTreeMap<FileName, Node>;

fn done((): ()) -> TreeOutput {
    TreeOutput::Done
}

fn entries(tree: &TreeState, dir: Tag) -> Result<&Entries, FsError> {
    tree.get(&dir).ok_or(FsError::NotFound)
}

fn entries_mut(tree: &mut TreeState, dir: Tag) -> Result<&mut Entries, FsError> {
    tree.get_mut(&dir).ok_or(FsError::NotFound)
}

fn enter_new(tree: &mut TreeState, dir: Tag, name: &FileName, node: Node) -> Result<(), FsError> {
    let entries = entries_mut(tree, dir)?;
    if entries.contains_key(name) {
        return Err(FsError::Exists);
    }
    entries.insert(name.clone(), node);
    Ok(())
}

fn remove_file(tree: &mut TreeState, dir: Tag, name: &FileName) -> Result<(), FsError> {
    let entries = entries_mut(tree, dir)?;
    match entries.get(name) {
        None => Err(FsError::NotFound),
        Some(Node::Directory(_)) => Err(FsError::IsDirectory),
        Some(Node::File(_)) => {
            entries.remove(name);
            Ok(())
        }
    }
}

fn remove_directory(tree: &mut TreeState, dir: Tag, name: &FileName) -> Result<(), FsError> {
    let removed = match entries(tree, dir)?.get(name) {
        None => return Err(FsError::NotFound),
        Some(Node::File(_)) => return Err(FsError::NotDirectory),
        Some(Node::Directory(tag)) => *tag,
    };
    if !entries(tree, removed)?.is_empty() {
        return Err(FsError::NotEmpty);
    }
    tree.remove(&removed);
    entries_mut(tree, dir)?.remove(name);
    Ok(())
}

fn rename(
    tree: &mut TreeState,
    from: &(Tag, FileName),
    to: &(Tag, FileName),
    mode: RenameMode,
) -> Result<(), FsError> {
    let source = entries(tree, from.0)?.get(&from.1).copied();
    let target = entries(tree, to.0)?.get(&to.1).copied();
    let source = source.ok_or(FsError::NotFound)?;
    if mode == RenameMode::NoReplace && target.is_some() {
        return Err(FsError::Exists);
    }
    check_no_cycle(tree, source, from.0, to.0)?;
    match (mode, target) {
        (RenameMode::Exchange, None) => return Err(FsError::NotFound),
        (_, Some(target)) if target == source => return Ok(()),
        (RenameMode::Exchange, Some(target)) => {
            check_no_cycle(tree, target, to.0, from.0)?;
            entries_mut(tree, from.0)?.insert(from.1.clone(), target);
        }
        (_, Some(target)) => {
            check_replaceable(tree, source, target)?;
            if let Node::Directory(replaced) = target {
                tree.remove(&replaced);
            }
            entries_mut(tree, from.0)?.remove(&from.1);
        }
        (_, None) => drop(entries_mut(tree, from.0)?.remove(&from.1)),
    }
    entries_mut(tree, to.0)?.insert(to.1.clone(), source);
    Ok(())
}

fn check_replaceable(tree: &TreeState, source: Node, target: Node) -> Result<(), FsError> {
    match (source, target) {
        (Node::Directory(_), Node::File(_)) => Err(FsError::NotDirectory),
        (Node::File(_), Node::Directory(_)) => Err(FsError::IsDirectory),
        (Node::Directory(_), Node::Directory(tag)) if !entries(tree, tag)?.is_empty() => {
            Err(FsError::NotEmpty)
        }
        _ => Ok(()),
    }
}

/// A directory does not move below itself.
fn check_no_cycle(tree: &TreeState, moved: Node, from: Tag, to: Tag) -> Result<(), FsError> {
    let Node::Directory(moved) = moved else { return Ok(()) };
    if from == to {
        return Ok(());
    }
    let mut at = Some(to);
    while let Some(dir) = at {
        if dir == moved {
            return Err(FsError::Invalid);
        }
        at = parent(tree, dir);
    }
    Ok(())
}

fn parent(tree: &TreeState, dir: Tag) -> Option<Tag> {
    let holds = |entries: &Entries| entries.values().any(|node| *node == Node::Directory(dir));
    tree.iter().find(|(_, entries)| holds(entries)).map(|(tag, _)| *tag)
}

fn walk(tree: &TreeState, path: &[FileName]) -> Result<Node, FsError> {
    let mut at = Node::Directory(Tag::INITIAL);
    for name in path {
        let Node::Directory(dir) = at else { return Err(FsError::NotDirectory) };
        at = *entries(tree, dir)?.get(name).ok_or(FsError::NotFound)?;
    }
    Ok(at)
}
