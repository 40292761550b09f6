//! A local tree into the cluster.

use super::jobs::Jobs;
use super::local::{self, Facts, LocalEntry, Source};
use super::{Finish, LinkedInodes, Progress, TransferOptions, TransferReport};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::file::CreateOptions;
use crate::meta::attr_of;
use crate::tree::done;
use everhold_proto::fs::{Attr, FileKind, FsError, FsOp, Name, NewKind, SetAttr, TimeOrNow};
use everhold_proto::{InodeId, Kind};
use futures_util::StreamExt;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Directories listed at once, and changes without data under way at once.
const LISTED_AT_ONCE: usize = 8;
const CHANGED_AT_ONCE: usize = 256;

/// A transfer under way.
struct Put {
    client: Arc<Client>,
    options: TransferOptions,
    progress: Arc<Progress>,
    jobs: Jobs,
    linked: LinkedInodes,
    /// Files whose first name is being put.
    first: BTreeSet<super::LocalId>,
    /// Further names: made at the end.
    further: Vec<(InodeId, LocalEntry)>,
    finishes: Vec<Finish<InodeId>>,
}

impl Client {
    /// Puts a local file at `remote`, or what is in a local directory into the directory `remote`,
    /// which is made. Fails only when nothing can be done; the rest is in the report.
    pub async fn put_tree(
        self: &Arc<Self>,
        local: &Path,
        remote: impl AsRef<[u8]>,
        options: TransferOptions,
        progress: Arc<Progress>,
    ) -> Result<TransferReport> {
        let remote = remote.as_ref();
        let path = local.to_path_buf();
        let facts = self.env.tasks.blocking(move || local::look(&path)).await?;
        let mut put = Put {
            jobs: Jobs::new(self.env.tasks, options.jobs),
            client: self.clone(),
            options,
            progress: progress.clone(),
            linked: LinkedInodes::default(),
            first: BTreeSet::new(),
            further: Vec::new(),
            finishes: Vec::new(),
        };
        if facts.kind == FileKind::Directory {
            let root = self.mkdir_all(remote, put.mode(&facts, 0o755)).await?;
            put.keep_finish(root.inode, &facts);
            put.tree(local.to_path_buf(), root.inode).await;
        } else {
            let (parent, name) = self.place(remote).await.map_err(|e| e.at(remote))?;
            let entry = LocalEntry { path: local.to_path_buf(), name, facts };
            put.entry(parent, entry).await;
        }
        put.finish().await;
        Ok(progress.report())
    }
}

impl Put {
    /// Level by level: the directories of one are made while its files are on their way.
    async fn tree(&mut self, local: PathBuf, remote: InodeId) {
        let mut level = vec![(local, remote)];
        while !level.is_empty() {
            let tasks = self.client.env.tasks;
            let list = |(path, inode): (PathBuf, InodeId)| async move {
                let at = path.clone();
                (path, inode, tasks.blocking(move || local::list(&at)).await)
            };
            let mut listed =
                futures_util::stream::iter(level).map(list).buffer_unordered(LISTED_AT_ONCE);
            let mut directories = Vec::new();
            while let Some((path, inode, entries)) = listed.next().await {
                let shown = || path.display().to_string();
                let counter = &self.progress.directories;
                let Some(entries) = self.progress.ended(counter, shown, entries) else { continue };
                for entry in entries {
                    if entry.facts.kind == FileKind::Directory {
                        directories.push((inode, entry));
                    } else {
                        self.entry(inode, entry).await;
                    }
                }
            }
            level = self.make_directories(directories).await;
        }
    }

    async fn make_directories(
        &mut self,
        directories: Vec<(InodeId, LocalEntry)>,
    ) -> Vec<(PathBuf, InodeId)> {
        let make = |(parent, entry): (InodeId, LocalEntry)| {
            let (client, mode) = (self.client.clone(), self.mode(&entry.facts, 0o755));
            async move { (client.ensure_dir(parent, entry.name.clone(), mode).await, entry) }
        };
        let made: Vec<_> = futures_util::stream::iter(directories)
            .map(make)
            .buffer_unordered(CHANGED_AT_ONCE)
            .collect()
            .await;
        let mut level = Vec::with_capacity(made.len());
        for (result, entry) in made {
            match result {
                Ok(attr) => {
                    self.keep_finish(attr.inode, &entry.facts);
                    level.push((entry.path, attr.inode));
                }
                Err(e) => self.failed(&entry, e),
            }
        }
        level
    }

    /// Starts to put what is no directory.
    async fn entry(&mut self, parent: InodeId, entry: LocalEntry) {
        let facts = entry.facts;
        if facts.kind == FileKind::File {
            if self.options.hard_links && facts.links > 1 && !self.first.insert(facts.id) {
                self.further.push((parent, entry));
                return;
            }
            self.progress.found(facts.size);
        }
        let (client, progress) = (self.client.clone(), self.progress.clone());
        let (options, linked) = (self.options.clone(), self.linked.clone());
        let job = async move {
            let shown = || entry.path.display().to_string();
            if facts.kind != FileKind::File {
                let made = put_special(&client, parent, &entry, &options).await;
                progress.ended(&progress.links, shown, made);
                return;
            }
            let put = put_file(&client, parent, &entry, &options, &progress).await;
            if let Some(attr) = progress.ended(&progress.files, shown, put)
                && facts.links > 1
            {
                linked.lock().insert(facts.id, attr.inode);
            }
        };
        self.jobs.start(facts.size, job).await;
    }

    fn mode(&self, facts: &Facts, default: u32) -> u32 {
        if self.options.preserve { facts.mode } else { default }
    }

    fn keep_finish(&mut self, directory: InodeId, facts: &Facts) {
        if self.options.preserve {
            self.finishes.push(Finish { directory, mode: facts.mode, mtime: facts.mtime });
        }
    }

    fn failed(&self, entry: &LocalEntry, e: ClientError) {
        let shown = || entry.path.display().to_string();
        self.progress.ended::<()>(&self.progress.files, shown, Err(e));
    }

    /// What can be done only when all files are there: further names, and times of directories.
    async fn finish(self) {
        let Put { client, options, progress, jobs, linked, further, finishes, .. } = self;
        jobs.finish().await;
        let (client, linked, progress) = (&client, &linked.lock().clone(), &progress);
        let link = |(parent, entry): (InodeId, LocalEntry)| async move {
            let shown = || entry.path.display().to_string();
            let missing = || ClientError::new(Kind::NotFound, "its first name was not put");
            let made = match linked.get(&entry.facts.id).ok_or_else(missing) {
                Ok(inode) => link_to(client, *inode, parent, &entry.name, options.replace).await,
                Err(e) => Err(e),
            };
            progress.ended(&progress.links, shown, made);
        };
        futures_util::stream::iter(further).for_each_concurrent(CHANGED_AT_ONCE, link).await;
        let set = |finish: Finish<InodeId>| async move {
            let (mode, mtime) = (Some(finish.mode), Some(TimeOrNow::At(finish.mtime)));
            let set = SetAttr { mode, mtime, ..SetAttr::default() };
            let done = client.execute(FsOp::SetAttr { inode: finish.directory, set }).await;
            if let Err(e) = done {
                progress.ended::<()>(&progress.files, || finish.directory.to_string(), Err(e));
            }
        };
        futures_util::stream::iter(finishes).for_each_concurrent(CHANGED_AT_ONCE, set).await;
    }
}

async fn put_file(
    client: &Arc<Client>,
    parent: InodeId,
    entry: &LocalEntry,
    options: &TransferOptions,
    progress: &Progress,
) -> Result<Attr> {
    let tasks = client.env.tasks;
    let facts = entry.facts;
    let (path, buffers) = (entry.path.clone(), client.wire.buffers().clone());
    let open = tasks.blocking(move || Source::open(path, facts.size, buffers));
    let create = CreateOptions {
        mode: if options.preserve { facts.mode } else { 0o644 },
        replace: options.replace,
        mtime: options.preserve.then_some(facts.mtime),
        owner: None,
    };
    let create = client.create_in(parent, entry.name.clone(), create);
    let (opened, writer) = futures_util::future::join(open, create).await;
    let ((mut source, mut block), mut writer) = (opened?, writer?);
    while !block.is_empty() {
        let count = block.len();
        // The next block is read from the disk while this one goes to the network.
        let read = tasks.blocking(move || source.next());
        let (written, next) = futures_util::future::join(writer.write_bytes(block), read).await;
        written?;
        progress.moved(count);
        (source, block) = next?;
    }
    writer.finish().await
}

/// A symbolic link or pipe.
async fn put_special(
    client: &Arc<Client>,
    parent: InodeId,
    entry: &LocalEntry,
    options: &TransferOptions,
) -> Result<()> {
    let facts = entry.facts;
    let kind = match facts.kind {
        FileKind::Symlink => {
            let path = entry.path.clone();
            NewKind::Symlink(client.env.tasks.blocking(move || local::read_link(&path)).await?)
        }
        FileKind::Fifo => NewKind::Fifo,
        _ => {
            return Err(ClientError::new(Kind::Invalid, "sockets and devices are not transferred"));
        }
    };
    let create = || client.create_inode(parent, entry.name.clone(), kind.clone(), facts.mode);
    let attr = match create().await {
        Err(e) if options.replace && e.is_exists() => {
            clear_name(client, parent, &entry.name).await?;
            create().await?
        }
        other => other?,
    };
    if options.preserve {
        let mtime = Some(TimeOrNow::At(facts.mtime));
        let set = SetAttr { mtime, ..SetAttr::default() };
        attr_of(client.execute(FsOp::SetAttr { inode: attr.inode, set }).await?)?;
    }
    Ok(())
}

/// Another name for an inode.
pub(super) async fn link_to(
    client: &Arc<Client>,
    inode: InodeId,
    parent: InodeId,
    name: &Name,
    replace: bool,
) -> Result<()> {
    let link = || client.execute(FsOp::Link { inode, parent, name: name.clone() });
    match link().await {
        Err(e) if replace && e.is_exists() => {
            clear_name(client, parent, name).await?;
            attr_of(link().await?).map(|_| ())
        }
        other => attr_of(other?).map(|_| ()),
    }
}

/// Removes a name that is no directory; none is fine.
pub(super) async fn clear_name(client: &Arc<Client>, parent: InodeId, name: &Name) -> Result<()> {
    let unlink = FsOp::Unlink { parent, name: name.clone(), linger: true };
    match client.execute(unlink).await {
        Err(ClientError::Fs(FsError::NotFound)) => Ok(()),
        other => done(other?),
    }
}
