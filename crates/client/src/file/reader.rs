//! Reading a file as a stream, always of one version, with several blocks read ahead.

use crate::blocks::{Piece, plan};
use crate::client::Client;
use crate::error::{ClientError, Result};
use bytes::Bytes;
use everhold_env::Task;
use everhold_proto::fs::{Attr, Extent, FileKind, FsError};
use everhold_proto::limits::COMMIT_EXTENTS_MAX;
use everhold_proto::{Error, InodeId, Kind};
use std::collections::VecDeque;
use std::sync::Arc;

/// Zeroes to give out for holes.
static ZEROES: [u8; 1 << 20] = [0; 1 << 20];

/// An open file of which one version is read. Independent reads at offsets move to the newest version
/// when the old one is gone; a stream that has begun ends with `Stale` instead, because a read never
/// mixes versions.
pub struct FileReader {
    client: Arc<Client>,
    attr: Attr,
    extents: Vec<Extent>,
    planned: VecDeque<Piece>,
    ahead: VecDeque<Ahead>,
    /// Offset of the next byte of the stream.
    position: u64,
    /// Whether the stream has given bytes of this version.
    begun: bool,
}

/// A piece on its way.
enum Ahead {
    Here(Bytes),
    Hole(u64),
    Reading(Piece, Task<Result<Bytes, Error>>),
}

impl Client {
    /// Opens the file at `path` (symbolic links followed) for reading.
    pub async fn read_file(self: &Arc<Self>, path: impl AsRef<[u8]>) -> Result<FileReader> {
        let path = path.as_ref();
        let (attr, extents) = self.resolve_to_read(path).await.map_err(|e| e.at(path))?;
        self.reader(attr, extents).await.map_err(|e| e.at(path))
    }

    /// Opens a file by its inode for reading.
    pub async fn read_inode_file(self: &Arc<Self>, inode: InodeId) -> Result<FileReader> {
        let (attr, extents) = self.extents_of(inode, 0, u64::MAX, self.deadline()).await?;
        FileReader::new(self.clone(), attr, extents)
    }

    /// A whole file of at most `limit` bytes.
    pub async fn get(self: &Arc<Self>, path: impl AsRef<[u8]>, limit: usize) -> Result<Bytes> {
        let (path, deadline) = (path.as_ref(), self.deadline());
        loop {
            let mut reader = self.read_file(path).await?;
            if reader.attr().size > limit as u64 {
                let text = format!("{} bytes are more than {limit}", reader.attr().size);
                return Err(ClientError::new(Kind::Invalid, text).at(path));
            }
            match reader.read_at(0, limit).await {
                // Another file took its place while it was read: the path is asked again.
                Err(e) if self.was_replaced(&e, deadline) => {}
                read => return read.map_err(|e| e.at(path)),
            }
        }
    }

    async fn reader(self: &Arc<Self>, attr: Attr, extents: Vec<Extent>) -> Result<FileReader> {
        // A resolution brings the first extents along; a large file has more.
        if attr.kind == FileKind::File && extents.len() >= COMMIT_EXTENTS_MAX {
            return self.read_inode_file(attr.inode).await;
        }
        FileReader::new(self.clone(), attr, extents)
    }
}

impl FileReader {
    fn new(client: Arc<Client>, attr: Attr, extents: Vec<Extent>) -> Result<Self> {
        match attr.kind {
            FileKind::File => {}
            FileKind::Directory => return Err(FsError::IsDirectory.into()),
            _ => return Err(FsError::Invalid.into()),
        }
        let mut reader = FileReader {
            client,
            attr,
            extents,
            planned: VecDeque::new(),
            ahead: VecDeque::new(),
            position: 0,
            begun: false,
        };
        reader.seek(0)?;
        Ok(reader)
    }

    /// Attributes of the version that is read.
    pub fn attr(&self) -> &Attr {
        &self.attr
    }

    /// Offset of the next byte of the stream.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Lets the stream go on at `offset`.
    pub fn seek(&mut self, offset: u64) -> Result<()> {
        self.ahead.clear();
        self.position = offset.min(self.attr.size);
        self.planned = plan(&self.extents, self.position, self.attr.size)?.into();
        Ok(())
    }

    /// The next bytes of the stream, in pieces as they are stored (at most 4 MiB); `None` at the end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            self.read_ahead();
            let chunk = match self.ahead.pop_front() {
                None => return Ok(None),
                Some(Ahead::Here(bytes)) => bytes,
                Some(Ahead::Hole(length)) => self.zeroes(length),
                Some(Ahead::Reading(piece, task)) => match task.join().await {
                    Some(Ok(bytes)) => bytes,
                    Some(Err(e)) => match self.recover(piece, e).await? {
                        Some(bytes) => bytes,
                        None => continue,
                    },
                    None => return Err(ClientError::new(Kind::Internal, "a read was aborted")),
                },
            };
            self.position += chunk.len() as u64;
            self.begun = true;
            return Ok(Some(chunk));
        }
    }

    /// Up to `length` bytes at `offset`, all of one version; fewer at the end. The stream is not moved,
    /// unless the old version is gone: then it starts anew on the one that was read.
    pub async fn read_at(&mut self, offset: u64, length: usize) -> Result<Bytes> {
        let deadline = self.client.deadline();
        loop {
            let to = offset.saturating_add(length as u64).min(self.attr.size);
            if offset >= to {
                return Ok(Bytes::new());
            }
            let e = match self.client.read_extents(&self.extents, offset, to, deadline).await {
                Ok(bytes) => return Ok(bytes),
                Err(e) => e,
            };
            self.client.pause_or(e, deadline).await?;
            let inode = self.attr.inode;
            let (attr, extents) = self.client.extents_of(inode, 0, u64::MAX, deadline).await?;
            if attr.version != self.attr.version {
                self.begun &= is_same_content(&attr, &self.attr);
                (self.attr, self.extents) = (attr, extents);
                self.seek(self.position)?;
            }
        }
    }

    fn read_ahead(&mut self) {
        while self.ahead.len() < self.client.options.read_window.max(1) {
            let Some(piece) = self.planned.pop_front() else { return };
            self.ahead.push_back(match piece {
                Piece::Hole(length) => Ahead::Hole(length),
                Piece::Inline(bytes) => Ahead::Here(bytes),
                piece @ Piece::Block { .. } => {
                    let (client, wanted) = (self.client.clone(), piece.clone());
                    let read = async move { client.read_piece(&wanted, client.deadline()).await };
                    Ahead::Reading(piece, self.client.env.tasks.spawn(read))
                }
            });
        }
    }

    fn zeroes(&mut self, length: u64) -> Bytes {
        let now = length.min(ZEROES.len() as u64);
        if length > now {
            self.ahead.push_front(Ahead::Hole(length - now));
        }
        Bytes::from_static(&ZEROES[..now as usize])
    }

    /// A block could not be read: perhaps its version is gone. `None`: the stream was planned anew.
    async fn recover(&mut self, piece: Piece, e: Error) -> Result<Option<Bytes>> {
        let deadline = self.client.deadline();
        let mut error = e;
        loop {
            let inode = self.attr.inode;
            let (attr, extents) = self.client.extents_of(inode, 0, u64::MAX, deadline).await?;
            if attr.version != self.attr.version {
                if self.begun && !is_same_content(&attr, &self.attr) {
                    return Err(FsError::Stale { version: attr.version }.into());
                }
                (self.attr, self.extents) = (attr, extents);
                self.seek(self.position)?;
                return Ok(None);
            }
            self.client.pause_or(error, deadline).await?;
            match self.client.read_piece(&piece, deadline).await {
                Ok(bytes) => return Ok(Some(bytes)),
                Err(e) => error = e,
            }
        }
    }
}

/// Whether two versions of a file have the same bytes: moving them to other blocks raises the version
/// and leaves the times alone, while each change of content or attributes stamps `ctime`.
fn is_same_content(a: &Attr, b: &Attr) -> bool {
    (a.size, a.mtime, a.ctime) == (b.size, b.mtime, b.ctime)
}
