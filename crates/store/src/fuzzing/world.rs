//! A store on a simulated disk, and blocks made of a seed.

use crate::{BlockBuf, BlockStore, OpenReport, StoreConfig, StoreError};
use everhold_env::disk::SimDisk;
use everhold_env::{Clock, Entropy, Env, Net, Tasks};
use everhold_proto::{BlockId, ClusterId, PgId, SessionId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) const CLUSTER: ClusterId = ClusterId([7; 16]);
pub(crate) const PG: PgId = PgId(3);

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) env: Env,
    pub(crate) config: StoreConfig,
    pub(crate) dir: PathBuf,
}

impl World {
    pub(crate) fn new() -> Self {
        let disk = SimDisk::new();
        let env = Env {
            clock: Clock::real(),
            entropy: Entropy::seeded(1),
            net: Net::real(),
            disk: Arc::new(disk.clone()),
            tasks: Tasks::simulated(1),
            witness: everhold_env::Witnesses::none(),
        };
        let config = StoreConfig {
            segment_bytes: 256 << 10,
            capacity_bytes: Some(4 << 20),
            reserve_bytes: 64 << 10,
            flush_interval: Duration::from_secs(3600),
            ..StoreConfig::new(CLUSTER)
        };
        World { disk, env, config, dir: PathBuf::from("/disk") }
    }

    pub(crate) async fn try_open(&self) -> Result<(Arc<BlockStore>, OpenReport), StoreError> {
        BlockStore::open(&self.env, &self.dir, self.config.clone()).await
    }

    pub(crate) async fn open(&self) -> Arc<BlockStore> {
        self.open_with_report().await.0
    }

    pub(crate) async fn open_with_report(&self) -> (Arc<BlockStore>, OpenReport) {
        self.try_open().await.expect("the store opens")
    }

    pub(crate) fn segment(&self, slot: u32) -> PathBuf {
        self.dir.join(format!("segments/{slot:08}.seg"))
    }

    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }
}

pub(crate) fn id(counter: u64) -> BlockId {
    BlockId { session: SessionId(5), counter }
}

/// Bytes that follow from a seed.
pub(crate) fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    Entropy::seeded(seed).fill(&mut out);
    out
}

pub(crate) async fn put(
    store: &BlockStore,
    counter: u64,
    data: &[u8],
) -> Result<crate::Put, StoreError> {
    put_as(store, id(counter), PG, data).await
}

pub(crate) async fn put_as(
    store: &BlockStore,
    id: BlockId,
    pg: PgId,
    data: &[u8],
) -> Result<crate::Put, StoreError> {
    let buf = BlockBuf::copy_of(data)?;
    let crc = buf.crc();
    store.put(id, pg, crc, buf).await
}
