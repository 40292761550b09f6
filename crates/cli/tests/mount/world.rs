//! The cluster that the tests share, its two mounts, and mounts of a test's own.

use crate::common::{Cluster, eventually};
use everhold_client::{Client, ClientOptions};
use everhold_env::Env;
use everhold_proto::InodeId;
use everhold_proto::fs::{LockKind, LockOwner, LockSpace};
use everhold_proto::rpc::EndSession;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{
    Arc, Mutex, MutexGuard, Once, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
};
use tempfile::TempDir;

const NODES: u32 = 5;

static WORLD: Mutex<Option<Arc<World>>> = Mutex::new(None);
/// Tests that kill nodes hold it alone.
static PEACE: RwLock<()> = RwLock::new(());
static AT_EXIT: Once = Once::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One cluster with two mounts.
pub(crate) struct World {
    // Dropped in this order: mounts need the cluster, and their directories are in `dir`.
    pub(crate) a: Mount,
    pub(crate) b: Mount,
    pub(crate) cluster: Cluster,
    dir: TempDir,
}

/// A test's leave to use the world.
pub(crate) struct Visit {
    world: Arc<World>,
    _peace: Peace,
}

enum Peace {
    Shared { _guard: RwLockReadGuard<'static, ()> },
    Alone { _guard: RwLockWriteGuard<'static, ()> },
}

impl std::ops::Deref for Visit {
    type Target = World;
    fn deref(&self) -> &World {
        &self.world
    }
}

/// Why this machine cannot mount.
fn unmet() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("mounting needs root".into());
    }
    let fuse = std::fs::OpenOptions::new().read(true).write(true).open("/dev/fuse");
    fuse.err().map(|e| format!("/dev/fuse cannot be opened: {e}"))
}

/// Says why a test is skipped, which CI does not allow.
pub(crate) fn skip(reason: &str) {
    let must = std::env::var_os("EVERHOLD_CI").is_some_and(|value| value == "1");
    assert!(!must, "skipping is not allowed under EVERHOLD_CI=1: {reason}");
    eprintln!("skipped: {reason}");
}

/// The world, beside other tests; `None` where nothing can be mounted.
pub(crate) fn visit() -> Option<Visit> {
    if let Some(reason) = unmet() {
        skip(&reason);
        return None;
    }
    let guard = PEACE.read().unwrap_or_else(PoisonError::into_inner);
    Some(Visit { world: world(), _peace: Peace::Shared { _guard: guard } })
}

/// The world for this test alone.
pub(crate) fn visit_alone() -> Option<Visit> {
    if let Some(reason) = unmet() {
        skip(&reason);
        return None;
    }
    let guard = PEACE.write().unwrap_or_else(PoisonError::into_inner);
    Some(Visit { world: world(), _peace: Peace::Alone { _guard: guard } })
}

fn locked() -> MutexGuard<'static, Option<Arc<World>>> {
    WORLD.lock().unwrap_or_else(PoisonError::into_inner)
}

fn world() -> Arc<World> {
    let mut world = locked();
    if let Some(world) = &*world {
        return world.clone();
    }
    // A static is never dropped, and the cluster must not outlive the tests.
    AT_EXIT.call_once(|| {
        // SAFETY: the function is `extern "C"`, takes nothing, and does not unwind into C.
        assert_eq!(unsafe { libc::atexit(end) }, 0, "a handler at exit");
    });
    let cluster = Cluster::up(NODES, &["--zones", "3"]);
    let dir = tempfile::tempdir().expect("a temporary directory");
    // Other users come by here too.
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).expect("chmod");
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let (a, b) = (Mount::on(&cluster, &a, &[]), Mount::on(&cluster, &b, &[]));
    let fresh = Arc::new(World { a, b, cluster, dir });
    *world = Some(fresh.clone());
    fresh
}

extern "C" fn end() {
    // The process ends anyway: what a panic would say is printed by then.
    let _ = std::panic::catch_unwind(|| drop(locked().take()));
}

impl World {
    /// A fresh directory, as a test sees it in one mount and in the other.
    pub(crate) fn directory(&self, name: &str) -> (PathBuf, PathBuf) {
        let (a, b) = (self.a.path().join(name), self.b.path().join(name));
        std::fs::create_dir(&a).expect("mkdir");
        (a, b)
    }

    /// A mount point for a mount of a test's own.
    pub(crate) fn point(&self) -> PathBuf {
        let point = self.dir.path().join(format!("own-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        std::fs::create_dir(&point).expect("mkdir");
        point
    }

    /// A mount of a test's own.
    pub(crate) fn mount(&self) -> Mount {
        Mount::on(&self.cluster, &self.point(), &[])
    }

    /// A client of the library: it sees what is committed, and no cache of a kernel's.
    pub(crate) fn client(&self) -> Committed {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let seeds: Vec<String> = self.cluster.addresses().into_values().collect();
        let client = Client::connect(Env::real(), &seeds, ClientOptions::default());
        Committed { client: runtime.block_on(client).expect("it connects"), runtime }
    }
}

/// What is committed, by a client of its own.
pub(crate) struct Committed {
    pub(crate) client: Arc<Client>,
    pub(crate) runtime: tokio::runtime::Runtime,
}

impl Committed {
    /// Content of a file by its path in the cluster.
    pub(crate) fn read(&self, path: &str) -> Option<Vec<u8>> {
        self.runtime.block_on(self.client.get(path, 64 << 20)).ok().map(|bytes| bytes.to_vec())
    }

    /// Ends the session of whoever has locked all of a file, as the cluster does when nothing is heard of it.
    pub(crate) fn end_session_of(&self, locked: InodeId) {
        let (space, owner, kind) = (LockSpace::Posix, LockOwner(1), LockKind::Write);
        let lock = self.client.test_lock(locked, space, owner, kind, 0..=u64::MAX);
        let lock = self.runtime.block_on(lock).expect("it answers").expect("it is locked");
        let end = EndSession { session: lock.session };
        self.runtime.block_on(self.client.call_leader(&end)).expect("it ends");
    }

    /// Whether a file is no more.
    pub(crate) fn lacks(&self, inode: InodeId) -> bool {
        self.runtime.block_on(self.client.attr(inode)).is_err_and(|e| e.is_not_found())
    }
}

/// A mount whose process is a child of this one. Unmounted when it is dropped, by force if need be.
pub(crate) struct Mount {
    process: Child,
    path: PathBuf,
    log: Arc<Mutex<String>>,
}

impl Mount {
    /// Mounts the cluster on a directory, which is made if there is none, and waits until it is there.
    pub(crate) fn on(cluster: &Cluster, path: &Path, options: &[&str]) -> Mount {
        if let Err(e) = std::fs::create_dir(path) {
            assert_eq!(e.kind(), std::io::ErrorKind::AlreadyExists, "{e}");
        }
        let mut command = cluster.command(&["mount", "--foreground"]);
        // Device nodes and set-id bits are tested, too.
        command.arg("--dev-suid").args(options).arg(path).stdin(Stdio::null());
        let mut process =
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mount starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (kept, mut err) = (log.clone(), process.stderr.take().expect("piped"));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = err.read(&mut bytes) {
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                kept.lock().unwrap_or_else(PoisonError::into_inner).push_str(&text);
            }
        });
        let mut first = String::new();
        let out = process.stdout.take().expect("piped");
        BufReader::new(out).read_line(&mut first).expect("it tells");
        let mount = Mount { process, path: path.into(), log };
        assert!(first.starts_with("mounted on "), "{first}: {}", mount.log());
        mount
    }

    /// The mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What its process wrote to standard error.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests of a kind that are not answered yet.
    pub(crate) fn under_way(&self, operation: &str) -> u64 {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::getxattr(&self.path, "user.everhold.stats", &mut value[..]);
        let stats: Value =
            serde_json::from_slice(&value[..length.expect("statistics")]).expect("JSON");
        stats[operation]["under_way"].as_u64().unwrap_or(0)
    }

    /// Sends the mount's process a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.process.id()), signal).expect("it runs");
    }

    /// Kills the mount's process; the mount point stays behind, stale.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.process.kill().expect("it runs");
        self.process.wait().expect("it ends");
        std::mem::take(&mut self.path)
    }

    /// Whether the mount's process has ended.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.process.try_wait().expect("a child").is_some()
    }

    /// Waits for the mount's process to end by itself.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let process = &mut self.process;
        eventually("the mount's process to end", || process.try_wait().expect("a child"))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("---- log of the mount on {}\n{}", self.path.display(), self.log());
        }
        // It may be unmounted, or killed and left to the test, by now.
        if !self.path.as_os_str().is_empty() {
            let _ = unmount(&self.path, UnmountFlags::DETACH);
        }
        if let Ok(None) = self.process.try_wait() {
            let _ = kill_process(pid(self.process.id()), Signal::TERM);
            let _ = self.process.wait();
        }
    }
}

/// Unmounts by force when it is dropped: for mounts that this test did not start as children.
pub(crate) struct Detach(pub(crate) PathBuf);

impl Drop for Detach {
    fn drop(&mut self) {
        // Not mounted any more is as good.
        let _ = unmount(&self.0, UnmountFlags::DETACH);
    }
}

/// A process id of the system's.
pub(crate) fn pid(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Whether a program is there.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
