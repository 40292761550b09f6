//! The data directory of a node:
//!
//! ```text
//! node.json   who this node is: format, cluster, node id, uuid, addresses of peers
//! lock        held (flock) while a server runs
//! pid         process id of that server
//! disk0/      the block store; further disks are where `disk add` was told, each in a directory `everhold` there
//! raft/       Raft log and replicated state, while the node is in Raft
//! ```
//!
//! **Invariant:** the uuid is durable before it is first sent to anyone, so that a node that crashes
//! while it registers comes back as the same node.

use crate::disks::DISKS_MAX;
use crate::error::StartError;
use everhold_env::Env;
use everhold_proto::codec::FORMAT_VERSION;
use everhold_proto::{ClusterId, DiskId, NodeId, RaftId};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use tokio::sync::Mutex;

/// `node.json` with a full cluster's addresses stays far below this.
const NODE_FILE_BYTES_MAX: usize = 1 << 20;
const NODE_FILE: &str = "node.json";

/// Who a node is, as `node.json` has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeFile {
    /// Format version of the directory.
    pub(crate) format: u32,
    /// The node's own mark, 32 hexadecimal digits; drawn at the first start.
    pub(crate) uuid: String,
    /// The cluster, 32 hexadecimal digits, once it is known.
    pub(crate) cluster: Option<String>,
    /// The node's id, once it registered.
    pub(crate) node: Option<NodeId>,
    /// The node is creating its cluster with so many copies, and has not finished.
    pub(crate) bootstrap: Option<u8>,
    /// The mark of the disk in `disk0/`, 32 hexadecimal digits.
    pub(crate) disk_uuid: String,
    /// The id of the disk in `disk0/`, once it registered.
    pub(crate) disk: Option<DiskId>,
    /// Disks that were added later.
    #[serde(default)]
    pub(crate) more_disks: Vec<DiskFile>,
    /// The node's seat in Raft; the log in `raft/` is this one's.
    pub(crate) raft: Option<RaftId>,
    /// The highest Raft id that a log was ever made for here: none is made twice, because a lost log
    /// is a forgotten vote.
    pub(crate) raft_used: RaftId,
    /// How often it had registered when it last heard of it.
    #[serde(default)]
    pub(crate) boot: u64,
    /// What this directory is known by: the mark that it registered with last, and the one that it will
    /// register with next. A copy that is restored later has neither.
    #[serde(default)]
    pub(crate) marks: Vec<u64>,
    /// Addresses of the other nodes when last seen: whom to ask after a restart.
    pub(crate) peers: Vec<String>,
}

/// A disk beside the one in `disk0/`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct DiskFile {
    /// The directory that an operator gave.
    pub(crate) path: PathBuf,
    /// Its mark, 32 hexadecimal digits.
    pub(crate) uuid: String,
    /// Its id, once it registered.
    pub(crate) disk: Option<DiskId>,
    /// Bytes that it may hold; by default what the file system has.
    pub(crate) capacity_bytes: Option<u64>,
}

impl DiskFile {
    /// The bytes of its mark.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid.parse::<ClusterId>().ok().map(|id| id.0)
    }
}

impl NodeFile {
    /// The uuid's bytes.
    pub(crate) fn uuid(&self) -> Option<[u8; 16]> {
        self.uuid.parse::<ClusterId>().ok().map(|id| id.0)
    }

    /// The bytes of the disk's mark.
    pub(crate) fn disk_uuid(&self) -> Option<[u8; 16]> {
        self.disk_uuid.parse::<ClusterId>().ok().map(|id| id.0)
    }

    /// The cluster.
    pub(crate) fn cluster(&self) -> Option<ClusterId> {
        self.cluster.as_ref()?.parse().ok()
    }
}

/// An open data directory. The lock is released when this is dropped.
pub(crate) struct DataDirectory {
    env: Env,
    path: PathBuf,
    file: Mutex<NodeFile>,
    /// `None` in the simulator, which has no processes.
    _lock: Option<File>,
}

impl DataDirectory {
    /// Opens (or creates) and locks `path`, and reads or draws who this node is.
    pub(crate) async fn open(env: &Env, path: &Path) -> Result<Self, StartError> {
        let fail =
            |e: io::Error| StartError::Directory { path: path.into(), reason: e.to_string() };
        env.disk.create_dir_all(path).await.map_err(fail)?;
        let lock = if env.tasks.is_simulated() { None } else { Some(lock(path)?) };
        let node_path = path.join(NODE_FILE);
        let file = match env.disk.read_small(&node_path, NODE_FILE_BYTES_MAX).await {
            Ok(bytes) => parse(path, &bytes)?,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let file = fresh(env);
                save(env, &node_path, &file).await.map_err(fail)?;
                file
            }
            Err(e) => return Err(fail(e)),
        };
        let file = Mutex::new(file);
        Ok(DataDirectory { env: env.clone(), path: path.into(), file, _lock: lock })
    }

    /// What `node.json` has.
    pub(crate) async fn file(&self) -> NodeFile {
        self.file.lock().await.clone()
    }

    /// Changes `node.json`, durably, if `change` makes a difference.
    pub(crate) async fn change(&self, change: impl FnOnce(&mut NodeFile)) -> io::Result<()> {
        let mut file = self.file.lock().await;
        let mut changed = file.clone();
        change(&mut changed);
        if changed != *file {
            save(&self.env, &self.path.join(NODE_FILE), &changed).await?;
            *file = changed;
        }
        Ok(())
    }

    /// An error about this directory.
    pub(crate) fn error(&self, reason: impl ToString) -> StartError {
        StartError::Directory { path: self.path.clone(), reason: reason.to_string() }
    }

    /// Directory of the block store.
    pub(crate) fn disk_path(&self) -> PathBuf {
        self.path.join("disk0")
    }

    /// Directory of Raft.
    pub(crate) fn raft_path(&self) -> PathBuf {
        self.path.join("raft")
    }

    /// Removes the pid file: the server has ended cleanly.
    pub(crate) fn leave(&self) {
        if self._lock.is_some()
            && let Err(e) = std::fs::remove_file(self.path.join("pid"))
        {
            tracing::debug!(error = %e, "pid file not removed");
        }
    }
}

async fn save(env: &Env, path: &Path, file: &NodeFile) -> io::Result<()> {
    let text = serde_json::to_vec_pretty(file).map_err(io::Error::other)?;
    env.disk.write_atomic(path, &text).await
}

/// A mark that nobody else has.
pub(crate) fn draw_mark(env: &Env) -> String {
    let mut uuid = [0; 16];
    env.entropy.fill(&mut uuid);
    ClusterId(uuid).to_string()
}

fn fresh(env: &Env) -> NodeFile {
    let draw = || draw_mark(env);
    NodeFile {
        format: FORMAT_VERSION,
        uuid: draw(),
        disk_uuid: draw(),
        cluster: None,
        node: None,
        bootstrap: None,
        disk: None,
        more_disks: Vec::new(),
        raft: None,
        raft_used: RaftId(0),
        boot: 0,
        marks: Vec::new(),
        peers: Vec::new(),
    }
}

/// The version is looked at before anything else, because other versions may have other fields.
fn parse(path: &Path, bytes: &[u8]) -> Result<NodeFile, StartError> {
    let fail = |reason: String| StartError::Directory {
        path: path.into(),
        reason: format!("node.json: {reason}"),
    };
    let value: serde_json::Value =
        serde_json::from_slice(bytes).map_err(|e| fail(e.to_string()))?;
    let format = value.get("format").and_then(serde_json::Value::as_u64);
    let format = format.ok_or_else(|| fail("has no format version".into()))?;
    if format != u64::from(FORMAT_VERSION) {
        return Err(StartError::Format {
            what: format!("data directory {}", path.display()),
            theirs: format.try_into().unwrap_or(u32::MAX),
            ours: FORMAT_VERSION,
        });
    }
    let node: NodeFile = serde_json::from_value(value).map_err(|e| fail(e.to_string()))?;
    if node.uuid().is_none()
        || node.disk_uuid().is_none()
        || node.more_disks.iter().any(|disk| disk.uuid().is_none())
        || node.more_disks.len() >= DISKS_MAX
        || (node.cluster.is_some() && node.cluster().is_none())
    {
        return Err(fail("uuid or cluster is not 32 hexadecimal digits".into()));
    }
    Ok(node)
}

/// A file that is taken for one is the same again when it was saved.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn check_node_file(path: &Path, bytes: &[u8]) {
    if let Ok(file) = parse(path, bytes) {
        let saved = serde_json::to_vec_pretty(&file).expect("it has a JSON form");
        assert_eq!(parse(path, &saved).ok(), Some(file));
    }
}

fn lock(path: &Path) -> Result<File, StartError> {
    let fail = |e: io::Error| StartError::Directory { path: path.into(), reason: e.to_string() };
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join("lock"))
        .map_err(fail)?;
    let pid_path = path.join("pid");
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let pid = std::fs::read_to_string(&pid_path).unwrap_or_else(|_| "unknown".into());
            return Err(StartError::InUse { path: path.into(), pid: pid.trim().into() });
        }
        Err(e) => return Err(fail(e.into())),
    }
    let mut pid = File::create(&pid_path).map_err(fail)?;
    writeln!(pid, "{}", std::process::id()).map_err(fail)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory keeps its identity, is not opened twice, and another format is refused by name.
    #[tokio::test]
    async fn identity_lock_and_format() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let env = Env::real();
        let open = DataDirectory::open(&env, dir.path()).await.expect("opens");
        let first = open.file().await;
        let twice = DataDirectory::open(&env, dir.path()).await.err().expect("is locked");
        assert!(twice.to_string().contains(&std::process::id().to_string()), "{twice}");
        drop(open);
        let open = DataDirectory::open(&env, dir.path()).await.expect("opens again");
        assert_eq!(first, open.file().await);
        open.change(|file| file.format = 7).await.expect("saves");
        drop(open);
        let old = DataDirectory::open(&env, dir.path()).await.err().expect("is refused");
        assert!(
            old.to_string().contains("format 7") && old.to_string().contains("format 2"),
            "{old}"
        );
    }

    #[test]
    fn hostile_node_files_are_errors() {
        for bytes in [&b"{}"[..], b"", b"\xff", b"{\"format\":2}", b"[1]"] {
            assert!(parse(Path::new("/d"), bytes).is_err());
        }
    }
}
