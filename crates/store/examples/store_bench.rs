//! How fast the store is, next to the bare disk under it: puts of large and small blocks with many
//! at once, reads of whole blocks and of 4 KiB, for several page sizes. Takes a directory on the
//! disk to be measured; uses about 3 GiB there and removes it again.

use everhold_env::{ALIGNMENT, AlignedBuf, Env, OpenMode};
use everhold_proto::{BlockId, ClusterId, PgId, SessionId};
use everhold_store::{BlockBuf, BlockStore, StoreConfig};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Duration;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// One measurement: operations, bytes, and what they took.
struct Took {
    count: u64,
    bytes: u64,
    elapsed: Duration,
    cpu: Duration,
}

fn cpu() -> Duration {
    let usage = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(usage.tv_sec as u64, usage.tv_nsec as u32)
}

async fn measure(
    env: &Env,
    count: u64,
    bytes: u64,
    work: impl Future<Output = Result<()>>,
) -> Result<Took> {
    let (start, before) = (env.clock.now(), cpu());
    work.await?;
    Ok(Took { count, bytes, elapsed: start.elapsed(), cpu: cpu() - before })
}

fn report(what: &str, took: &Took) {
    let seconds = took.elapsed.as_secs_f64();
    let total = (took.count * took.bytes) as f64;
    println!(
        "{what:34} {:8.0} MiB/s {:9.0} ops/s {:7.3} CPU s/GiB {:7.1} us CPU/op",
        total / seconds / f64::from(1 << 20),
        took.count as f64 / seconds,
        took.cpu.as_secs_f64() / total * f64::from(1 << 30),
        took.cpu.as_secs_f64() * 1e6 / took.count as f64,
    );
}

/// Writes of `bytes` into a file filled before, a sync after each group of `at_once`.
async fn raw(env: &Env, dir: &Path, bytes: usize, count: u64, at_once: usize) -> Result<Took> {
    let path = dir.join("raw");
    let file = env.disk.open(&path, OpenMode { create: true, direct: true }).await?;
    let size = 512u64 << 20;
    file.set_len_zeroed(size).await?;
    let data = vec![0xa5; bytes];
    let took = measure(env, count, bytes as u64, async {
        let step = bytes.next_multiple_of(ALIGNMENT) as u64;
        for first in (0..count).step_by(at_once) {
            stream::iter(first..count.min(first + at_once as u64))
                .map(|i| file.write_at(i * step % (size - step), AlignedBuf::copy_of(&data)))
                .buffer_unordered(at_once)
                .try_for_each(|_| async { Ok(()) })
                .await?;
            file.sync_data().await?;
        }
        Ok(())
    })
    .await?;
    env.disk.remove(&path).await?;
    Ok(took)
}

fn id(counter: u64) -> BlockId {
    BlockId { session: SessionId(1), counter }
}

async fn puts(
    env: &Env,
    store: &BlockStore,
    first: u64,
    bytes: usize,
    count: u64,
    at_once: usize,
) -> Result<Took> {
    let data: Vec<u8> = (0..bytes).map(|i| (i * 31 % 251) as u8).collect();
    let crc = everhold_proto::checksum::crc32c(&data);
    measure(env, count, bytes as u64, async {
        stream::iter(first..first + count)
            .map(|i| {
                let data = &data;
                async move { store.put(id(i), PgId(1), crc, BlockBuf::copy_of(data)?).await }
            })
            .buffer_unordered(at_once)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(())
    })
    .await
}

async fn gets(
    env: &Env,
    store: &BlockStore,
    blocks: u64,
    len: u32,
    count: u64,
    at_once: usize,
) -> Result<Took> {
    measure(env, count, u64::from(len), async {
        stream::iter(0..count)
            .map(|_| {
                let start = env.entropy.below(u64::from((4 << 20) - len + 1)) as u32 / 4096 * 4096;
                store.get(id(env.entropy.below(blocks)), start..start + len)
            })
            .buffer_unordered(at_once)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(())
    })
    .await
}

async fn with_page_size(env: &Env, dir: &Path, page_bytes: u32) -> Result<()> {
    let dir = dir.join(format!("store-{page_bytes}"));
    let config = StoreConfig {
        segment_bytes: 128 << 20,
        capacity_bytes: Some(2 << 30),
        page_bytes,
        ..StoreConfig::new(ClusterId([1; 16]))
    };
    let (store, _) = BlockStore::open(env, &dir, config).await?;
    println!("pages of {} KiB", page_bytes >> 10);
    report("  put 4 MiB, 8 at once", &puts(env, &store, 0, 4 << 20, 192, 8).await?);
    report("  put 16 KiB, 16 at once", &puts(env, &store, 1 << 20, 16 << 10, 12_000, 16).await?);
    report("  put 16 KiB, 1 at once", &puts(env, &store, 2 << 20, 16 << 10, 1_000, 1).await?);
    report("  get 4 MiB, 4 at once", &gets(env, &store, 192, 4 << 20, 192, 4).await?);
    report("  get 4 KiB at random, 16 at once", &gets(env, &store, 192, 4096, 20_000, 16).await?);
    store.close().await?;
    drop(store);
    std::fs::remove_dir_all(&dir)?;
    Ok(())
}

fn main() -> Result<()> {
    let parent = std::env::args_os().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = tempfile::Builder::new().prefix("store-bench").tempdir_in(parent)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let env = Env::real();
        println!("bare disk, direct, a sync after each group");
        report("  write 4 MiB, 8 at once", &raw(&env, dir.path(), 4 << 20, 192, 8).await?);
        report("  write 20 KiB, 16 at once", &raw(&env, dir.path(), 20 << 10, 12_000, 16).await?);
        for page_bytes in [8 << 10, 16 << 10, 32 << 10] {
            with_page_size(&env, dir.path(), page_bytes).await?;
        }
        Ok(())
    })
}
