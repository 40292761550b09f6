//! A cache of attributes and names that never shows less than what was acknowledged (ADR 0008).
//!
//! The client follows the change feed under a lease. Every value is held with the *position* that it was read
//! at: the number of the first change record that it does not show. That one number settles all races:
//! a record makes the cache forget what is older than itself, and a value that is older than a record which was
//! applied already is not taken.
//!
//! **Invariant:** the cache answers only while its lease runs, and only when all records are applied that any
//! answer of this client has shown (its own changes included). So nobody who uses one client sees time go back.
//!
//! Reading order: `keys` (what a change touches), `generations` (bounded maps), `held` (the cache, pure),
//! `contents` (small files, by version), `follow` (the task that keeps it), `misses` (which directories are listed for
//! lookups), `walks` (who reads through a tree), `reads` (the questions), `ahead` (what is asked with them).

mod ahead;
mod contents;
mod follow;
mod generations;
mod held;
mod keys;
mod misses;
mod reads;
mod walks;

pub(crate) use contents::Content;
pub(crate) use follow::run;
pub(crate) use held::Own;
pub(crate) use keys::{Touched, touched};

use contents::Contents;
use everhold_env::Env;
use everhold_proto::fs::{FsAnswer, FsError, FsQuery, FsReply, Name};
use everhold_proto::{InodeId, SessionId};
use held::Held;
use misses::Misses;
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use walks::Walks;

/// Inodes whose attributes are held. At about 200 bytes each they and the names take 100 MiB when full.
const ATTRS_MAX: usize = 200_000;
/// Names that are held, present and absent.
const ENTRIES_MAX: usize = 200_000;
const BLOCK_READERS_MAX: usize = 4;

/// Whoever keeps copies of what the cache told it, such as the kernel's caches of a mount.
///
/// The methods are called on a thread that may block, in the order of the changes of *other* clients, after the
/// client's own cache has forgotten the same, and before the cluster learns that it has: a change of another
/// client is acknowledged only when they have returned, or when the lease has ended
/// ([`Client::cache_lease_left`](crate::Client::cache_lease_left) bounds how long any copy may be used).
///
/// They must not wait for anything that an operation of this client under way holds: the operation may wait for
/// another client's cache, whose hook waits in the same way for an operation that waits for this one.
/// Nothing is lost then, but both stand still until a lease has ended. An answer that was taken from the cache before the
/// call and is handed on after it must be ordered with it by the implementor.
pub trait Invalidate: Send + Sync {
    /// The attributes of an inode changed; with `content` its bytes too.
    fn inode(&self, inode: InodeId, content: bool);
    /// From now on a directory, its names and the files in it may change without a word: another client holds it
    /// (ADR 0009). `known`: the client's own cache knew something of it, so that copies may be out.
    fn directory(&self, inode: InodeId, known: bool);
    /// A name may stand for something else now, or for nothing, or for something at last.
    fn entry(&self, parent: InodeId, name: &Name);
    /// Anything may have changed.
    fn everything(&self);
}

/// The cache of one client, shared by its tasks.
pub(crate) struct Cache {
    held: Mutex<Held>,
    hook: OnceLock<Arc<dyn Invalidate>>,
    misses: Mutex<Misses>,
    contents: Mutex<Contents>,
    walks: Mutex<Walks>,
    /// Directories whose files' blocks are read ahead; beyond them, blocks are read when they are asked for.
    block_readers: Arc<Semaphore>,
}

impl Cache {
    pub(crate) fn new() -> Self {
        Cache {
            held: Mutex::new(Held::new(ATTRS_MAX, ENTRIES_MAX)),
            hook: OnceLock::new(),
            misses: Mutex::default(),
            contents: Mutex::default(),
            walks: Mutex::default(),
            block_readers: Arc::new(Semaphore::new(BLOCK_READERS_MAX)),
        }
    }

    /// Who is told what the cache forgets.
    pub(crate) fn hook(&self) -> Option<Arc<dyn Invalidate>> {
        self.hook.get().cloned()
    }

    /// Nothing is answered from here on.
    pub(crate) fn close(&self) {
        self.held.lock().close();
    }

    /// Answers that were read at `next`: they are taken, and bound what the cache may answer.
    pub(crate) fn learn(
        &self,
        questions: &[FsQuery],
        answers: &[Result<FsAnswer, FsError>],
        next: u64,
    ) {
        let mut held = self.held.lock();
        held.shown(next);
        for (question, answer) in questions.iter().zip(answers) {
            held.learn(question, answer, next);
        }
        drop(held);
        let mut contents = self.contents.lock();
        for (question, answer) in questions.iter().zip(answers) {
            if let FsQuery::Extents { from: 0, to: u64::MAX, .. } = question
                && let Ok(FsAnswer::Extents { attr, extents, more: false }) = answer
            {
                contents.hold(attr, extents);
            }
        }
    }

    /// When the lease ends at the latest; `None`: there is none.
    pub(crate) fn lease_until(&self) -> Option<Instant> {
        self.held.lock().lease_until()
    }

    /// Changes of this client were answered. To be called before anybody is told.
    pub(crate) fn made(
        &self,
        own: &Own,
        touched: &[Touched],
        results: &[Result<FsReply, FsError>],
    ) {
        self.held.lock().made(own, touched, results);
    }

    /// Nobody knows whether a change of this session was or will be made.
    pub(crate) fn doubt(&self, session: SessionId) {
        self.held.lock().doubt(session);
    }

    fn with<T>(&self, env: &Env, ask: impl FnOnce(&mut Held) -> Option<T>) -> Option<T> {
        let mut held = self.held.lock();
        if held.is_open(env.clock.now()) { ask(&mut held) } else { None }
    }
}
