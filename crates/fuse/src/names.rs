//! Which directories have names, or attributes of their files, in the kernel, and which directories others change too.
//!
//! To make the kernel forget a name takes the lock of its directory, and an operation of this mount may hold that
//! while it waits for another mount, which may wait for the same here. Such a wait ends with the lease. So that it
//! stays rare, names of a directory that others change are not given to the kernel: they are answered from
//! the client's memory.

use everhold_proto::InodeId;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// For so long after somebody else's change a directory's names are not given away.
const SHARED: Duration = Duration::from_secs(60);
/// Directories that are kept in mind, about 10 MiB. Beyond it no more names are given away.
const DIRECTORIES_MAX: usize = 100_000;

/// Names in the kernel, by directory.
#[derive(Default)]
pub(crate) struct Names {
    directories: Mutex<HashMap<InodeId, Directory>>,
    /// Of directories that are not kept in mind the kernel holds attributes up to then, at the latest.
    others_until: Mutex<Option<Instant>>,
}

/// What is known of a directory. A time that has passed says nothing.
#[derive(Clone, Copy, Default)]
struct Directory {
    /// The kernel holds names up to then, at the latest.
    given_until: Option<Instant>,
    /// It holds attributes of the directory's files up to then, at the latest.
    attrs_until: Option<Instant>,
    /// Others use it, too.
    shared_until: Option<Instant>,
}

impl Directory {
    fn is_idle(&self, now: Instant) -> bool {
        let times = [self.given_until, self.attrs_until, self.shared_until];
        times.into_iter().flatten().all(|until| until <= now)
    }
}

impl Names {
    /// How long the kernel may keep a name in `parent`: at most for what is left of the lease.
    pub(crate) fn give(&self, parent: InodeId, left: Duration, now: Instant) -> Duration {
        if left.is_zero() {
            return left;
        }
        let mut directories = self.directories.lock();
        if directories.len() >= DIRECTORIES_MAX && !directories.contains_key(&parent) {
            return Duration::ZERO;
        }
        let directory = directories.entry(parent).or_default();
        if directory.shared_until.is_some_and(|until| now < until) {
            return Duration::ZERO;
        }
        let until = now + left;
        directory.given_until = Some(directory.given_until.map_or(until, |at| at.max(until)));
        left
    }

    /// The kernel keeps attributes of a file in `parent` for so long.
    pub(crate) fn give_attr(&self, parent: InodeId, left: Duration, now: Instant) {
        if left.is_zero() {
            return;
        }
        let until = Some(now + left);
        let mut directories = self.directories.lock();
        if directories.len() >= DIRECTORIES_MAX && !directories.contains_key(&parent) {
            drop(directories);
            let mut others = self.others_until.lock();
            *others = others.max(until);
            return;
        }
        let directory = directories.entry(parent).or_default();
        directory.attrs_until = directory.attrs_until.max(until);
    }

    /// Somebody else holds a directory from now on. Up to when the kernel may hold something of it; `None`: it holds
    /// nothing.
    pub(crate) fn taken(&self, directory: InodeId, now: Instant) -> Option<Instant> {
        let names = self.changed(directory, now);
        let attrs = self.directories.lock().get(&directory).and_then(|known| known.attrs_until);
        names.max(attrs).max(*self.others_until.lock()).filter(|until| now < *until)
    }

    /// Somebody else changed a name in `parent`. Up to when the kernel may hold names of it; `None`: it holds none.
    pub(crate) fn changed(&self, parent: InodeId, now: Instant) -> Option<Instant> {
        let mut directories = self.directories.lock();
        if directories.len() >= DIRECTORIES_MAX && !directories.contains_key(&parent) {
            return None; // and none will be given
        }
        let directory = directories.entry(parent).or_default();
        directory.shared_until = Some(now + SHARED);
        directory.given_until.filter(|until| now < *until)
    }

    /// Forgets what has passed. To be called about once a second.
    pub(crate) fn tend(&self, now: Instant) {
        self.directories.lock().retain(|_, directory| !directory.is_idle(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(500);
    const A: InodeId = InodeId(7);
    const B: InodeId = InodeId(8);

    #[test]
    fn names_are_given_for_the_lease() {
        let (names, now) = (Names::default(), Instant::now());
        assert_eq!(names.give(A, LEASE, now), LEASE);
        assert_eq!(names.give(A, LEASE / 2, now), LEASE / 2);
        assert_eq!(names.changed(A, now), Some(now + LEASE), "the longest of them");
        assert_eq!(names.changed(A, now), Some(now + LEASE), "the kernel holds other names, too");
        assert_eq!(names.changed(B, now), None);
    }

    #[test]
    fn names_of_a_shared_directory_stay_here() {
        let (names, now) = (Names::default(), Instant::now());
        names.changed(A, now);
        assert_eq!(names.give(A, LEASE, now), Duration::ZERO);
        assert_eq!(names.give(B, LEASE, now), LEASE);
        assert_eq!(names.give(A, LEASE, now + SHARED), LEASE, "others have left it alone for long");
    }

    #[test]
    fn what_has_passed_needs_no_invalidation_and_no_memory() {
        let (names, now) = (Names::default(), Instant::now());
        names.give(A, LEASE, now);
        assert_eq!(names.changed(A, now + LEASE), None);
        names.give(B, LEASE, now);
        names.tend(now + LEASE);
        assert_eq!(names.directories.lock().len(), 1, "the shared one is still of use");
        names.tend(now + LEASE + SHARED);
        assert_eq!(names.directories.lock().len(), 0);
    }

    /// Who takes a directory waits only for what the kernel was told of it lately.
    #[test]
    fn what_was_told_of_files_counts_for_who_takes_their_directory() {
        let (names, now) = (Names::default(), Instant::now());
        assert_eq!(names.taken(A, now), None);
        names.give_attr(A, LEASE, now);
        assert_eq!(names.taken(A, now + LEASE / 2), Some(now + LEASE));
        assert_eq!((names.taken(A, now + LEASE), names.taken(B, now)), (None, None));
        for i in 0..DIRECTORIES_MAX as u64 {
            names.give_attr(InodeId(i + 100), LEASE, now);
        }
        let other = InodeId(DIRECTORIES_MAX as u64 + 200);
        names.give_attr(other, LEASE, now);
        assert_eq!(names.taken(other, now), Some(now + LEASE), "of whatever is not kept in mind");
    }

    #[test]
    fn a_full_table_gives_nothing_away() {
        let (names, now) = (Names::default(), Instant::now());
        for i in 0..DIRECTORIES_MAX as u64 {
            names.give(InodeId(i + 100), LEASE, now);
        }
        assert_eq!(names.give(A, LEASE, now), Duration::ZERO);
        assert_eq!(names.changed(A, now), None);
        names.tend(now + LEASE);
        assert_eq!(names.give(A, LEASE, now + LEASE), LEASE);
    }
}
