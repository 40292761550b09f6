//! Inodes as clients see them, and what is said of new ones and of changes.

use crate::ids::*;
use crate::units::Timestamp;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What an inode is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

/// Attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// The inode.
    pub inode: InodeId,
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, set-id bits and the sticky bit (`0o7777`).
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Hard links (for a directory 2 + subdirectories).
    pub nlink: u32,
    /// Size in bytes (of a symlink: its target; of a directory: number of entries).
    pub size: u64,
    /// Bytes that extents cover; holes do not count.
    pub allocated: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of attributes.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Device number of a device node.
    pub rdev: u64,
    /// Raised by each change of the inode; a commit may name the version it expects.
    pub version: u64,
    /// Policy of the data (inherited from the directory).
    pub policy: PolicyId,
    /// How mounts may cache it (inherited from the directory).
    pub consistency: Consistency,
    /// Number of its extended attributes, access control lists among them.
    pub xattrs: u32,
    /// The directory that holds it; of what is no directory only while it never had another name, else
    /// [`InodeId::NONE`].
    pub parent: InodeId,
}

/// How far a mount may answer from what it knows already. Kept for each inode, so that directories
/// can differ; what is created takes that of its directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consistency {
    /// Whoever opens a file after another closed it sees what that one wrote.
    #[default]
    CloseToOpen,
    /// Every read sees all writes that ended before it began, everywhere.
    Strict,
    /// What was read a little while ago may be answered again, even after an open.
    Relaxed,
}

impl Consistency {
    /// All of them.
    pub const ALL: [Consistency; 3] =
        [Consistency::CloseToOpen, Consistency::Strict, Consistency::Relaxed];

    /// Its name for people and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Consistency::CloseToOpen => "close-to-open",
            Consistency::Strict => "strict",
            Consistency::Relaxed => "relaxed",
        }
    }
}

impl fmt::Display for Consistency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What is created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NewKind {
    /// An empty regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to this target.
    Symlink(Bytes),
    /// A pipe.
    Fifo,
    /// A socket.
    Socket,
    /// A character device.
    CharDevice(u64),
    /// A block device.
    BlockDevice(u64),
}

/// Owner and permissions of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group (a setgid directory's group wins).
    pub gid: u32,
    /// Mode bits as the program asked for them.
    pub mode: u32,
    /// Permissions that are not given (`0o777`), unless the directory has a default ACL; 0 where the
    /// mode was masked before. Symbolic links ignore it.
    pub umask: u32,
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetAttr {
    /// Mode bits. An access ACL is changed with them.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// New size: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<TimeOrNow>,
    /// Modification time.
    pub mtime: Option<TimeOrNow>,
    /// How mounts may cache it, and what is created in it from now on.
    pub consistency: Option<Consistency>,
}

/// A given time, or the leader's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TimeOrNow {
    /// This time.
    At(Timestamp),
    /// The leader's clock.
    Now,
}

/// How a rename treats its target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RenameMode {
    /// Replace it, as POSIX has it.
    Replace,
    /// Fail when it exists.
    NoReplace,
    /// Swap the two.
    Exchange,
    /// Replace it, and leave a character device with the number 0 under the old name, which stands for "nothing
    /// here" in the upper layer of an overlay.
    Whiteout,
}

/// How setting an extended attribute treats an existing one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Fail when it exists.
    Create,
    /// Fail when it does not exist.
    Replace,
}
