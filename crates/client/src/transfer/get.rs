//! A tree of the cluster onto the local disk.

use super::jobs::Jobs;
use super::local::{self, Sink};
use super::{Finish, Linked, Progress, TransferOptions, TransferReport};
use crate::client::Client;
use crate::error::{ClientError, Result};
use everhold_proto::fs::{Attr, FileKind, Name};
use everhold_proto::limits::PAGE_ENTRIES_MAX;
use everhold_proto::{InodeId, Kind};
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A transfer under way.
struct Get {
    client: Arc<Client>,
    options: TransferOptions,
    progress: Arc<Progress>,
    jobs: Jobs,
    linked: Linked<InodeId, PathBuf>,
    /// Files whose first name is being got.
    first: BTreeSet<InodeId>,
    /// Further names: made at the end.
    further: Vec<(InodeId, PathBuf)>,
    finishes: Vec<Finish<PathBuf>>,
}

impl Client {
    /// Gets the file `remote` as `local`, or what is in the directory `remote` into the directory
    /// `local`, which is made. Fails only when nothing can be done; the rest is in the report.
    pub async fn get_tree(
        self: &Arc<Self>,
        remote: impl AsRef<[u8]>,
        local: &Path,
        options: TransferOptions,
        progress: Arc<Progress>,
    ) -> Result<TransferReport> {
        let attr = self.stat(remote).await?;
        let mut get = Get {
            jobs: Jobs::new(self.env.tasks, options.jobs),
            client: self.clone(),
            options,
            progress: progress.clone(),
            linked: Linked::default(),
            first: BTreeSet::new(),
            further: Vec::new(),
            finishes: Vec::new(),
        };
        let local = local.to_path_buf();
        if attr.kind == FileKind::Directory {
            get.make_dir(&local, &attr).await?;
            get.tree(attr.inode, local).await;
        } else {
            get.entry(local, attr).await;
        }
        get.finish().await;
        Ok(progress.report())
    }
}

impl Get {
    async fn tree(&mut self, remote: InodeId, local: PathBuf) {
        // Depth first, so that the list of directories to come stays short in wide trees.
        let mut to_do = vec![(remote, local)];
        while let Some((inode, path)) = to_do.pop() {
            let got = self.directory(inode, &path, &mut to_do).await;
            let shown = || path.display().to_string();
            self.progress.ended(&self.progress.directories, shown, got);
        }
    }

    async fn directory(
        &mut self,
        inode: InodeId,
        path: &Path,
        to_do: &mut Vec<(InodeId, PathBuf)>,
    ) -> Result<()> {
        let mut after: Option<Name> = None;
        loop {
            let (entries, more) = self.client.list_page(inode, after, PAGE_ENTRIES_MAX).await?;
            after = entries.last().map(|(name, _)| name.clone());
            for (name, attr) in entries {
                // A `Name` has no slash and is no dot, so it cannot lead out of the directory.
                let path = path.join(OsStr::from_bytes(name.as_bytes()));
                if attr.kind != FileKind::Directory {
                    self.entry(path, attr).await;
                    continue;
                }
                match self.make_dir(&path, &attr).await {
                    Ok(()) => to_do.push((attr.inode, path)),
                    Err(e) => failed(&self.progress, &path, e),
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn make_dir(&mut self, path: &Path, attr: &Attr) -> Result<()> {
        let made = path.to_path_buf();
        self.client.env.tasks.blocking(move || local::make_dir(&made)).await?;
        if self.options.preserve {
            let directory = path.to_path_buf();
            self.finishes.push(Finish { directory, mode: attr.mode, mtime: attr.mtime });
        }
        Ok(())
    }

    /// Starts to get what is no directory.
    async fn entry(&mut self, path: PathBuf, attr: Attr) {
        if attr.kind == FileKind::File {
            if self.options.hard_links && attr.nlink > 1 && !self.first.insert(attr.inode) {
                self.further.push((attr.inode, path));
                return;
            }
            self.progress.found(attr.size);
        }
        let (client, progress) = (self.client.clone(), self.progress.clone());
        let (options, linked) = (self.options.clone(), self.linked.clone());
        let size = attr.size;
        let job = async move {
            let shown = || path.display().to_string();
            if attr.kind != FileKind::File {
                let made = get_special(&client, &attr, path.clone(), &options).await;
                progress.ended(&progress.links, shown, made);
                return;
            }
            let got = get_file(&client, &attr, path.clone(), &options, &progress).await;
            if progress.ended(&progress.files, shown, got).is_some() && attr.nlink > 1 {
                linked.lock().insert(attr.inode, path);
            }
        };
        self.jobs.start(size, job).await;
    }

    async fn finish(self) {
        let Get { client, options, progress, jobs, linked, further, finishes, .. } = self;
        jobs.finish().await;
        let linked = linked.lock().clone();
        let work = move || {
            for (inode, path) in further {
                let missing = || ClientError::new(Kind::NotFound, "its first name was not got");
                let made = linked
                    .get(&inode)
                    .ok_or_else(missing)
                    .and_then(|first| local::make_hard_link(first, &path, options.replace));
                progress.ended(&progress.links, || path.display().to_string(), made);
            }
            // The deepest first: a directory may lose its own write permission.
            for Finish { directory, mode, mtime } in finishes.into_iter().rev() {
                if let Err(e) = local::finish_dir(&directory, mode, mtime) {
                    failed(&progress, &directory, e);
                }
            }
        };
        client.env.tasks.blocking(work).await;
    }
}

fn failed(progress: &Progress, path: &Path, e: ClientError) {
    progress.ended::<()>(&progress.files, || path.display().to_string(), Err(e));
}

async fn get_file(
    client: &Arc<Client>,
    attr: &Attr,
    path: PathBuf,
    options: &TransferOptions,
    progress: &Progress,
) -> Result<()> {
    let tasks = client.env.tasks;
    let mut reader = client.read_inode_file(attr.inode).await?;
    let (mode, mtime) = match options.preserve {
        true => (reader.attr().mode, Some(reader.attr().mtime)),
        false => (0o644, None),
    };
    let (random, replace) = (client.env.entropy.u64(), options.replace);
    let first = reader.next_chunk().await?.unwrap_or_default();
    let mut next = reader.next_chunk().await?;
    if next.is_none() {
        // Most files: one call that blocks.
        let count = first.len();
        let work = move || Sink::create(path, random)?.write(first)?.finish(mode, mtime, replace);
        tasks.blocking(work).await?;
        progress.moved(count);
        return Ok(());
    }
    progress.moved(first.len());
    let mut sink = tasks.blocking(move || Sink::create(path, random)?.write(first)).await?;
    while let Some(chunk) = next {
        let count = chunk.len();
        let write = tasks.blocking(move || sink.write(chunk));
        let (written, read) = futures_util::future::join(write, reader.next_chunk()).await;
        sink = written?;
        next = read?;
        progress.moved(count);
    }
    tasks.blocking(move || sink.finish(mode, mtime, replace)).await
}

async fn get_special(
    client: &Arc<Client>,
    attr: &Attr,
    path: PathBuf,
    options: &TransferOptions,
) -> Result<()> {
    if attr.kind != FileKind::Symlink {
        let text = "pipes, sockets and devices are not transferred";
        return Err(ClientError::new(Kind::Invalid, text));
    }
    let target = client.readlink_inode(attr.inode).await?;
    let replace = options.replace;
    client.env.tasks.blocking(move || local::make_link(&target, &path, replace)).await
}
