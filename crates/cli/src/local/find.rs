//! Which local cluster an address belongs to: the processes on this machine tell.

use crate::local::ClusterFile;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// The directory of the local cluster all of whose named nodes are at these addresses, found by a server that runs.
pub(crate) fn local_dir_of(addresses: &[String]) -> Option<PathBuf> {
    let has_all = |dir: &PathBuf| {
        let file = ClusterFile::read(dir).ok().flatten();
        file.is_some_and(|file| {
            let nodes = file.addresses();
            !addresses.is_empty() && addresses.iter().all(|address| nodes.contains(address))
        })
    };
    let processes = std::fs::read_dir("/proc").ok()?;
    let lines = processes
        .flatten()
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok());
    lines.filter_map(|line| cluster_dir(&line)).find(has_all)
}

/// The directory of the cluster whose node a process serves, by its command line.
fn cluster_dir(line: &[u8]) -> Option<PathBuf> {
    let mut arguments = line.split(|byte| *byte == 0).skip(1);
    if arguments.next() != Some(b"server") || arguments.next() != Some(b"--dir") {
        return None;
    }
    let node = Path::new(OsStr::from_bytes(arguments.next()?));
    node.is_absolute().then(|| node.parent().map(Path::to_path_buf)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_by_their_command_lines() {
        let of = |line: &str| cluster_dir(line.replace(' ', "\0").as_bytes());
        assert_eq!(of("everhold server --dir /c/node1 --listen h:1"), Some("/c".into()));
        assert_eq!(of("everhold server --dir node1"), None, "it is not absolute");
        assert_eq!(of("everhold status --dir /c/node1"), None);
        assert_eq!(of("everhold server"), None);
        assert_eq!(of(""), None);
    }
}
