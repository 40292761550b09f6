//! What a mount does for one program, over the client library.

use super::{PAUSE, SLOTS_MAX};
use crate::desk::{Content, Deed, Desk, Desks, Fate, FileNo};
use crate::history::{ObjectId, Recorder, Tag, Value};
use crate::workload::content;
use crate::workload::ops::{FILE_BYTES_MAX, Ops};
use crate::workload::plan::VALUE_BYTES_MIN;
use everhold_client::{Client, ClientError, LossMark, OpenFile};
use everhold_proto::fs::{Name, NewKind, RenameMode, SetAttr, XattrMode};
use everhold_proto::{InodeId, SessionId};
use parking_lot::MappedMutexGuard;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What others see of a desk can be true.
pub(in crate::workload) const SEEN: &str = "delegated_changes_tell_the_truth";
/// Who has a file open sees it as it is.
pub(super) const OWN: &str = "open_files_show_what_was_written";
/// The extended attribute of files.
pub(super) const NOTE: &str = "user.note";
/// All that is gone while nothing answers, and then given up.
pub(super) const PATIENCE: std::time::Duration = std::time::Duration::from_secs(90);

/// Why a program stops working on a desk.
#[derive(Debug)]
pub(super) enum Trouble {
    /// The client's session was replaced, or something was lost.
    News,
    /// A change or question failed.
    Failed(ClientError),
}

/// An open file with its descriptors.
pub(super) struct Open {
    pub(super) file: Arc<OpenFile>,
    pub(super) descriptors: Vec<Descriptor>,
}

/// What opened a file or directory.
pub(super) struct Descriptor {
    mark: LossMark,
    /// It was told of a loss.
    told: bool,
}

impl Descriptor {
    fn new(mark: LossMark) -> Self {
        Descriptor { mark, told: false }
    }

    /// Whether it was told of a loss, now or before.
    pub(super) fn is_told(&mut self, client: &Client, inode: InodeId) -> bool {
        self.told |= client.losses().check(inode, &self.mark).is_err();
        self.told
    }
}

/// See the module's words.
pub(super) struct Edge {
    pub(super) client: Arc<Client>,
    pub(super) recorder: Recorder,
    desks: Desks,
    pub(super) object: ObjectId,
    pub(super) directory: InodeId,
    pub(super) names: Descriptor,
    /// The session in which all of it was done.
    pub(super) session: SessionId,
    /// Whether anything at all was lost since.
    since: LossMark,
    pub(super) inodes: BTreeMap<FileNo, InodeId>,
    pub(super) open: BTreeMap<FileNo, Open>,
    slot_bytes: u32,
}

impl Edge {
    pub(super) fn new(ops: &Ops, object: ObjectId, directory: InodeId, slot_bytes: u32) -> Self {
        let client = ops.client.clone();
        Edge {
            recorder: ops.recorder.clone(),
            desks: ops.recorder.desks().clone(),
            object,
            directory,
            names: Descriptor::new(client.losses().mark()),
            since: client.losses().mark(),
            session: client.session_id(),
            inodes: BTreeMap::new(),
            open: BTreeMap::new(),
            slot_bytes,
            client,
        }
    }

    pub(super) fn desk(&self) -> MappedMutexGuard<'_, Desk> {
        self.desks.of(&self.object)
    }

    /// Files that are open.
    pub(super) fn open_files(&self) -> Vec<FileNo> {
        self.open.keys().copied().collect()
    }

    pub(super) fn violation(&self, invariant: &'static str, detail: impl Into<String>) {
        self.recorder.violation(invariant, &self.object, detail);
    }

    /// Whether something was lost, or may have been.
    pub(super) fn look_out(&self) -> Result<(), Trouble> {
        let is_news = self.client.losses().is_news(&self.since);
        match is_news || self.client.session_id() != self.session {
            true => Err(Trouble::News),
            false => Ok(()),
        }
    }

    pub(super) async fn change(&mut self, deed: Deed) -> Result<(), Trouble> {
        crate::event!("{} {deed:?}", self.object);
        self.desk().begin(deed.clone());
        let done = self.perform(&deed).await;
        crate::event!("{} {:?}", self.object, done.as_ref().err());
        done.map_err(Trouble::Failed)?;
        self.desk().done();
        Ok(())
    }

    async fn perform(&mut self, deed: &Deed) -> Result<(), ClientError> {
        let (client, directory) = (self.client.clone(), self.directory);
        let entry = |name: &crate::history::FileName| Name::new(name.as_bytes().to_vec());
        match deed {
            Deed::Create(file, name) => {
                let (owner, mark) = (client.owner(0o644), client.losses().mark());
                let kind = NewKind::File;
                let attr = client.create_node(directory, entry(name)?, kind, owner, false).await?;
                let open = OpenFile::new(client.clone(), attr.inode);
                open.is_new(&attr);
                client.opened(attr.inode);
                self.inodes.insert(*file, attr.inode);
                self.open
                    .insert(*file, Open { file: open, descriptors: vec![Descriptor::new(mark)] });
            }
            Deed::Link(file, name) => {
                client.link(self.inodes[file], directory, entry(name)?).await?;
            }
            Deed::Rename(from, to) => {
                let (from, to, mode) = (entry(from)?, entry(to)?, RenameMode::Replace);
                client.rename_in(directory, from, directory, to, mode).await?;
            }
            Deed::Unlink(name) => client.unlink(directory, entry(name)?, true).await?,
            Deed::Save(file, slots) => {
                let open = self.file(*file);
                for (slot, tag) in slots {
                    let bytes = content::make(Value { tag: *tag, size: self.slot_bytes });
                    open.write(u64::from(*slot) * u64::from(self.slot_bytes), &bytes).await?;
                }
                open.flush().await?;
            }
            Deed::Truncate(file, slots) => {
                let open = self.file(*file);
                open.flush().await?;
                let size = Some(u64::from(*slots) * u64::from(self.slot_bytes));
                let set = SetAttr { size, ..SetAttr::default() };
                let attr = client.set_attr_of(self.inodes[file], set).await?;
                open.saw(&attr);
            }
            Deed::Note(file, tag) => {
                let value = tag.0.to_le_bytes().to_vec();
                client.set_xattr(self.inodes[file], NOTE, value, XattrMode::Set).await?;
            }
        }
        Ok(())
    }

    /// The file as it is open, or for one change.
    fn file(&self, file: FileNo) -> Arc<OpenFile> {
        match self.open.get(&file) {
            Some(open) => open.file.clone(),
            None => OpenFile::new(self.client.clone(), self.inodes[&file]),
        }
    }

    /// One more descriptor.
    pub(super) async fn open(&mut self, file: FileNo) -> Result<(), Trouble> {
        let (inode, mark) = (self.inodes[&file], self.client.losses().mark());
        let opened = self.file(file);
        opened.flush().await.map_err(Trouble::Failed)?;
        let attr = self.client.cached_attr(inode).await.map_err(Trouble::Failed)?;
        opened.saw(&attr);
        self.client.opened(inode);
        let open = Open { file: opened, descriptors: Vec::new() };
        self.open.entry(file).or_insert(open).descriptors.push(Descriptor::new(mark));
        Ok(())
    }

    /// The oldest descriptor is closed.
    pub(super) async fn close(&mut self, file: FileNo) -> Result<(), Trouble> {
        let Some(open) = self.open.get_mut(&file) else { return Ok(()) };
        open.file.flush().await.map_err(Trouble::Failed)?;
        if open.descriptors[0].is_told(&self.client, self.inodes[&file]) {
            return Err(Trouble::News); // `recover` asks the other descriptors
        }
        open.descriptors.remove(0);
        if open.descriptors.is_empty() {
            self.open.remove(&file);
            self.client.closed(self.inodes[&file]);
        }
        Ok(())
    }

    /// `fsync`.
    pub(super) async fn sync(&mut self, file: FileNo) -> Result<(), Trouble> {
        let (inode, answered) = (self.inodes[&file], self.desk().answered());
        let Some(open) = self.open.get_mut(&file) else { return Ok(()) };
        open.file.flush().await.map_err(Trouble::Failed)?;
        self.client.until_settled(inode).await.map_err(Trouble::Failed)?;
        if !open.descriptors[0].is_told(&self.client, inode) {
            crate::event!("{} synced file {file}", self.object);
            self.desk().durable_content(file, answered);
        }
        self.look_out()
    }

    /// `fsync` of the directory.
    pub(super) async fn sync_names(&mut self) -> Result<(), Trouble> {
        let answered = self.desk().answered();
        self.client.until_settled(self.directory).await.map_err(Trouble::Failed)?;
        if !self.names.is_told(&self.client, self.directory) {
            crate::event!("{} synced names", self.object);
            self.desk().durable_names(answered);
        }
        self.look_out()
    }

    /// Reads an open file: what was written is there.
    pub(super) async fn read(&mut self, file: FileNo) -> Result<(), Trouble> {
        let inode = self.inodes[&file];
        let Some(open) = self.open.get(&file) else { return Ok(()) };
        let read = open.file.read(0, FILE_BYTES_MAX).await;
        let slots = read.map(|bytes| decode(&bytes)).map_err(Trouble::Failed)?;
        let expected = self.desk().state().files[&file].slots.clone();
        if slots.as_ref() == Ok(&expected) {
            return Ok(());
        }
        // Where it was lost, the client is about to say so.
        self.client.until_settled(inode).await.map_err(Trouble::Failed)?;
        self.look_out()?;
        self.violation(OWN, format!("file {file} is {slots:?} in place of {expected:?}"));
        Ok(())
    }

    /// Makes all changes durable, so that none of them can be lost any more.
    pub(super) async fn checkpoint(&mut self) -> Result<(), Trouble> {
        self.settle_all().await.map_err(Trouble::Failed)?;
        self.look_out()?;
        let settled = self.desk().settled();
        if let Err(wrong) = settled {
            self.violation(SEEN, wrong);
        }
        Ok(())
    }

    pub(super) async fn settle_all(&self) -> Result<(), ClientError> {
        for open in self.open.values() {
            open.file.flush().await?;
        }
        self.client.until_settled(self.directory).await?;
        for inode in self.inodes.values() {
            self.client.until_settled(*inode).await?;
        }
        Ok(())
    }

    /// The program ends: all that it did is brought to the cluster.
    pub(super) async fn finish(&mut self) {
        let clock = self.client.env().clock;
        let deadline = clock.now() + PATIENCE;
        while clock.now() < deadline {
            match self.checkpoint().await {
                Ok(()) => {
                    crate::event!("{} is settled", self.object);
                    self.desk().fate = Fate::Settled;
                    return;
                }
                Err(Trouble::News) => return self.recover(Trouble::News).await,
                Err(Trouble::Failed(_)) => clock.sleep(PAUSE).await,
            }
        }
    }

    /// Nothing is open any more.
    pub(super) fn close_all(&mut self) {
        for file in std::mem::take(&mut self.open).into_keys() {
            self.client.closed(self.inodes[&file]);
        }
    }
}

/// The slots that bytes are: values of one size, and holes.
pub(super) fn decode(bytes: &[u8]) -> Result<Vec<Option<Tag>>, String> {
    let size_of = |at: &[u8]| content::size(at);
    let Some(size) = bytes.chunks(VALUE_BYTES_MIN as usize).find_map(size_of) else {
        // Nothing but holes: all sizes divide the largest.
        let is_hole = bytes.iter().all(|byte| *byte == 0);
        let holes = |size: u32| bytes.len().div_ceil(size as usize);
        let count = super::SLOT_BYTES.into_iter().map(holes).find(|n| *n <= SLOTS_MAX as usize);
        return is_hole.then(|| vec![None; count.unwrap_or_default()]).ok_or("no value".into());
    };
    let slots = bytes.chunks(size as usize).map(|slot| match slot.iter().all(|byte| *byte == 0) {
        true => Ok(None),
        false => content::read(slot).map(|value| Some(value.tag)),
    });
    slots.collect()
}

/// What is seen of a file, with its attribute.
pub(super) fn content_of(bytes: &[u8], note: Option<&[u8]>) -> Result<Content, String> {
    let note = note.map(|bytes| {
        let bytes = bytes.try_into().map_err(|_| format!("a note of {} bytes", bytes.len()));
        bytes.map(|bytes| Tag(u64::from_le_bytes(bytes)))
    });
    Ok(Content { slots: decode(bytes)?, note: note.transpose()? })
}
