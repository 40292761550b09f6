//! A copy inside the cluster. Blocks never change, so a copy refers to the same ones: it costs no data.

use super::jobs::Jobs;
use super::put::{clear_name, link_to};
use super::{Linked, Progress, TransferOptions, TransferReport};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::file::CreateOptions;
use crate::meta::attr_of;
use everhold_proto::fs::{
    Attr, Content, Extent, FileKind, FsError, FsOp, Name, NewKind, SetAttr, Source, TimeOrNow,
};
use everhold_proto::limits::{COMMIT_EXTENTS_MAX, PAGE_ENTRIES_MAX};
use everhold_proto::{InodeId, Kind};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Inline bytes that one commit carries, well below `limits::COMMAND_BYTES_MAX`.
const INLINE_MAX: usize = 256 << 10;

/// A transfer under way.
struct Copy {
    client: Arc<Client>,
    options: TransferOptions,
    progress: Arc<Progress>,
    jobs: Jobs,
    linked: Linked<InodeId, InodeId>,
    first: BTreeSet<InodeId>,
    further: Vec<(InodeId, InodeId, Name)>,
    finishes: Vec<(InodeId, Attr)>,
}

impl Client {
    /// Copies the file `from` to `to`, or what is in the directory `from` into the directory `to`,
    /// which is made. Fails only when nothing can be done; the rest is in the report.
    pub async fn copy_tree(
        self: &Arc<Self>,
        from: impl AsRef<[u8]>,
        to: impl AsRef<[u8]>,
        options: TransferOptions,
        progress: Arc<Progress>,
    ) -> Result<TransferReport> {
        let (source, to) = (self.stat(from).await?, to.as_ref());
        let mut copy = Copy {
            jobs: Jobs::new(self.env.tasks, options.jobs),
            client: self.clone(),
            options,
            progress: progress.clone(),
            linked: Linked::default(),
            first: BTreeSet::new(),
            further: Vec::new(),
            finishes: Vec::new(),
        };
        if source.kind == FileKind::Directory {
            let target = self.mkdir_all(to, source.mode).await?.inode;
            copy.tree(source, target).await;
        } else {
            let (parent, name) = self.place(to).await.map_err(|e| e.at(to))?;
            copy.entry(parent, name, source).await;
        }
        copy.finish().await;
        Ok(progress.report())
    }

    /// Copies one file by referring to the same blocks; when these are gone meanwhile, or too many for
    /// one commit, by its bytes.
    pub async fn copy_file(
        self: &Arc<Self>,
        source: InodeId,
        parent: InodeId,
        name: Name,
        options: CreateOptions,
    ) -> Result<Attr> {
        let (attr, extents) = self.extents_of(source, 0, u64::MAX, self.deadline()).await?;
        if fits(&extents) {
            let (uid, gid) = options.owner.unwrap_or((self.options.uid, self.options.gid));
            let put = FsOp::PutFile {
                parent,
                name: name.clone(),
                owner: everhold_proto::fs::Owner { uid, gid, mode: options.mode, umask: 0 },
                size: attr.size,
                content: Content { extents, blocks: Vec::new() },
                replace: options.replace,
                mtime: options.mtime.map_or(TimeOrNow::Now, TimeOrNow::At),
            };
            match self.execute(put).await {
                Err(ClientError::Fs(FsError::Invalid | FsError::BlocksRefused(_))) => {}
                other => return attr_of(other?),
            }
        }
        let mut reader = self.read_inode_file(source).await?;
        let mut writer = self.create_in(parent, name, options).await?;
        while let Some(chunk) = reader.next_chunk().await? {
            writer.write_bytes(chunk).await?;
        }
        writer.finish().await
    }
}

fn fits(extents: &[Extent]) -> bool {
    let inline = |extent: &Extent| match &extent.source {
        Source::Inline(bytes) => bytes.len(),
        Source::Block { .. } => 0,
    };
    extents.len() <= COMMIT_EXTENTS_MAX && extents.iter().map(inline).sum::<usize>() <= INLINE_MAX
}

impl Copy {
    async fn tree(&mut self, source: Attr, target: InodeId) {
        let mut to_do = vec![(source.clone(), target)];
        // The copy may lie below its source: what is made now is not copied again.
        let mut made = BTreeSet::from([target]);
        while let Some((source, target)) = to_do.pop() {
            let copied = self.directory(source.inode, target, &mut to_do, &mut made).await;
            let shown = || source.inode.to_string();
            self.progress.ended(&self.progress.directories, shown, copied);
            if self.options.preserve {
                self.finishes.push((target, source));
            }
        }
    }

    async fn directory(
        &mut self,
        source: InodeId,
        target: InodeId,
        to_do: &mut Vec<(Attr, InodeId)>,
        made: &mut BTreeSet<InodeId>,
    ) -> Result<()> {
        let mut after: Option<Name> = None;
        loop {
            let (entries, more) = self.client.list_page(source, after, PAGE_ENTRIES_MAX).await?;
            after = entries.last().map(|(name, _)| name.clone());
            for (name, attr) in entries {
                if attr.kind != FileKind::Directory {
                    self.entry(target, name, attr).await;
                } else if !made.contains(&attr.inode) {
                    let dir = self.client.ensure_dir(target, name, attr.mode).await?;
                    made.insert(dir.inode);
                    to_do.push((attr, dir.inode));
                }
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn entry(&mut self, parent: InodeId, name: Name, attr: Attr) {
        if attr.kind == FileKind::File {
            if self.options.hard_links && attr.nlink > 1 && !self.first.insert(attr.inode) {
                self.further.push((attr.inode, parent, name));
                return;
            }
            self.progress.found(attr.size);
        }
        let (client, progress) = (self.client.clone(), self.progress.clone());
        let (options, linked) = (self.options.clone(), self.linked.clone());
        let job = async move {
            let shown = || name.to_string();
            if attr.kind != FileKind::File {
                let made = copy_special(&client, &attr, parent, &name, &options).await;
                progress.ended(&progress.links, shown, made);
                return;
            }
            let create = CreateOptions {
                mode: attr.mode,
                replace: options.replace,
                mtime: options.preserve.then_some(attr.mtime),
                owner: None,
            };
            let copied = client.copy_file(attr.inode, parent, name.clone(), create).await;
            if let Some(copied) = progress.ended(&progress.files, shown, copied) {
                progress.moved(copied.size as usize);
                if attr.nlink > 1 {
                    linked.lock().insert(attr.inode, copied.inode);
                }
            }
        };
        self.jobs.start(0, job).await;
    }

    async fn finish(self) {
        let Copy { client, options, progress, jobs, linked, further, finishes, .. } = self;
        jobs.finish().await;
        let linked = linked.lock().clone();
        for (source, parent, name) in further {
            let missing = || ClientError::new(Kind::NotFound, "its first name was not copied");
            let made = match linked.get(&source).ok_or_else(missing) {
                Ok(inode) => link_to(&client, *inode, parent, &name, options.replace).await,
                Err(e) => Err(e),
            };
            progress.ended(&progress.links, || name.to_string(), made);
        }
        for (inode, source) in finishes {
            let mtime = Some(TimeOrNow::At(source.mtime));
            let set = SetAttr { mode: Some(source.mode), mtime, ..SetAttr::default() };
            if let Err(e) = client.execute(FsOp::SetAttr { inode, set }).await {
                progress.ended::<()>(&progress.files, || inode.to_string(), Err(e));
            }
        }
    }
}

async fn copy_special(
    client: &Arc<Client>,
    source: &Attr,
    parent: InodeId,
    name: &Name,
    options: &TransferOptions,
) -> Result<()> {
    let kind = match source.kind {
        FileKind::Symlink => NewKind::Symlink(client.readlink_inode(source.inode).await?),
        FileKind::Fifo => NewKind::Fifo,
        FileKind::Socket => NewKind::Socket,
        FileKind::CharDevice => NewKind::CharDevice(source.rdev),
        FileKind::BlockDevice => NewKind::BlockDevice(source.rdev),
        FileKind::File | FileKind::Directory => return Err(FsError::Invalid.into()),
    };
    let create = || client.create_inode(parent, name.clone(), kind.clone(), source.mode);
    let attr = match create().await {
        Err(e) if options.replace && e.is_exists() => {
            clear_name(client, parent, name).await?;
            create().await?
        }
        other => other?,
    };
    if options.preserve {
        let set = SetAttr { mtime: Some(TimeOrNow::At(source.mtime)), ..SetAttr::default() };
        attr_of(client.execute(FsOp::SetAttr { inode: attr.inode, set }).await?)?;
    }
    Ok(())
}
