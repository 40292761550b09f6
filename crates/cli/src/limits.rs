//! The limit on open files: raised at the start as far as the system allows, and known to who has to stay below it.
//!
//! Only processes that start no other programs of the user raise it: a child inherits the limit, and programs that use
//! `select` cannot take descriptors beyond 1,024.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Raises the limit on open files to the most that this process may have.
pub(crate) fn raise_files() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current == maximum {
        return;
    }
    if let Err(e) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(error = %e, ?current, ?maximum, "the limit on open files stays as it is");
    }
}

/// Files that this process may have open at once.
pub(crate) fn files_max() -> usize {
    let current = getrlimit(Resource::Nofile).current;
    current.map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX))
}

/// Of `files_max` descriptors so many at most are for connections: half stays for files of the store and the log, and
/// for this node's own connections to others. `wanted` is what is configured.
pub(crate) fn connections(wanted: usize, files_max: usize) -> usize {
    wanted.min(files_max / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where descriptors are few, connections leave the half of them.
    #[test]
    fn connections_stay_below_the_limit() {
        assert_eq!(connections(4096, 1024), 512);
        assert_eq!(connections(4096, usize::MAX), 4096);
        assert_eq!(connections(4096, 1), 1);
    }
}
