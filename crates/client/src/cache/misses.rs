//! Directories in which one name after another is asked for are listed whole: one question instead of many. Pure.

use everhold_proto::InodeId;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Names that are asked for within [`WHILE`] before the rest is listed.
const MISSES: u32 = 2;
const WHILE: Duration = Duration::from_secs(2);
/// A directory is not listed ahead again for so long.
const ONCE_IN: Duration = Duration::from_secs(5);
/// Directories that are watched; beyond them it begins anew.
const WATCHED_MAX: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Misses {
    watched: BTreeMap<InodeId, Watched>,
}

#[derive(Debug)]
struct Watched {
    misses: u32,
    since: Instant,
    listed: Option<Instant>,
}

impl Misses {
    /// The cache does not know a name; `true`: list the directory.
    pub(super) fn should_list(&mut self, directory: InodeId, now: Instant) -> bool {
        if self.watched.len() >= WATCHED_MAX {
            self.watched.clear();
        }
        let new = || Watched { misses: 0, since: now, listed: None };
        let watched = self.watched.entry(directory).or_insert_with(new);
        if now.saturating_duration_since(watched.since) > WHILE {
            (watched.misses, watched.since) = (0, now);
        }
        watched.misses += 1;
        let is_due = watched.listed.is_none_or(|at| now.saturating_duration_since(at) > ONCE_IN);
        let lists = watched.misses >= MISSES && is_due;
        if lists {
            watched.listed = Some(now);
        }
        lists
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_name_is_enough_once_in_a_while() {
        let (mut misses, start, directory) = (Misses::default(), Instant::now(), InodeId(7));
        let second = Duration::from_secs(1);
        assert!(!misses.should_list(directory, start));
        assert!(!misses.should_list(InodeId(8), start));
        assert!(misses.should_list(directory, start + second));
        assert!(!misses.should_list(directory, start + second), "it was listed just now");
        assert!(!misses.should_list(directory, start + 10 * second), "these are far apart");
        assert!(misses.should_list(directory, start + 11 * second));
    }
}
