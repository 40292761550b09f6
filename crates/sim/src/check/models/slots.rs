//! A file of slots of one size. A read of all is of one version: a mix of two is no state.

use crate::check::Model;
use crate::history::{SlotsInput, SlotsOutput, Tag};
use everhold_proto::fs::FsError;
use std::sync::Arc;

/// The model of a file with so many slots, each at first with the initial tag.
#[derive(Clone, Copy, Debug)]
pub struct Slots {
    /// Slots in the file.
    pub count: u32,
}

/// Stands for a value that no answer shows.
const UNSEEN: Tag = Tag(u64::MAX);

impl Model for Slots {
    type State = Vec<Tag>;
    type Input = SlotsInput;
    type Output = SlotsOutput;

    fn initial(&self) -> Vec<Tag> {
        vec![Tag::INITIAL; self.count as usize]
    }

    fn apply(&self, slots: &mut Vec<Tag>, input: &SlotsInput) -> SlotsOutput {
        let (SlotsInput::Write(slot, _) | SlotsInput::ReadSlot(slot)) = input else {
            return SlotsOutput::All(slots.clone());
        };
        match (slots.get_mut(*slot as usize), input) {
            (None, _) => SlotsOutput::Refused(FsError::Invalid),
            (Some(held), SlotsInput::Write(_, tag)) => {
                *held = *tag;
                SlotsOutput::Done
            }
            (Some(held), _) => SlotsOutput::Tag(*held),
        }
    }

    fn only_observes(&self, input: &SlotsInput, output: Option<&SlotsOutput>) -> bool {
        !matches!(input, SlotsInput::Write(..)) || matches!(output, Some(SlotsOutput::Refused(_)))
    }

    fn shows(&self, output: &SlotsOutput, input: &SlotsInput) -> bool {
        match (output, input) {
            (SlotsOutput::Tag(shown), SlotsInput::Write(_, tag)) => shown == tag,
            (SlotsOutput::All(shown), SlotsInput::Write(slot, tag)) => {
                shown.get(*slot as usize) == Some(tag)
            }
            _ => false,
        }
    }

    fn leaves(&self, input: &SlotsInput) -> bool {
        matches!(input, SlotsInput::Write(..))
    }

    fn blurred(&self, input: &SlotsInput) -> SlotsInput {
        match input {
            SlotsInput::Write(slot, _) => SlotsInput::Write(*slot, UNSEEN),
            other => other.clone(),
        }
    }

    fn scope(&self, input: &SlotsInput) -> Option<Vec<Arc<str>>> {
        match input {
            SlotsInput::Write(slot, _) | SlotsInput::ReadSlot(slot) => {
                Some(vec![slot.to_string().into()])
            }
            SlotsInput::ReadAll => None,
        }
    }

    /// While a slot held it, every read would show it; the next write leaves nothing of it.
    fn is_forgettable(&self, _: &SlotsInput, _: &[&SlotsInput]) -> bool {
        true
    }

    fn describe(&self, slots: &Vec<Tag>) -> String {
        SlotsOutput::All(slots.clone()).to_string()
    }
}
