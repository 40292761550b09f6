//! Which log a replica starts with: a new one, or the one that is there.

use super::identity::{self, IdentityFile, LogIdentity, Mark};
use super::record::{self, Base, Record};
use super::{frame, segment};
use crate::{ConsensusConfig, ConsensusError};
use everhold_env::Env;
use everhold_proto::{ClusterId, NodeId};
use std::path::Path;

/// Whose log to open.
#[derive(Clone, Copy, Debug)]
pub enum Opening {
    /// Create a log for a member that never ran before (its boot counter starts at 1).
    New(LogIdentity),
    /// Open the log that is there; it must belong to this cluster and node.
    Existing {
        /// The cluster it must belong to.
        cluster: ClusterId,
        /// The node it must belong to.
        node: NodeId,
    },
}

/// The identity of the log that is there.
pub(super) async fn existing(
    env: &Env,
    dir: &Path,
    cluster: ClusterId,
    node: NodeId,
) -> Result<IdentityFile, ConsensusError> {
    let path = dir.join(identity::FILE_NAME);
    let Some(file) = IdentityFile::read(env, dir).await? else {
        return Err(ConsensusError::Incomplete { path, reason: "there is no identity".into() });
    };
    let found = file.identity;
    if (found.cluster, found.node) != (cluster, node) {
        let name = |c: ClusterId, n: NodeId| format!("node {n} of cluster {c}");
        return Err(ConsensusError::Foreign {
            path,
            found: name(found.cluster, found.node),
            wanted: name(cluster, node),
        });
    }
    Ok(file)
}

/// Makes the first segment, then the identity: the other way round a crash between the two would
/// leave an identity without its log.
pub(super) async fn create(
    env: &Env,
    dir: &Path,
    config: &ConsensusConfig,
    identity: LogIdentity,
) -> Result<IdentityFile, ConsensusError> {
    let failed = || ConsensusError::io(format!("create a raft log in {}", dir.display()));
    if IdentityFile::read(env, dir).await?.is_some() {
        return Err(ConsensusError::Exists(dir.to_owned()));
    }
    let leftover = segment::list(env, dir).await.map_err(failed())?;
    if leftover.iter().any(|n| *n != 1) || (leftover == [1] && !is_unused(env, dir).await?) {
        let reason = "there is a log but no identity".into();
        return Err(ConsensusError::Incomplete { path: dir.to_owned(), reason });
    }
    let file = segment::create(env, dir, 1, config.segment_bytes).await.map_err(failed())?;
    let mut payload = Vec::new();
    record::encode(&Record::Base(Base::default()), &mut payload);
    let first = frame::encode(1, 1, 0, &payload, None);
    let synced = Mark { segment: 1, end: first.len() as u64 };
    file.write_at(0, first).await.map_err(failed())?;
    file.sync_data().await.map_err(failed())?;
    let created = IdentityFile { identity: LogIdentity { boot_counter: 0, ..identity }, synced };
    created.write(env, dir).await.map_err(failed())?;
    Ok(created)
}

/// Whether segment 1 is what an interrupted creation leaves: nothing but its base.
async fn is_unused(env: &Env, dir: &Path) -> Result<bool, ConsensusError> {
    let image = segment::Image::read(env, dir, 1).await?;
    Ok(match image.frame_at(0, None) {
        Some((header, _)) => !image.has_frame_after(0, header.sequence),
        None => !image.has_frame_after(0, 0),
    })
}
