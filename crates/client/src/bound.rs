//! What hangs on a session: whether it certainly lives, and files whose content may be changed in it only.
//!
//! Who holds a lock goes by its session: as long as that certainly lives, the lock is held. A session is known to
//! live for a while after the last answer that the log gave in it, counted from before the question, on a clock that
//! goes on while the process is stopped. What was written under a lock is committed in the session of the lock or not
//! at all, because another one may hold it by then.
//!
//! **Invariant:** no change of the content of a bound file is sent in another session than the one it is bound to.

use crate::client::Client;
use crate::error::Result;
use everhold_proto::fs::FsOp;
use everhold_proto::planted::{self, Bug};
use everhold_proto::{InodeId, SessionId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::watch;

/// Files that are bound to a session: at most those that somebody here has a lock on.
#[derive(Debug, Default)]
pub(crate) struct Bound {
    /// How many; mostly none.
    count: AtomicUsize,
    files: Mutex<BTreeMap<InodeId, SessionId>>,
}

impl Bound {
    /// Whether a change may be made in a session.
    pub(crate) fn allows(&self, op: &FsOp, session: SessionId) -> bool {
        self.count.load(Ordering::Acquire) == 0
            || changes_content(op).is_none_or(|inode| self.allows_file(inode, session))
    }

    /// Whether the content of a file may be changed in a session.
    pub(crate) fn allows_file(&self, inode: InodeId, session: SessionId) -> bool {
        planted::has(Bug::LostLockUnnoticed)
            || self.files.lock().get(&inode).is_none_or(|bound| *bound == session)
    }

    fn bind(&self, inode: InodeId, session: SessionId) -> bool {
        let mut files = self.files.lock();
        let bound = *files.entry(inode).or_insert(session);
        self.count.store(files.len(), Ordering::Release);
        bound == session
    }

    fn unbind(&self, inode: InodeId, session: SessionId) {
        let mut files = self.files.lock();
        if files.get(&inode) == Some(&session) {
            files.remove(&inode);
        }
        self.count.store(files.len(), Ordering::Release);
    }
}

/// The file whose content a change is of.
fn changes_content(op: &FsOp) -> Option<InodeId> {
    match op {
        FsOp::Commit { inode, .. } | FsOp::Punch { inode, .. } => Some(*inode),
        FsOp::CloneRange { target, .. } => Some(*target),
        FsOp::SetAttr { inode, set } => set.size.map(|_| *inode),
        _ => None,
    }
}

impl Client {
    /// Tells of each session that replaces another one.
    pub fn sessions(&self) -> watch::Receiver<SessionId> {
        self.sessions.subscribe()
    }

    /// Whether `session` is the one that changes are made in, and has certainly not ended. `false` only means that it
    /// is not known: [`Client::confirm_session`] asks.
    pub fn session_lives(&self, session: SessionId) -> bool {
        let current = self.session();
        let lives = || current.id == session && current.lives_at(self.env.clock.now());
        planted::has(Bug::LostLockUnnoticed) || lives()
    }

    /// Makes sure that `session` lives, or has ended (`false`), with its locks. Asks the cluster where it has to, within
    /// the client's default deadline; fails when the cluster does not answer.
    pub async fn confirm_session(&self, session: SessionId) -> Result<bool> {
        let deadline = self.deadline();
        let turn = self.env.clock.until(deadline, self.confirming.lock()).await;
        let _turn = turn?;
        // Another one may have asked meanwhile.
        let current = self.session();
        if current.id != session || self.session_lives(session) {
            return Ok(current.id == session || planted::has(Bug::LostLockUnnoticed));
        }
        let renewed = self.renew_by(&current, deadline).await;
        if current.has_ended() {
            return Ok(false); // whether another one could be opened or not
        }
        renewed?;
        Ok(self.session_id() == session)
    }

    /// From now on the content of a file is changed in `session` or not at all. `false`: it is still bound to another
    /// one, whose changes are on their way.
    pub fn bind(&self, inode: InodeId, session: SessionId) -> bool {
        self.bound.bind(inode, session)
    }

    /// Whether the content of a file may be changed in `session`.
    pub fn may_change_in(&self, inode: InodeId, session: SessionId) -> bool {
        self.bound.allows_file(inode, session)
    }

    /// A file that was bound to `session` is not any more.
    pub fn unbind(&self, inode: InodeId, session: SessionId) {
        self.bound.unbind(inode, session);
    }

    /// Renews a session, or replaces it if it has ended.
    pub(crate) async fn renew_by(
        &self,
        session: &Arc<crate::session::Session>,
        deadline: tokio::time::Instant,
    ) -> Result<(), everhold_proto::Error> {
        let sent = self.env.clock.now();
        let renew = everhold_proto::rpc::RenewSession {
            session: session.id,
            acked_below: session.acked_below(),
            floor: session.floor(),
        };
        match self.ask_leader(&renew, deadline, &mut crate::meta::Doubt::default()).await {
            Err(e) if e.kind == everhold_proto::Kind::NotFound => {
                session.ended();
                self.replace_session(session, deadline).await
            }
            Err(e) => Err(e),
            Ok(()) => {
                session.confirmed(sent);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::fs::{Content, SetAttr};

    fn commit(inode: u64) -> FsOp {
        let (inode, content) = (InodeId(inode), Content::default());
        FsOp::Commit { inode, expected_version: None, content, size_at_least: 0, append: false }
    }

    #[test]
    fn content_is_bound_to_a_session_and_nothing_else_is() {
        let (bound, old, new) = (Bound::default(), SessionId(1), SessionId(2));
        assert!(bound.allows(&commit(5), new));
        assert!(bound.bind(InodeId(5), old));
        assert!(bound.allows(&commit(5), old) && !bound.allows(&commit(5), new));
        assert!(bound.allows(&commit(6), new), "another file");
        let set =
            |size| FsOp::SetAttr { inode: InodeId(5), set: SetAttr { size, ..SetAttr::default() } };
        assert!(bound.allows(&set(None), new) && !bound.allows(&set(Some(0)), new));
        assert!(!bound.bind(InodeId(5), new), "what was written under the old one is on its way");
        bound.unbind(InodeId(5), new);
        assert!(!bound.allows(&commit(5), new), "that was another session's");
        bound.unbind(InodeId(5), old);
        assert!(bound.allows(&commit(5), new) && bound.bind(InodeId(5), new));
    }
}
