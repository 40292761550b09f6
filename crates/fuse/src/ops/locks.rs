//! Locks: `fcntl` and `flock`, held in the cluster, so that they hold across mounts and end with the mount's
//! session.
//!
//! fuser 0.18 does not say which of the two a request is. Both live in one space, as on NFS: a `flock` is a
//! lock of the whole file whose owner is the open file. What one holder writes is committed before its lock
//! is given up, and what the next one reads is asked for after it was taken.

use crate::edge::Edge;
use crate::failure::{Failure, Outcome};
use everhold_proto::InodeId;
use everhold_proto::fs::{FsError, LockInfo, LockKind, LockOwner, LockSpace};
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
    /// The open file.
    pub(crate) handle: u64,
    pub(crate) owner: u64,
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
        let owner = LockOwner(asked.owner);
        let space = LockSpace::Posix;
        Ok(self.client.test_lock(asked.inode, space, owner, kind, asked.range).await?)
    }

    /// Takes or gives up a lock; `waits` until it can be had, or the caller has a signal to see to.
    pub(crate) async fn setlk(self: Arc<Self>, asked: LockRequest, waits: bool) -> Outcome<()> {
        let LockRequest { inode, owner, pid, .. } = asked;
        let owner = LockOwner(owner);
        self.handle_to_change(asked.handle).await?;
        let file = self.files.of(inode);
        let Some(kind) = asked.kind()? else {
            if let Some(file) = &file {
                file.flush().await?;
            }
            let range = asked.range.clone();
            self.client.unlock(inode, LockSpace::Posix, owner, range).await?;
            self.gave_up(inode, owner.0, &asked.range);
            return Ok(());
        };
        let mut pause = PAUSE_MIN;
        loop {
            // Noted before it is asked for: an answer may be lost.
            self.files.note_lock(inode, owner.0);
            match self.lock_in_session(&asked, kind).await {
                Err(e) if waits && matches!(e.fs(), Some(FsError::Locked)) => {}
                Err(e) => return Err(e.into()),
                Ok(()) => break,
            }
            if has_signal(pid) {
                return Err(Errno::EINTR.into());
            }
            tokio::time::sleep(pause).await;
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

    /// Gives up all that an owner has locked in a file, if it ever locked anything.
    pub(crate) async fn unlock_all(&self, inode: InodeId, owner: u64) -> Outcome<()> {
        if !self.files.take_lock(inode, owner) {
            return Ok(());
        }
        self.gave_up(inode, owner, &(0..=u64::MAX));
        let (space, owner) = (LockSpace::Posix, LockOwner(owner));
        match self.client.unlock(inode, space, owner, 0..=u64::MAX).await {
            Err(e) if !e.is_not_found() => Err(Failure::Client(e)),
            _ => Ok(()),
        }
    }
}

/// Whether a thread has a signal that it does not block or ignore. The kernel's own word of it
/// (`FUSE_INTERRUPT`) does not reach a file system on fuser 0.18.
fn has_signal(thread: u32) -> bool {
    let Ok(status) = std::fs::read_to_string(format!("/proc/{thread}/status")) else {
        return true; // it has ended
    };
    is_signalled(&status)
}

fn is_signalled(status: &str) -> bool {
    let mask = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
    };
    let pending = mask("SigPnd:") | mask("ShdPnd:");
    pending & !mask("SigBlk:") & !mask("SigIgn:") != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_counts_unless_it_is_blocked_or_ignored() {
        let status = |pending: &str, blocked: &str| {
            format!(
                "Name:\tx\nSigPnd:\t{pending}\nShdPnd:\t0\nSigBlk:\t{blocked}\nSigIgn:\t0000000000001000\n"
            )
        };
        assert!(is_signalled(&status("0000000000000100", "0")));
        assert!(!is_signalled(&status("0000000000000100", "0000000000000100")));
        assert!(!is_signalled(&status("0000000000001000", "0")), "ignored");
        assert!(!is_signalled(&status("0", "0")));
        assert!(has_signal(u32::MAX), "a thread that is gone waits no more");
    }

    #[test]
    fn the_end_of_a_range_may_be_the_end_of_the_file() {
        assert_eq!(lock_range(3, 9), 3..=9);
        assert_eq!(lock_range(0, i64::MAX as u64), 0..=u64::MAX);
    }
}
