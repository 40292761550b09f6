//! The records of the change feed.

use super::Name;
use crate::ids::*;
use crate::units::Timestamp;
use serde::{Deserialize, Serialize};

/// What happened, for the change feed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    /// Log index of the entry.
    pub index: LogIndex,
    /// Wall clock of the leader.
    pub wall: Timestamp,
    /// What kind of change.
    pub kind: ChangeKind,
    /// The inode.
    pub inode: InodeId,
    /// Directory and name concerned, where there is one.
    pub entry: Option<(InodeId, Name)>,
    /// Old directory and name of a rename.
    pub old_entry: Option<(InodeId, Name)>,
    /// Who made the change; session 0: the cluster itself.
    pub session: SessionId,
}

/// Kind of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeKind {
    /// Something new has a name.
    Create,
    /// Content changed.
    Write,
    /// Attributes changed.
    Attributes,
    /// A name was removed.
    Remove,
    /// A name moved.
    Rename,
    /// Another name for an inode.
    Link,
    /// A directory was delegated: what others know of it and of its files ends here.
    Delegate,
}
