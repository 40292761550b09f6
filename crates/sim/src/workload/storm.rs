//! Bursts of small files with names of their own in the client's own directory. Each file is an object by
//! itself, so checking thousands of them is cheap.

use super::Worker;
use super::plan::WorkloadPlan;
use crate::history::{FileName, GroupInput, ObjectId};
use futures_util::future::join_all;
use rand::RngExt;

/// Largest file of a burst: all of them are stored inline.
const SMALL_BYTES_MAX: u32 = 2000;

impl Worker {
    pub(super) async fn storm(&mut self) {
        let directory = WorkloadPlan::storm_directory(self.ops.number);
        let path = format!("{}/{directory}", self.ops.plan.root);
        while !self.is_stopped() && self.ops.client.mkdir_all(&path, 0o755).await.is_err() {
            self.pause().await;
        }
        while !self.is_stopped() {
            self.burst(&directory).await;
            self.pause_within(self.ops.plan.burst_pause_ms).await;
        }
    }

    async fn burst(&mut self, directory: &str) {
        let (least, most) = self.ops.plan.burst;
        let count = self.rng.random_range(least..=most.max(least));
        let files: Vec<_> = (0..count)
            .map(|_| {
                let value = self.ops.value(self.rng.random_range(16..=SMALL_BYTES_MAX));
                let name: FileName = format!("{:012}", value.tag.0).into();
                (ObjectId::new(format!("{directory}:{name}")), name, value)
            })
            .collect();
        let ops = &self.ops;
        let puts = files.iter().map(|(object, name, value)| {
            ops.group(object, GroupInput::PutNew(name.clone(), *value))
        });
        join_all(puts).await;
        let mut later = Vec::new();
        for (object, name, _) in &files {
            match self.rng.random_range(0..8) {
                0 => later.push((object, GroupInput::Remove(name.clone()))),
                1 | 2 => later.push((object, GroupInput::Get(name.clone()))),
                _ => {}
            }
        }
        join_all(later.into_iter().map(|(object, input)| ops.group(object, input))).await;
    }
}
