//! Whole files in small shared directories: `Files` writes and reads, `Renamers` mostly moves.

use super::Worker;
use crate::history::{FileName, GroupInput, ObjectId};
use everhold_proto::fs::RenameMode;
use rand::RngExt;

/// What may be done next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Put,
    PutNew,
    Get,
    Remove,
    Rename(RenameMode),
    Stat,
    List,
}

/// How often a client with a cache looks at one file, and milliseconds between two looks, least and most.
const LOOKS: u32 = 8;
const LOOK_EVERY_MS: (u64, u64) = (0, 12);

/// Weights of a workload of writes and reads.
const FILES: [(u32, Next); 9] = [
    (28, Next::Put),
    (8, Next::PutNew),
    (30, Next::Get),
    (8, Next::Remove),
    (6, Next::Rename(RenameMode::Replace)),
    (3, Next::Rename(RenameMode::NoReplace)),
    (3, Next::Rename(RenameMode::Exchange)),
    (8, Next::Stat),
    (6, Next::List),
];

/// Weights of a workload of renames.
const RENAMES: [(u32, Next); 9] = [
    (10, Next::Put),
    (12, Next::PutNew),
    (15, Next::Get),
    (3, Next::Remove),
    (20, Next::Rename(RenameMode::Replace)),
    (12, Next::Rename(RenameMode::NoReplace)),
    (18, Next::Rename(RenameMode::Exchange)),
    (4, Next::Stat),
    (10, Next::List),
];

impl Worker {
    pub(super) async fn files(&mut self) {
        let objects = self.ops.plan.file_objects();
        self.groups(&objects, &FILES).await;
    }

    pub(super) async fn renamers(&mut self) {
        let objects = self.ops.plan.rename_objects();
        self.groups(&objects, &RENAMES).await;
    }

    async fn groups(&mut self, objects: &[ObjectId], weights: &[(u32, Next)]) {
        let names = self.ops.plan.file_names();
        while !self.is_stopped() && !objects.is_empty() {
            let object = &objects[self.rng.random_range(0..objects.len())];
            let next = self.choose(weights);
            let input = self.input(next, &names);
            self.ops.group(object, input).await;
            self.watch(object, &names).await;
            self.pause().await;
        }
    }

    /// A client with a cache looks at one file again and again: most answers come from its cache, while others
    /// change the file.
    async fn watch(&mut self, object: &ObjectId, names: &[FileName]) {
        if !self.ops.client.follows() {
            return;
        }
        let name = &names[self.rng.random_range(0..names.len())];
        for _ in 0..LOOKS {
            self.ops.group(object, GroupInput::Stat(name.clone())).await;
            self.pause_within(LOOK_EVERY_MS).await;
        }
    }

    fn input(&mut self, next: Next, names: &[FileName]) -> GroupInput {
        let first = self.rng.random_range(0..names.len());
        let second = self.rng.random_range(0..names.len());
        let (name, other) = (names[first].clone(), names[second].clone());
        match next {
            Next::Put | Next::PutNew => {
                let size = self.ops.plan.sizes.draw(&mut self.rng);
                let value = self.ops.value(size);
                match next {
                    Next::Put => GroupInput::Put(name, value),
                    _ => GroupInput::PutNew(name, value),
                }
            }
            Next::Get => GroupInput::Get(name),
            Next::Remove => GroupInput::Remove(name),
            Next::Rename(mode) => GroupInput::Rename(name, other, mode),
            Next::Stat => GroupInput::Stat(name),
            Next::List => GroupInput::List,
        }
    }
}
