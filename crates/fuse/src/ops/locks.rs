//! Locks: `fcntl` and `flock`, held in the cluster, so that they hold across mounts and end with the mount's
//! session.
//!
//! The two do not see each other, as on a local file system. What one holder writes is committed before its lock
//! is given up, and what the next one reads is asked for after it was taken.

use crate::edge::Edge;
use crate::failure::{Failure, Outcome};
use crate::owners::Owner;
use crate::waiting::Signs;
use everhold_proto::InodeId;
use everhold_proto::fs::{FsError, LockInfo, LockKind, LockOwner};
use fuser::Errno;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// First and longest pause between tries of a program that waits for a lock.
const PAUSE_MIN: Duration = Duration::from_millis(2);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// What a program asks for.
#[derive(Clone, Debug)]
pub(crate) struct LockRequest {
    pub(crate) inode: InodeId,
    /// The handle that it is asked for through.
    pub(crate) handle: u64,
    pub(crate) owner: Owner,
    pub(crate) range: RangeInclusive<u64>,
    /// `F_RDLCK`, `F_WRLCK` or `F_UNLCK`.
    pub(crate) kind: i32,
    pub(crate) pid: u32,
}

impl LockRequest {
    fn kind(&self) -> Outcome<Option<LockKind>> {
        match self.kind {
            libc::F_RDLCK => Ok(Some(LockKind::Read)),
            libc::F_WRLCK => Ok(Some(LockKind::Write)),
            libc::F_UNLCK => Ok(None),
            _ => Err(Errno::EINVAL.into()),
        }
    }
}

/// The kernel's end of a range: its largest offset is the end of the file, wherever that is.
pub(crate) fn lock_range(start: u64, end: u64) -> RangeInclusive<u64> {
    start..=if end >= i64::MAX as u64 { u64::MAX } else { end }
}

impl Edge {
    /// The lock that is in the way, if one is.
    pub(crate) async fn getlk(self: Arc<Self>, asked: LockRequest) -> Outcome<Option<LockInfo>> {
        let kind = asked.kind()?.ok_or(Errno::EINVAL)?;
        self.handle_to_change(asked.handle).await?;
        let Owner { space, number } = asked.owner;
        let owner = LockOwner(number);
        Ok(self.client.test_lock(asked.inode, space, owner, kind, asked.range).await?)
    }

    /// Takes or gives up a lock; `waits` until it can be had, or the caller has a signal to see to.
    pub(crate) async fn setlk(
        self: Arc<Self>,
        asked: LockRequest,
        waits: bool,
        mut signs: Signs,
    ) -> Outcome<()> {
        let inode = asked.inode;
        self.handle_to_change(asked.handle).await?;
        let file = self.files.of(inode);
        let Some(kind) = asked.kind()? else {
            if let Some(file) = &file {
                file.flush().await?;
            }
            let _turn = self.owners.turn(inode, asked.owner).await;
            return self.unlock(inode, asked.owner, asked.range).await;
        };
        let mut pause = PAUSE_MIN;
        loop {
            match self.try_lock(&asked, kind, &signs).await {
                Err(Failure::Client(e)) if waits && matches!(e.fs(), Some(FsError::Locked)) => {}
                Err(e) => return Err(e),
                Ok(()) => break,
            }
            tokio::select! {
                biased;
                () = signs.signal() => return Err(Errno::EINTR.into()),
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
        // The one before may have written.
        if let Some(file) = &file {
            file.changed();
        }
        let edge = self.clone();
        // It may wait for a page that a request of this mount is about.
        drop(self.runtime.spawn_blocking(move || edge.forget_pages(inode)).await);
        Ok(())
    }

    /// Asks for a lock once. If the program dies meanwhile, what was granted is given up again.
    async fn try_lock(
        self: &Arc<Self>,
        asked: &LockRequest,
        kind: LockKind,
        signs: &Signs,
    ) -> Outcome<()> {
        let LockRequest { inode, owner, ref range, .. } = *asked;
        let _turn = self.owners.turn(inode, owner).await;
        if signs.is_fatal() {
            return Err(Errno::EINTR.into());
        }
        // Noted before it is asked for: an answer may be lost.
        let is_new = self.owners.note(inode, asked.handle, owner);
        self.files.note_lock(inode, owner.number);
        self.lock_in_session(asked, kind).await?;
        if !signs.is_fatal() {
            return Ok(());
        }
        // Who held something before has it changed by this; it all ends when the file is closed.
        if is_new {
            self.unlock(inode, owner, range.clone()).await?;
        }
        Err(Errno::EINTR.into())
    }

    /// Gives up all that an owner has locked in a file, if it ever locked anything.
    pub(crate) async fn unlock_all(&self, inode: InodeId, owner: Owner) -> Outcome<()> {
        if !self.files.may_hold(inode, owner.number) {
            return Ok(());
        }
        let _turn = self.owners.turn(inode, owner).await;
        self.owners.forget(inode, owner);
        match self.files.take_lock(inode, owner.number) {
            true => self.unlock(inode, owner, 0..=u64::MAX).await,
            false => Ok(()),
        }
    }

    /// Gives up what was locked through a handle that is closed, and not by a process: that ended when the
    /// process closed it.
    pub(crate) async fn unlock_handle(
        &self,
        inode: InodeId,
        handle: u64,
        flock: bool,
    ) -> Outcome<()> {
        let mut owners = self.owners.close(inode, handle);
        let own = Owner::of(0, Some(handle));
        if flock && !owners.contains(&own) {
            owners.push(own);
        }
        let mut outcome = Ok(());
        for owner in owners {
            let _turn = self.owners.turn(inode, owner).await;
            // A new open file may have got the kernel's number of this one.
            if !self.owners.has(inode, owner) && self.files.take_lock(inode, owner.number) {
                outcome = outcome.and(self.unlock(inode, owner, 0..=u64::MAX).await);
            }
        }
        outcome
    }

    async fn unlock(
        &self,
        inode: InodeId,
        owner: Owner,
        range: RangeInclusive<u64>,
    ) -> Outcome<()> {
        let Owner { space, number } = owner;
        let unlocked = self.client.unlock(inode, space, LockOwner(number), range.clone()).await;
        self.gave_up(inode, owner, &range);
        match unlocked {
            Err(e) if !e.is_not_found() => Err(Failure::Client(e)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range_may_be_the_end_of_the_file() {
        assert_eq!(lock_range(3, 9), 3..=9);
        assert_eq!(lock_range(0, i64::MAX as u64), 0..=u64::MAX);
    }
}
