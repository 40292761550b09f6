//! What a change touches: keys of the cache. Pure.

use everhold_proto::InodeId;
use everhold_proto::fs::{ChangeRecord, FsOp, Name};

/// What the cache holds values under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    /// Attributes of an inode, and which extended ones it lacks.
    Inode(InodeId),
    /// What a name stands for.
    Entry(InodeId, Name),
}

/// What a change of this client touches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Touched {
    pub(crate) keys: Vec<Key>,
    /// The name that the inode in its answer has got, if it has.
    pub(crate) names: Option<(InodeId, Name)>,
    /// Whether these are all keys: else it also changes an inode that only the leader knows (the one that loses
    /// a name), and the cache must hear of it from the feed.
    pub(crate) is_whole: bool,
}

/// Keys that a change which is asked for touches if it is made. An inode that it creates is none of
/// them: nobody can hold it yet.
pub(crate) fn touched(op: &FsOp) -> Touched {
    let inode = |inode: &InodeId| vec![Key::Inode(*inode)];
    let entry = |parent: &InodeId, name: &Name| {
        vec![Key::Inode(*parent), Key::Entry(*parent, name.clone())]
    };
    let only = |keys| Touched { keys, names: None, is_whole: op.tells_all() };
    match op {
        FsOp::Create { parent, name, .. } | FsOp::PutFile { parent, name, .. } => {
            Touched { names: Some((*parent, name.clone())), ..only(entry(parent, name)) }
        }
        FsOp::Commit { inode: id, .. }
        | FsOp::Fold { inode: id, .. }
        | FsOp::Punch { inode: id, .. }
        | FsOp::SetAttr { inode: id, .. }
        | FsOp::SetXattr { inode: id, .. }
        | FsOp::RemoveXattr { inode: id, .. } => only(inode(id)),
        FsOp::Link { inode: id, parent, name } => Touched {
            names: Some((*parent, name.clone())),
            ..only([inode(id), entry(parent, name)].concat())
        },
        FsOp::Unlink { parent, name, .. } | FsOp::Rmdir { parent, name } => {
            only(entry(parent, name))
        }
        FsOp::Rename { parent, name, new_parent, new_name, .. } => {
            only([entry(parent, name), entry(new_parent, new_name)].concat())
        }
        FsOp::CloneRange { target, .. } => only(inode(target)),
        // Handles and locks are no attributes. What the last handle frees had no name, and is not held.
        FsOp::CreateUnnamed { .. }
        | FsOp::Lock { .. }
        | FsOp::Unlock { .. }
        | FsOp::Open { .. }
        | FsOp::Release { .. }
        | FsOp::Delegate { .. }
        | FsOp::Undelegate { .. }
        | FsOp::Reserve { .. } => only(Vec::new()),
    }
}

/// Keys that a change record tells of.
pub(super) fn told(record: &ChangeRecord) -> Vec<Key> {
    let mut keys = vec![Key::Inode(record.inode)];
    for (directory, name) in record.entry.iter().chain(&record.old_entry) {
        keys.push(Key::Inode(*directory));
        keys.push(Key::Entry(*directory, name.clone()));
    }
    keys
}
