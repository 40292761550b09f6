//! The tree by inodes, as a mount works in it: each method is one change or one question, but for clones,
//! which go in parts.
//!
//! A change happens at most once; an error of kind `MaybeApplied` leaves open whether it happened. Each
//! is tried until the client's default deadline. Handles and locks belong to the client's session and end
//! with it: whoever keeps them watches [`Client::session_id`].

use crate::client::Client;
use crate::error::{Result, unexpected};
use crate::tree::done;
use bytes::Bytes;
use everhold_proto::fs::{
    Attr, FsAnswer, FsError, FsOp, FsQuery, LockInfo, LockKind, LockOwner, LockSpace, Name,
    NewKind, Owner, RenameMode, SetAttr, XattrMode,
};
use everhold_proto::limits::{BLOCK_BYTES_MAX, FILE_BYTES_MAX};
use everhold_proto::{InodeId, SessionId};
use std::ops::RangeInclusive;
use std::sync::Arc;

impl Client {
    /// The session that changes are made in now. It is another one when the one before ended, which took
    /// its handles and locks with it.
    pub fn session_id(&self) -> SessionId {
        self.session().id
    }

    /// Creates an entry of a directory, with an open handle if `open`. `Exists` when the name is taken.
    pub async fn create_node(
        self: &Arc<Self>,
        parent: InodeId,
        name: Name,
        kind: NewKind,
        owner: Owner,
        open: bool,
    ) -> Result<Attr> {
        self.execute_attr(FsOp::Create { parent, name, kind, owner, open }).await
    }

    /// Removes a name that is no directory. `linger`: others may have it open without a handle.
    pub async fn unlink(self: &Arc<Self>, parent: InodeId, name: Name, linger: bool) -> Result<()> {
        done(self.execute(FsOp::Unlink { parent, name, linger }).await?)
    }

    /// Removes an empty directory.
    pub async fn rmdir(self: &Arc<Self>, parent: InodeId, name: Name) -> Result<()> {
        done(self.execute(FsOp::Rmdir { parent, name }).await?)
    }

    /// Gives an inode that is no directory another name; gives its attributes.
    pub async fn link(
        self: &Arc<Self>,
        inode: InodeId,
        parent: InodeId,
        name: Name,
    ) -> Result<Attr> {
        self.execute_attr(FsOp::Link { inode, parent, name }).await
    }

    /// Moves a name; gives the attributes of what was moved.
    pub async fn rename_in(
        self: &Arc<Self>,
        parent: InodeId,
        name: Name,
        new_parent: InodeId,
        new_name: Name,
        mode: RenameMode,
    ) -> Result<Attr> {
        self.execute_attr(FsOp::Rename { parent, name, new_parent, new_name, mode }).await
    }

    /// Changes attributes of an inode.
    pub async fn set_attr_of(self: &Arc<Self>, inode: InodeId, set: SetAttr) -> Result<Attr> {
        self.execute_attr(FsOp::SetAttr { inode, set }).await
    }

    /// The value of an extended attribute; `NoAttribute` when it is not set.
    pub async fn get_xattr(
        self: &Arc<Self>,
        inode: InodeId,
        name: impl Into<Bytes>,
    ) -> Result<Bytes> {
        match self.query(FsQuery::GetXattr { inode, name: name.into() }).await? {
            FsAnswer::Value(value) => Ok(value),
            _ => Err(unexpected("a question for an attribute")),
        }
    }

    /// Sets an extended attribute.
    pub async fn set_xattr(
        self: &Arc<Self>,
        inode: InodeId,
        name: impl Into<Bytes>,
        value: impl Into<Bytes>,
        mode: XattrMode,
    ) -> Result<()> {
        let (name, value) = (name.into(), value.into());
        done(self.execute(FsOp::SetXattr { inode, name, value, mode }).await?)
    }

    /// Names of the extended attributes, in byte order.
    pub async fn list_xattr(self: &Arc<Self>, inode: InodeId) -> Result<Vec<Bytes>> {
        match self.query(FsQuery::ListXattr { inode }).await? {
            FsAnswer::Names(names) => Ok(names),
            _ => Err(unexpected("a question for the names of attributes")),
        }
    }

    /// Removes an extended attribute.
    pub async fn remove_xattr(
        self: &Arc<Self>,
        inode: InodeId,
        name: impl Into<Bytes>,
    ) -> Result<()> {
        done(self.execute(FsOp::RemoveXattr { inode, name: name.into() }).await?)
    }

    /// Records one more open handle of this session, which keeps the inode without a name.
    pub async fn open_handle(self: &Arc<Self>, inode: InodeId) -> Result<Attr> {
        self.execute_attr(FsOp::Open { inode }).await
    }

    /// Forgets one open handle of this session; `NotFound` when it has none.
    pub async fn release_handle(self: &Arc<Self>, inode: InodeId) -> Result<()> {
        done(self.execute(FsOp::Release { inode }).await?)
    }

    /// Creates a regular file without a name, with an open handle; `linkable`: [`Client::link`] may give it
    /// one.
    pub async fn create_unnamed(
        self: &Arc<Self>,
        parent: InodeId,
        owner: Owner,
        linkable: bool,
    ) -> Result<Attr> {
        self.execute_attr(FsOp::CreateUnnamed { parent, owner, linkable }).await
    }

    /// Takes a lock, or fails at once with `Locked`; both ends of `range` belong to it, and `u64::MAX` is the
    /// end of the file.
    pub async fn lock(
        self: &Arc<Self>,
        inode: InodeId,
        space: LockSpace,
        owner: LockOwner,
        kind: LockKind,
        range: RangeInclusive<u64>,
        pid: u32,
    ) -> Result<()> {
        let (start, end) = range.into_inner();
        let lock = FsOp::Lock { inode, space, owner, kind, start, end, pid };
        done(self.execute(lock).await?)
    }

    /// Gives up what the owner has locked in a range; nothing is fine.
    pub async fn unlock(
        self: &Arc<Self>,
        inode: InodeId,
        space: LockSpace,
        owner: LockOwner,
        range: RangeInclusive<u64>,
    ) -> Result<()> {
        let (start, end) = range.into_inner();
        done(self.execute(FsOp::Unlock { inode, space, owner, start, end }).await?)
    }

    /// The first lock that is in the way of one that the owner, in this session, would take.
    pub async fn test_lock(
        self: &Arc<Self>,
        inode: InodeId,
        space: LockSpace,
        owner: LockOwner,
        kind: LockKind,
        range: RangeInclusive<u64>,
    ) -> Result<Option<LockInfo>> {
        let (session, (start, end)) = (self.session_id(), range.into_inner());
        let test = FsQuery::TestLock { inode, session, space, owner, kind, start, end };
        match self.query(test).await? {
            FsAnswer::Lock(lock) => Ok(lock),
            _ => Err(unexpected("a question for a lock")),
        }
    }

    /// Lets a range of `target` share the blocks of a range of `source`, up to the end of the source; gives
    /// the attributes of the target. What is too much for one change goes in several, each atomic.
    pub async fn clone_range(
        self: &Arc<Self>,
        source: InodeId,
        source_offset: u64,
        length: u64,
        target: InodeId,
        target_offset: u64,
    ) -> Result<Attr> {
        let clone = |from: u64, length: u64| FsOp::CloneRange {
            source,
            source_offset: source_offset + from,
            length,
            target,
            target_offset: target_offset + from,
        };
        match self.execute_attr(clone(0, length)).await {
            Err(e) if matches!(e.fs(), Some(FsError::TooLarge)) => {}
            whole => return whole,
        }
        let size = self.attr(source).await?.size;
        let length = length.min(size.saturating_sub(source_offset));
        let end = target_offset.checked_add(length).filter(|end| *end <= FILE_BYTES_MAX);
        end.ok_or(FsError::TooLarge)?;
        if source == target && source_offset.abs_diff(target_offset) < length {
            return Err(FsError::Invalid.into());
        }
        let (mut part, mut at) = (half(length), 0);
        loop {
            let next = part.min(length - at);
            match self.execute_attr(clone(at, next)).await {
                Err(e) if matches!(e.fs(), Some(FsError::TooLarge)) && part > 1 => {
                    part = half(part);
                }
                Ok(attr) if at + next == length => return Ok(attr),
                other => {
                    other?;
                    at += next;
                }
            }
        }
    }

    /// Makes a range of a file a hole.
    pub async fn punch(self: &Arc<Self>, inode: InodeId, offset: u64, length: u64) -> Result<Attr> {
        self.execute_attr(FsOp::Punch { inode, offset, length }).await
    }
}

/// About half of a length: whole blocks as long as these are smaller, so that few are cut.
fn half(length: u64) -> u64 {
    let (half, block) = (length.div_ceil(2), BLOCK_BYTES_MAX as u64);
    if length > 2 * block { half.next_multiple_of(block) } else { half }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_shrink_to_one() {
        let mut length = u64::from(u32::MAX) << 20;
        for steps in 0.. {
            assert!(steps < 64, "it shrinks by about half");
            if length == 1 {
                break;
            }
            let next = half(length);
            assert!(next < length && next >= length / 2);
            length = next;
        }
    }
}
