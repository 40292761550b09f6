//! Operations as programs ask for them, and what programs see of them.

use std::collections::BTreeSet;

/// An open file, by the order in which they were opened.
pub(crate) type Handle = u32;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct How {
    pub(crate) create: bool,
    pub(crate) exclusive: bool,
    pub(crate) truncate: bool,
    pub(crate) append: bool,
}

/// One operation. Paths are relative to the top of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Open(Handle, String, How),
    Close(Handle),
    Read(Handle, u64, usize),
    /// At an offset; of a handle that appends, at the end.
    Write(Handle, u64, Vec<u8>),
    Sync(Handle),
    SetLength(Handle, u64),
    /// Bytes from an offset become a hole.
    Punch(Handle, u64, u64),
    /// From one handle to another, both at an offset.
    Copy(Handle, u64, Handle, u64, usize),
    /// The whole file, by a mapping.
    ReadMapped(Handle),
    /// Bytes within the file, by a shared mapping that is written back then.
    WriteMapped(Handle, u64, Vec<u8>),
    StatHandle(Handle),
    Stat(String),
    List(String),
    Truncate(String, u64),
    Rename(String, String),
    Exchange(String, String),
    Link(String, String),
    Unlink(String),
    Mkdir(String),
    Rmdir(String),
    Symlink(String, String),
    Readlink(String),
    Chmod(String, u32),
    SetTime(String, i64),
    SetXattr(String, String, Vec<u8>),
    GetXattr(String, String),
    ListXattr(String),
    RemoveXattr(String, String),
}

/// What a program is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    Done,
    Bytes(Vec<u8>),
    Count(usize),
    /// Kind and permissions, size of what is no directory, links of what is no directory, owner.
    Status {
        mode: u32,
        size: u64,
        links: u64,
        owner: u32,
    },
    Names(BTreeSet<String>),
    /// The number of the error.
    Error(i32),
}

impl Op {
    /// Whether it only asks, so that it may be asked again.
    pub(crate) fn only_asks(&self) -> bool {
        matches!(
            self,
            Op::Read(..)
                | Op::ReadMapped(_)
                | Op::StatHandle(_)
                | Op::Stat(_)
                | Op::List(_)
                | Op::Readlink(_)
                | Op::GetXattr(..)
                | Op::ListXattr(_)
        )
    }

    /// Handles that it uses.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        match self {
            Op::Open(..) => Vec::new(),
            Op::Copy(from, _, to, _, _) => vec![*from, *to],
            Op::Close(handle)
            | Op::Read(handle, ..)
            | Op::Write(handle, ..)
            | Op::Sync(handle)
            | Op::SetLength(handle, _)
            | Op::Punch(handle, ..)
            | Op::ReadMapped(handle)
            | Op::WriteMapped(handle, ..)
            | Op::StatHandle(handle) => vec![*handle],
            _ => Vec::new(),
        }
    }

    /// The handle through which it changes content.
    pub(crate) fn changes(&self) -> Option<Handle> {
        match self {
            Op::Write(handle, ..)
            | Op::SetLength(handle, _)
            | Op::Punch(handle, ..)
            | Op::WriteMapped(handle, ..)
            | Op::Copy(_, _, handle, ..) => Some(*handle),
            _ => None,
        }
    }

    /// Paths that it names.
    pub(crate) fn paths(&self) -> Vec<&str> {
        match self {
            Op::Rename(from, to) | Op::Exchange(from, to) | Op::Link(from, to) => vec![from, to],
            Op::Symlink(_, path)
            | Op::Open(_, path, _)
            | Op::Stat(path)
            | Op::List(path)
            | Op::Truncate(path, _)
            | Op::Unlink(path)
            | Op::Mkdir(path)
            | Op::Rmdir(path)
            | Op::Readlink(path)
            | Op::Chmod(path, _)
            | Op::SetTime(path, _)
            | Op::SetXattr(path, ..)
            | Op::GetXattr(path, _)
            | Op::ListXattr(path)
            | Op::RemoveXattr(path, _) => vec![path],
            _ => Vec::new(),
        }
    }
}
