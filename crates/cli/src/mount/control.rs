//! The way to a mount's process that does not lead through the mount: a socket beside a file that says which process
//! serves which directory. So `mount ls`, `mount stats` and `umount` never wait for the file system.
//!
//! **Invariant:** nobody waits longer than [`LIMIT`] for the process of a mount, and takes no more than
//! [`STATE_BYTES_MAX`] from it.

use everhold_fuse::{OpStats, Watch};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

/// A process that lives answers within this time.
const LIMIT: Duration = Duration::from_secs(2);
/// Larger than any state.
const STATE_BYTES_MAX: u64 = 256 << 10;
/// Largest registration that is read.
const ENTRY_BYTES_MAX: u64 = 16 << 10;

/// Which process serves which directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) pid: i32,
    /// When it started, in ticks since the machine did: a number that is used again belongs to another process.
    started: u64,
    pub(crate) path: PathBuf,
}

/// What a mount says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// Seconds since the cluster answered last.
    pub(crate) silent_seconds: u64,
    /// What is not committed.
    pub(crate) files: usize,
    pub(crate) bytes: usize,
    pub(crate) changes: usize,
    /// How often requests were held up by another client.
    pub(crate) held_up: u64,
    pub(crate) operations: BTreeMap<String, OpStats>,
}

/// A registration that ends with this.
pub(crate) struct Registered {
    files: [PathBuf; 2],
    serving: tokio::task::JoinHandle<()>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.serving.abort();
        remove(&self.files);
    }
}

fn remove(files: &[PathBuf]) {
    for file in files {
        if let Err(e) = std::fs::remove_file(file) {
            tracing::debug!(file = %file.display(), error = %e, "a registration was not removed");
        }
    }
}

/// Registers this process for a directory and answers who asks.
pub(crate) fn register(path: &Path, watch: Watch) -> io::Result<Registered> {
    let directory = directory();
    std::fs::create_dir_all(&directory)?;
    std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700))?;
    let pid = std::process::id() as i32;
    let files = ["json", "sock"].map(|end| directory.join(format!("mount-{pid}.{end}")));
    let [entry_file, socket] = &files;
    match std::fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = tokio::net::UnixListener::bind(socket)?;
    std::fs::set_permissions(socket, PermissionsExt::from_mode(0o600))?;
    let started = started(pid).ok_or(io::ErrorKind::NotFound)?;
    let entry = Entry { pid, started, path: path.into() };
    std::fs::write(entry_file, serde_json::to_vec(&entry)?)?;
    let serving = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((mut stream, _)) => {
                    let text = serde_json::to_vec(&state_of(&watch)).unwrap_or_default();
                    let sent = tokio::time::timeout(LIMIT, stream.write_all(&text)).await;
                    if !matches!(sent, Ok(Ok(()))) {
                        tracing::debug!("who asked for the state did not take it");
                    }
                }
                Err(e) => {
                    tracing::debug!(error = %e, "a question for the state was not taken");
                    tokio::time::sleep(LIMIT).await;
                }
            }
        }
    });
    Ok(Registered { files, serving })
}

fn state_of(watch: &Watch) -> State {
    let open = watch.uncommitted();
    let operations = watch.stats().into_iter().map(|(name, stats)| (name.to_string(), stats));
    State {
        silent_seconds: open.silent.as_secs(),
        files: open.files,
        bytes: open.bytes,
        changes: open.changes,
        held_up: watch.held_up(),
        operations: operations.collect(),
    }
}

/// The registration of the mount on a directory, if its process lives.
pub(crate) fn find(path: &Path) -> Option<Entry> {
    let path = absolute(path);
    entries().into_iter().rfind(|entry| entry.path == path)
}

/// All registrations whose process lives. What is left of others is removed.
pub(crate) fn entries() -> Vec<Entry> {
    let Ok(files) = std::fs::read_dir(directory()) else { return Vec::new() };
    let files = files.flatten().map(|file| file.path());
    let files = files.filter(|file| file.extension().is_some_and(|end| end == "json"));
    let mut entries = Vec::new();
    for file in files {
        let Some(entry) = read_entry(&file) else { continue };
        match started(entry.pid) == Some(entry.started) {
            true => entries.push(entry),
            false => remove(&[file.with_extension("sock"), file]),
        }
    }
    entries.sort_by_key(|entry| entry.started);
    entries
}

fn read_entry(file: &Path) -> Option<Entry> {
    let mut text = Vec::new();
    std::fs::File::open(file).ok()?.take(ENTRY_BYTES_MAX).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

impl Entry {
    /// What the process says; `None` when it does not answer in time.
    pub(crate) fn state(&self) -> Option<State> {
        let socket = directory().join(format!("mount-{}.sock", self.pid));
        let stream = UnixStream::connect(socket).ok()?;
        stream.set_read_timeout(Some(LIMIT)).ok()?;
        let mut text = Vec::new();
        stream.take(STATE_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// The process, if it is still the one that registered.
    pub(crate) fn process(&self) -> Option<OwnedFd> {
        let process = pidfd_open(Pid::from_raw(self.pid)?, PidfdFlags::empty()).ok()?;
        (started(self.pid)? == self.started).then_some(process)
    }
}

impl State {
    /// What is lost if it ends now, in words; `None`: nothing.
    pub(crate) fn loss(&self) -> Option<String> {
        let State { files, bytes, changes, .. } = self;
        (files + changes > 0).then(|| {
            format!("{files} open files with {bytes} bytes and {changes} changes are not committed")
        })
    }
}

/// Field 22 of `/proc/PID/stat`, after the name, which may contain anything.
fn started(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = text.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let state = fields.next()?;
    let started = fields.nth(18)?.parse().ok()?;
    // One that has ended and was not waited for serves nothing.
    (state != "Z" && state != "X").then_some(started)
}

/// Where registrations are: only this user's.
fn directory() -> PathBuf {
    let uid = rustix::process::getuid();
    if uid.is_root() {
        return "/run/everhold".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => PathBuf::from(directory).join("everhold"),
        None => std::env::temp_dir().join(format!("everhold-{}", uid.as_raw())),
    }
}

/// A path as it is registered. The directory that is mounted on is not looked at, those above it are.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.into());
    match (whole.parent().map(Path::canonicalize), whole.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start() {
        let own = std::process::id() as i32;
        assert!(started(own).is_some() && started(i32::MAX).is_none());
        let entry = Entry { pid: own, started: started(own).unwrap(), path: "/m".into() };
        assert!(entry.process().is_some());
        assert!(Entry { started: 1, ..entry }.process().is_none(), "the number is another's now");
    }

    #[test]
    fn the_mount_point_itself_is_not_looked_at() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        assert_eq!(absolute(&dir.path().join("not-there")), real.join("not-there"));
        assert_eq!(absolute(Path::new("/")), Path::new("/"));
    }
}
