//! What all clients of a run share: which objects there are, and how large things get.

use crate::history::{FileName, ObjectId};
use rand::{Rng, RngExt};

/// A workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Puts, reads, removals and renames of whole files.
    Files,
    /// The same, mostly renames.
    Renamers,
    /// Appends to shared logs.
    Appenders,
    /// Overwrites of slots of shared files.
    Overwriters,
    /// Bursts of small files.
    SmallFileStorm,
    /// Directories made, moved and removed.
    Trees,
    /// Locks, and counters under them.
    Lockers,
    /// Programs on open files that others look at; nothing is settled before it counts.
    Programs,
    /// Locks with counters under them, and files that stay open without a name.
    Holders,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 9] = [
        Kind::Files,
        Kind::Renamers,
        Kind::Appenders,
        Kind::Overwriters,
        Kind::SmallFileStorm,
        Kind::Trees,
        Kind::Lockers,
        Kind::Programs,
        Kind::Holders,
    ];
}

/// Sizes of file contents: mostly inline, often one block, rarely several. Ranges include both ends.
#[derive(Clone, Copy, Debug)]
pub struct SizeMix {
    /// Bytes of contents that are stored inline.
    pub inline: (u32, u32),
    /// Bytes of contents of one block.
    pub block: (u32, u32),
    /// Bytes of contents of several blocks.
    pub large: (u32, u32),
    /// Of a hundred contents, so many are of one block.
    pub block_percent: u32,
    /// Of a hundred contents, so many are of several blocks.
    pub large_percent: u32,
}

/// Least size of a value: its header.
pub(crate) const VALUE_BYTES_MIN: u32 = 16;

impl SizeMix {
    /// Draws a size.
    pub(crate) fn draw(&self, rng: &mut impl Rng) -> u32 {
        let percent = rng.random_range(0..100);
        let (least, most) = match percent {
            p if p < self.large_percent => self.large,
            p if p < self.large_percent + self.block_percent => self.block,
            _ => self.inline,
        };
        rng.random_range(least..=most.max(least)).max(VALUE_BYTES_MIN)
    }
}

/// Objects that the clients of a run share, and the pace. All paths are below `root`.
#[derive(Clone, Debug)]
pub struct WorkloadPlan {
    /// Absolute path of the directory that everything is in.
    pub root: String,
    /// Directories of whole files.
    pub files: u32,
    /// Directories in which names are moved.
    pub renames: u32,
    /// Names in each of both.
    pub names: u32,
    /// Append-only files.
    pub logs: u32,
    /// Bytes of a record, least and most.
    pub record_bytes: (u32, u32),
    /// Records after which a log is only read, so that reading it stays cheap.
    pub records_max: usize,
    /// Files of slots: the size of the slots of each.
    pub slot_bytes: Vec<u32>,
    /// Slots in each.
    pub slots: u32,
    /// Trees of directories.
    pub trees: u32,
    /// Locks.
    pub locks: u32,
    /// Directories in which programs work on open files.
    pub desks: u32,
    /// Counters that are raised under locks.
    pub counters: u32,
    /// Nothing goes wrong but that clients stand still: what takes seconds then is late.
    pub calm: bool,
    /// Sizes of whole files.
    pub sizes: SizeMix,
    /// Small files in one burst, least and most.
    pub burst: (u32, u32),
    /// Pause between bursts in milliseconds, least and most.
    pub burst_pause_ms: (u64, u64),
    /// Pause between operations in milliseconds, least and most.
    pub pause_ms: (u64, u64),
}

impl Default for WorkloadPlan {
    fn default() -> Self {
        WorkloadPlan {
            root: "/workload".into(),
            files: 2,
            renames: 1,
            names: 4,
            logs: 2,
            record_bytes: (16, 2000),
            records_max: 400,
            slot_bytes: vec![512, 8 << 10, 64 << 10],
            slots: 6,
            trees: 1,
            locks: 2,
            desks: 2,
            counters: 2,
            calm: false,
            sizes: SizeMix {
                inline: (16, 8 << 10),
                block: (20 << 10, 200 << 10),
                large: (4 << 20, 9 << 20),
                block_percent: 25,
                large_percent: 2,
            },
            burst: (16, 64),
            burst_pause_ms: (50, 250),
            pause_ms: (0, 20),
        }
    }
}

/// The names of files in groups and of entries in trees.
const NAMES: [&str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];

impl WorkloadPlan {
    /// The names that files in groups and entries in trees have.
    pub(crate) fn file_names(&self) -> Vec<FileName> {
        NAMES
            .iter()
            .take((self.names as usize).clamp(2, NAMES.len()))
            .map(|n| (*n).into())
            .collect()
    }

    pub(crate) fn file_objects(&self) -> Vec<ObjectId> {
        numbered("files", self.files)
    }

    pub(crate) fn rename_objects(&self) -> Vec<ObjectId> {
        numbered("renames", self.renames)
    }

    pub(crate) fn lock_objects(&self) -> Vec<ObjectId> {
        numbered("locks", self.locks)
    }

    /// Directories of programs on open files.
    pub(crate) fn desk_objects(&self) -> Vec<ObjectId> {
        numbered("desk", self.desks)
    }

    /// Counters that are raised under locks.
    pub(crate) fn counter_objects(&self) -> Vec<ObjectId> {
        numbered("counter", self.counters)
    }

    pub(crate) fn tree_objects(&self) -> Vec<ObjectId> {
        numbered("tree", self.trees)
    }

    pub(crate) fn log_objects(&self) -> Vec<ObjectId> {
        numbered("log", self.logs)
    }

    /// Files of slots with the size of their slots.
    pub(crate) fn slots_objects(&self) -> Vec<(ObjectId, u32)> {
        let objects = numbered("slots", self.slot_bytes.len() as u32).into_iter();
        objects.zip(self.slot_bytes.iter().map(|bytes| (*bytes).max(VALUE_BYTES_MIN))).collect()
    }

    /// Directory of a client's own small files.
    pub(crate) fn storm_directory(client: u32) -> String {
        format!("storm-{client}")
    }

    /// Path of an object, or of a file in it.
    pub(crate) fn path(&self, object: &ObjectId, name: Option<&str>) -> String {
        // A small file is an object by itself: `directory:name`.
        let directory = object.as_str().split(':').next().unwrap_or_default();
        match name {
            Some(name) => format!("{}/{directory}/{name}", self.root),
            None => format!("{}/{directory}", self.root),
        }
    }
}

fn numbered(kind: &str, count: u32) -> Vec<ObjectId> {
    (0..count).map(|number| ObjectId::new(format!("{kind}-{number}"))).collect()
}
