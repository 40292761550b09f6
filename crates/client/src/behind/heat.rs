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
/// A directory that somebody else wanted is left to the leader for so long, and twice as long each time that happens
/// again soon, up to the longest: one `ls` costs little, and two who work in one directory do not take it from each
/// other all the time.
const COOL_MIN: Duration = Duration::from_millis(100);
const COOL_MAX: Duration = Duration::from_secs(10);
/// Directories that are watched; beyond them it begins anew.
const WATCHED_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Heat {
    changed: BTreeMap<InodeId, (u32, Instant)>,
    cool: BTreeMap<InodeId, Cool>,
    /// When the last directory was taken.
    taken: Option<Instant>,
    /// How many were called back, since when.
    recalls: Option<(u32, Instant)>,
}

/// A directory is left to the leader.
#[derive(Clone, Copy, Debug)]
struct Cool {
    until: Instant,
    length: Duration,
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
        self.cool.get(&directory).is_none_or(|cool| cool.until <= now)
    }

    /// Somebody else wants it; it is left to the leader for a while. `true`: others come to one directory after
    /// another, so that it is quicker to give all back at once.
    pub(super) fn recalled(&mut self, directory: InodeId, now: Instant) -> bool {
        self.wanted(directory, now);
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

    /// Somebody else wants a directory: it is left to the leader for a while.
    pub(super) fn wanted(&mut self, directory: InodeId, now: Instant) {
        let again = self.cool.get(&directory).filter(|cool| now < cool.until + 2 * cool.length);
        let length = again.map_or(COOL_MIN, |cool| (cool.length * 2).min(COOL_MAX));
        self.leave(directory, length, now);
    }

    /// It is left to the leader for so long.
    pub(super) fn leave(&mut self, directory: InodeId, length: Duration, now: Instant) {
        if self.cool.len() >= WATCHED_MAX {
            self.cool.clear();
        }
        self.cool.insert(directory, Cool { until: now + length, length });
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
        let mut recalled = |inode, now| heat.recalled(InodeId(inode), now);
        assert!(!recalled(1, now) && !recalled(2, now) && recalled(3, now + WALK));
        assert!(!recalled(4, now + 3 * WALK), "it is somebody else");
    }

    /// Who looks once costs a moment; who comes again and again gets the directory to be shared.
    #[test]
    fn a_directory_is_left_for_longer_each_time_others_want_it() {
        let (mut heat, mut now, directory) = (Heat::default(), Instant::now(), InodeId(7));
        heat.wanted(directory, now);
        assert!(!heat.may_take(directory, now) && heat.may_take(directory, now + COOL_MIN));
        let mut length = COOL_MIN;
        for _ in 0..10 {
            now += length;
            heat.wanted(directory, now);
            length = (length * 2).min(COOL_MAX);
            assert!(!heat.may_take(directory, now + length - COOL_MIN / 2));
            assert!(heat.may_take(directory, now + length));
        }
        now += 3 * length;
        heat.wanted(directory, now);
        assert!(heat.may_take(directory, now + COOL_MIN), "others left it alone for long");
    }

    #[test]
    fn a_second_change_is_enough_and_others_cool_it() {
        let (mut heat, now, directory) = (Heat::default(), Instant::now(), InodeId(7));
        assert!(!heat.warm(directory, now));
        assert!(!heat.warm(InodeId(8), now));
        assert!(heat.warm(directory, now + WHILE));
        heat.leave(directory, 3 * WHILE, now + WHILE);
        for second in 0..20 {
            assert!(!heat.warm(directory, now + Duration::from_secs(second)));
        }
        assert!(!heat.warm(directory, now + 10 * WHILE), "it begins anew");
        assert!(heat.warm(directory, now + 10 * WHILE));
    }
}
