//! Opening, reading, writing, closing.

use crate::edge::Edge;
use crate::failure::{Failure, Outcome};
use crate::files::Handle;
use crate::owners::Owner;
use bytes::Bytes;
use everhold_client::{ClientError, LossMark};
use everhold_proto::InodeId;
use everhold_proto::fs::{self, Attr, Consistency, FileKind, FsError, Name, NewKind, SetAttr};
use fuser::{Errno, FopenFlags, WriteFlags};
use std::sync::Arc;

/// What the kernel is told of an opening.
pub(crate) struct Opened {
    pub(crate) attr: Attr,
    pub(crate) handle: u64,
    pub(crate) flags: FopenFlags,
}

impl Edge {
    pub(crate) async fn open(self: Arc<Self>, inode: InodeId, flags: i32) -> Outcome<Opened> {
        let (file, told) = (self.files.of_or_new(inode), self.client.losses().mark());
        let attr = if flags & libc::O_TRUNC != 0 {
            let set = SetAttr { size: Some(0), ..SetAttr::default() };
            self.clone().setattr(inode, set).await?
        } else {
            file.flush().await?;
            self.client.cached_attr(inode).await?
        };
        file.saw(&attr);
        Ok(self.opened(file, attr, flags, told))
    }

    /// Opens a file of which the cache knows enough.
    pub(crate) fn open_at_once(&self, inode: InodeId, flags: i32) -> Option<Opened> {
        if flags & libc::O_TRUNC != 0 {
            return None;
        }
        let (file, told) = (self.files.of_or_new(inode), self.client.losses().mark());
        let attr = self.client.peek_attr(inode).filter(|_| !file.is_dirty())?;
        file.saw(&attr);
        Some(self.opened(file, attr, flags, told))
    }

    /// Whether a `close` has nothing to commit, no error to tell, and no lock to give up.
    pub(crate) fn has_nothing_to_flush(&self, handle: u64, owner: u64) -> bool {
        let handle = self.files.handle(handle);
        handle.is_some_and(|h| {
            h.file.is_clean()
                && !h.hold.is_lost()
                && !self.client.losses().is_news(&h.told)
                && !self.files.may_hold(h.file.inode(), owner)
        })
    }

    pub(crate) async fn create(
        self: Arc<Self>,
        parent: InodeId,
        name: Name,
        owner: fs::Owner,
        flags: i32,
    ) -> Outcome<Opened> {
        let (kind, told) = (NewKind::File, self.client.losses().mark());
        let created = self.client.create_node(parent, name.clone(), kind, owner, false).await;
        match created {
            Ok(attr) => {
                let file = self.files.of_or_new(attr.inode);
                file.is_new(&attr);
                Ok(self.opened(file, attr, flags, told))
            }
            // Somebody else was faster, and both are content with that.
            Err(e) if e.is_exists() && flags & libc::O_EXCL == 0 => {
                let attr = self.client.lookup(parent, name).await?;
                if attr.kind != FileKind::File {
                    return Err(Errno::EEXIST.into());
                }
                let opened = self.open(attr.inode, flags).await?;
                Ok(Opened { attr, ..opened })
            }
            Err(e) => Err(e.into()),
        }
    }

    fn opened(
        &self,
        file: Arc<everhold_client::OpenFile>,
        attr: Attr,
        flags: i32,
        told: LossMark,
    ) -> Opened {
        let mut how = FopenFlags::empty();
        let writes_only = flags & libc::O_ACCMODE == libc::O_WRONLY;
        let had = self.files.saw(&attr);
        let strict = self.sync || attr.consistency == Consistency::Strict;
        if strict || flags & libc::O_DIRECT != 0 || flags & libc::O_APPEND != 0 || writes_only {
            // Pages of what is only written would be copied for nothing, what is appended gets its offset
            // from the cluster, and strict reads ask it each time.
            how |= FopenFlags::FOPEN_DIRECT_IO;
        } else if had {
            how |= FopenFlags::FOPEN_KEEP_CACHE;
        }
        Opened { attr, handle: self.files.open(file, strict, told), flags: how }
    }

    /// The open file with a number. `ESTALE`: the file lost its last name while this mount was away, and is no more.
    pub(crate) fn handle(&self, number: u64) -> Outcome<Arc<Handle>> {
        let handle = self.files.handle(number).ok_or(Errno::EBADF)?;
        match self.client.is_gone(handle.file.inode()) {
            true => Err(Errno::ESTALE.into()),
            false => Ok(handle),
        }
    }

    /// The same, for a change: its locks are still there.
    pub(crate) async fn handle_to_change(self: &Arc<Self>, number: u64) -> Outcome<Arc<Handle>> {
        let handle = self.handle(number)?;
        self.check_locks(&handle).await?;
        Ok(handle)
    }

    /// The same for a write or an `fsync`: what was lost is told first, and counts as told also when the file is gone.
    async fn handle_to_write(self: &Arc<Self>, number: u64) -> Outcome<Arc<Handle>> {
        self.tell_loss(&*self.files.handle(number).ok_or(Errno::EBADF)?)?;
        self.handle_to_change(number).await
    }

    /// Fails once when what was done through a handle, or to its file, was lost since.
    fn tell_loss(&self, handle: &Handle) -> Outcome<()> {
        Ok(self.client.losses().check(handle.file.inode(), &handle.told)?)
    }

    /// Commits what was written, and tells of what was lost.
    async fn flush_handle(&self, handle: &Handle) -> Outcome<()> {
        let flushed = handle.file.flush().await;
        self.tell_loss(handle)?;
        flushed.map_err(of_open)
    }

    /// Makes everything durable that was done to a file, and tells of what was lost.
    async fn sync_handle(&self, handle: &Handle) -> Outcome<()> {
        let flushed = handle.file.flush().await;
        let settled = self.client.until_settled(handle.file.inode()).await;
        self.tell_loss(handle)?;
        flushed.and(settled).map_err(of_open)
    }

    /// Reads what is here already.
    pub(crate) fn read_at_once(&self, handle: u64, offset: u64, size: u32) -> Option<Bytes> {
        let handle = self.handle(handle).ok().filter(|handle| !handle.strict)?;
        handle.file.peek(offset, size as usize)
    }

    pub(crate) async fn read(
        self: Arc<Self>,
        handle: u64,
        offset: u64,
        size: u32,
    ) -> Outcome<Bytes> {
        let handle = self.handle(handle)?;
        if handle.strict {
            handle.file.changed();
        }
        handle.file.read(offset, size as usize).await.map_err(of_open)
    }

    pub(crate) async fn write(
        self: Arc<Self>,
        handle: u64,
        offset: u64,
        data: Bytes,
        flags: i32,
        how: WriteFlags,
    ) -> Outcome<u32> {
        let handle = self.handle_to_write(handle).await?;
        let count = data.len() as u32;
        let from_pages = how.contains(WriteFlags::FUSE_WRITE_CACHE);
        if flags & libc::O_APPEND != 0 && !from_pages {
            // The kernel's pages may end before what others appended: they are not of this version.
            handle.file.append(data).await.map_err(of_open)?;
            return Ok(count);
        }
        handle.file.write(offset, &data).await.map_err(of_open)?;
        self.check_locks_again(&handle, true)?;
        if handle.strict || flags & (libc::O_SYNC | libc::O_DSYNC) != 0 {
            self.sync_handle(&handle).await?;
        }
        Ok(count)
    }

    /// Makes what was written durable.
    pub(crate) async fn fsync(self: Arc<Self>, handle: u64) -> Outcome<()> {
        let handle = self.handle_to_write(handle).await?;
        self.sync_handle(&handle).await?;
        self.check_locks_again(&handle, false)
    }

    /// Makes the names in a directory durable.
    pub(crate) async fn fsyncdir(self: Arc<Self>, handle: u64) -> Outcome<()> {
        let dir = self.dirs.get(handle).ok_or(Errno::EBADF)?;
        let settled = self.client.until_settled(dir.inode).await;
        self.client.losses().check(dir.inode, &dir.told)?;
        Ok(settled?)
    }

    /// A `close`: commits what was written, and gives up the `fcntl` locks of the process.
    pub(crate) async fn flush(self: Arc<Self>, handle: u64, owner: u64) -> Outcome<()> {
        let handle = self.files.handle(handle).ok_or(Errno::EBADF)?;
        let flushed = self.flush_handle(&handle).await;
        let lost = handle.hold.last_word();
        self.unlock_all(handle.file.inode(), Owner::of(owner, None)).await?;
        flushed?;
        lost.map_or(Ok(()), |errno| Err(errno.into()))
    }

    /// The last descriptor is gone, and nothing has to be done for it but to forget it.
    pub(crate) fn release_at_once(&self, handle: u64, flock: bool) -> bool {
        let Some(inode) = self.files.handle(handle).map(|handle| handle.file.inode()) else {
            return false;
        };
        !flock && !self.owners.has_any(inode, handle) && self.files.close_clean(handle)
    }

    /// The last descriptor is gone. Programs do not learn of an error here; they did at `close`. The locks that
    /// belong to the open file end: those of `flock`, if it has any, and those of `F_OFD_SETLK`.
    pub(crate) async fn release(self: Arc<Self>, number: u64, flock: bool) -> Outcome<()> {
        let handle = self.files.close(number).ok_or(Errno::EBADF)?;
        let inode = handle.file.inode();
        let flushed = handle.file.flush().await;
        if let Err(e) = flushed
            && !matches!(e.fs(), Some(FsError::NotFound))
            && !handle.hold.is_lost()
        {
            tracing::error!(%inode, error = %e, "written bytes were not committed at the last close");
        }
        let unlocked = self.unlock_handle(inode, number, flock).await;
        self.closed(&handle);
        unlocked
    }
}

/// An open file that is not there is gone, whatever its name was.
pub(super) fn of_open(e: ClientError) -> Failure {
    match e.is_not_found() {
        true => Errno::ESTALE.into(),
        false => e.into(),
    }
}
