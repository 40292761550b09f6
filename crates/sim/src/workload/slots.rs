//! Overwrites in place: shared files of slots, read one by one and as a whole.

use super::Worker;
use crate::history::SlotsInput;
use rand::RngExt;

/// What may be done next.
#[derive(Clone, Copy, Debug)]
enum Next {
    Write,
    ReadSlot,
    ReadAll,
}

impl Worker {
    pub(super) async fn overwriters(&mut self) {
        let objects = self.ops.plan.slots_objects();
        let slots = self.ops.plan.slots.max(1);
        while !self.is_stopped() && !objects.is_empty() {
            let (object, bytes) = &objects[self.rng.random_range(0..objects.len())];
            let slot = self.rng.random_range(0..slots);
            let next = self.choose(&[(50, Next::Write), (25, Next::ReadSlot), (25, Next::ReadAll)]);
            let input = match next {
                Next::Write => SlotsInput::Write(slot, self.ops.value(*bytes).tag),
                Next::ReadSlot => SlotsInput::ReadSlot(slot),
                Next::ReadAll => SlotsInput::ReadAll,
            };
            self.ops.slots(object, *bytes, input).await;
            self.pause().await;
        }
    }
}
