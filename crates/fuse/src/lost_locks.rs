//! Locks and the session that they hang on: who lost a lock with its session is told, and writes nothing as if it
//! still had it.
//!
//! Each lock belongs to the open file through which it was taken. When the session ends, all open files that held one
//! are *lost*: writes, `fsync`s and requests for locks through them fail (`EIO`) until they are closed, and what was
//! written to these files and is not committed is dropped. Other open files are not affected.
//!
//! **Invariants:** a write through an open file that holds a lock is only taken while the session certainly lives
//! ([`everhold_client::Client::session_lives`]). What was taken is committed in that session or not at all ([`everhold_client::Client::bind`]).

use crate::edge::Edge;
use crate::failure::Outcome;
use crate::files::Handle;
use crate::ops::LockRequest;
use crate::owners::Owner;
use everhold_client::ClientError;
use everhold_proto::fs::{LockKind, LockOwner};
use everhold_proto::planted::{self, Bug};
use everhold_proto::{InodeId, Kind, SessionId};
use fuser::Errno;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Between looks whether what was written under a lost lock is dropped.
const PAUSE: Duration = Duration::from_millis(10);

/// What an open file has to do with locks.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    /// The session of the locks that were taken through it; 0: there are none.
    session: AtomicU64,
    lost: AtomicBool,
    told: AtomicBool,
}

impl Hold {
    /// Whether a lock that was taken through it was lost.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Acquire)
    }

    /// Whether it neither holds a lock nor lost one.
    pub(crate) fn is_free(&self) -> bool {
        !self.is_lost() && self.session().is_none()
    }

    fn session(&self) -> Option<SessionId> {
        Some(SessionId(self.session.load(Ordering::Acquire))).filter(|session| session.0 > 0)
    }

    fn set(&self, session: Option<SessionId>) {
        self.session.store(session.map_or(0, |session| session.0), Ordering::Release);
    }

    /// The error of a lost lock.
    fn tell(&self) -> Errno {
        self.told.store(true, Ordering::Release);
        Errno::EIO
    }

    /// The error of a lost lock, if nobody was told of it.
    pub(crate) fn last_word(&self) -> Option<Errno> {
        (self.is_lost() && !self.told.load(Ordering::Acquire)).then(|| self.tell())
    }
}

/// A range that an owner has locked.
struct Held<H> {
    owner: Owner,
    range: RangeInclusive<u64>,
    /// The open file through which it was taken.
    handle: Arc<H>,
    session: SessionId,
}

/// Locks that were taken through this mount and not given up, by file. At most as many as the cluster allows.
pub(crate) struct HeldLocks<H>(Mutex<HashMap<InodeId, Vec<Held<H>>>>);

impl<H> Default for HeldLocks<H> {
    fn default() -> Self {
        HeldLocks(Mutex::default())
    }
}

impl AsRef<Hold> for Handle {
    fn as_ref(&self) -> &Hold {
        &self.hold
    }
}

impl<H: AsRef<Hold>> HeldLocks<H> {
    /// A lock was got: it replaces what its owner had in the range.
    fn took(
        &self,
        inode: InodeId,
        owner: Owner,
        range: RangeInclusive<u64>,
        handle: &Arc<H>,
        session: SessionId,
    ) {
        let mut files = self.0.lock();
        let held = files.entry(inode).or_default();
        let before = cut(held, owner, &range);
        (**handle).as_ref().set(Some(session));
        held.push(Held { owner, range, handle: handle.clone(), session });
        free(held, before);
    }

    /// A range was given up. Gives the session that the file was bound to if no lock is left on it.
    fn gave_up(
        &self,
        inode: InodeId,
        owner: Owner,
        range: &RangeInclusive<u64>,
    ) -> Option<SessionId> {
        let mut files = self.0.lock();
        let held = files.get_mut(&inode)?;
        let session = held.first()?.session;
        let before = cut(held, owner, range);
        free(held, before);
        if !held.is_empty() {
            return None;
        }
        files.remove(&inode);
        Some(session)
    }

    /// The same for all that was locked through an open file.
    fn closed(&self, inode: InodeId, handle: &Arc<H>) -> Option<SessionId> {
        let mut files = self.0.lock();
        let held = files.get_mut(&inode)?;
        let session = held.first()?.session;
        held.retain(|held| !Arc::ptr_eq(&held.handle, handle));
        if !held.is_empty() {
            return None;
        }
        files.remove(&inode);
        Some(session)
    }

    fn are_on(&self, inode: InodeId) -> bool {
        self.0.lock().contains_key(&inode)
    }

    /// Marks the open files whose locks hang on another session than `current`, and forgets these locks. Gives the open
    /// files, and the session of each.
    fn lose(&self, current: SessionId) -> Vec<(Arc<H>, SessionId)> {
        let mut lost: Vec<(Arc<H>, SessionId)> = Vec::new();
        self.0.lock().retain(|_, held| {
            for gone in held.extract_if(.., |held| held.session != current) {
                if !(*gone.handle).as_ref().lost.swap(true, Ordering::AcqRel) {
                    lost.push((gone.handle, gone.session));
                }
            }
            !held.is_empty()
        });
        lost
    }
}

/// Takes a range out of what an owner holds. Gives the open files that had a part of it.
fn cut<H>(held: &mut Vec<Held<H>>, owner: Owner, range: &RangeInclusive<u64>) -> Vec<Arc<H>> {
    let (from, to) = (*range.start(), *range.end());
    let overlaps = |held: &mut Held<H>| {
        held.owner == owner && *held.range.start() <= to && from <= *held.range.end()
    };
    let cut: Vec<Held<H>> = held.extract_if(.., overlaps).collect();
    for Held { range, handle, session, .. } in &cut {
        let before = from.checked_sub(1).map(|last| *range.start()..=last);
        let after = to.checked_add(1).map(|first| first..=*range.end());
        for range in before.into_iter().chain(after).filter(|rest| !rest.is_empty()) {
            held.push(Held { owner, range, handle: handle.clone(), session: *session });
        }
    }
    cut.into_iter().map(|held| held.handle).collect()
}

/// Open files through which no lock is held any more hold none.
fn free<H: AsRef<Hold>>(held: &[Held<H>], before: Vec<Arc<H>>) {
    for handle in before {
        if !held.iter().any(|held| Arc::ptr_eq(&held.handle, &handle)) {
            (*handle).as_ref().set(None);
        }
    }
}

impl Edge {
    /// Makes sure that the locks of an open file are still there, and with them the right to write.
    pub(crate) async fn check_locks(self: &Arc<Self>, handle: &Handle) -> Outcome<()> {
        if handle.hold.is_lost() {
            return Err(handle.hold.tell().into());
        }
        let Some(session) = handle.hold.session() else { return Ok(()) };
        if self.client.session_lives(session) || self.client.confirm_session(session).await? {
            return Ok(());
        }
        self.lose_locks();
        Err(handle.hold.tell().into())
    }

    /// The session may have ended since [`Edge::check_locks`]. `wrote`: bytes were taken since then.
    pub(crate) fn check_locks_again(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        wrote: bool,
    ) -> Outcome<()> {
        let session = handle.hold.session();
        let is_current = session.is_none_or(|session| session == self.client.session_id());
        let was_lost = handle.hold.is_lost();
        if is_current && !was_lost || planted::has(Bug::LostLockUnnoticed) {
            return Ok(());
        }
        self.lose_locks();
        // Where it was noticed before, these bytes may have come after the others were dropped.
        if let Some(session) = session.filter(|_| wrote && was_lost) {
            self.drop_written(handle.clone(), session);
        }
        Err(handle.hold.tell().into())
    }

    /// Takes a lock, and binds what is written under it to the session that it hangs on.
    pub(crate) async fn lock_in_session(
        self: &Arc<Self>,
        asked: &LockRequest,
        kind: LockKind,
    ) -> Result<(), ClientError> {
        let (inode, client) = (asked.inode, &self.client);
        let Owner { space, number } = asked.owner;
        let handle = self.files.handle(asked.handle).ok_or_else(lost)?;
        let deadline = client.deadline();
        loop {
            let session = client.session_id();
            if handle.hold.session().is_some_and(|holds| holds != session) {
                self.lose_locks();
            }
            if handle.hold.is_lost() {
                return Err(lost());
            }
            if !client.may_change_in(inode, session) {
                // What was written under a lock that was lost is still on its way out.
                if tokio::time::Instant::now() >= deadline {
                    return Err(lost());
                }
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let (owner, range) = (LockOwner(number), asked.range.clone());
            client.lock(inode, space, owner, kind, range, asked.pid).await?;
            if !client.bind(inode, session) {
                continue;
            }
            if client.session_id() != session {
                // It is not known in which of them it was got, and nothing was written under it: once more.
                self.unbind(inode, session);
                continue;
            }
            self.locks.took(inode, asked.owner, asked.range.clone(), &handle, session);
            if client.session_id() == session {
                return Ok(());
            }
            self.lose_locks();
        }
    }

    fn unbind(&self, inode: InodeId, session: SessionId) {
        if !self.locks.are_on(inode) {
            self.client.unbind(inode, session);
        }
    }

    /// An open file is closed: whatever was locked through it is not any more.
    pub(crate) fn closed(&self, handle: &Arc<Handle>) {
        if handle.hold.session().is_some_and(|_| !handle.hold.is_lost())
            && let Some(session) = self.locks.closed(handle.file.inode(), handle)
        {
            self.client.unbind(handle.file.inode(), session);
        }
    }

    /// Locks were given up: what is written from now on belongs to no session.
    pub(crate) fn gave_up(&self, inode: InodeId, owner: Owner, range: &RangeInclusive<u64>) {
        if let Some(session) = self.locks.gave_up(inode, owner, range) {
            self.client.unbind(inode, session);
        }
    }

    /// Locks of sessions that have ended are lost; so is what was written under them.
    pub(crate) fn lose_locks(self: &Arc<Self>) {
        if planted::has(Bug::LostLockUnnoticed) {
            return;
        }
        for (handle, session) in self.locks.lose(self.client.session_id()) {
            tracing::error!(
                inode = %handle.file.inode(),
                %session,
                "a lock was lost with its session: writes through its open file fail until it is closed"
            );
            self.drop_written(handle, session);
        }
    }

    /// Drops what waits for a commit in a file whose lock was lost, behind the caller, and lets it be changed again.
    fn drop_written(self: &Arc<Self>, handle: Arc<Handle>, session: SessionId) {
        let edge = self.clone();
        self.runtime.spawn(async move {
            let (file, inode) = (handle.file.clone(), handle.file.inode());
            let told = edge.files.has_others(&handle).then(lost);
            while let Err(e) = file.abandon(told.clone()).await {
                tracing::warn!(%inode, error = %e, "what was written under a lost lock is not dropped yet");
            }
            edge.client.unbind(inode, session);
            // The kernel's pages show what was dropped. It may wait for a page; nobody waits for it.
            drop(edge.runtime.clone().spawn_blocking(move || edge.forget_pages(inode)));
        });
    }
}

/// Runs for the life of the mount.
pub(crate) async fn watch(edge: Arc<Edge>) {
    let mut sessions = edge.client.sessions();
    while sessions.changed().await.is_ok() {
        edge.lose_locks();
    }
}

fn lost() -> ClientError {
    let text =
        "changes were lost: they were made beside a lock that ended with the client's session";
    ClientError::new(Kind::Fenced, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Open(Hold);

    impl AsRef<Hold> for Open {
        fn as_ref(&self) -> &Hold {
            &self.0
        }
    }

    const FILE: InodeId = InodeId(7);
    const FIRST: SessionId = SessionId(1);
    const SECOND: SessionId = SessionId(2);

    fn owner(number: u64) -> Owner {
        Owner::of(number, None)
    }

    fn open() -> Arc<Open> {
        Arc::default()
    }

    #[test]
    fn a_file_holds_a_lock_until_all_of_it_is_given_up() {
        let (locks, one) = (HeldLocks::default(), open());
        locks.took(FILE, owner(5), 10..=20, &one, FIRST);
        assert!(!one.0.is_free());
        assert_eq!(locks.gave_up(FILE, owner(6), &(0..=u64::MAX)), None, "another owner");
        assert_eq!(locks.gave_up(FILE, owner(5), &(12..=15)), None, "both ends are left");
        assert_eq!(locks.gave_up(FILE, owner(5), &(0..=11)), None);
        assert!(!one.0.is_free());
        assert_eq!(locks.gave_up(FILE, owner(5), &(16..=20)), Some(FIRST));
        assert!(one.0.is_free() && !locks.are_on(FILE));
    }

    #[test]
    fn a_lock_belongs_to_the_file_through_which_it_was_taken_last() {
        let (locks, one, two) = (HeldLocks::default(), open(), open());
        locks.took(FILE, owner(5), 0..=u64::MAX, &one, FIRST);
        locks.took(FILE, owner(5), 0..=u64::MAX, &two, FIRST);
        assert!(one.0.is_free() && !two.0.is_free());
        locks.took(FILE, owner(5), 3..=4, &one, FIRST);
        assert!(!one.0.is_free() && !two.0.is_free());
        assert_eq!(locks.closed(FILE, &two), None);
        assert_eq!(locks.closed(FILE, &one), Some(FIRST));
    }

    #[test]
    fn with_the_session_its_locks_are_lost_and_no_others() {
        let (locks, old, new, other) = (HeldLocks::default(), open(), open(), open());
        locks.took(FILE, owner(5), 0..=1, &old, FIRST);
        locks.took(FILE, owner(5), 4..=5, &old, FIRST);
        locks.took(FILE, owner(6), 8..=9, &new, SECOND);
        assert!(locks.lose(FIRST).iter().any(|(lost, _)| Arc::ptr_eq(lost, &new)));
        let lost = locks.lose(SECOND);
        assert_eq!(lost.len(), 1, "each file once");
        assert!(Arc::ptr_eq(&lost[0].0, &old) && lost[0].1 == FIRST);
        assert!(old.0.is_lost() && !other.0.is_lost() && other.0.is_free());
        assert!(locks.lose(SECOND).is_empty() && !locks.are_on(FILE));
        assert!(old.0.last_word().is_some() && old.0.last_word().is_none(), "told once at close");
    }
}
