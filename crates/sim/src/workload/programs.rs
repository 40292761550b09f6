//! Programs on open files, as a mount serves them: several descriptors of one file, names that are moved over others,
//! files without a name, `close` without `fsync`. Each has files of its own in directories that all use. Between its
//! changes it looks at the files of the others.

mod edge;
mod recover;

pub(super) use edge::SEEN;
pub(super) use recover::look_at_all;

use super::Worker;
use super::ops::FILE_BYTES_MAX;
use super::outcome::{Judged, judge};
use crate::desk::{Content, Deed, FileNo};
use crate::history::{FileName, ObjectId, Tag};
use edge::{Edge, Trouble};
use everhold_proto::fs::{FsError, Name};
use rand::RngExt;
use std::time::Duration;

/// Names that a program has.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
/// Slots of a file.
const SLOTS_MAX: u32 = 4;
/// Files that a program has open.
const OPEN_MAX: usize = 5;
/// Files that are looked at, one after the other.
const LOOKS_MAX: u32 = 6;
/// After so many changes all of them are made durable.
const REMEMBERED_MAX: usize = 24;
/// Sizes of slots, multiples of the header of a value: inline, and in blocks.
const SLOT_BYTES: [u32; 2] = [640, 12 << 10];
/// Between tries while nothing answers.
const PAUSE: Duration = Duration::from_millis(200);

/// What may be done next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Create,
    Save,
    Truncate,
    Note,
    Link,
    Rename,
    Unlink,
    Open,
    Close,
    Sync,
    SyncNames,
    Read,
    Look,
}

const WEIGHTS: [(u32, Next); 13] = [
    (14, Next::Create),
    (20, Next::Save),
    (4, Next::Truncate),
    (4, Next::Note),
    (4, Next::Link),
    (8, Next::Rename),
    (5, Next::Unlink),
    (8, Next::Open),
    (6, Next::Close),
    (6, Next::Sync),
    (2, Next::SyncNames),
    (8, Next::Read),
    (2, Next::Look),
];

impl Worker {
    pub(super) async fn programs(&mut self) {
        let directories = self.ops.plan.desk_objects();
        let mut serial = 0;
        while !self.is_stopped() && !directories.is_empty() {
            let directory = directories[self.rng.random_range(0..directories.len())].clone();
            let Ok(inode) = self.ops.directory(&directory).await else {
                self.pause().await;
                continue;
            };
            serial += 1;
            let prefix = format!("p{}-{serial}-", self.ops.number);
            let object = ObjectId::new(format!("{directory}:{prefix}"));
            if !self.ops.recorder.desks().open(&object) {
                continue;
            }
            let slot_bytes = SLOT_BYTES[self.rng.random_range(0..SLOT_BYTES.len())];
            let mut edge = Edge::new(&self.ops, object, inode, slot_bytes);
            match self.work(&mut edge, &prefix).await {
                Ok(()) => edge.finish().await,
                Err(trouble) => edge.recover(trouble).await,
            }
        }
    }

    /// Works on one desk until it is stopped or something goes wrong.
    async fn work(&mut self, edge: &mut Edge, prefix: &str) -> Result<(), Trouble> {
        let names: Vec<FileName> =
            NAMES.iter().map(|name| format!("{prefix}{name}").into()).collect();
        while !self.is_stopped() {
            let next = self.choose(&WEIGHTS);
            self.step(edge, next, &names).await?;
            edge.look_out()?;
            if edge.desk().remembered() > REMEMBERED_MAX {
                edge.checkpoint().await?;
            }
            self.pause().await;
        }
        Ok(())
    }

    async fn step(
        &mut self,
        edge: &mut Edge,
        next: Next,
        names: &[FileName],
    ) -> Result<(), Trouble> {
        match next {
            Next::Look => {
                self.look(&edge.object).await;
                Ok(())
            }
            Next::Read => match self.open_file(edge) {
                Some(file) => edge.read(file).await,
                None => Ok(()),
            },
            Next::Open => match self.named_file(edge) {
                Some(file) if edge.open_files().len() < OPEN_MAX => edge.open(file).await,
                _ => Ok(()),
            },
            Next::Close => match self.open_file(edge) {
                Some(file) => edge.close(file).await,
                None => Ok(()),
            },
            Next::Sync => match self.open_file(edge) {
                Some(file) => edge.sync(file).await,
                None => Ok(()),
            },
            Next::SyncNames => edge.sync_names().await,
            _ => match self.deed(edge, next, names) {
                Some(deed) => edge.change(deed).await,
                None => Ok(()),
            },
        }
    }

    /// A change of a kind that is possible now.
    fn deed(&mut self, edge: &Edge, next: Next, names: &[FileName]) -> Option<Deed> {
        let state = edge.desk().state().clone();
        let (mut free, mut used): (Vec<_>, Vec<_>) =
            names.iter().cloned().partition(|name| !state.names.contains_key(name));
        let mut draw = |from: &mut Vec<FileName>| {
            (!from.is_empty()).then(|| from.swap_remove(self.rng.random_range(0..from.len())))
        };
        Some(match next {
            Next::Create => Deed::Create(state.files.len() as FileNo, draw(&mut free)?),
            Next::Link => Deed::Link(state.names[&draw(&mut used)?], draw(&mut free)?),
            Next::Unlink => Deed::Unlink(draw(&mut used)?),
            Next::Rename => {
                let from = draw(&mut used)?;
                let mut others = [free, used].concat();
                Deed::Rename(from, draw(&mut others)?)
            }
            _ => {
                let file = self.any_file(edge)?;
                match next {
                    Next::Note => Deed::Note(file, self.tag()),
                    Next::Truncate => Deed::Truncate(file, self.rng.random_range(0..=SLOTS_MAX)),
                    _ => Deed::Save(file, self.slots()),
                }
            }
        })
    }

    fn tag(&self) -> Tag {
        self.ops.recorder.fresh_tag(self.ops.number)
    }

    fn slots(&mut self) -> Vec<(u32, Tag)> {
        let first = self.rng.random_range(0..SLOTS_MAX);
        let end = self.rng.random_range(first + 1..=SLOTS_MAX);
        (first..end).map(|slot| (slot, self.tag())).collect()
    }

    fn open_file(&mut self, edge: &Edge) -> Option<FileNo> {
        let open = edge.open_files();
        (!open.is_empty()).then(|| open[self.rng.random_range(0..open.len())])
    }

    fn named_file(&mut self, edge: &Edge) -> Option<FileNo> {
        let named: Vec<FileNo> = edge.desk().state().names.values().copied().collect();
        (!named.is_empty()).then(|| named[self.rng.random_range(0..named.len())])
    }

    /// One that is open, with a name or without, or that has a name.
    fn any_file(&mut self, edge: &Edge) -> Option<FileNo> {
        match self.rng.random_bool(0.5) {
            true => self.open_file(edge),
            false => self.named_file(edge),
        }
    }

    /// Looks at files of somebody else, one after the other.
    async fn look(&mut self, own: &ObjectId) {
        let open = self.ops.recorder.desks().open_ones();
        let others: Vec<_> = open.iter().filter(|object| *object != own).collect();
        if others.is_empty() {
            return;
        }
        let object = others[self.rng.random_range(0..others.len())];
        for _ in 0..self.rng.random_range(1..=LOOKS_MAX) {
            let letter = NAMES[self.rng.random_range(0..NAMES.len())];
            self.look_at(object, letter).await;
        }
    }

    async fn look_at(&mut self, object: &ObjectId, letter: &str) {
        let desks = self.ops.recorder.desks().clone();
        let Some((directory, prefix)) = object.as_str().split_once(':') else { return };
        let name: FileName = format!("{prefix}{letter}").into();
        let (directory, cached) = (ObjectId::new(directory), self.rng.random_bool(0.5));
        let begun = desks.begin_look(object);
        let bytes = match cached && self.ops.client.follows() {
            true => self.ops.look_by_cache(&directory, &name).await,
            false => {
                let path = self.ops.plan.path(&directory, Some(&name));
                self.ops.client.get(path, FILE_BYTES_MAX).await.map(Some)
            }
        };
        let bytes = match judge(bytes) {
            Judged::Answer(bytes) => bytes,
            Judged::Refused(FsError::NotFound) => None,
            Judged::Refused(_) | Judged::Failed(_) | Judged::Unknown(_) => return,
        };
        let text =
            format!("c{} looked{}", self.ops.number, if cached { " by its cache" } else { "" });
        let seen = bytes.map(|bytes| edge::decode(&bytes)).transpose();
        let judged = seen.and_then(|slots| {
            let seen = slots.map(|slots| Content { slots, note: None });
            crate::event!("{text}: {name} is {seen:?}");
            desks.end_look(&begun, &name, &seen, &text)
        });
        if let Err(wrong) = judged {
            self.ops.recorder.violation(SEEN, object, wrong);
        }
    }
}

impl super::ops::Ops {
    /// What a mount's caches know of a file's content, and its client asks for otherwise.
    async fn look_by_cache(
        &self,
        directory: &ObjectId,
        name: &FileName,
    ) -> everhold_client::Result<Option<bytes::Bytes>> {
        let inode = self.directory(directory).await?;
        let name = Name::new(name.as_bytes().to_vec())?;
        let Some(attr) = self.client.cached_lookup(inode, &name).await? else { return Ok(None) };
        let file = everhold_client::OpenFile::new(self.client.clone(), attr.inode);
        file.saw(&attr);
        file.read(0, FILE_BYTES_MAX).await.map(Some)
    }
}
