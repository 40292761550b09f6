//! Lets a disk of this node go that is empty: out of the cluster first, then out of `node.json`.
//!
//! **Invariant:** the cluster forgets a disk before its node does, and only when no placement group names it. A node that
//! crashes in between hears of it when the disk registers, and lets it go then.

use crate::node::Node;
use everhold_proto::command::MapCommand;
use everhold_proto::rpc::{ChangeMap, RemovedDisk};
use everhold_proto::{DiskId, Error, Kind};
use std::sync::Arc;
use tokio::time::Instant;

/// Removes an added disk, as an operator orders.
pub(crate) async fn remove(
    node: &Arc<Node>,
    disk: DiskId,
    deadline: Instant,
) -> Result<RemovedDisk, Error> {
    let adding = node.env.clock.until(deadline, node.adding.lock()).await;
    let _adding = adding.map_err(|_| Error::new(Kind::Busy, "another disk is being added"))?;
    let file = node.directory.file().await;
    if file.disk == Some(disk) {
        let of = node.registration.node().map_or("its node".into(), |id| id.to_string());
        let text = format!(
            "{disk} lies beside the metadata of {of} and goes with it: `everhold node remove {of}`"
        );
        return Err(Error::new(Kind::Conflict, text));
    }
    let Some(added) = file.more_disks.iter().find(|more| more.disk == Some(disk)) else {
        return Err(Error::new(Kind::NotFound, format!("{disk} is no disk of this node")));
    };
    match node.call_leader(&ChangeMap(MapCommand::RemoveDisk { disk }), deadline).await {
        Ok(()) => {}
        // An earlier order got so far.
        Err(e) if e.kind == Kind::NotFound => {}
        Err(e) => return Err(e),
    }
    forget(node, disk).await?;
    Ok(RemovedDisk { path: added.path.display().to_string() })
}

/// Whether the cluster has let the disk go, by a map that knows this node.
pub(crate) async fn is_removed(node: &Arc<Node>, disk: DiskId, deadline: Instant) -> bool {
    let added = node.directory.file().await.more_disks.iter().any(|more| more.disk == Some(disk));
    if !added || node.refresh_map(deadline).await.is_err() {
        return false;
    }
    let map = node.map.current();
    let known = node.registration.node().is_some_and(|id| map.nodes.contains_key(&id));
    known && !map.disks.contains_key(&disk)
}

/// The node has this disk no more: its files are closed, and a restart does not open them.
pub(crate) async fn forget(node: &Node, disk: DiskId) -> Result<(), Error> {
    let seat = node.disks.remove(disk);
    let saved = node.directory.change(|file| file.more_disks.retain(|m| m.disk != Some(disk)));
    let saved = saved.await.map_err(|e| Error::new(Kind::Internal, format!("node.json: {e}")));
    if let Some(seat) = seat
        && let Err(e) = seat.store.close().await
    {
        tracing::warn!(%disk, error = %e, "the block store of a removed disk did not close cleanly");
    }
    tracing::info!(%disk, "a disk was removed");
    saved
}
