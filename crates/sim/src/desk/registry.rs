//! All desks of a run: programs enter what they do, others what they see.

use super::{Content, Desk, Fate, Seen};
use crate::history::{FileName, ObjectId};
use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use std::collections::BTreeMap;
use std::sync::Arc;

/// See the module's words. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Desks(Arc<Mutex<BTreeMap<ObjectId, Desk>>>);

/// A look that has begun.
#[derive(Clone, Debug)]
pub(crate) struct Begun {
    desk: ObjectId,
    answered: usize,
}

/// What somebody saw of one name; `None`: there is no such name.
pub(crate) type Look = Option<Content>;

impl Desks {
    /// A program begins. Its object is `directory:prefix`, where all its names begin with the prefix. `false`: somebody had
    /// it before, under the same number.
    pub(crate) fn open(&self, object: &ObjectId) -> bool {
        let mut all = self.0.lock();
        let is_new = !all.contains_key(object);
        all.entry(object.clone()).or_default();
        is_new
    }

    /// The desk of an object that was opened.
    pub(crate) fn of(&self, object: &ObjectId) -> MappedMutexGuard<'_, Desk> {
        MutexGuard::map(self.0.lock(), |all| all.get_mut(object).expect("it was opened"))
    }

    pub(crate) fn objects(&self) -> Vec<ObjectId> {
        self.0.lock().keys().cloned().collect()
    }

    /// Desks whose programs work, or died.
    pub(crate) fn open_ones(&self) -> Vec<ObjectId> {
        let all = self.0.lock();
        let open = all.iter().filter(|(_, desk)| matches!(desk.fate, Fate::Open));
        open.map(|(object, _)| object.clone()).collect()
    }

    /// Somebody begins to look.
    pub(crate) fn begin_look(&self, desk: &ObjectId) -> Begun {
        Begun { desk: desk.clone(), answered: self.of(desk).answered() }
    }

    /// What was seen. What is seen while a program looks for what it lost is not judged.
    pub(crate) fn end_look(
        &self,
        begun: &Begun,
        name: &FileName,
        seen: &Look,
        text: &str,
    ) -> Result<(), String> {
        let mut desk = self.of(&begun.desk);
        match desk.fate {
            Fate::Open => desk.look(name, seen.as_ref(), begun.answered, text),
            Fate::Settled | Fate::Retired(..) => Ok(()),
        }
    }

    /// Judges what is left of a desk after all faults.
    pub(crate) fn judge_end(&self, object: &ObjectId, actual: &Seen) -> Result<(), String> {
        self.of(object).judge_end(actual)
    }
}
