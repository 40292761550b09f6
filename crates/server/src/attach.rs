//! Opens the disks of a node: all at its start, and one more at run time.
//!
//! **Invariant:** an added disk is in `node.json`, with its mark, before anything of it is told to anybody: a node that
//! crashes meanwhile has it after its restart. A directory that holds anything else is never touched.

use crate::config::ServerConfig;
use crate::directory::{DataDirectory, DiskFile, draw_mark};
use crate::disk::DiskSeat;
use crate::disks::DISKS_MAX;
use crate::error::StartError;
use crate::node::Node;
use everhold_env::Env;
use everhold_proto::rpc::{AddDisk, RegisteredDisk};
use everhold_proto::{ByteSize, ClusterId, DiskId, Error, Kind};
use everhold_store::{BlockStore, StoreConfig};
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is made in the directory that an operator gives: a mount point has a `lost+found` beside it.
const STORE: &str = "everhold";
/// What may be in it before.
const IGNORED: [&str; 1] = ["lost+found"];
/// Whether an added disk is in service is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What the disks of a node are at its start.
pub(crate) struct Opened {
    /// Those that work.
    pub(crate) disks: Vec<Arc<DiskSeat>>,
    /// Added ones that do not, with the reason. The node goes on without them.
    pub(crate) failed: Vec<(DiskId, String)>,
}

/// Opens all of them. The first one lies beside the metadata: without it there is no node.
pub(crate) async fn open_all(
    env: &Env,
    config: &ServerConfig,
    directory: &DataDirectory,
    cluster: ClusterId,
) -> Result<Opened, StartError> {
    let file = directory.file().await;
    let uuid = file.disk_uuid().ok_or_else(|| directory.error("node.json: malformed disk uuid"))?;
    let capacity = config.capacity.map(|capacity| capacity.0);
    let first =
        open(env, config, cluster, &directory.disk_path(), uuid, file.disk, capacity).await?;
    let mut opened = Opened { disks: vec![Arc::new(first)], failed: Vec::new() };
    for disk in &file.more_disks {
        let uuid = disk.uuid().ok_or_else(|| directory.error("node.json: malformed disk uuid"))?;
        let path = disk.path.join(STORE);
        match open_again(env, config, cluster, &path, uuid, disk).await {
            Ok(seat) => opened.disks.push(Arc::new(seat)),
            Err(e) => {
                tracing::error!(path = %path.display(), error = %e, "a disk cannot be opened; the node starts without it");
                opened.failed.extend(disk.disk.map(|id| (id, e.to_string())));
            }
        }
    }
    Ok(opened)
}

/// A disk that was added before. Its directory must be there: an empty mount point is a device that is not mounted, and
/// making a new store in it would only hide that.
async fn open_again(
    env: &Env,
    config: &ServerConfig,
    cluster: ClusterId,
    path: &Path,
    uuid: [u8; 16],
    disk: &DiskFile,
) -> Result<DiskSeat, StartError> {
    let fail = |reason: String| StartError::Directory { path: path.into(), reason };
    let there = env.disk.list(path).await.map_err(|e| fail(e.to_string()))?;
    if disk.disk.is_some() && there.is_empty() {
        return Err(fail("is empty: is the device mounted?".into()));
    }
    open(env, config, cluster, path, uuid, disk.disk, disk.capacity_bytes).await
}

async fn open(
    env: &Env,
    config: &ServerConfig,
    cluster: ClusterId,
    path: &Path,
    uuid: [u8; 16],
    id: Option<DiskId>,
    capacity: Option<u64>,
) -> Result<DiskSeat, StartError> {
    let mut store = StoreConfig::new(cluster);
    if let Some(capacity) = capacity {
        store = store.sized_for(capacity);
        store.capacity_bytes = Some(capacity);
    }
    store.segment_bytes = store.segment_bytes.min(config.segment_bytes.0);
    store.disk = id;
    let opened = BlockStore::open(env, path, store).await;
    let (store, report) =
        opened.map_err(|source| StartError::Store { path: path.into(), source })?;
    tracing::info!(?report, path = %path.display(), "block store open");
    let formatted = store.disk().await.or(id);
    Ok(DiskSeat::new(path.into(), uuid, formatted, store))
}

/// Takes one more disk into service, and answers once it is.
pub(crate) async fn add(
    node: &Arc<Node>,
    ask: &AddDisk,
    deadline: Instant,
) -> Result<RegisteredDisk, Error> {
    let late = || Error::new(Kind::Retry, "the disk was added and is not in service yet");
    let path = PathBuf::from(&ask.path);
    check_path(&path)?;
    let adding = node.env.clock.until(deadline, node.adding.lock()).await;
    let _adding = adding.map_err(|_| Error::new(Kind::Busy, "another disk is being added"))?;
    let known = node.disks.all().iter().find(|seat| seat.path == path.join(STORE)).cloned();
    let seat = match known {
        Some(seat) => seat,
        None => attach(node, &path, ask.capacity_bytes).await?,
    };
    let in_service = async {
        loop {
            if let (Some(disk), Some(session)) = (seat.id(), seat.session()) {
                return RegisteredDisk { disk, session };
            }
            node.env.clock.sleep(LOOK_EVERY).await;
        }
    };
    node.env.clock.until(deadline, in_service).await.map_err(|_| late())
}

async fn attach(
    node: &Arc<Node>,
    path: &Path,
    capacity_bytes: Option<u64>,
) -> Result<Arc<DiskSeat>, Error> {
    check_room(node, path, capacity_bytes).await?;
    let place = path.join(STORE);
    let told = |e: io::Error| Error::new(Kind::Invalid, format!("{}: {e}", place.display()));
    // What a try that broke off left in `node.json` is taken up again, under the same mark.
    let file = node.directory.file().await;
    let before = file.more_disks.iter().find(|disk| disk.path == path).cloned();
    let disk = before.clone().unwrap_or_else(|| DiskFile {
        path: path.into(),
        uuid: draw_mark(&node.env),
        disk: None,
        capacity_bytes,
    });
    if before.is_none() {
        check_empty(&node.env, path).await?;
        let added = disk.clone();
        let saved = node.directory.change(|file| file.more_disks.push(added)).await;
        saved.map_err(|e| Error::new(Kind::Internal, format!("node.json: {e}")))?;
    }
    node.env.disk.create_dir_all(&place).await.map_err(told)?;
    let uuid = disk.uuid().expect("it was drawn, or read from a checked file");
    let seat =
        open(&node.env, &node.config, node.cluster, &place, uuid, disk.disk, disk.capacity_bytes);
    let seat = Arc::new(seat.await.map_err(|e| Error::new(Kind::Invalid, e.to_string()))?);
    node.disks.add(seat.clone());
    if node.added.send(seat.clone()).await.is_err() {
        return Err(Error::new(Kind::Retry, "the node is stopping"));
    }
    Ok(seat)
}

fn check_path(path: &Path) -> Result<(), Error> {
    let plain = |part: Component| matches!(part, Component::RootDir | Component::Normal(_));
    if path.is_absolute() && path.components().all(plain) {
        return Ok(());
    }
    let text = format!("{} is not an absolute path without `.` and `..`", path.display());
    Err(Error::new(Kind::Invalid, text))
}

async fn check_room(node: &Node, path: &Path, capacity: Option<u64>) -> Result<(), Error> {
    let invalid = |text: String| Err(Error::new(Kind::Invalid, text));
    let disks = node.disks.all();
    if disks.len() >= DISKS_MAX {
        return invalid(format!("a node has {DISKS_MAX} disks at most"));
    }
    let segment = node.config.segment_bytes;
    if capacity.is_some_and(|bytes| bytes < 2 * segment.0) {
        return invalid(format!("the capacity is less than two segments of {segment}"));
    }
    let taken = disks.iter().map(|seat| seat.path.clone()).chain([node.config.data_dir.clone()]);
    for other in taken {
        if path.starts_with(&other) || other.starts_with(path.join(STORE)) {
            return invalid(format!("{} lies within {}", path.display(), other.display()));
        }
    }
    Ok(())
}

/// A directory with anything of somebody else in it is left alone.
async fn check_empty(env: &Env, path: &Path) -> Result<(), Error> {
    let told = |e: io::Error| Error::new(Kind::Invalid, format!("{}: {e}", path.display()));
    let names = env.disk.list(path).await.map_err(told)?;
    let ignored =
        |path: &PathBuf| IGNORED.iter().any(|name| path.file_name() == Some(name.as_ref()));
    match names.iter().find(|name| !ignored(name)) {
        None => Ok(()),
        Some(other) => {
            let text = format!("{} is not empty: there is {}", path.display(), other.display());
            Err(Error::new(Kind::Invalid, text))
        }
    }
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let capacities = self.disks.iter().map(|disk| ByteSize(disk.store.space().capacity));
        f.debug_list().entries(capacities).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_absolute_paths_are_taken() {
        for good in ["/srv/disk1", "/d"] {
            assert!(check_path(Path::new(good)).is_ok(), "{good}");
        }
        for bad in ["disk1", "/srv/../etc", "", "./d"] {
            assert!(check_path(Path::new(bad)).is_err(), "{bad}");
        }
    }

    /// What belongs to somebody else is left alone; an empty file system is not.
    #[tokio::test]
    async fn directories_in_use_are_refused() {
        let (env, dir) = (Env::real(), tempfile::tempdir().expect("temporary directory"));
        assert!(check_empty(&env, &dir.path().join("nowhere")).await.is_err());
        std::fs::create_dir(dir.path().join("lost+found")).expect("is made");
        assert!(check_empty(&env, dir.path()).await.is_ok());
        std::fs::write(dir.path().join("photo"), b"x").expect("is written");
        let refused = check_empty(&env, dir.path()).await.expect_err("is in use");
        assert!(refused.message.contains("photo"), "{refused}");
    }
}
