//! Open files: one `OpenFile` for each inode, any number of handles for it.
//!
//! The client registers an opening that lasts with the cluster, so that the file outlives its last name
//! ([`Client::opened`]).

use crate::lost_locks::Hold;
use everhold_client::{Client, LossMark, OpenFile};
use everhold_proto::fs::Attr;
use everhold_proto::{InodeId, SessionId};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

/// Bytes that were written so long ago are committed, asked or not.
const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// Files of which it is remembered which version the kernel has pages of.
const SEEN_MAX: usize = 100_000;

/// A handle of the kernel's.
pub(crate) struct Handle {
    pub(crate) file: Arc<OpenFile>,
    /// Each write is committed and each read is of the newest version.
    pub(crate) strict: bool,
    /// What of the file's losses its program was told.
    pub(crate) told: LossMark,
    /// What it has to do with locks.
    pub(crate) hold: Hold,
}

/// All open files of a mount.
pub(crate) struct Files {
    client: Arc<Client>,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    handles: HashMap<u64, Arc<Handle>>,
    by_inode: HashMap<InodeId, Opened>,
    /// The version that the kernel's pages are of, and the session in which it was: what a session did and could not
    /// tell is no version of the next one.
    seen: HashMap<InodeId, (u64, SessionId)>,
    /// (file, owner) that may hold locks: all others have none to give up when they close.
    locks: HashSet<(InodeId, u64)>,
}

struct Opened {
    file: Arc<OpenFile>,
    handles: usize,
}

impl Inner {
    fn close(&mut self, number: u64, client: &Client) -> Option<Arc<Handle>> {
        let handle = self.handles.remove(&number)?;
        let inode = handle.file.inode();
        if let Some(opened) = self.by_inode.get_mut(&inode) {
            opened.handles -= 1;
            if opened.handles == 0 {
                self.by_inode.remove(&inode);
                client.closed(inode);
            }
        }
        Some(handle)
    }
}

impl Files {
    pub(crate) fn new(client: Arc<Client>) -> Self {
        Files { client, inner: Mutex::default() }
    }

    /// The open file of an inode, if it is open.
    pub(crate) fn of(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        self.inner.lock().by_inode.get(&inode).map(|opened| opened.file.clone())
    }

    /// The open file of an inode, if bytes that were written to it wait for a commit: nobody else's word of its
    /// size and times is right then.
    pub(crate) fn dirty(&self, inode: InodeId) -> Option<Arc<OpenFile>> {
        self.of(inode).filter(|file| file.is_dirty())
    }

    /// The open file of an inode: the one that is open already, or a new one without a handle yet.
    pub(crate) fn of_or_new(&self, inode: InodeId) -> Arc<OpenFile> {
        self.of(inode).unwrap_or_else(|| OpenFile::new(self.client.clone(), inode))
    }

    /// How many have bytes that wait for a commit.
    pub(crate) fn dirty_count(&self) -> usize {
        self.inner.lock().by_inode.values().filter(|opened| opened.file.is_dirty()).count()
    }

    /// Anything may have changed.
    pub(crate) fn all_changed(&self) {
        self.inner.lock().by_inode.values().for_each(|opened| opened.file.changed());
    }

    /// A new handle. `file` is what [`Files::of_or_new`] gave; another opening may have been faster. `told` is from before
    /// the opening began.
    pub(crate) fn open(&self, file: Arc<OpenFile>, strict: bool, told: LossMark) -> u64 {
        let mut inner = self.inner.lock();
        let inode = file.inode();
        let opened = inner.by_inode.entry(inode).or_insert_with(|| Opened { file, handles: 0 });
        opened.handles += 1;
        if opened.handles == 1 {
            self.client.opened(inode);
        }
        let (file, hold) = (opened.file.clone(), Hold::default());
        let handle = Handle { file, strict, told, hold };
        inner.next += 1;
        let number = inner.next;
        inner.handles.insert(number, Arc::new(handle));
        number
    }

    /// The handle with a number.
    pub(crate) fn handle(&self, number: u64) -> Option<Arc<Handle>> {
        self.inner.lock().handles.get(&number).cloned()
    }

    /// Whether a file is open through another handle too, which did not lose a lock.
    pub(crate) fn has_others(&self, handle: &Arc<Handle>) -> bool {
        let is_other = |other: &Arc<Handle>| {
            other.file.inode() == handle.file.inode() && !other.hold.is_lost()
        };
        self.inner.lock().handles.values().any(is_other)
    }

    /// A handle is closed. With the last one the file is.
    pub(crate) fn close(&self, number: u64) -> Option<Arc<Handle>> {
        self.inner.lock().close(number, &self.client)
    }

    /// The same if nothing waits for a commit, and no lock was taken through it; `false`: it is still open.
    pub(crate) fn close_clean(&self, number: u64) -> bool {
        let mut inner = self.inner.lock();
        let handle = inner.handles.get(&number);
        handle.is_some_and(|handle| handle.file.is_clean() && handle.hold.is_free())
            && inner.close(number, &self.client).is_some()
    }

    /// Notes that the kernel's pages of a file are of `attr`'s version from now on; says whether they were
    /// before.
    pub(crate) fn saw(&self, attr: &Attr) -> bool {
        let mut inner = self.inner.lock();
        if inner.seen.len() >= SEEN_MAX {
            inner.seen.clear();
        }
        let now = (attr.version, self.client.session_id());
        inner.seen.insert(attr.inode, now) == Some(now)
    }

    /// Notes that an owner may hold locks on a file.
    pub(crate) fn note_lock(&self, inode: InodeId, owner: u64) {
        self.inner.lock().locks.insert((inode, owner));
    }

    /// Whether an owner may hold locks on a file.
    pub(crate) fn may_hold(&self, inode: InodeId, owner: u64) -> bool {
        self.inner.lock().locks.contains(&(inode, owner))
    }

    /// Whether an owner may hold locks on a file; it gives them up now.
    pub(crate) fn take_lock(&self, inode: InodeId, owner: u64) -> bool {
        self.inner.lock().locks.remove(&(inode, owner))
    }

    /// Commits what has waited long. To be called about once a second.
    pub(crate) async fn tend(&self) {
        let is_stale = |file: &Arc<OpenFile>| {
            file.dirty_since().is_some_and(|since| since.elapsed() >= FLUSH_AFTER)
        };
        let files: Vec<_> = {
            let inner = self.inner.lock();
            let files = inner.by_inode.values().map(|opened| &opened.file);
            files.filter(|file| is_stale(file)).cloned().collect()
        };
        for file in files {
            file.flush_behind().await;
        }
    }

    /// Commits everything. Says how many files could not be.
    pub(crate) async fn flush_all(&self) -> usize {
        let files: Vec<_> = self.inner.lock().by_inode.values().map(|o| o.file.clone()).collect();
        let mut failed = 0;
        for file in files {
            if let Err(e) = file.flush().await {
                tracing::error!(inode = %file.inode(), error = %e, "written bytes were not committed");
                failed += 1;
            }
        }
        failed
    }
}
