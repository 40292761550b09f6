//! Definite answers to operations. What the tree refuses is an answer too: the models know when it may.

use super::value::{FileName, Tag, Value};
use everhold_proto::fs::FsError;
use std::fmt;

/// An answer, by the kind of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Of a small directory of files.
    Group(GroupOutput),
    /// Of an append-only file.
    Log(LogOutput),
    /// Of a file of slots.
    Slots(SlotsOutput),
    /// Of a small tree of directories.
    Tree(TreeOutput),
}

/// Answer of a small directory of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupOutput {
    /// Done.
    Done,
    /// What the file holds.
    Value(Value),
    /// Size of the file.
    Size(u64),
    /// All names with sizes, in order.
    Names(Vec<(FileName, u64)>),
    /// Refused.
    Refused(FsError),
}

/// Answer of an append-only file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogOutput {
    /// Done.
    Done,
    /// All records.
    Records(Vec<Value>),
    /// Refused.
    Refused(FsError),
}

/// Answer of a file of slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotsOutput {
    /// Done.
    Done,
    /// What the slot holds.
    Tag(Tag),
    /// What all slots hold.
    All(Vec<Tag>),
    /// Refused.
    Refused(FsError),
}

/// What a name in a tree stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// A directory with this tag.
    Directory(Tag),
    /// A file with this tag.
    File(Tag),
}

/// Answer of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeOutput {
    /// Done.
    Done,
    /// What the path leads to.
    Node(Node),
    /// The entries of a directory, in order.
    Entries(Vec<(FileName, Node)>),
    /// Refused.
    Refused(FsError),
}

impl Output {
    /// Whether the tree refused the operation.
    pub fn is_refusal(&self) -> bool {
        matches!(
            self,
            Output::Group(GroupOutput::Refused(_))
                | Output::Log(LogOutput::Refused(_))
                | Output::Slots(SlotsOutput::Refused(_))
                | Output::Tree(TreeOutput::Refused(_))
        )
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Output::Group(output) => output.fmt(f),
            Output::Log(output) => output.fmt(f),
            Output::Slots(output) => output.fmt(f),
            Output::Tree(output) => output.fmt(f),
        }
    }
}

/// `[a, b]` of what displays itself.
fn list<T>(
    f: &mut fmt::Formatter<'_>,
    items: &[T],
    show: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    f.write_str("[")?;
    for (i, item) in items.iter().enumerate() {
        f.write_str(if i > 0 { ", " } else { "" })?;
        show(f, item)?;
    }
    f.write_str("]")
}

impl fmt::Display for GroupOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupOutput::Done => f.write_str("done"),
            GroupOutput::Value(value) => value.fmt(f),
            GroupOutput::Size(size) => write!(f, "{size} bytes"),
            GroupOutput::Names(names) => {
                list(f, names, |f, (name, size)| write!(f, "{name} {size}B"))
            }
            GroupOutput::Refused(e) => write!(f, "refused: {e}"),
        }
    }
}

impl fmt::Display for LogOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogOutput::Done => f.write_str("done"),
            LogOutput::Records(records) => list(f, records, |f, value| value.fmt(f)),
            LogOutput::Refused(e) => write!(f, "refused: {e}"),
        }
    }
}

impl fmt::Display for SlotsOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotsOutput::Done => f.write_str("done"),
            SlotsOutput::Tag(tag) => tag.fmt(f),
            SlotsOutput::All(tags) => list(f, tags, |f, tag| tag.fmt(f)),
            SlotsOutput::Refused(e) => write!(f, "refused: {e}"),
        }
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Directory(tag) => write!(f, "directory {tag}"),
            Node::File(tag) => write!(f, "file {tag}"),
        }
    }
}

impl fmt::Display for TreeOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TreeOutput::Done => f.write_str("done"),
            TreeOutput::Node(node) => node.fmt(f),
            TreeOutput::Entries(entries) => {
                list(f, entries, |f, (name, node)| write!(f, "{name}: {node}"))
            }
            TreeOutput::Refused(e) => write!(f, "refused: {e}"),
        }
    }
}
