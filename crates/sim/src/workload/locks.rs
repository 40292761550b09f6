//! Locks as applications make them: a file that must not exist is created, a counter beside it is read
//! and written, the file is removed. The size of the counter's content is the count.

use super::Worker;
use super::plan::VALUE_BYTES_MIN;
use crate::check::LOCK;
use crate::history::{FileName, GroupInput, GroupOutput, ObjectId};
use rand::RngExt;

/// Beside the lock.
pub(crate) const COUNTER: &str = "counter";
/// A counter starts over here: it stays small enough to be inline.
const COUNT_MAX: u32 = 4000;

impl Worker {
    pub(super) async fn lockers(&mut self) {
        let objects = self.ops.plan.lock_objects();
        while !self.is_stopped() && !objects.is_empty() {
            let object = objects[self.rng.random_range(0..objects.len())].clone();
            if self.acquire(&object).await {
                self.count(&object).await;
                self.release(&object).await;
            }
            self.pause().await;
        }
    }

    /// Creates the lock. One that is there may be this client's own, of an attempt whose outcome it never
    /// learned (or that it made before it died).
    async fn acquire(&mut self, object: &ObjectId) -> bool {
        let input = GroupInput::PutNew(lock(), self.ops.value(VALUE_BYTES_MIN));
        match self.ops.group(object, input).await {
            Some(GroupOutput::Done) => true,
            _ => self.is_own(object).await,
        }
    }

    async fn is_own(&mut self, object: &ObjectId) -> bool {
        let answer = self.ops.group(object, GroupInput::Get(lock())).await;
        matches!(answer, Some(GroupOutput::Value(value)) if value.tag.owner() == self.ops.number % 256)
    }

    /// Adds one to the counter; gives up when it cannot be read.
    async fn count(&mut self, object: &ObjectId) {
        let counter = || FileName::from(COUNTER);
        let before = match self.ops.group(object, GroupInput::Get(counter())).await {
            Some(GroupOutput::Value(value)) => value.size,
            Some(GroupOutput::Refused(_)) => VALUE_BYTES_MIN,
            _ => return,
        };
        self.pause().await;
        let after = if before >= COUNT_MAX { VALUE_BYTES_MIN } else { before + 1 };
        let value = self.ops.value(after);
        self.ops.group(object, GroupInput::Put(counter(), value)).await;
    }

    /// Removes the lock as long as it is seen to be this client's own.
    async fn release(&mut self, object: &ObjectId) {
        loop {
            let answer = self.ops.group(object, GroupInput::Remove(lock())).await;
            if answer.is_some() || self.is_stopped() {
                return;
            }
            self.pause().await;
            if !self.is_own(object).await {
                return; // or it is not known: a later attempt to acquire finds out
            }
        }
    }
}

fn lock() -> FileName {
    FileName::from(LOCK)
}
