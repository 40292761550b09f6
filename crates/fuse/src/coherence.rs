//! Caches: the client's, which is kept right by the change feed, and the kernel's copies of it.
//!
//! The kernel keeps attributes for as long as the client's lease lasts, and is told when another client
//! changes them. It keeps no names: to make it forget one takes the lock of the directory, which an operation of
//! this mount may hold while it waits for another mount that waits for the same. Names are answered from the
//! client's memory instead.

use crate::edge::Edge;
use everhold_client::Invalidate;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Consistency, Name};
use fuser::INodeNo;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How long the kernel keeps what is under a relaxed directory.
const RELAXED: Duration = Duration::from_secs(1);

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
    pub(crate) fn keep(&self, attr: &Attr, moment: Moment) -> Keep {
        let zero = Duration::ZERO;
        match attr.consistency {
            Consistency::Strict => Keep { attr: zero, entry: zero },
            Consistency::Relaxed => Keep { attr: RELAXED, entry: RELAXED },
            Consistency::CloseToOpen if self.moment() != moment => Keep { attr: zero, entry: zero },
            Consistency::CloseToOpen => Keep { attr: self.client.cache_lease_left(), entry: zero },
        }
    }
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

    fn entry(&self, _parent: InodeId, _name: &Name) {
        let Some(edge) = self.0.upgrade() else { return };
        edge.news.0.fetch_add(1, Ordering::SeqCst);
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
