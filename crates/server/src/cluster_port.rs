//! The cluster as this node's workers see it: the leader by RPC, other disks by the block wire.

use crate::node::Node;
use crate::repair::ports::Cluster;
use crate::services::Serve;
use async_trait::async_trait;
use bytes::Bytes;
use everhold_client::WireError;
use everhold_proto::map::ClusterMap;
use everhold_proto::rpc::{
    Compared, CountBlocks, GetWork, ListMissing, MayDelete, MayDeleteReply, ReportBad, ReportLost,
    ReportRepaired, TablePage, TablePageReply,
};
use everhold_proto::table::{BlockEntry, Missing, PgWork};
use everhold_proto::{DiskId, Error, Kind, PgId, Priority};
use std::sync::{Arc, Weak};
use std::time::Duration;

/// Calls to the leader. Workers try again later, so this only has to outlast an election.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// One block from a peer, 4 MiB at worst, behind its foreground work.
const FETCH_LIMIT: Duration = Duration::from_secs(10);

/// See the module's words. Holds the node weakly: workers end with their node.
pub(crate) struct ClusterPort(Weak<Node>);

impl ClusterPort {
    /// The port of `node`'s workers.
    pub(crate) fn new(node: Arc<Node>) -> Self {
        ClusterPort(Arc::downgrade(&node))
    }

    fn node(&self) -> Result<Arc<Node>, Error> {
        self.0.upgrade().ok_or_else(|| Error::new(Kind::Retry, "the node is stopping"))
    }

    async fn ask<R: Serve + Clone>(&self, request: R) -> Result<R::Reply, Error> {
        let node = self.node()?;
        let deadline = node.env.clock.now() + CALL_LIMIT;
        node.call_leader(&request, deadline).await
    }
}

#[async_trait]
impl Cluster for ClusterPort {
    fn map(&self) -> Arc<ClusterMap> {
        self.node().map(|node| node.map.current()).unwrap_or_default()
    }

    async fn work(&self, ask: GetWork) -> Result<Vec<PgWork>, Error> {
        self.ask(ask).await
    }

    async fn table_page(&self, ask: TablePage) -> Result<TablePageReply, Error> {
        self.ask(ask).await
    }

    async fn missing(&self, ask: ListMissing) -> Result<Vec<(BlockEntry, Missing)>, Error> {
        self.ask(ask).await
    }

    async fn compared(&self, report: Compared) -> Result<(), Error> {
        self.ask(report).await
    }

    async fn repaired(&self, report: ReportRepaired) -> Result<(), Error> {
        self.ask(report).await
    }

    async fn bad(&self, report: ReportBad) -> Result<bool, Error> {
        Ok(self.ask(report).await?.session_ended)
    }

    async fn lost(&self, report: ReportLost) -> Result<(), Error> {
        self.ask(report).await
    }

    async fn may_delete(&self, ask: MayDelete) -> Result<MayDeleteReply, Error> {
        self.ask(ask).await
    }

    async fn count(&self, pgs: Vec<PgId>) -> Result<Vec<(PgId, u64)>, Error> {
        self.ask(CountBlocks { pgs }).await
    }

    async fn fetch(&self, from: DiskId, pg: PgId, block: BlockEntry) -> Result<Bytes, Error> {
        let node = self.node()?;
        let map = node.map.current();
        let unknown = || Error::new(Kind::Retry, format!("nobody knows where {from} is"));
        let peer = map.node_of(from).ok_or_else(unknown)?;
        let now = node.env.clock.now();
        let deadline = now + FETCH_LIMIT;
        let priority = priority_of(&map, pg);
        let got =
            node.wire.fetch_block(&peer.address, from, pg, block.id, priority, deadline).await;
        match got {
            Ok((data, crc)) if data.len() == block.length as usize && crc == block.crc => Ok(data),
            Ok(_) => {
                let message = format!("{} on {from} is not the block of the table", block.id);
                Err(Error::new(Kind::Corrupt, message))
            }
            Err(e) => {
                if matches!(e, WireError::Transport { .. }) {
                    node.signals.unreachable(peer.id, now);
                }
                Err(e.into())
            }
        }
    }
}

/// What a copy is fetched for: a group that has its copies without it is merely being moved.
fn priority_of(map: &ClusterMap, pg: PgId) -> Priority {
    let moved = map.pgs.get(&pg).is_some_and(|pg| {
        let copies = map.policies.get(&pg.policy).map_or(1, |policy| usize::from(policy.copies));
        let full = pg.members.iter().filter(|m| m.is_full() && map.is_reachable(m.disk));
        full.count() >= copies
    });
    if moved { Priority::Rebalance } else { Priority::Repair }
}
