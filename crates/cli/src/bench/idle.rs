//! Resident memory of a node that is idle with many small blocks: they are put into its store
//! directly, under a placement group that does not exist, while it is stopped.

use crate::connect::Admin;
use crate::exit::{CliError, CliResult, Exit};
use crate::local::{ClusterFile, Lifetime, LocalCluster, Plan, wait_ready};
use crate::output::{json, line, size};
use bytes::Bytes;
use everhold_env::Env;
use everhold_proto::checksum::crc32c;
use everhold_proto::{BlockId, PgId, SessionId};
use everhold_store::{BlockBuf, BlockStore, StoreConfig, StoreError};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// No cluster makes so many groups, so nobody has an opinion on these blocks.
const NOBODYS_PG: PgId = PgId(u32::MAX - 1);
const LIMIT_BYTES: u64 = 200 << 20;
const BLOCK_BYTES: usize = 64;
const PUTS_AT_ONCE: usize = 512;
/// What "idle" waits for: start-up work is over.
const SETTLE: Duration = Duration::from_secs(10);
const SERVE_LIMIT: Duration = Duration::from_secs(120);

/// Fills, starts, measures.
pub(super) async fn run(blocks: u64, as_json: bool) -> CliResult {
    let temporary = std::env::temp_dir();
    let dir = tempfile::tempdir_in(&temporary).map_err(|e| CliError::local(&temporary, &e))?;
    let path = dir.path().canonicalize().map_err(|e| CliError::local(dir.path(), &e))?;
    let file = ClusterFile::plan(&Plan {
        nodes: 1,
        zones: 1,
        copies: 1,
        port_base: None,
        capacity_bytes: None,
        segment_bytes: None,
    })?;
    file.write(&path)?;
    let mut cluster = LocalCluster::new(path, file, Lifetime::WithParent);
    let status = wait_ready(&mut cluster, |text| eprintln!("{text}")).await?;
    cluster.stop(1)?;
    eprintln!("putting {blocks} blocks of {BLOCK_BYTES} bytes …");
    let config = StoreConfig::new(status.map.cluster);
    let store = cluster.node_dir(1).path().join("disk0");
    fill(&store, config, blocks).await.map_err(|e| {
        CliError::new(
            Exit::Failed,
            e.to_string(),
            "the store needs 8 KiB per block; check the disk's space",
        )
    })?;
    let address = cluster.node(1)?.address.clone();
    cluster.start(1)?;
    let admin = Admin::of_cluster(std::slice::from_ref(&address), status.map.cluster);
    let deadline = Instant::now() + SERVE_LIMIT;
    while admin.node_status(&address).await.is_err() && Instant::now() < deadline {
        sleep(Duration::from_millis(100)).await;
    }
    sleep(SETTLE).await;
    let status = admin.node_status(&address).await?;
    let held: u64 = status.disks.iter().map(|disk| disk.blocks).sum();
    let met = status.resident_bytes < LIMIT_BYTES && held >= blocks;
    if as_json {
        json(&serde_json::json!({
            "blocks": held, "resident_bytes": status.resident_bytes,
            "limit_bytes": LIMIT_BYTES, "pass": met,
        }))?;
    } else {
        line(format!(
            "{held} blocks, {} resident (limit {})",
            size(status.resident_bytes, false),
            size(LIMIT_BYTES, false)
        ))?;
    }
    if met {
        return Ok(());
    }
    Err(CliError::new(Exit::Failed, "the limit is not kept", "measure a release build"))
}

async fn fill(dir: &Path, config: StoreConfig, blocks: u64) -> Result<(), StoreError> {
    let (store, _) = BlockStore::open(&Env::real(), dir, config).await?;
    let put = |counter: u64| {
        let store = store.clone();
        async move {
            let mut data = [0x5a; BLOCK_BYTES];
            data[..8].copy_from_slice(&counter.to_le_bytes());
            let data = Bytes::copy_from_slice(&data);
            // Session 0 never writes: these ids are nobody else's.
            let id = BlockId { session: SessionId(0), counter };
            store.put(id, NOBODYS_PG, crc32c(&data), BlockBuf::copy_of(&data)?).await
        }
    };
    stream::iter(0..blocks)
        .map(|counter| Ok(put(counter)))
        .try_buffer_unordered(PUTS_AT_ONCE)
        .try_for_each(|_| async { Ok(()) })
        .await?;
    store.flush().await?;
    store.close().await
}
