//! What is copied in: the files, directories and symbolic links below some local roots.

use crate::exit::{CliError, CliResult};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// One thing to copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where it is.
    pub(crate) local: PathBuf,
    /// Absolute path in the cluster.
    pub(crate) remote: Vec<u8>,
    /// What it is.
    pub(crate) kind: EntryKind,
    /// Permission bits.
    pub(crate) mode: u32,
}

/// What an entry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum EntryKind {
    /// A directory; it comes before what it holds.
    Directory,
    /// A regular file.
    File {
        /// Its size when it was found.
        size: u64,
    },
    /// A symbolic link.
    Symlink(Vec<u8>),
}

/// All that is copied.
#[derive(Clone, Debug, Default)]
pub(crate) struct Source {
    /// Entries, directories before what they hold.
    pub(crate) entries: Vec<Entry>,
    /// Bytes of all files.
    pub(crate) bytes: u64,
    /// Sockets, pipes, devices: not copied.
    pub(crate) skipped: u64,
}

/// Names that are left out of the source tree that this program was built from: build output and
/// history, which change while the demo runs.
const BUILD_OUTPUT: [&str; 2] = ["target", ".git"];

impl Source {
    /// Adds the tree (or file) at `root` as `remote`. With `skip_build_output`, without `target` and `.git`.
    pub(crate) fn add(&mut self, root: &Path, remote: &str, skip_build_output: bool) -> CliResult {
        self.visit(root, remote.as_bytes().to_vec(), skip_build_output)
    }

    fn visit(&mut self, local: &Path, remote: Vec<u8>, skip: bool) -> CliResult {
        let fail = |e: std::io::Error| CliError::local(local, &e);
        let metadata = fs::symlink_metadata(local).map_err(fail)?;
        let mode = metadata.permissions().mode() & 0o7777;
        let kind = metadata.file_type();
        let mut push = |kind| {
            self.entries.push(Entry { local: local.into(), remote: remote.clone(), kind, mode });
        };
        if kind.is_dir() {
            push(EntryKind::Directory);
            let mut names: Vec<_> = fs::read_dir(local)
                .and_then(|entries| entries.map(|e| Ok(e?.file_name())).collect())
                .map_err(fail)?;
            names.sort();
            for name in names {
                if skip && BUILD_OUTPUT.iter().any(|output| name == *output) {
                    continue;
                }
                let child = [&remote[..], b"/", name.as_bytes()].concat();
                self.visit(&local.join(&name), child, skip)?;
            }
        } else if kind.is_file() {
            push(EntryKind::File { size: metadata.size() });
            self.bytes += metadata.size();
        } else if kind.is_symlink() {
            let target = fs::read_link(local).map_err(fail)?;
            push(EntryKind::Symlink(target.as_os_str().as_bytes().to_vec()));
        } else {
            self.skipped += 1;
        }
        Ok(())
    }

    /// Number of regular files.
    pub(crate) fn files(&self) -> usize {
        self.entries.iter().filter(|e| matches!(e.kind, EntryKind::File { .. })).count()
    }
}

/// The source tree that this program was built from, if it is still there, else the directory of the
/// program.
pub(crate) fn default_root() -> CliResult<PathBuf> {
    let built_from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    if let Ok(root) = built_from.canonicalize()
        && root.join("Cargo.toml").is_file()
    {
        return Ok(root);
    }
    let program = std::env::current_exe().map_err(|e| CliError::local("this program", &e))?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_everything_but_build_output() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir_all(at("src/empty")).unwrap();
        fs::create_dir_all(at("target/debug")).unwrap();
        fs::write(at("src/a"), "abc").unwrap();
        fs::write(at("target/debug/big"), "xxxxxxxx").unwrap();
        std::os::unix::fs::symlink("src/a", at("link")).unwrap();
        let mut source = Source::default();
        source.add(dir.path(), "/in", true).unwrap();
        let names: Vec<_> = source
            .entries
            .iter()
            .map(|e| String::from_utf8_lossy(&e.remote).into_owned())
            .collect();
        assert_eq!(names, ["/in", "/in/link", "/in/src", "/in/src/a", "/in/src/empty"]);
        assert_eq!((source.bytes, source.files()), (3, 1));
        assert_eq!(source.entries[1].kind, EntryKind::Symlink(b"src/a".to_vec()));
    }
}
