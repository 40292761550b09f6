//! Writing a whole file as a stream. Blocks are written behind the caller, several at a time; nothing
//! is visible before [`FileWriter::finish`], and then all of it is, durably.
//!
//! A file of a few blocks is one commit of kind `PutFile`. A larger one grows under a hidden name by
//! commits of a few blocks each, so that memory stays bounded, and is renamed over its target.

use super::commit::{compact, inline};
use crate::blocks::Written;
use crate::buffers::Buffer;
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::meta::attr_of;
use bytes::{Buf, Bytes};
use everhold_env::Task;
use everhold_proto::fs::{
    Attr, Content, FsError, FsOp, Name, NewKind, Owner, RenameMode, SetAttr, TimeOrNow,
};
use everhold_proto::limits::{BLOCK_BYTES_MAX, FILE_BYTES_MAX, INLINE_BYTES_MAX};
use everhold_proto::{InodeId, Kind, PolicyId, Timestamp};
use std::collections::VecDeque;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;

/// Blocks of a file that is put by one commit; they stay in memory until it (64 MiB).
const DIRECT_BLOCKS_MAX: usize = 16;
/// Blocks in one commit of a file that grows.
const COMMIT_BLOCKS: usize = 8;

/// How a file is created.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Permission bits.
    pub mode: u32,
    /// Replace an existing regular file; else it must not exist.
    pub replace: bool,
    /// Modification time; `None`: when it is finished.
    pub mtime: Option<Timestamp>,
    /// User and group; `None`: the client's.
    pub owner: Option<(u32, u32)>,
}

impl Default for CreateOptions {
    fn default() -> Self {
        CreateOptions { mode: 0o644, replace: true, mtime: None, owner: None }
    }
}

/// Where the file will be.
#[derive(Clone, Debug)]
struct Place {
    parent: InodeId,
    name: Name,
    owner: Owner,
    replace: bool,
    mtime: TimeOrNow,
    policy: PolicyId,
}

/// A file that is being written. Dropped unfinished, it leaves nothing behind.
pub struct FileWriter {
    client: Arc<Client>,
    place: Place,
    buffer: Option<Buffer>,
    /// Bytes in blocks so far.
    emitted: u64,
    writing: VecDeque<Task<Result<Written>>>,
    written: Vec<Written>,
    hidden: Option<Hidden>,
    /// The commit under way of blocks before these; there is one at a time.
    committing: Option<Task<Result<()>>>,
}

/// The file under its hidden name.
#[derive(Clone, Debug)]
struct Hidden {
    inode: InodeId,
    name: Name,
}

impl Client {
    /// Starts to write the file at `path`.
    pub async fn create(
        self: &Arc<Self>,
        path: impl AsRef<[u8]>,
        options: CreateOptions,
    ) -> Result<FileWriter> {
        let (parent, name) = self.place(path.as_ref()).await.map_err(|e| e.at(path))?;
        self.create_in(parent, name, options).await
    }

    /// Starts to write the file `name` in the directory `parent`.
    pub async fn create_in(
        self: &Arc<Self>,
        parent: InodeId,
        name: Name,
        options: CreateOptions,
    ) -> Result<FileWriter> {
        let policy = self.policy_of(parent).await?;
        let (uid, gid) = options.owner.unwrap_or((self.options.uid, self.options.gid));
        let place = Place {
            parent,
            name,
            owner: Owner { uid, gid, mode: options.mode, umask: 0 },
            replace: options.replace,
            mtime: options.mtime.map_or(TimeOrNow::Now, TimeOrNow::At),
            policy,
        };
        Ok(FileWriter {
            client: self.clone(),
            place,
            buffer: None,
            emitted: 0,
            writing: VecDeque::new(),
            written: Vec::new(),
            hidden: None,
            committing: None,
        })
    }

    /// Writes a whole file from memory.
    pub async fn put(
        self: &Arc<Self>,
        path: impl AsRef<[u8]>,
        data: Bytes,
        options: CreateOptions,
    ) -> Result<Attr> {
        let path = path.as_ref();
        let mut writer = self.create(path, options).await?;
        writer.write_bytes(data).await.map_err(|e| e.at(path))?;
        writer.finish().await.map_err(|e| e.at(path))
    }

    /// Policy of what is created in `parent`.
    pub async fn policy_of(self: &Arc<Self>, parent: InodeId) -> Result<PolicyId> {
        if self.view.map().policies.len() <= 1 {
            return Ok(PolicyId(0)); // nothing to choose: saves a question for each file
        }
        Ok(self.attr(parent).await?.policy)
    }
}

impl FileWriter {
    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.emitted + self.buffer.as_ref().map_or(0, |b| b.len() as u64)
    }

    /// Adds bytes at the end, with one copy. Waits when too much is under way.
    pub async fn write(&mut self, mut data: &[u8]) -> Result<()> {
        while !data.is_empty() {
            let buffer = self.buffer.get_or_insert_with(|| self.client.wire.buffers().take());
            let count = buffer.append(data);
            data = &data[count..];
            self.emit_full().await?;
        }
        Ok(())
    }

    /// Adds bytes at the end; whole blocks of them are not copied.
    pub async fn write_bytes(&mut self, mut data: Bytes) -> Result<()> {
        if data.len() <= INLINE_BYTES_MAX && self.size() == 0 {
            return self.write(&data).await;
        }
        while !data.is_empty() {
            if self.buffer.is_none() && data.len() >= BLOCK_BYTES_MAX {
                self.emit(data.split_to(BLOCK_BYTES_MAX)).await?;
                continue;
            }
            let buffer = self.buffer.get_or_insert_with(|| self.client.wire.buffers().take());
            let count = buffer.append(&data);
            data.advance(count);
            self.emit_full().await?;
        }
        Ok(())
    }

    /// Makes the file visible under its name. Everything is durable when this returns.
    pub async fn finish(mut self) -> Result<Attr> {
        let rest = self.buffer.take();
        if self.emitted == 0 {
            let data = rest.as_deref().unwrap_or_default();
            if data.len() <= INLINE_BYTES_MAX {
                let size = data.len() as u64;
                let op = put_file(&self.place, size, inline(0, compact(data)));
                drop(rest);
                return attr_of(self.client.execute(op).await?);
            }
        }
        if let Some(rest) = rest {
            self.emit(rest.into_bytes()).await?;
        }
        self.collect(0).await?;
        if self.hidden.is_none() {
            return self.put_directly().await;
        }
        self.commit_hidden().await?;
        self.unveil().await
    }

    async fn emit_full(&mut self) -> Result<()> {
        match self.buffer.take() {
            Some(buffer) if buffer.room() == 0 => self.emit(buffer.into_bytes()).await,
            other => {
                self.buffer = other;
                Ok(())
            }
        }
    }

    /// Starts to write a block.
    async fn emit(&mut self, data: Bytes) -> Result<()> {
        let offset = self.emitted;
        let end = offset + data.len() as u64;
        if end > FILE_BYTES_MAX {
            return Err(FsError::TooLarge.into());
        }
        if self.writing.len() + self.written.len() >= DIRECT_BLOCKS_MAX {
            self.collect(self.client.options.write_window.max(1) - 1).await?;
            if self.written.len() >= COMMIT_BLOCKS {
                self.commit_behind().await?;
            }
        }
        self.collect(self.client.options.write_window.max(1) - 1).await?;
        let memory = self.memory().await?;
        let (client, policy) = (self.client.clone(), self.place.policy);
        let deadline = client.deadline();
        self.writing.push_back(self.client.env.tasks.spawn(async move {
            client.write_block(policy, offset, data, Some(memory), deadline).await
        }));
        self.emitted = end;
        Ok(())
    }

    /// Memory for one more block. A writer that has to wait holds none, so that writers cannot wait for
    /// each other in a circle.
    async fn memory(&mut self) -> Result<OwnedSemaphorePermit> {
        let memory = self.client.memory.clone();
        if let Ok(permit) = memory.clone().try_acquire_owned() {
            return Ok(permit);
        }
        if !self.writing.is_empty() || !self.written.is_empty() {
            self.collect(0).await?;
            self.commit_hidden().await?;
        }
        let permit = self.client.env.clock.until(self.client.deadline(), memory.acquire_owned());
        Ok(permit.await?.expect("the semaphore is never closed"))
    }

    /// Waits until at most `count` blocks are being written.
    async fn collect(&mut self, count: usize) -> Result<()> {
        while self.writing.len() > count {
            let task = self.writing.pop_front().expect("more than none");
            self.written.push(task.join().await.ok_or_else(|| aborted("the write of a block"))??);
        }
        Ok(())
    }

    async fn put_directly(&mut self) -> Result<Attr> {
        let written = std::mem::take(&mut self.written);
        let (place, size) = (&self.place, self.emitted);
        let make = |content| put_file(place, size, content);
        self.client.commit(place.policy, written, self.client.deadline(), make).await
    }

    /// Commits all that is written to the file under its hidden name.
    async fn commit_hidden(&mut self) -> Result<()> {
        while !self.written.is_empty() {
            self.commit_behind().await?;
        }
        self.committed().await
    }

    /// Starts to commit the next blocks under the hidden name, while more of them are written.
    async fn commit_behind(&mut self) -> Result<()> {
        self.committed().await?;
        if self.hidden.is_none() {
            self.hide().await?;
        }
        let inode = self.hidden.as_ref().expect("just made").inode;
        let rest = self.written.split_off(self.written.len().min(COMMIT_BLOCKS));
        let part = std::mem::replace(&mut self.written, rest);
        let (client, policy) = (self.client.clone(), self.place.policy);
        let deadline = client.deadline();
        self.committing = Some(self.client.env.tasks.spawn(async move {
            let make = |content| FsOp::Commit {
                inode,
                expected_version: None,
                content,
                size_at_least: 0,
                append: false,
            };
            client.commit(policy, part, deadline, make).await.map(drop)
        }));
        Ok(())
    }

    /// Waits for the commit under way.
    async fn committed(&mut self) -> Result<()> {
        match self.committing.take() {
            Some(task) => task.join().await.ok_or_else(|| aborted("the commit of blocks"))?,
            None => Ok(()),
        }
    }

    async fn hide(&mut self) -> Result<()> {
        let random = self.client.env.entropy.u64();
        let name = Name::new(format!(".everhold-{random:016x}.part").into_bytes())?;
        let create = FsOp::Create {
            parent: self.place.parent,
            name: name.clone(),
            kind: NewKind::File,
            owner: self.place.owner,
            open: false,
        };
        let inode = attr_of(self.client.execute(create).await?)?.inode;
        self.hidden = Some(Hidden { inode, name });
        Ok(())
    }

    /// Gives the file its name.
    async fn unveil(&mut self) -> Result<Attr> {
        let Hidden { inode, name } = self.hidden.clone().expect("there is something to unveil");
        let (size, mtime) = (Some(self.emitted), Some(self.place.mtime));
        let set = SetAttr { size, mtime, ..SetAttr::default() };
        attr_of(self.client.execute(FsOp::SetAttr { inode, set }).await?)?;
        let mode = match self.place.replace {
            true => RenameMode::Replace,
            false => RenameMode::NoReplace,
        };
        let rename = FsOp::Rename {
            parent: self.place.parent,
            name,
            new_parent: self.place.parent,
            new_name: self.place.name.clone(),
            mode,
        };
        let attr = attr_of(self.client.execute(rename).await?)?;
        self.hidden = None;
        Ok(attr)
    }
}

fn aborted(what: &str) -> ClientError {
    ClientError::new(Kind::Internal, format!("{what} was aborted"))
}

impl Drop for FileWriter {
    fn drop(&mut self) {
        let Some(Hidden { name, .. }) = self.hidden.take() else { return };
        if tokio::runtime::Handle::try_current().is_err() {
            return;
        }
        let (client, parent) = (self.client.clone(), self.place.parent);
        let unlink = FsOp::Unlink { parent, name: name.clone(), linger: false };
        self.client.env.tasks.detach(async move {
            if let Err(e) = client.execute(unlink).await {
                tracing::warn!(%name, error = %e, "an unfinished file could not be removed");
            }
        });
    }
}

fn put_file(place: &Place, size: u64, content: Content) -> FsOp {
    FsOp::PutFile {
        parent: place.parent,
        name: place.name.clone(),
        owner: place.owner,
        size,
        content,
        replace: place.replace,
        mtime: place.mtime,
    }
}
