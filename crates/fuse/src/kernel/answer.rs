//! The ways to answer: work carried out on the runtime, and its result put together for the kernel.

use super::Kernel;
use crate::coherence::Moment;
use crate::convert;
use crate::edge::Edge;
use crate::failure::Outcome;
use crate::ops::{Listed, Listing, Opened, Sized as Value};
use crate::stats::Op;
use crate::waiting::Call;
use everhold_proto::InodeId;
use everhold_proto::fs::{Attr, Name};
use fuser::*;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::Duration;

/// Inodes are never reused, so that one generation is enough.
pub(super) const GENERATION: Generation = Generation(0);

/// The request, as what ends its wait knows it.
pub(super) fn call(req: &Request) -> Call {
    Call { unique: req.unique().0, caller: req.pid() }
}

impl Kernel {
    pub(super) fn serve<T: Send + 'static, F>(
        &self,
        req: &Request,
        op: Op,
        work: impl FnOnce(Arc<Edge>) -> F,
        answer: impl FnOnce(Result<T, Errno>) + Send + 'static,
    ) where
        F: Future<Output = Outcome<T>> + Send + 'static,
    {
        self.0.serve(call(req), op, work(self.0.clone()), answer);
    }

    /// As `serve`, for requests that are answered with a new handle: nobody closes one that nobody was told of.
    pub(super) fn serve_opened<F>(
        &self,
        req: &Request,
        op: Op,
        work: impl FnOnce(Arc<Edge>) -> F,
        answer: impl FnOnce(Result<Opened, Errno>) + Send + 'static,
    ) where
        F: Future<Output = Outcome<Opened>> + Send + 'static,
    {
        let edge = self.0.clone();
        let undo = move |opened: Opened| {
            edge.runtime.spawn(edge.clone().release(opened.handle, false));
        };
        self.0.serve_or_undo(call(req), op, work(self.0.clone()), answer, undo);
    }

    /// As `serve`, for requests that are answered with nothing.
    pub(super) fn serve_empty<F>(
        &self,
        req: &Request,
        op: Op,
        reply: ReplyEmpty,
        work: impl FnOnce(Arc<Edge>) -> F,
    ) where
        F: Future<Output = Outcome<()>> + Send + 'static,
    {
        self.serve(req, op, work, move |result| match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        });
    }

    /// As `serve`, for requests that are answered with an entry of a directory.
    pub(super) fn serve_entry<F>(
        &self,
        req: &Request,
        op: Op,
        parent: InodeId,
        reply: ReplyEntry,
        work: impl FnOnce(Arc<Edge>) -> F,
    ) where
        F: Future<Output = Outcome<Attr>> + Send + 'static,
    {
        let (edge, moment) = (self.0.clone(), self.0.moment());
        self.serve(req, op, work, move |result| match result {
            Ok(attr) => answer_entry(&edge, reply, parent, &attr, moment),
            Err(e) => reply.error(e),
        });
    }

    pub(super) fn serve_attr<F>(
        &self,
        req: &Request,
        op: Op,
        reply: ReplyAttr,
        work: impl FnOnce(Arc<Edge>) -> F,
    ) where
        F: Future<Output = Outcome<Attr>> + Send + 'static,
    {
        let (edge, moment) = (self.0.clone(), self.0.moment());
        self.serve(req, op, work, move |result| match result {
            Ok(attr) => answer_attr(&edge, reply, &attr, moment),
            Err(e) => reply.error(e),
        });
    }

    pub(super) fn serve_sized<F>(
        &self,
        req: &Request,
        op: Op,
        reply: ReplyXattr,
        work: impl FnOnce(Arc<Edge>) -> F,
    ) where
        F: Future<Output = Outcome<Value>> + Send + 'static,
    {
        self.serve(req, op, work, move |result| match result {
            Ok(Value::Data(data)) => reply.data(&data),
            Ok(Value::Length(length)) => reply.size(length),
            Err(e) => reply.error(e),
        });
    }
}

pub(super) fn answer_attr(edge: &Edge, reply: ReplyAttr, attr: &Attr, moment: Moment) {
    edge.gone.saw(attr);
    reply.attr(&edge.keep_attr(attr, moment), &convert::file_attr(attr));
}

pub(super) fn answer_entry(
    edge: &Edge,
    reply: ReplyEntry,
    parent: InodeId,
    attr: &Attr,
    moment: Moment,
) {
    edge.gone.saw(attr);
    let keep = edge.keep_entry(parent, attr, moment);
    reply.entry_with_ttls(&keep.attr, &keep.entry, &convert::file_attr(attr), GENERATION);
}

/// There is no such name. The kernel remembers it if it may.
pub(super) fn answer_absent(edge: &Edge, reply: ReplyEntry, parent: InodeId, moment: Moment) {
    let keep = edge.keep_absence(parent, moment);
    if keep.is_zero() {
        return reply.error(Errno::ENOENT);
    }
    // An entry for inode 0 is none.
    reply.entry_with_ttls(&Duration::ZERO, &keep, &convert::bare_dir(InodeId(0)), GENERATION);
}

/// Entries of a directory, with and without attributes. `dot` and `entry` say whether the answer is full.
pub(super) trait Entries {
    fn dot(&mut self, next: u64, inode: InodeId, name: &str) -> bool;
    fn entry(&mut self, next: u64, name: &Name, attr: &Attr, keep: Duration) -> bool;
    fn end(self, result: Result<(), Errno>);

    /// Answers with as much of a listing as has room.
    fn answer(mut self, result: Result<Listing, Errno>)
    where
        Self: Sized,
    {
        let listing = match result {
            Ok(listing) => listing,
            Err(e) => return self.end(Err(e)),
        };
        for (next, inode, name) in listing.dots() {
            if self.dot(next, inode, name) {
                return self.end(Ok(()));
            }
        }
        for Listed { next, name, attr, keep } in &listing.entries {
            if self.entry(*next, name, attr, *keep) {
                break;
            }
        }
        self.end(Ok(()));
    }
}

impl Entries for ReplyDirectory {
    fn dot(&mut self, next: u64, inode: InodeId, name: &str) -> bool {
        self.add(INodeNo(inode.0), next, FileType::Directory, name)
    }

    fn entry(&mut self, next: u64, name: &Name, attr: &Attr, _keep: Duration) -> bool {
        let (inode, kind) = (INodeNo(attr.inode.0), convert::file_type(attr.kind));
        self.add(inode, next, kind, OsStr::from_bytes(name.as_bytes()))
    }

    fn end(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(e) => self.error(e),
        }
    }
}

impl Entries for ReplyDirectoryPlus {
    fn dot(&mut self, next: u64, inode: InodeId, name: &str) -> bool {
        // The kernel takes no attributes from these two.
        let attr = convert::bare_dir(inode);
        self.add(attr.ino, next, name, &Duration::ZERO, &attr, GENERATION)
    }

    fn entry(&mut self, next: u64, name: &Name, attr: &Attr, keep: Duration) -> bool {
        let (name, attr) = (OsStr::from_bytes(name.as_bytes()), convert::file_attr(attr));
        self.add(attr.ino, next, name, &keep, &attr, GENERATION)
    }

    fn end(self, result: Result<(), Errno>) {
        match result {
            Ok(()) => self.ok(),
            Err(e) => self.error(e),
        }
    }
}
