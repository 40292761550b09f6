//! A log file that has a successor when it is large: `log` becomes `log.1`, `log.1` becomes `log.2`, and the oldest goes.
//!
//! The file is the standard error of the process, so that what the process says when it ends (a panic, the error that ends
//! it) is in it too.

use rustix::stdio::{dup2_stderr, dup2_stdout, stderr, stdout};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// A file becomes at most so large, in bytes: some 100,000 lines, which an editor still opens.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// So many files are kept beside the one that is written.
const OLDER_FILES: u32 = 3;

/// Where the log goes.
pub(super) struct LogFile {
    /// `None`: to standard error as it is.
    path: Option<PathBuf>,
    bytes: u64,
    bytes_max: u64,
}

impl LogFile {
    /// Standard error, whatever it is; it has no bound here.
    pub(super) fn standard_error() -> Self {
        LogFile { path: None, bytes: 0, bytes_max: u64::MAX }
    }

    /// The file at `path`, which is added to and becomes standard error.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        become_standard_error(&file)?;
        Ok(LogFile { path: Some(path.to_path_buf()), bytes, bytes_max: FILE_BYTES_MAX })
    }
}

impl Write for LogFile {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(path) = &self.path
            && self.bytes > 0
            && self.bytes + line.len() as u64 > self.bytes_max
        {
            become_standard_error(&succeed(path)?)?;
            self.bytes = 0;
        }
        let written = io::stderr().write(line)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

/// Moves the file at `path` and the older ones on, and opens a new one.
fn succeed(path: &Path) -> io::Result<File> {
    for number in (0..OLDER_FILES).rev() {
        match std::fs::rename(older(path, number), older(path, number + 1)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            moved => moved?,
        }
    }
    append(path)
}

/// The name of the file before `number` others; 0 is the one that is written.
fn older(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_path_buf();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

/// Makes a file standard error; standard output follows if both were the same file.
fn become_standard_error(file: &File) -> io::Result<()> {
    let identity = |of| rustix::fs::fstat(of).map(|stat| (stat.st_dev, stat.st_ino));
    let same = identity(stdout())? == identity(stderr())?;
    dup2_stderr(file)?;
    if same {
        dup2_stdout(file)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The newest files are kept, in order, and no more than there shall be.
    #[test]
    fn the_oldest_file_goes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for turn in 0..6 {
            write!(succeed(&path).unwrap(), "{turn}").unwrap();
        }
        let content = |number| std::fs::read_to_string(older(&path, number)).unwrap();
        assert_eq!([0, 1, 2, 3].map(content), ["5", "4", "3", "2"]);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 4);
    }
}
