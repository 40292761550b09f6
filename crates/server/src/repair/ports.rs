//! What the workers of a disk need from outside: the cluster (leader and peers) and the store. Small
//! traits, so that the workers are tested against fakes and know neither HTTP nor segments.
//!
//! **Invariant:** every call here ends by itself: implementations put a deadline on each.

use async_trait::async_trait;
use bytes::Bytes;
use everhold_proto::map::{ClusterMap, Fullness};
use everhold_proto::rpc::{
    Compared, GetWork, ListMissing, MayDelete, MayDeleteReply, ReportBad, ReportLost,
    ReportRepaired, TablePage, TablePageReply,
};
use everhold_proto::table::{BlockEntry, Missing, PgWork};
use everhold_proto::{BlockId, DiskId, Error, PgId};
use std::sync::Arc;

/// The cluster as a disk sees it: the newest map the node has, the leader, and other disks.
#[async_trait]
pub trait Cluster: Send + Sync + 'static {
    /// The newest map that the node has.
    fn map(&self) -> Arc<ClusterMap>;
    /// What a disk has to do.
    async fn work(&self, ask: GetWork) -> Result<Vec<PgWork>, Error>;
    /// A page of a PG's block table.
    async fn table_page(&self, ask: TablePage) -> Result<TablePageReply, Error>;
    /// A page of recorded missing copies.
    async fn missing(&self, ask: ListMissing) -> Result<Vec<(BlockEntry, Missing)>, Error>;
    /// A comparison is done.
    async fn compared(&self, report: Compared) -> Result<(), Error>;
    /// Copies are there again.
    async fn repaired(&self, report: ReportRepaired) -> Result<(), Error>;
    /// Copies turned out bad. The answer tells whether the disk session has ended.
    async fn bad(&self, report: ReportBad) -> Result<bool, Error>;
    /// Every holder was asked, and none has these.
    async fn lost(&self, report: ReportLost) -> Result<(), Error>;
    /// What may be deleted.
    async fn may_delete(&self, ask: MayDelete) -> Result<MayDeleteReply, Error>;
    /// Blocks in the tables of these PGs; a hint.
    async fn count(&self, pgs: Vec<PgId>) -> Result<Vec<(PgId, u64)>, Error>;
    /// A whole block from another disk. `NotFound` and `Corrupt` mean that this disk has no good copy;
    /// every other error means that nobody knows.
    async fn fetch(&self, from: DiskId, pg: PgId, block: BlockEntry) -> Result<Bytes, Error>;
}

/// What a step of compaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Compacted {
    /// Nothing is worth it.
    Idle,
    /// Space was reclaimed; there may be more.
    Freed,
    /// These copies are damaged and hold space until they are replaced or deleted.
    Damaged(Vec<(PgId, BlockId)>),
}

/// The block store of one disk.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry of a block, from the index; nothing is read back.
    async fn stat(&self, id: BlockId) -> Result<Option<BlockEntry>, Error>;
    /// Reads the block back from the disk: its entry, `NotFound` or `Corrupt`.
    async fn verify(&self, id: BlockId) -> Result<BlockEntry, Error>;
    /// As `verify`, when nothing more important wants the disk.
    async fn scrub(&self, id: BlockId) -> Result<BlockEntry, Error> {
        self.verify(id).await
    }
    /// Stores a block durably. A copy that is there and is not this block is replaced.
    async fn restore(&self, pg: PgId, block: BlockEntry, data: Bytes) -> Result<(), Error>;
    /// Blocks of a PG with `after < id`, in id order, at most `limit`.
    async fn list(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockEntry>, Error>;
    /// The PGs of which blocks are held, with their number, in PG order.
    async fn pgs(&self) -> Result<Vec<(PgId, u64)>, Error>;
    /// Deletes durably; what is not there is fine.
    async fn delete(&self, ids: &[BlockId]) -> Result<(), Error>;
    /// How full the disk is.
    fn fullness(&self) -> Fullness;
    /// Reclaims dead space if that is worth it, a bounded step at a time.
    async fn compact(&self) -> Result<Compacted, Error>;
    /// Makes the index durable, so that a start replays little.
    async fn flush(&self) -> Result<(), Error>;
}
