//! Who reads through directories, so that what comes next is asked for with what is asked for now. Pure.

use everhold_proto::InodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Files of one directory that are asked for together: at first, when a second one is read, then twice as many
/// each time.
const FILES_FIRST: usize = 8;
const FILES_MAX: usize = 64;
/// Between two steps of one program.
const STEP: Duration = Duration::from_secs(1);
/// Directories that are remembered; beyond them it begins anew.
const WATCHED_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Walks {
    /// How many files are asked for next, and when one was last.
    read: BTreeMap<InodeId, (usize, Instant)>,
    /// When a directory was listed, or one in it.
    listed: BTreeMap<InodeId, Instant>,
    /// When many files of a directory were asked for.
    walked: Option<Instant>,
    /// Files were asked for, and none of them was read yet.
    unused: bool,
}

impl Walks {
    /// The content of a file in a directory is asked for. How many others of it are worth the same question.
    pub(super) fn files_ahead(&mut self, directory: InodeId, now: Instant) -> usize {
        if self.read.len() >= WATCHED_MAX {
            self.read.clear();
        }
        let goes_on = |at: Instant| now.saturating_duration_since(at) <= STEP;
        // Whoever has read one directory reads the next one, too; but not who reads one file of each.
        let walks = self.walked.is_some_and(goes_on) && !self.unused;
        let first = if walks { FILES_MAX } else { 0 };
        let (next, at) = self.read.entry(directory).or_insert((first, now));
        if !goes_on(*at) {
            *next = first;
        }
        let count = *next;
        (*next, *at) = ((2 * count).clamp(FILES_FIRST, FILES_MAX), now);
        if count == FILES_MAX {
            self.walked = Some(now);
        }
        count
    }

    /// Files were asked for that nobody has read yet.
    pub(super) fn asked_ahead(&mut self) {
        self.unused = true;
    }

    /// A file was read that was here already.
    pub(super) fn used(&mut self) {
        self.unused = false;
    }

    /// A directory is listed from its beginning. `true`: so was the one above it, or another one in that.
    pub(super) fn lists_tree(&mut self, directory: InodeId, above: InodeId, now: Instant) -> bool {
        if self.listed.len() >= WATCHED_MAX {
            self.listed.clear();
        }
        let at = self.listed.insert(above, now).filter(|_| above != directory);
        self.listed.insert(directory, now);
        at.is_some_and(|at| now.saturating_duration_since(at) <= STEP)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_are_asked_for_the_more_are_read() {
        let (mut walks, start) = (Walks::default(), Instant::now());
        let mut ahead = |directory, at| walks.files_ahead(InodeId(directory), start + at);
        let counts = [(); 6].map(|()| ahead(7, STEP / 2));
        assert_eq!(counts, [0, 8, 16, 32, 64, 64]);
        assert_eq!(ahead(8, STEP), 64, "the next directory of a walk");
        assert_eq!(ahead(9, 3 * STEP), 0, "it is over");
        assert_eq!((ahead(7, 3 * STEP), ahead(7, 5 * STEP)), (0, 0), "too far apart");
    }

    #[test]
    fn who_reads_one_file_of_each_directory_does_not_get_the_others() {
        let (mut walks, now) = (Walks::default(), Instant::now());
        let counts = [(); 5].map(|()| walks.files_ahead(InodeId(7), now));
        assert_eq!(counts[4], FILES_MAX);
        walks.asked_ahead();
        assert_eq!(walks.files_ahead(InodeId(8), now), 0, "none was read");
        walks.used();
        assert_eq!(walks.files_ahead(InodeId(9), now), FILES_MAX);
    }

    #[test]
    fn a_tree_is_listed_from_above_or_from_one_to_the_next() {
        let (mut walks, now) = (Walks::default(), Instant::now());
        let mut lists =
            |directory, above, at| walks.lists_tree(InodeId(directory), InodeId(above), now + at);
        assert!(!lists(2, 1, STEP), "one directory is no tree");
        assert!(lists(3, 2, STEP), "below it");
        assert!(lists(4, 2, 2 * STEP), "beside it");
        assert!(!lists(5, 2, 4 * STEP) && !lists(8, 9, 4 * STEP));
        assert!(!lists(1, 1, STEP) && !lists(1, 1, STEP), "the root is above itself");
    }
}
