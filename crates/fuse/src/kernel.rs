//! Requests of the kernel: arguments checked and taken apart, the work handed on, the answer put together.

mod answer;

use crate::caller;
use crate::convert;
use crate::edge::Edge;
use crate::ops::{LockRequest, Opened, STAT_UNIT, lock_range};
use crate::owners::Owner;
use crate::stats::Op;
use answer::{Entries, answer_absent, answer_attr, answer_entry, call};
use bytes::Bytes;
use everhold_proto::fs::{self, Attr, LockInfo, LockKind, NewKind, SetAttr};
use fuser::*;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

/// Largest request: more gains nothing.
const REQUEST_BYTES_MAX: u32 = 1 << 20;
/// Requests for reading ahead and the like that the kernel may have under way.
const BACKGROUND_MAX: u16 = 64;

/// The kernel's side of a mount.
pub(crate) struct Kernel(pub(crate) Arc<Edge>);

/// A name, or the answer that it is none.
macro_rules! name {
    ($name:expr, $reply:expr) => {
        match convert::name($name) {
            Ok(name) => name,
            Err(e) => return $reply.error(e),
        }
    };
}

fn owner(req: &Request, mode: u32, umask: u32) -> fs::Owner {
    fs::Owner { uid: req.uid(), gid: req.gid(), mode: mode & 0o7777, umask: umask & 0o777 }
}

fn bytes(name: &OsStr) -> Bytes {
    Bytes::copy_from_slice(name.as_bytes())
}

impl Filesystem for Kernel {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_ATOMIC_O_TRUNC
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_READDIRPLUS_AUTO
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_DONT_MASK
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_POSIX_ACL
            | InitFlags::FUSE_POSIX_LOCKS
            | InitFlags::FUSE_FLOCK_LOCKS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        // What an older kernel lacks, it does without.
        for flag in wanted.iter() {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "the kernel lacks a capability");
            }
        }
        let set = config.set_max_write(REQUEST_BYTES_MAX).is_ok()
            && config.set_max_background(BACKGROUND_MAX).is_ok();
        if !set || config.set_max_readahead(REQUEST_BYTES_MAX).is_err() {
            tracing::debug!("the kernel takes smaller requests only");
        }
        Ok(())
    }

    fn lookup(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (parent, name) = (convert::inode(parent), name!(name, reply));
        let moment = self.0.moment();
        let clean = |known: &Option<Attr>| {
            known.as_ref().is_none_or(|attr| self.0.files.dirty(attr.inode).is_none())
        };
        match self.0.client.peek_lookup(parent, &name).filter(clean) {
            // Known: answered here, without a turn of the runtime.
            Some(known) => self.0.at_once(Op::Lookup, known.is_some(), || match known {
                Some(attr) => answer_entry(&self.0, reply, parent, &attr, moment),
                None => answer_absent(&self.0, reply, parent, moment),
            }),
            None => {
                let edge = self.0.clone();
                let answer = move |result: Result<Option<Attr>, Errno>| match result {
                    Ok(Some(attr)) => answer_entry(&edge, reply, parent, &attr, moment),
                    Ok(None) => answer_absent(&edge, reply, parent, moment),
                    Err(e) => reply.error(e),
                };
                self.serve(req, Op::Lookup, |edge| edge.lookup(parent, name), answer);
            }
        }
    }

    fn forget(&self, _req: &Request, ino: INodeNo, _nlookup: u64) {
        self.0.gone.forget(convert::inode(ino));
    }

    fn getattr(&self, req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (inode, moment) = (convert::inode(ino), self.0.moment());
        let clean = |attr: &Attr| self.0.files.dirty(attr.inode).is_none();
        match self.0.client.peek_attr(inode).filter(clean) {
            Some(attr) => {
                self.0.at_once(Op::GetAttr, true, || answer_attr(&self.0, reply, &attr, moment));
            }
            None => self.serve_attr(req, Op::GetAttr, reply, |edge| edge.getattr(inode)),
        }
    }

    fn setattr(
        &self,
        req: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let time = |time: Option<TimeOrNow>| time.map(convert::time_or_now).transpose();
        let (atime, mtime) = match (time(atime), time(mtime)) {
            (Ok(atime), Ok(mtime)) => (atime, mtime),
            (Err(e), _) | (_, Err(e)) => return reply.error(e),
        };
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime,
            mtime,
            consistency: None,
        };
        let inode = convert::inode(ino);
        let fh = fh.map(|fh| fh.0);
        self.serve_attr(req, Op::SetAttr, reply, |edge| edge.setattr_through(fh, inode, set));
    }

    fn readlink(&self, req: &Request, ino: INodeNo, reply: ReplyData) {
        let inode = convert::inode(ino);
        let answer = move |result: Result<Bytes, Errno>| match result {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        };
        self.serve(req, Op::ReadLink, |edge| edge.readlink(inode), answer);
    }

    fn mknod(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (convert::inode(parent), name!(name, reply));
        let owner = owner(req, mode, umask);
        self.serve_entry(req, Op::MkNod, parent, reply, |edge| {
            edge.mknod(parent, name, (mode, rdev), owner)
        });
    }

    fn mkdir(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (convert::inode(parent), name!(name, reply));
        let owner = owner(req, mode, umask);
        self.serve_entry(req, Op::MkDir, parent, reply, |edge| {
            edge.create_node(parent, name, NewKind::Directory, owner)
        });
    }

    fn unlink(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (convert::inode(parent), name!(name, reply));
        self.serve_empty(req, Op::Unlink, reply, |edge| edge.unlink(parent, name));
    }

    fn rmdir(&self, req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (parent, name) = (convert::inode(parent), name!(name, reply));
        self.serve_empty(req, Op::RmDir, reply, |edge| edge.rmdir(parent, name));
    }

    fn symlink(
        &self,
        req: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (parent, name) = (convert::inode(parent), name!(link_name, reply));
        let (owner, kind) = (owner(req, 0o777, 0), NewKind::Symlink(bytes(target.as_os_str())));
        self.serve_entry(req, Op::Symlink, parent, reply, |edge| {
            edge.create_node(parent, name, kind, owner)
        });
    }

    fn rename(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let from = (convert::inode(parent), name!(name, reply));
        let to = (convert::inode(newparent), name!(newname, reply));
        self.serve_empty(req, Op::Rename, reply, |edge| edge.rename(from, to, flags));
    }

    fn link(
        &self,
        req: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (inode, parent) = (convert::inode(ino), convert::inode(newparent));
        let name = name!(newname, reply);
        self.serve_entry(req, Op::Link, parent, reply, |edge| edge.link(inode, parent, name));
    }

    fn open(&self, req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let inode = convert::inode(ino);
        if let Some(opened) = self.0.open_at_once(inode, flags.0) {
            let answer = || reply.opened(FileHandle(opened.handle), opened.flags);
            return self.0.at_once(Op::Open, true, answer);
        }
        let answer = move |result: Result<Opened, Errno>| match result {
            Ok(opened) => reply.opened(FileHandle(opened.handle), opened.flags),
            Err(e) => reply.error(e),
        };
        self.serve_opened(req, Op::Open, |edge| edge.open(inode, flags.0), answer);
    }

    fn create(
        &self,
        req: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (parent, name) = (convert::inode(parent), name!(name, reply));
        let (owner, edge, moment) = (owner(req, mode, umask), self.0.clone(), self.0.moment());
        let answer = move |result: Result<Opened, Errno>| match result {
            Ok(Opened { attr, handle, flags }) => {
                // One time for both: the shorter one.
                let keep = edge.keep_entry(parent, &attr, moment);
                let ttl = keep.attr.min(keep.entry);
                let attr = convert::file_attr(&attr);
                reply.created(&ttl, &attr, answer::GENERATION, FileHandle(handle), flags);
            }
            Err(e) => reply.error(e),
        };
        self.serve_opened(req, Op::Create, |edge| edge.create(parent, name, owner, flags), answer);
    }

    fn read(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Some(data) = self.0.read_at_once(fh.0, offset, size) {
            return self.0.at_once(Op::Read, true, || reply.data(&data));
        }
        let answer = move |result: Result<Bytes, Errno>| match result {
            Ok(data) => reply.data(&data),
            Err(e) => reply.error(e),
        };
        self.serve(req, Op::Read, |edge| edge.read(fh.0, offset, size), answer);
    }

    fn write(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = Bytes::copy_from_slice(data);
        let answer = move |result: Result<u32, Errno>| match result {
            Ok(count) => reply.written(count),
            Err(e) => reply.error(e),
        };
        let work = |edge: Arc<Edge>| edge.write(fh.0, offset, data, flags.0, write_flags);
        self.serve(req, Op::Write, work, answer);
    }

    fn flush(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        if self.0.has_nothing_to_flush(fh.0, lock_owner.0) {
            return self.0.at_once(Op::Flush, true, || reply.ok());
        }
        self.serve_empty(req, Op::Flush, reply, |edge| edge.flush(fh.0, lock_owner.0));
    }

    fn release(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        // The kernel names an owner here exactly if the file was locked with `flock`.
        let flock = lock_owner.is_some();
        if self.0.release_at_once(fh.0, flock) {
            return self.0.at_once(Op::Release, true, || reply.ok());
        }
        self.serve_empty(req, Op::Release, reply, |edge| edge.release(fh.0, flock));
    }

    fn fsync(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(req, Op::Fsync, reply, |edge| edge.fsync(fh.0));
    }

    fn opendir(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let handle = self.0.opendir(convert::inode(ino));
        reply.opened(FileHandle(handle), FopenFlags::empty());
    }

    fn readdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let work = |edge: Arc<Edge>| edge.readdir(fh.0, offset);
        self.serve(req, Op::ReadDir, work, |result| reply.answer(result));
    }

    fn readdirplus(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let moment = self.0.moment();
        let work = |edge: Arc<Edge>| edge.readdirplus(fh.0, offset, moment);
        self.serve(req, Op::ReadDirPlus, work, |result| reply.answer(result));
    }

    fn releasedir(
        &self,
        _req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        match self.0.dirs.remove(fh.0) {
            Some(_) => reply.ok(),
            None => reply.error(Errno::EBADF),
        }
    }

    fn fsyncdir(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(req, Op::Fsync, reply, |edge| edge.fsyncdir(fh.0));
    }

    fn statfs(&self, req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        let answer = move |result: Result<crate::ops::Space, Errno>| match result {
            Ok(space) => {
                let unit = STAT_UNIT as u32;
                let (free, inodes, left) = (space.free, space.inodes, space.inodes_free);
                reply.statfs(space.blocks, free, free, inodes, left, unit, 255, unit);
            }
            Err(e) => reply.error(e),
        };
        self.serve(req, Op::StatFs, |edge| edge.statfs(), answer);
    }

    fn setxattr(
        &self,
        req: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (inode, name, value) =
            (convert::inode(ino), bytes(name), Bytes::copy_from_slice(value));
        self.serve_empty(req, Op::SetXattr, reply, |edge| edge.setxattr(inode, name, value, flags));
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if self.0.lacks_xattr(convert::inode(ino), name.as_bytes()) {
            return self.0.at_once(Op::GetXattr, false, || reply.error(Errno::ENODATA));
        }
        let (inode, name) = (convert::inode(ino), bytes(name));
        self.serve_sized(req, Op::GetXattr, reply, |edge| edge.getxattr(inode, name, size));
    }

    fn listxattr(&self, req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let inode = convert::inode(ino);
        self.serve_sized(req, Op::ListXattr, reply, |edge| edge.listxattr(inode, size));
    }

    fn removexattr(&self, req: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (inode, name) = (convert::inode(ino), bytes(name));
        self.serve_empty(req, Op::RemoveXattr, reply, |edge| edge.removexattr(inode, name));
    }

    fn getlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let (inode, range) = (convert::inode(ino), lock_range(start, end));
        let owner = Owner::of(lock_owner.0, None);
        let asked = LockRequest { inode, handle: fh.0, owner, range, kind: typ, pid };
        let answer = move |result: Result<Option<LockInfo>, Errno>| match result {
            Ok(None) => reply.locked(start, end, libc::F_UNLCK, 0),
            Ok(Some(lock)) => {
                let kind = match lock.kind {
                    LockKind::Read => libc::F_RDLCK,
                    LockKind::Write => libc::F_WRLCK,
                };
                reply.locked(lock.start, lock.end.min(i64::MAX as u64), kind, lock.pid);
            }
            Err(e) => reply.error(e),
        };
        self.serve(req, Op::GetLock, |edge| edge.getlk(asked), answer);
    }

    fn setlk(
        &self,
        req: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        start: u64,
        end: u64,
        typ: i32,
        pid: u32,
        sleep: bool,
        flock: bool,
        reply: ReplyEmpty,
    ) {
        let (inode, range) = (convert::inode(ino), lock_range(start, end));
        let owner = Owner::of(lock_owner.0, flock.then_some(fh.0));
        let asked = LockRequest { inode, handle: fh.0, owner, range, kind: typ, pid };
        let waiter = self.0.waiting.note(call(req), Instant::now());
        let work = self.0.clone().setlk(asked, sleep, waiter.signs());
        self.0.serve_waiter(waiter, Op::SetLock, work, move |result| match result {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        });
    }

    fn interrupt(&self, unique: RequestId) -> bool {
        self.0.waiting.interrupt(unique.0, Instant::now(), caller::fate);
        true
    }

    fn copy_file_range(
        &self,
        req: &Request,
        _ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let (from, to) = ((fh_in.0, offset_in), (fh_out.0, offset_out));
        let answer = move |result: Result<u32, Errno>| match result {
            Ok(count) => reply.written(count),
            Err(e) => reply.error(e),
        };
        self.serve(req, Op::Copy, |edge| edge.copy(from, to, len), answer);
    }

    fn fallocate(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        self.serve_empty(req, Op::Fallocate, reply, |edge| {
            edge.fallocate(fh.0, offset, length, mode)
        });
    }

    fn lseek(
        &self,
        req: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let answer = move |result: Result<i64, Errno>| match result {
            Ok(offset) => reply.offset(offset),
            Err(e) => reply.error(e),
        };
        self.serve(req, Op::Seek, |edge| edge.seek(fh.0, offset, whence), answer);
    }
}
