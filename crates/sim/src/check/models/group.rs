//! A small directory of whole files.
//!
//! As the namespace has it: a put replaces; a rename checks its source first, then whether the target
//! may be there, and onto itself does nothing; an exchange needs both names.

use crate::check::Model;
use crate::history::{FileName, GroupInput, GroupOutput, Tag, Value};
use everhold_proto::fs::{FsError, RenameMode};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The model.
#[derive(Clone, Copy, Debug)]
pub struct Group;

/// Stands for a value that no answer shows.
const UNSEEN: Value = Value { tag: Tag(u64::MAX), size: u32::MAX };

type Files = BTreeMap<FileName, Value>;

impl Model for Group {
    type State = Files;
    type Input = GroupInput;
    type Output = GroupOutput;

    fn initial(&self) -> Files {
        Files::new()
    }

    fn apply(&self, files: &mut Files, input: &GroupInput) -> GroupOutput {
        let done = |changed: Result<(), FsError>| match changed {
            Ok(()) => GroupOutput::Done,
            Err(e) => GroupOutput::Refused(e),
        };
        let there = |value: Option<&Value>| value.copied().ok_or(FsError::NotFound);
        match input {
            GroupInput::Put(name, value) => {
                files.insert(name.clone(), *value);
                GroupOutput::Done
            }
            GroupInput::PutNew(name, _) if files.contains_key(name) => {
                GroupOutput::Refused(FsError::Exists)
            }
            GroupInput::PutNew(name, value) => {
                files.insert(name.clone(), *value);
                GroupOutput::Done
            }
            GroupInput::Get(name) => {
                there(files.get(name)).map_or_else(GroupOutput::Refused, GroupOutput::Value)
            }
            GroupInput::Stat(name) => there(files.get(name))
                .map_or_else(GroupOutput::Refused, |value| GroupOutput::Size(value.size.into())),
            GroupInput::Remove(name) => done(there(files.remove(name).as_ref()).map(drop)),
            GroupInput::Rename(from, to, mode) => done(rename(files, from, to, *mode)),
            GroupInput::List => GroupOutput::Names(
                files.iter().map(|(name, value)| (name.clone(), value.size.into())).collect(),
            ),
        }
    }

    fn only_observes(&self, input: &GroupInput, output: Option<&GroupOutput>) -> bool {
        let is_read = matches!(input, GroupInput::Get(_) | GroupInput::Stat(_) | GroupInput::List);
        is_read || matches!(output, Some(GroupOutput::Refused(_)))
    }

    fn shows(&self, output: &GroupOutput, input: &GroupInput) -> bool {
        let (GroupInput::Put(_, value) | GroupInput::PutNew(_, value)) = input else {
            return false;
        };
        match output {
            GroupOutput::Value(shown) => shown == value,
            GroupOutput::Size(size) => *size == u64::from(value.size),
            GroupOutput::Names(names) => {
                names.iter().any(|(_, size)| *size == u64::from(value.size))
            }
            GroupOutput::Done | GroupOutput::Refused(_) => false,
        }
    }

    fn leaves(&self, input: &GroupInput) -> bool {
        matches!(input, GroupInput::Put(..) | GroupInput::PutNew(..))
    }

    fn blurred(&self, input: &GroupInput) -> GroupInput {
        match input {
            GroupInput::Put(name, _) => GroupInput::Put(name.clone(), UNSEEN),
            GroupInput::PutNew(name, _) => GroupInput::PutNew(name.clone(), UNSEEN),
            other => other.clone(),
        }
    }

    fn scope(&self, input: &GroupInput) -> Option<Vec<Arc<str>>> {
        match input {
            GroupInput::Put(name, _)
            | GroupInput::PutNew(name, _)
            | GroupInput::Get(name)
            | GroupInput::Remove(name)
            | GroupInput::Stat(name) => Some(vec![name.clone()]),
            GroupInput::Rename(from, to, _) => Some(vec![from.clone(), to.clone()]),
            GroupInput::List => None,
        }
    }

    /// A value that nothing shows could still be what another operation found there, or did not.
    fn is_forgettable(&self, unknown: &GroupInput, others: &[&GroupInput]) -> bool {
        matches!(unknown, GroupInput::Put(..))
            && others.iter().all(|other| matches!(other, GroupInput::Put(..) | GroupInput::Get(_)))
    }

    fn describe(&self, files: &Files) -> String {
        let files: Vec<String> =
            files.iter().map(|(name, value)| format!("{name}={value}")).collect();
        format!("{{{}}}", files.join(", "))
    }
}

fn rename(
    files: &mut Files,
    from: &FileName,
    to: &FileName,
    mode: RenameMode,
) -> Result<(), FsError> {
    let moved = *files.get(from).ok_or(FsError::NotFound)?;
    let target = files.get(to).copied();
    match (mode, target) {
        (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
        (RenameMode::Exchange, None) => return Err(FsError::NotFound),
        _ if from == to => return Ok(()),
        (RenameMode::Exchange, Some(target)) => files.insert(from.clone(), target),
        _ => files.remove(from),
    };
    files.insert(to.clone(), moved);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The corners of a rename, as `namespace::ops::rename` has them.
    #[test]
    fn renames_answer_as_the_namespace_does() {
        let name = |text: &str| -> FileName { text.into() };
        let value = |tag| Value { tag: Tag(tag), size: 16 };
        let full = Files::from([(name("a"), value(1)), (name("b"), value(2))]);
        let run = |from: &str, to: &str, mode| {
            let mut files = full.clone();
            let result = rename(&mut files, &name(from), &name(to), mode);
            result.map(|()| files)
        };
        use RenameMode::*;
        assert_eq!(run("c", "a", NoReplace), Err(FsError::NotFound), "the source comes first");
        assert_eq!(run("a", "a", NoReplace), Err(FsError::Exists));
        assert_eq!(run("a", "a", Replace), Ok(full.clone()));
        assert_eq!(run("a", "a", Exchange), Ok(full.clone()));
        assert_eq!(run("a", "c", Exchange), Err(FsError::NotFound));
        assert_eq!(run("a", "b", Replace), Ok(Files::from([(name("b"), value(1))])));
        let swapped = Files::from([(name("a"), value(2)), (name("b"), value(1))]);
        assert_eq!(run("a", "b", Exchange), Ok(swapped));
    }
}
