//! Which directories are worth to be held: those that are changed more than once in a while. Pure.

use everhold_proto::InodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Changes of one directory within [`WHILE`] that make it worth the question.
const CHANGES: u32 = 2;
const WHILE: Duration = Duration::from_secs(5);
/// Between two directories that one program takes in a walk.
const STEP: Duration = Duration::from_millis(300);
/// Directories that are called back within [`WALK`] by somebody who walks a tree.
const RECALLS: u32 = 3;
const WALK: Duration = Duration::from_secs(1);
/// Directories that are watched; beyond them it begins anew.
const WATCHED_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Heat {
    changed: BTreeMap<InodeId, (u32, Instant)>,
    cool_until: BTreeMap<InodeId, Instant>,
    /// When the last directory was taken.
    taken: Option<Instant>,
    /// How many were called back, since when.
    recalls: Option<(u32, Instant)>,
}

impl Heat {
    /// A directory is changed by the leader; `true`: it should be held.
    pub(super) fn warm(&mut self, directory: InodeId, now: Instant) -> bool {
        if self.changed.len() >= WATCHED_MAX {
            self.changed.clear();
        }
        let (count, since) = self.changed.entry(directory).or_insert((0, now));
        if now.saturating_duration_since(*since) > WHILE {
            (*count, *since) = (0, now);
        }
        *count += 1;
        let is_warm = *count >= CHANGES;
        (is_warm || self.walks(now)) && self.may_take(directory, now)
    }

    /// Whether a directory was taken just before: the program walks through a tree, and the next one is taken with its
    /// first change.
    pub(super) fn walks(&self, now: Instant) -> bool {
        self.taken.is_some_and(|at| now.saturating_duration_since(at) < STEP)
    }

    /// A directory was taken.
    pub(super) fn took(&mut self, now: Instant) {
        self.taken = Some(now);
    }

    /// Whether nobody else wanted it lately.
    pub(super) fn may_take(&self, directory: InodeId, now: Instant) -> bool {
        self.cool_until.get(&directory).is_none_or(|until| *until <= now)
    }

    /// Somebody else wants it; it is left to the leader until then. `true`: others come to one directory after
    /// another, so that it is quicker to give all back at once.
    pub(super) fn recalled(&mut self, directory: InodeId, now: Instant, until: Instant) -> bool {
        self.cool(directory, until);
        let (count, since) = self.recalls.get_or_insert((0, now));
        if now.saturating_duration_since(*since) > WALK {
            (*count, *since) = (0, now);
        }
        *count += 1;
        *count >= RECALLS
    }

    /// It was given back for something that cannot be done behind a delegation.
    pub(super) fn begin_anew(&mut self, directory: InodeId) {
        self.changed.remove(&directory);
    }

    /// It is left to the leader until then.
    pub(super) fn cool(&mut self, directory: InodeId, until: Instant) {
        if self.cool_until.len() >= WATCHED_MAX {
            self.cool_until.clear();
        }
        self.cool_until.insert(directory, until);
        self.changed.remove(&directory);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_directory_of_a_walk_is_taken_at_once() {
        let (mut heat, now) = (Heat::default(), Instant::now());
        heat.took(now);
        assert!(heat.warm(InodeId(1), now + STEP / 2));
        assert!(!heat.warm(InodeId(2), now + STEP));
    }

    #[test]
    fn who_walks_a_tree_gets_all_of_it() {
        let (mut heat, now) = (Heat::default(), Instant::now());
        let mut recalled = |inode, now| heat.recalled(InodeId(inode), now, now + WHILE);
        assert!(!recalled(1, now) && !recalled(2, now) && recalled(3, now + WALK));
        assert!(!recalled(4, now + 3 * WALK), "it is somebody else");
    }

    #[test]
    fn a_second_change_is_enough_and_others_cool_it() {
        let (mut heat, now, directory) = (Heat::default(), Instant::now(), InodeId(7));
        assert!(!heat.warm(directory, now));
        assert!(!heat.warm(InodeId(8), now));
        assert!(heat.warm(directory, now + WHILE));
        heat.cool(directory, now + 4 * WHILE);
        for second in 0..20 {
            assert!(!heat.warm(directory, now + Duration::from_secs(second)));
        }
        assert!(!heat.warm(directory, now + 10 * WHILE), "it begins anew");
        assert!(heat.warm(directory, now + 10 * WHILE));
    }
}
