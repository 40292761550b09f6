//! How a mount begins and ends.

use crate::caller;
use crate::coherence::Teller;
use crate::edge::Edge;
use crate::kernel::Kernel;
use crate::options::MountOptions;
use crate::waiting::LOOK_EVERY;
use everhold_client::Client;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// What the source of a mount of Everhold begins with in `/proc/mounts`.
const SOURCE: &str = "everhold:";
/// What the kernel reads ahead of a stream.
const READ_AHEAD_KIB: u32 = 2048;
/// How often open files are looked after.
const TEND_EVERY: Duration = Duration::from_millis(500);

/// Why a mount point cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    /// There is nothing.
    #[error("{} does not exist", .0.display())]
    Missing(PathBuf),
    /// It is no directory.
    #[error("{} is not a directory", .0.display())]
    NotDirectory(PathBuf),
    /// Something is mounted there.
    #[error("{} is a mount point already", .0.display())]
    Busy(PathBuf),
    /// No FUSE on this machine.
    #[error("/dev/fuse cannot be opened: {0}")]
    NoFuse(io::Error),
    /// Not allowed to.
    #[error("mounting on {} is not permitted: {source}", path.display())]
    NotPermitted {
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// Anything else.
    #[error("mounting on {} failed: {source}", path.display())]
    Failed {
        /// Where.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A mount that is there. Dropped, it is unmounted.
pub struct Mounted {
    session: BackgroundSession,
    edge: Arc<Edge>,
    tending: [JoinHandle<()>; 3],
}

/// Mounts the cluster of `client` on the directory `path`. A stale mount there, whose process has died, is
/// replaced. Requests are answered on the runtime that this is called from. The client must follow the change
/// feed (`ClientOptions::follow`), and serves one mount.
pub fn mount(
    client: Arc<Client>,
    path: &Path,
    options: MountOptions,
) -> Result<Mounted, MountError> {
    check(path)?;
    let mut mount_options = vec![
        MountOption::FSName(format!("{SOURCE}{}", options.source)),
        MountOption::DefaultPermissions,
        if options.read_only { MountOption::RO } else { MountOption::RW },
        if options.no_exec { MountOption::NoExec } else { MountOption::Exec },
        // So that mount(8) finds the helper when it is to change the options.
        MountOption::CUSTOM("subtype=everhold".into()),
    ];
    mount_options.extend(match options.dev_suid {
        true => [MountOption::Dev, MountOption::Suid],
        false => [MountOption::NoDev, MountOption::NoSuid],
    });
    let mut config = Config::default();
    config.mount_options = mount_options;
    config.acl = if options.private { SessionACL::Owner } else { SessionACL::All };
    config.n_threads = Some(options.threads.clamp(1, 64));
    config.clone_fd = true;
    let edge = Edge::new(client, Handle::current(), options.sync);
    let teller = Arc::new(Teller(Arc::downgrade(&edge)));
    edge.client.on_invalidate(teller).map_err(|e| MountError::Failed {
        path: path.into(),
        source: io::Error::other(e.to_string()),
    })?;
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::PermissionDenied => MountError::NotPermitted { path: path.into(), source },
        _ => MountError::Failed { path: path.into(), source },
    };
    // Before it is mounted: the question would come to this process.
    let real = path.canonicalize().unwrap_or_else(|_| path.into());
    let session = fuser::spawn_mount(Kernel(edge.clone()), path, &config).map_err(failed)?;
    read_ahead(&real);
    // Set once, here: nobody else has the edge yet.
    let _first = edge.notifier.set(session.notifier());
    let tended = edge.clone();
    let tending = tokio::spawn(async move {
        loop {
            tokio::time::sleep(TEND_EVERY).await;
            tended.files.tend().await;
            tended.names.tend(Instant::now());
        }
    });
    let waiting = edge.waiting.clone();
    // Apart from the rest, which may wait for the cluster.
    let looking = tokio::spawn(async move {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            waiting.look(Instant::now(), caller::fate);
        }
    });
    let watching = tokio::spawn(crate::lost_locks::watch(edge.clone()));
    Ok(Mounted { session, edge, tending: [tending, looking, watching] })
}

/// Lets the kernel read more ahead than its usual 128 KiB: a stream is then a few large requests at a time instead of
/// one small one after the other. Only root may; others read more slowly.
fn read_ahead(path: &Path) {
    let Some(device) = device_of(path, &mountinfo()) else { return };
    let setting = format!("/sys/class/bdi/{device}/read_ahead_kb");
    if let Err(e) = std::fs::write(&setting, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(setting, error = %e, "the kernel's read-ahead stays as it is");
    }
}

fn mountinfo() -> Vec<u8> {
    std::fs::read("/proc/self/mountinfo").unwrap_or_default()
}

/// `MAJOR:MINOR` of what was mounted last on a directory. Asks no file system.
fn device_of(path: &Path, mountinfo: &[u8]) -> Option<String> {
    let mut mounts = mountinfo.split(|b| *b == b'\n').filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').take(5).collect();
        Some((*fields.get(2)?, *fields.get(4)?))
    });
    let (device, _) = mounts.rfind(|(_, at)| is_path(at, path))?;
    String::from_utf8(device.to_vec()).ok()
}

/// The options of what was mounted last on a directory, by what `/proc/self/mountinfo` says. Asks no file system.
pub fn flags_of(path: &Path, mountinfo: &[u8]) -> Option<String> {
    let lines = mountinfo.split(|b| *b == b'\n');
    let mut mounts = lines.filter_map(|line| {
        let fields: Vec<&[u8]> = line.split(|b| *b == b' ').take(6).collect();
        Some((*fields.get(4)?, *fields.get(5)?))
    });
    let (_, flags) = mounts.rfind(|(at, _)| is_path(at, path))?;
    String::from_utf8(flags.to_vec()).ok()
}

/// Whether a field of `/proc/self/mountinfo` is this path.
fn is_path(field: &[u8], path: &Path) -> bool {
    use std::os::unix::ffi::OsStringExt;
    Path::new(&std::ffi::OsString::from_vec(unescape(field))) == path
}

/// Whether something may be mounted on `path`.
fn check(path: &Path) -> Result<(), MountError> {
    if let Err(e) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        return Err(MountError::NoFuse(e));
    }
    if is_stale(path) {
        tracing::info!(path = %path.display(), "a stale mount is replaced");
        detach(path).map_err(|source| MountError::Failed { path: path.into(), source })?;
    }
    match std::fs::metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(MountError::Missing(path.into())),
        Err(source) => Err(MountError::Failed { path: path.into(), source }),
        Ok(meta) if !meta.is_dir() => Err(MountError::NotDirectory(path.into())),
        Ok(_) if is_mount_point(path) => Err(MountError::Busy(path.into())),
        Ok(_) => Ok(()),
    }
}

/// Whether a mount of a process that has died is on `path`.
pub fn is_stale(path: &Path) -> bool {
    let error = std::fs::metadata(path).err().and_then(|e| e.raw_os_error());
    error == Some(libc::ENOTCONN)
}

/// Takes a mount away, whoever still uses it.
pub fn detach(path: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)?)
}

/// Takes a mount away at once: requests that wait are answered with an error, and its process is not asked.
pub fn abort(path: &Path) -> io::Result<()> {
    use rustix::mount::UnmountFlags;
    Ok(rustix::mount::unmount(path, UnmountFlags::FORCE | UnmountFlags::DETACH)?)
}

/// Unmounts `path`, as `umount` does; users without that right go through `fusermount3`.
pub fn unmount(path: &Path) -> io::Result<()> {
    match rustix::mount::unmount(path, rustix::mount::UnmountFlags::empty()) {
        Err(rustix::io::Errno::PERM) => {}
        other => return Ok(other?),
    }
    let status = std::process::Command::new("fusermount3").arg("-u").arg(path).status()?;
    match status.success() {
        true => Ok(()),
        false => Err(io::Error::other("fusermount3 could not unmount it")),
    }
}

fn is_mount_point(path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else { return false };
    all_mounts().iter().any(|(at, _, _)| *at == path)
}

/// Mounts of Everhold on this machine: where, and the source.
pub fn mounts() -> Vec<(PathBuf, String)> {
    let all = all_mounts().into_iter().filter(|(_, _, kind)| kind.starts_with("fuse"));
    all.filter_map(|(path, source, _)| Some((path, source.strip_prefix(SOURCE)?.to_string())))
        .collect()
}

/// (mount point, source, type) of `/proc/self/mounts`.
fn all_mounts() -> Vec<(PathBuf, String, String)> {
    let text = std::fs::read("/proc/self/mounts").unwrap_or_default();
    let lines = text.split(|b| *b == b'\n').filter(|line| !line.is_empty());
    lines
        .filter_map(|line| {
            let mut fields = line.split(|b| *b == b' ').map(unescape);
            let (source, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            use std::os::unix::ffi::OsStringExt;
            let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
            Some((std::ffi::OsString::from_vec(path).into(), text(source), text(kind)))
        })
        .collect()
}

/// Octal escapes of `/proc/mounts` (`\040` is a space).
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        let digits =
            rest.get(..3).filter(|d| *byte == b'\\' && d.iter().all(|d| (b'0'..=b'7').contains(d)));
        match digits {
            Some(digits) => {
                let code =
                    digits.iter().fold(0u32, |code, digit| code * 8 + u32::from(digit - b'0'));
                plain.push(code as u8);
                rest = &rest[3..];
            }
            None => plain.push(*byte),
        }
    }
    plain
}

/// What a mount has not committed, and how long the cluster has been silent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uncommitted {
    /// Open files with bytes that wait.
    pub files: usize,
    /// Bytes that wait in open files.
    pub bytes: usize,
    /// Changes that were answered and are not told to the cluster.
    pub changes: usize,
    /// Time since the last answer of the cluster.
    pub silent: Duration,
}

/// Looks at a mount while it works.
#[derive(Clone)]
pub struct Watch(Arc<Edge>);

impl Watch {
    /// What is not committed now.
    pub fn uncommitted(&self) -> Uncommitted {
        let Watch(edge) = self;
        Uncommitted {
            files: edge.files.dirty_count(),
            bytes: edge.client.uncommitted_bytes(),
            changes: edge.client.untold_changes(),
            silent: edge.client.silent_for(),
        }
    }

    /// Counts, errors and times of each kind of request.
    pub fn stats(&self) -> std::collections::BTreeMap<&'static str, crate::OpStats> {
        self.0.stats.snapshot()
    }

    /// How often a request was held up by another client that holds a directory.
    pub fn held_up(&self) -> u64 {
        self.0.client.stats().held_up
    }
}

impl Mounted {
    /// Looks at it, also while it is unmounted.
    pub fn watch(&self) -> Watch {
        Watch(self.edge.clone())
    }

    /// Waits until it is unmounted by somebody (`umount`, `fusermount3 -u`).
    pub async fn ended(&self) {
        while !self.session.guard.is_finished() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Commits what was written and unmounts. Says how many files could not be committed. Fails when programs
    /// still use it: then nobody answers them any more, and the caller does best to [`detach`] it.
    pub async fn unmount(self) -> io::Result<usize> {
        let Mounted { mut session, edge, tending } = self;
        let failed = edge.files.flush_all().await;
        // Unmounting waits for requests that this runtime answers.
        let end = move || match session.guard.is_finished() {
            // Somebody has unmounted it. The library would do so once more, by the path, where another mount may be
            // by now; so its rest is left alone. The kernel has closed the connection.
            true => {
                let guard = std::mem::replace(&mut session.guard, std::thread::spawn(|| Ok(())));
                std::mem::forget(session);
                guard.join().unwrap_or_else(|_| Err(io::Error::other("its thread panicked")))
            }
            false => session.umount_and_join(),
        };
        let result = tokio::task::spawn_blocking(end).await;
        let failed = failed + edge.files.flush_all().await;
        tending.iter().for_each(JoinHandle::abort);
        match result {
            Ok(Ok(())) => Ok(failed),
            Ok(Err(e)) => Err(e),
            Err(e) => Err(io::Error::other(e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_with_their_escapes() {
        assert_eq!(unescape(b"/mnt/a\\040b\\134"), b"/mnt/a b\\");
        assert_eq!(unescape(b"\\04"), b"\\04");
        assert!(all_mounts().iter().any(|(path, _, _)| path == Path::new("/")));
    }

    #[test]
    fn the_device_is_that_of_the_last_mount_on_a_directory() {
        let info = b"25 1 0:23 / /a\\040b rw - fuse x rw\n26 25 0:24 / /a\\040b rw shared:1 - fuse y rw\nodd\n";
        assert_eq!(device_of(Path::new("/a b"), info).as_deref(), Some("0:24"));
        assert_eq!(device_of(Path::new("/a"), info), None);
        assert!(device_of(Path::new("/"), &mountinfo()).is_some());
        assert_eq!(flags_of(Path::new("/a b"), info).as_deref(), Some("rw"));
        assert_eq!(flags_of(Path::new("/a"), info), None);
    }

    #[test]
    fn an_unusable_mount_point_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        std::fs::write(&file, "").unwrap();
        if !Path::new("/dev/fuse").exists() {
            return; // another message comes first
        }
        assert!(matches!(check(&dir.path().join("none")), Err(MountError::Missing(_))));
        assert!(matches!(check(&file), Err(MountError::NotDirectory(_))));
        assert!(matches!(check(Path::new("/proc")), Err(MountError::Busy(_))));
        assert!(check(dir.path()).is_ok());
    }
}
