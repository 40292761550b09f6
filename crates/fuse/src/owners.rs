//! Owners of locks, and through which handle each took its locks.
//!
//! A lock of a process (`F_SETLK`) ends when the process closes the file, which the kernel tells with the owner. A lock of an open
//! file ends with that: the kernel tells it for `flock`, and says nothing for `F_OFD_SETLK`, whose owner looks like a process.
//! So whatever owner is left when a handle is closed was its open file.

use everhold_proto::InodeId;
use everhold_proto::fs::LockSpace;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::OwnedMutexGuard;

/// Who holds a lock: an owner of the kernel's, or for `flock` the handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) space: LockSpace,
    pub(crate) number: u64,
}

impl Owner {
    /// The owner with the kernel's number; of a `flock` the handle is the owner, which is one with the open file
    /// and never used again.
    pub(crate) fn of(number: u64, flock: Option<u64>) -> Owner {
        match flock {
            Some(handle) => Owner { space: LockSpace::Flock, number: handle },
            None => Owner { space: LockSpace::Posix, number },
        }
    }
}

/// Owners that may hold locks. There are no more than pairs of open files and owners in the kernel.
#[derive(Default)]
pub(crate) struct Owners {
    taken: Mutex<HashMap<InodeId, Vec<(u64, Owner)>>>,
    turns: Turns,
}

type Turns = Arc<Mutex<HashMap<(InodeId, Owner), Arc<tokio::sync::Mutex<()>>>>>;

/// The only request about the locks of one owner in one file, until it is dropped.
pub(crate) struct Turn {
    turns: Turns,
    key: (InodeId, Owner),
    guard: Option<OwnedMutexGuard<()>>,
}

impl Owners {
    /// Notes that an owner may take a lock through a handle; says whether it had none in this file.
    pub(crate) fn note(&self, inode: InodeId, handle: u64, owner: Owner) -> bool {
        let mut taken = self.taken.lock();
        let of_file = taken.entry(inode).or_default();
        let is_new = !of_file.iter().any(|(_, other)| *other == owner);
        if !of_file.contains(&(handle, owner)) {
            of_file.push((handle, owner));
        }
        is_new
    }

    /// Whether an owner may hold locks in a file.
    pub(crate) fn has(&self, inode: InodeId, owner: Owner) -> bool {
        let taken = self.taken.lock();
        taken.get(&inode).is_some_and(|of_file| of_file.iter().any(|(_, other)| *other == owner))
    }

    /// Whether anybody may hold locks through a handle.
    pub(crate) fn has_any(&self, inode: InodeId, handle: u64) -> bool {
        let taken = self.taken.lock();
        taken.get(&inode).is_some_and(|of_file| of_file.iter().any(|(other, _)| *other == handle))
    }

    /// An owner gives up all its locks in a file.
    pub(crate) fn forget(&self, inode: InodeId, owner: Owner) {
        self.retain(inode, |(_, other)| *other != owner);
    }

    /// A handle is closed: the owners that took locks through it and did not give them up.
    pub(crate) fn close(&self, inode: InodeId, handle: u64) -> Vec<Owner> {
        let mut owners = Vec::new();
        self.retain(inode, |(other, owner)| {
            if *other == handle {
                owners.push(*owner);
            }
            *other != handle
        });
        owners
    }

    fn retain(&self, inode: InodeId, keep: impl FnMut(&(u64, Owner)) -> bool) {
        let mut taken = self.taken.lock();
        if let Some(of_file) = taken.get_mut(&inode) {
            of_file.retain(keep);
            if of_file.is_empty() {
                taken.remove(&inode);
            }
        }
    }

    /// Waits until no other request is about the locks of an owner in a file: a request that goes on without
    /// its program must not grant what was given up after it.
    pub(crate) async fn turn(&self, inode: InodeId, owner: Owner) -> Turn {
        let key = (inode, owner);
        let turn = self.turns.lock().entry(key).or_default().clone();
        Turn { turns: self.turns.clone(), key, guard: Some(turn.lock_owned().await) }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut turns = self.turns.lock();
        self.guard = None;
        if turns.get(&self.key).is_some_and(|turn| Arc::strong_count(turn) == 1) {
            turns.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const FILE: InodeId = InodeId(9);

    #[test]
    fn what_is_left_at_the_last_close_was_the_open_files() {
        let owners = Owners::default();
        let (process, open_file) = (Owner::of(1, None), Owner::of(2, None));
        assert!(owners.note(FILE, 70, process));
        assert!(!owners.note(FILE, 71, process));
        assert!(owners.note(FILE, 70, open_file));
        assert!(!owners.note(FILE, 70, open_file));
        owners.forget(FILE, process);
        assert!(owners.has_any(FILE, 70) && !owners.has_any(FILE, 71));
        assert_eq!(owners.close(FILE, 70), [open_file]);
        assert!(owners.close(FILE, 71).is_empty());
        assert!(owners.taken.lock().is_empty());
    }

    #[test]
    fn a_new_open_file_with_an_old_number_keeps_its_locks() {
        let owners = Owners::default();
        let owner = Owner::of(2, None);
        owners.note(FILE, 70, owner);
        owners.note(FILE, 71, owner);
        assert_eq!(owners.close(FILE, 70), [owner]);
        assert!(owners.has(FILE, owner), "of the other one");
    }

    #[test]
    fn flock_and_fcntl_have_owners_of_their_own() {
        assert_ne!(Owner::of(7, None), Owner::of(5, Some(7)));
        assert_eq!(Owner::of(5, Some(7)), Owner::of(0, Some(7)));
    }

    #[test]
    fn requests_of_one_owner_take_turns() {
        let owners = Owners::default();
        let (one, other) = (Owner::of(1, None), Owner::of(2, None));
        let first = owners.turn(FILE, one).now_or_never().expect("free");
        let mut second = Box::pin(owners.turn(FILE, one));
        assert!(second.as_mut().now_or_never().is_none());
        assert!(owners.turn(FILE, other).now_or_never().is_some());
        drop(first);
        assert!(second.now_or_never().is_some());
        assert!(owners.turns.lock().is_empty());
    }
}
