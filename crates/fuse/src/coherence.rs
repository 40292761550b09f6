//! Caches: the client's, which is kept right by the change feed, and the kernel's copies of it.
//!
//! The kernel keeps attributes and names for as long as the client's lease lasts, and is told when another client
//! changes them, before that client is answered.
//!
//! A name that the kernel is about to take cannot outlive its invalidation: answers to `lookup`, `create` and
//! `readdirplus` are taken under the lock of the directory, which the invalidation waits for; and an answer that
//! renews a name comes too late for a name that was dropped.

use crate::edge::Edge;
use everhold_client::Invalidate;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Consistency, FileKind, Name};
use fuser::INodeNo;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long the kernel keeps what is under a relaxed directory.
const RELAXED: Duration = Duration::from_secs(1);

/// The kernel counts from when it got an answer, in ticks of some milliseconds.
const LATE: Duration = Duration::from_millis(50);

/// How often others have changed something.
#[derive(Default)]
pub(crate) struct News(AtomicU64);

/// A moment in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(u64);

/// How long the kernel may keep an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) attr: Duration,
    pub(crate) entry: Duration,
}

impl Edge {
    /// Now: to be asked before a question is.
    pub(crate) fn moment(&self) -> Moment {
        Moment(self.news.0.load(Ordering::SeqCst))
    }

    /// How long the kernel may keep attributes that were asked for at `moment`. What was told to the kernel since
    /// then it may not know of these, so they are not kept.
    /// Nor are those of a file with set-id bits: a write takes them, and the kernel leaves it to the mount to know.
    pub(crate) fn keep_attr(&self, attr: &Attr, moment: Moment) -> Duration {
        match attr.consistency {
            _ if has_set_id(attr) => Duration::ZERO,
            Consistency::Strict => Duration::ZERO,
            Consistency::Relaxed => RELAXED,
            Consistency::CloseToOpen if self.moment() != moment => Duration::ZERO,
            Consistency::CloseToOpen => self.give_attr(attr, moment),
        }
    }

    /// How long it may keep a name in `parent` and the attributes of what it stands for.
    pub(crate) fn keep_entry(&self, parent: InodeId, attr: &Attr, moment: Moment) -> Keep {
        let keep = self.keep_attr(attr, moment);
        match attr.consistency {
            Consistency::CloseToOpen => {
                let left = self.client.cache_lease_left();
                let left = if self.moment() == moment { left } else { Duration::ZERO };
                Keep { attr: keep, entry: self.give_name(parent, left, moment) }
            }
            Consistency::Strict => Keep { attr: keep, entry: keep },
            Consistency::Relaxed => Keep { attr: keep, entry: RELAXED },
        }
    }

    /// How long it may keep that there is no such name in `parent`.
    pub(crate) fn keep_absence(&self, parent: InodeId, moment: Moment) -> Duration {
        match self.client.peek_attr(parent) {
            Some(attr) => self.keep_entry(parent, &attr, moment).entry,
            None => Duration::ZERO,
        }
    }

    fn give_attr(&self, attr: &Attr, moment: Moment) -> Duration {
        let left = self.client.cache_lease_left();
        let directory = match attr.kind {
            FileKind::Directory => attr.inode,
            _ => attr.parent,
        };
        self.names.give_attr(directory, left, Instant::now());
        // Either the teller sees that it was given, or this sees that there are news.
        if self.moment() == moment { left } else { Duration::ZERO }
    }

    fn give_name(&self, parent: InodeId, left: Duration, moment: Moment) -> Duration {
        let given = self.names.give(parent, left, Instant::now());
        // Either the teller sees that a name was given, or this sees that there are news.
        if self.moment() == moment { given } else { Duration::ZERO }
    }
}

/// Whether a file runs with other rights than those of who runs it.
pub(crate) fn has_set_id(attr: &Attr) -> bool {
    attr.kind == FileKind::File && attr.mode & (libc::S_ISUID | libc::S_ISGID) != 0
}

/// Tells the kernel what others changed.
pub(crate) struct Teller(pub(crate) Weak<Edge>);

impl Invalidate for Teller {
    fn inode(&self, inode: InodeId, content: bool) {
        let Some(edge) = self.0.upgrade() else { return };
        edge.news.0.fetch_add(1, Ordering::SeqCst);
        let file = edge.files.of(inode);
        if let Some(file) = &file {
            file.changed();
        }
        edge.forget_attr(inode);
        // Pages of an open file may be behind until it is opened again, so nobody has to wait for the kernel to
        // drop them, which may take the answer to a write that is under way.
        if content && file.is_some() {
            edge.forget_pages_behind(inode);
        }
    }

    fn directory(&self, inode: InodeId, _known: bool) {
        let Some(edge) = self.0.upgrade() else { return };
        edge.news.0.fetch_add(1, Ordering::SeqCst);
        edge.forget_attr(inode);
        let now = Instant::now();
        if let Some(until) = edge.names.taken(inode, now) {
            // The kernel's copies end with the lease, which is not renewed meanwhile.
            #[expect(
                clippy::disallowed_methods,
                reason = "hooks may block; no simulator runs them"
            )]
            std::thread::sleep(edge.client.cache_lease_left().min(until - now) + LATE);
        }
    }

    fn entry(&self, parent: InodeId, name: &Name) {
        let Some(edge) = self.0.upgrade() else { return };
        edge.news.0.fetch_add(1, Ordering::SeqCst);
        if let Some(until) = edge.names.changed(parent, Instant::now()) {
            edge.forget_name(parent, name, until);
        }
    }

    fn everything(&self) {
        let Some(edge) = self.0.upgrade() else { return };
        edge.news.0.fetch_add(1, Ordering::SeqCst);
        edge.files.all_changed();
    }
}

impl Edge {
    /// Lets the kernel forget attributes, not pages: that waits for nothing.
    fn forget_attr(&self, inode: InodeId) {
        if let Some(notifier) = self.notifier.get()
            && let Err(e) = notifier.inval_inode(INodeNo(inode.0), -1, 0)
        {
            tracing::debug!(%inode, error = %e, "attributes in the kernel were not invalidated");
        }
    }

    /// Lets the kernel forget a name. Waits for an operation that holds the directory, but not beyond `until`,
    /// when the kernel does not use the name any more.
    fn forget_name(self: &Arc<Self>, parent: InodeId, name: &Name, until: Instant) {
        let Some(notifier) = self.notifier.get().cloned() else { return };
        let (done, wait) = std::sync::mpsc::sync_channel(1);
        let name = name.clone();
        drop(self.runtime.spawn_blocking(move || {
            // An error: the kernel does not have it.
            let told = notifier.inval_entry(INodeNo(parent.0), OsStr::from_bytes(name.as_bytes()));
            tracing::trace!(%parent, ?told, "a name was invalidated");
            let _nobody_waits_any_more = done.send(());
        }));
        let left = until.saturating_duration_since(Instant::now());
        if wait.recv_timeout(left).is_err() {
            tracing::debug!(%parent, "a name in the kernel ended with its lease");
        }
    }

    /// Lets the kernel forget attributes and pages of a file.
    pub(crate) fn forget_pages(&self, inode: InodeId) {
        if let Some(notifier) = self.notifier.get()
            && let Err(e) = notifier.inval_inode(INodeNo(inode.0), 0, 0)
        {
            tracing::debug!(%inode, error = %e, "pages in the kernel were not invalidated");
        }
    }

    fn forget_pages_behind(self: &Arc<Self>, inode: InodeId) {
        let edge = self.clone();
        // It may wait for a page; nobody waits for it.
        drop(self.runtime.spawn_blocking(move || edge.forget_pages(inode)));
    }
}
