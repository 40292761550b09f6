//! Appends of whole records to shared files.

use super::Worker;
use crate::history::{LogInput, LogOutput};
use rand::RngExt;
use std::collections::BTreeSet;

impl Worker {
    pub(super) async fn appenders(&mut self) {
        let objects = self.ops.plan.log_objects();
        let (least, most) = self.ops.plan.record_bytes;
        let mut full = BTreeSet::new();
        while !self.is_stopped() && !objects.is_empty() {
            let index = self.rng.random_range(0..objects.len());
            let is_append = self.rng.random_bool(0.7) && !full.contains(&index);
            let input = match is_append {
                true => {
                    let size = self.rng.random_range(least..=most.max(least));
                    LogInput::Append(self.ops.value(size))
                }
                false => LogInput::Read,
            };
            let answer = self.ops.log(&objects[index], input).await;
            if let Some(LogOutput::Records(records)) = answer
                && records.len() >= self.ops.plan.records_max
            {
                full.insert(index);
            }
            self.pause().await;
        }
    }
}
