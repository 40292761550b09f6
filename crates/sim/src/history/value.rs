//! Names of the things that histories speak of.

use std::fmt;
use std::sync::Arc;

/// The name of a file or directory; clones share it.
pub type FileName = Arc<str>;

/// A thing whose history is checked by itself: operations on different objects never affect each other.
/// It is the path of the object below the root of the workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId(Arc<str>);

impl ObjectId {
    /// The object at this path.
    pub fn new(path: impl AsRef<str>) -> Self {
        ObjectId(path.as_ref().into())
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// What marks a written value: no two writes of a run have the same. 0 is what was there at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u64);

/// Clients that tags tell apart.
const OWNERS: u64 = 256;

impl Tag {
    /// What was there before anything was written.
    pub const INITIAL: Tag = Tag(0);

    /// The `count`th tag of a run, drawn by `client`.
    pub(crate) fn of(count: u64, client: u32) -> Self {
        Tag(count * OWNERS + u64::from(client) % OWNERS)
    }

    /// The client that drew it (modulo 256).
    pub fn owner(self) -> u32 {
        (self.0 % OWNERS) as u32
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}.{}", self.0 / OWNERS, self.0 % OWNERS)
    }
}

/// Content of a file, a record or a slot: its bytes follow from the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Value {
    /// Which.
    pub tag: Tag,
    /// Length in bytes.
    pub size: u32,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}B", self.tag, self.size)
    }
}
