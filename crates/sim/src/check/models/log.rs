//! An append-only file of whole records.

use crate::check::Model;
use crate::history::{LogInput, LogOutput, Tag, Value};
use std::sync::Arc;

/// The model.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// The longest answer to a read of the history, if it is known. As records are only added, what the
    /// file ever held is the beginning of it or begins with it: so the order of appends is not guessed.
    pub longest: Vec<Value>,
}

/// Stands for a record that no answer shows.
const UNSEEN: Value = Value { tag: Tag(u64::MAX), size: u32::MAX };

impl Model for Log {
    type State = Vec<Value>;
    type Input = LogInput;
    type Output = LogOutput;

    fn initial(&self) -> Vec<Value> {
        Vec::new()
    }

    fn apply(&self, records: &mut Vec<Value>, input: &LogInput) -> LogOutput {
        match input {
            LogInput::Append(value) => {
                records.push(*value);
                LogOutput::Done
            }
            LogInput::Read => LogOutput::Records(records.clone()),
        }
    }

    fn step(
        &self,
        records: &Vec<Value>,
        input: &LogInput,
        output: &LogOutput,
    ) -> Option<Vec<Value>> {
        match (input, output) {
            (LogInput::Append(value), LogOutput::Done) => Some([&records[..], &[*value]].concat()),
            (LogInput::Read, LogOutput::Records(read)) if read == records => Some(records.clone()),
            _ => None,
        }
    }

    fn step_unknown(&self, records: &Vec<Value>, input: &LogInput) -> Vec<Vec<Value>> {
        self.step(records, input, &LogOutput::Done).into_iter().collect()
    }

    fn only_observes(&self, input: &LogInput, output: Option<&LogOutput>) -> bool {
        matches!(input, LogInput::Read) || matches!(output, Some(LogOutput::Refused(_)))
    }

    fn shows(&self, output: &LogOutput, input: &LogInput) -> bool {
        match (output, input) {
            (LogOutput::Records(records), LogInput::Append(value)) => records.contains(value),
            _ => false,
        }
    }

    fn leaves(&self, input: &LogInput) -> bool {
        matches!(input, LogInput::Append(_))
    }

    fn blurred(&self, input: &LogInput) -> LogInput {
        match input {
            LogInput::Append(_) => LogInput::Append(UNSEEN),
            LogInput::Read => LogInput::Read,
        }
    }

    fn scope(&self, _: &LogInput) -> Option<Vec<Arc<str>>> {
        None
    }

    /// Had it taken effect before a read, the read would show it; after the last read it does not matter.
    fn is_forgettable(&self, _: &LogInput, _: &[&LogInput]) -> bool {
        true
    }

    fn describe(&self, records: &Vec<Value>) -> String {
        LogOutput::Records(records.clone()).to_string()
    }
}
