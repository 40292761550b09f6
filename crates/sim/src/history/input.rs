//! Operations as clients ask for them.

use super::value::{FileName, Tag, Value};
use everhold_proto::fs::RenameMode;
use std::fmt;

/// An operation on an object, by the kind of object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// On a small directory of files.
    Group(GroupInput),
    /// On an append-only file.
    Log(LogInput),
    /// On a file of slots.
    Slots(SlotsInput),
    /// On a small tree of directories.
    Tree(TreeInput),
}

/// An operation on a small directory of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GroupInput {
    /// Writes a whole file, whatever was there.
    Put(FileName, Value),
    /// Writes a whole file that must not exist.
    PutNew(FileName, Value),
    /// Reads a whole file.
    Get(FileName),
    /// Removes a file.
    Remove(FileName),
    /// Moves a file.
    Rename(FileName, FileName, RenameMode),
    /// Asks for the size of a file.
    Stat(FileName),
    /// Asks for all names and sizes.
    List,
}

/// An operation on an append-only file of records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogInput {
    /// Adds one record at the end.
    Append(Value),
    /// Reads all.
    Read,
}

/// An operation on a file of slots of one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SlotsInput {
    /// Overwrites a slot.
    Write(u32, Tag),
    /// Reads a slot.
    ReadSlot(u32),
    /// Reads all slots, of one version of the file.
    ReadAll,
}

/// An operation on a tree. Directories are named by the tag they were made with (the tree's own
/// directory by [`Tag::INITIAL`]), because a client that works in a directory stays in it when
/// another one moves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeInput {
    /// Makes a directory with a tag: directory, name, tag.
    Mkdir(Tag, FileName, Tag),
    /// Makes an empty file with a tag: directory, name, tag.
    Create(Tag, FileName, Tag),
    /// Removes an empty directory.
    Rmdir(Tag, FileName),
    /// Removes a file.
    Unlink(Tag, FileName),
    /// Moves a file or directory, from one directory and name to another.
    Rename((Tag, FileName), (Tag, FileName), RenameMode),
    /// Lists a directory.
    List(Tag),
    /// Follows a path from the tree's own directory.
    Walk(Vec<FileName>),
}

impl Input {
    /// The kind of operation, for statistics.
    pub fn kind(&self) -> &'static str {
        match self {
            Input::Group(GroupInput::Put(..)) => "put",
            Input::Group(GroupInput::PutNew(..)) => "put_new",
            Input::Group(GroupInput::Get(..)) => "get",
            Input::Group(GroupInput::Remove(..)) => "remove",
            Input::Group(GroupInput::Rename(_, _, RenameMode::Replace)) => "rename",
            Input::Group(GroupInput::Rename(_, _, RenameMode::NoReplace)) => "rename_new",
            Input::Group(GroupInput::Rename(_, _, RenameMode::Exchange)) => "exchange",
            Input::Group(GroupInput::Rename(_, _, RenameMode::Whiteout)) => "whiteout",
            Input::Group(GroupInput::Stat(..)) => "stat",
            Input::Group(GroupInput::List) => "list",
            Input::Log(LogInput::Append(..)) => "append",
            Input::Log(LogInput::Read) => "read_log",
            Input::Slots(SlotsInput::Write(..)) => "write_slot",
            Input::Slots(SlotsInput::ReadSlot(..)) => "read_slot",
            Input::Slots(SlotsInput::ReadAll) => "read_slots",
            Input::Tree(TreeInput::Mkdir(..)) => "mkdir",
            Input::Tree(TreeInput::Create(..)) => "create",
            Input::Tree(TreeInput::Rmdir(..)) => "rmdir",
            Input::Tree(TreeInput::Unlink(..)) => "unlink",
            Input::Tree(TreeInput::Rename(..)) => "rename_tree",
            Input::Tree(TreeInput::List(..)) => "list_tree",
            Input::Tree(TreeInput::Walk(..)) => "walk",
        }
    }
}

impl fmt::Display for Input {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Input::Group(input) => input.fmt(f),
            Input::Log(input) => input.fmt(f),
            Input::Slots(input) => input.fmt(f),
            Input::Tree(input) => input.fmt(f),
        }
    }
}

fn mode_name(mode: RenameMode) -> &'static str {
    match mode {
        RenameMode::Replace => "rename",
        RenameMode::NoReplace => "rename_new",
        RenameMode::Exchange => "exchange",
        RenameMode::Whiteout => "whiteout",
    }
}

impl fmt::Display for GroupInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GroupInput::Put(name, value) => write!(f, "put {name} {value}"),
            GroupInput::PutNew(name, value) => write!(f, "put_new {name} {value}"),
            GroupInput::Get(name) => write!(f, "get {name}"),
            GroupInput::Remove(name) => write!(f, "remove {name}"),
            GroupInput::Rename(from, to, mode) => write!(f, "{} {from} {to}", mode_name(*mode)),
            GroupInput::Stat(name) => write!(f, "stat {name}"),
            GroupInput::List => write!(f, "list"),
        }
    }
}

impl fmt::Display for LogInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogInput::Append(value) => write!(f, "append {value}"),
            LogInput::Read => write!(f, "read"),
        }
    }
}

impl fmt::Display for SlotsInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SlotsInput::Write(slot, tag) => write!(f, "write slot {slot} {tag}"),
            SlotsInput::ReadSlot(slot) => write!(f, "read slot {slot}"),
            SlotsInput::ReadAll => write!(f, "read all"),
        }
    }
}

impl fmt::Display for TreeInput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TreeInput::Mkdir(dir, name, tag) => write!(f, "mkdir {dir}/{name} {tag}"),
            TreeInput::Create(dir, name, tag) => write!(f, "create {dir}/{name} {tag}"),
            TreeInput::Rmdir(dir, name) => write!(f, "rmdir {dir}/{name}"),
            TreeInput::Unlink(dir, name) => write!(f, "unlink {dir}/{name}"),
            TreeInput::Rename((from, name), (to, new), mode) => {
                write!(f, "{} {from}/{name} {to}/{new}", mode_name(*mode))
            }
            TreeInput::List(dir) => write!(f, "list {dir}"),
            TreeInput::Walk(path) => write!(f, "walk /{}", path.join("/")),
        }
    }
}
