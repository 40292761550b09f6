//! New files whose bytes go into blocks: the file has its size and its place in the order of changes at once, and its
//! blocks are written meanwhile. Nothing after it is told before that.

use super::Behind;
use super::holdings::Done;
use crate::blocks::{Part, Written};
use crate::client::Client;
use crate::error::Result;
use crate::file::SMALL_MAX;
use bytes::Bytes;
use everhold_proto::fs::{Attr, Content, FsOp, FsReply};
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::map::{ClusterMap, Fullness};
use everhold_proto::{InodeId, PolicyId, SessionId};
use futures_util::future::try_join_all;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::time::Instant;

/// Files whose blocks are written at once. Their bytes are bounded by the queue.
pub(super) const FILES_MAX: usize = 16;
/// Bytes of one file: a larger one is bound by its blocks anyway, and its writer can as well wait for them.
const BYTES_MAX: usize = 8 << 20;
/// Between tries to write the blocks of one file.
pub(super) const PAUSE: Duration = Duration::from_millis(500);

/// The commit of blocks that were written.
pub(crate) type Make = Box<dyn Fn(Content) -> FsOp + Send + Sync>;

/// Blocks that a commit names. They are kept until the cluster has taken them: else they are written anew.
pub(crate) struct Rewrite {
    pub(crate) policy: PolicyId,
    pub(crate) written: Vec<Written>,
    pub(crate) make: Make,
    /// How often they were written anew already.
    pub(crate) rounds: usize,
}

/// What an empty file is to be filled with.
pub(crate) struct Filling {
    pub(crate) policy: PolicyId,
    /// Its size afterwards, and the bytes that are allocated for it.
    pub(crate) size: u64,
    pub(crate) allocated: u64,
    pub(crate) blocks: Vec<Block>,
    pub(crate) make: Make,
}

/// One block of them: where it goes in the file, its bytes, and the runs that it is made of if these are several.
#[derive(Clone)]
pub(crate) struct Block {
    pub(crate) offset: u64,
    pub(crate) bytes: Bytes,
    pub(crate) parts: Vec<Part>,
}

impl Block {
    /// What was written, to be written again.
    pub(super) fn of(written: &Written) -> Self {
        let (offset, bytes, parts) = (written.offset, written.data.clone(), written.parts.clone());
        Block { offset, bytes, parts }
    }

    /// Bytes that it keeps from others.
    fn memory(&self) -> usize {
        match self.bytes.len() {
            length if length <= SMALL_MAX => length,
            _ => BLOCK_BYTES_MAX,
        }
    }
}

impl Behind {
    /// Fills an empty file that is known here. Gives everything back when it is not, or is too much.
    pub(crate) async fn fill(
        self: &Arc<Self>,
        client: &Arc<Client>,
        inode: InodeId,
        filling: Filling,
        deadline: Instant,
    ) -> Result<Attr, Filling> {
        let bytes = filling.blocks.iter().map(Block::memory).sum();
        if bytes > BYTES_MAX || !has_room(&client.view.map()) {
            return Err(filling);
        }
        if self.until_room(&client.env.clock, deadline).await.is_err() {
            return Err(filling);
        }
        let now = client.env.clock.now();
        let mut state = self.state.lock();
        // Where it belongs to another session, the commit itself is refused.
        let may = client.bound.allows_file(inode, state.session);
        if !client.holds_at(now) || !state.activity.is_active() || !may {
            return Err(filling);
        }
        let (size, allocated, at) = (filling.size, filling.allocated, client.env.clock.wall());
        let Some(done) = state.holdings.fill(inode, size, allocated, at) else {
            return Err(filling);
        };
        let Done { reply, then, bears } = done;
        let FsReply::Attr(attr) = reply else { unreachable!("a fill answers with attributes") };
        state.activity.changed(now);
        let number = state.queue.push_writing(bytes, then, bears, now);
        let session = state.session;
        drop(state);
        let (behind, weak) = (self.clone(), Arc::downgrade(client));
        client.env.tasks.detach(async move {
            behind.write_blocks(weak, session, inode, number, filling).await;
        });
        Ok(attr)
    }

    /// Writes the blocks of a file, however long it takes, as long as the session lives.
    async fn write_blocks(
        &self,
        client: Weak<Client>,
        session: SessionId,
        inode: InodeId,
        number: u64,
        filling: Filling,
    ) {
        // The others end when their blocks are written, or with the session.
        let _turn = self.filling.acquire().await.expect("the semaphore is never closed");
        let result = loop {
            // Who holds no client any more waits for nothing.
            let Some(client) = client.upgrade() else { return };
            if client.session_id() != session {
                return; // what waits was lost with the session
            }
            match write_all(&client, filling.policy, &filling.blocks).await {
                Ok(written) => break Ok(written),
                Err(e) if e.fs().is_some() => break Err(e),
                Err(e) => {
                    tracing::info!(%inode, error = %e, "blocks could not be written yet");
                    client.env.clock.sleep(PAUSE).await;
                }
            }
        };
        let Filling { policy, make, .. } = filling;
        let result = result.map(|written| Rewrite { policy, written, make, rounds: 0 });
        let mut state = self.state.lock();
        if state.session == session {
            state.queue.written(number, result);
        }
        drop(state);
        self.work.notify_one();
    }
}

/// While a disk is nearly full, writers wait for their blocks, so that they hear of it when there is no space.
fn has_room(map: &ClusterMap) -> bool {
    map.disks.values().all(|disk| disk.fullness == Fullness::Normal)
}

pub(super) async fn write_all(
    client: &Client,
    policy: PolicyId,
    blocks: &[Block],
) -> Result<Vec<Written>> {
    let deadline = client.deadline();
    let blocks = blocks.iter().cloned();
    let writes = blocks.map(|block| client.write_one(policy, block, None, deadline));
    try_join_all(writes).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::map::{Disk, DiskState};
    use everhold_proto::{DiskId, NodeId};

    #[test]
    fn writers_wait_while_a_disk_is_nearly_full() {
        let mut map = ClusterMap::default();
        for (id, fullness, room) in [
            (1, Fullness::Normal, true),
            (2, Fullness::Nearfull, false),
            (2, Fullness::Full, false),
            (2, Fullness::Normal, true),
        ] {
            let (id, state) = (DiskId(id), DiskState::In);
            let (uuid, session) = ([0; 16], Default::default());
            let (capacity_bytes, used_bytes, node) = (0, 0, NodeId(1));
            let disk =
                Disk { id, uuid, node, session, capacity_bytes, used_bytes, fullness, state };
            map.disks.insert(id, disk);
            assert_eq!(has_room(&map), room, "{fullness:?}");
        }
    }
}
