//! Clients that ask for far more than there is, while a node is slow.

use crate::real::reliability::bench::Bench;
use crate::real::reliability::figures::{ms, now, percentile};
use crate::real::reliability::options::Row;
use crate::real::reliability::probes::FILE_BYTES;
use crate::real::reliability::report::Verdict;
use anyhow::{Context, Result};
use bytes::Bytes;
use everhold_client::{Client, ClientOptions, CreateOptions};
use everhold_env::Env;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Applications with which the peak is looked for.
const STEPS: [usize; 6] = [8, 16, 32, 64, 128, 256];
/// Capacity is reached with the fewest applications that get this share of the peak: from there on more of them only
/// wait for each other. They ask again as soon as they have their answer, so that they offer far more than they get.
const CAPACITY: f64 = 0.75;
/// The surge: so many times these applications.
const SURGE: usize = 5;
/// Clients that they share.
const CLIENTS: usize = 4;
/// What an application waits for an answer; later it is worth nothing.
const PATIENCE: Duration = Duration::from_secs(1);
/// Promised of the goodput.
const SHARE: f64 = 0.8;
/// The slow node's link.
const SLOW_KILOBITS: u32 = 2000;

/// Goodput at peak, then under the surge with and without protection.
pub(super) async fn surge(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::Surge, "surge to 5 × capacity, one node slow");
    let seconds = bench.options.either(12.0, 4.0);
    let mut steps = Vec::new();
    for step in STEPS {
        steps.push((step, goodput(bench, step, true, seconds).await?));
    }
    let best = |a: &&(usize, Goodput), b: &&(usize, Goodput)| a.1.good.total_cmp(&b.1.good);
    let (at, peak) = steps.iter().max_by(best).context("steps were taken")?;
    let enough = steps.iter().find(|(_, step)| step.good >= CAPACITY * peak.good);
    let busy = enough.map_or(*at, |(step, _)| *step);
    let with = surged(bench, SURGE * busy, true, seconds).await?;
    let without = surged(bench, SURGE * busy, false, seconds).await?;
    let told = |g: &Goodput| {
        let (good, bad, median) = (g.good, g.bad, g.median_ms);
        format!("{good:.0}/s in time, median {median:.0} ms, {bad:.0}/s late or failed")
    };
    bench.check(
        row,
        fault,
        "goodput with protection at least 80 % of the peak",
        format!(
            "peak {} with {at} applications; {:.0} % of it with {busy}; {} of them, protected: {} ({:.0} %)",
            told(peak),
            100.0 * CAPACITY,
            SURGE * busy,
            told(&with),
            100.0 * with.good / peak.good
        ),
        Verdict::of(peak.good > 0.0 && with.good >= SHARE * peak.good),
    );
    bench.check(
        row,
        fault,
        "(the same without protection, for comparison)",
        format!("{} ({:.0} %)", told(&without), 100.0 * without.good / peak.good),
        Verdict::Told,
    );
    Ok(())
}

/// What so many applications get from the moment on when a node becomes slow. Neither clients nor the cluster know of it
/// from before.
async fn surged(
    bench: &mut Bench<'_>,
    applications: usize,
    protected: bool,
    seconds: f64,
) -> Result<Goodput> {
    bench.converge().await?;
    let victim = bench.victim().await?;
    bench.cluster.hosts.slow(victim, SLOW_KILOBITS)?;
    let got = goodput(bench, applications, protected, seconds).await;
    bench.cluster.hosts.unslow(victim)?;
    got
}

struct Goodput {
    /// Operations per second that ended well within the patience.
    good: f64,
    /// Those that did not.
    bad: f64,
    /// Of those in time.
    median_ms: f64,
}

/// What many applications get, each writing a file and reading it again, one after another.
async fn goodput(
    bench: &Bench<'_>,
    applications: usize,
    protected: bool,
    seconds: f64,
) -> Result<Goodput> {
    static RUNS: AtomicU64 = AtomicU64::new(0);
    let root = format!("/surge/{}", RUNS.fetch_add(1, Ordering::Relaxed));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let options = ClientOptions {
            name: format!("reliability: surge {number}"),
            operation_deadline: Some(PATIENCE),
            protected,
            ..ClientOptions::default()
        };
        clients.push(Client::connect(Env::real(), &bench.cluster.addresses(), options).await?);
    }
    clients[0].mkdir_all(&root, 0o755).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let work = |number: usize| {
        let client = clients[number % CLIENTS].clone();
        let (root, stop) = (root.clone(), stop.clone());
        let spawner = Env::real().tasks;
        let (tx, rx) = tokio::sync::oneshot::channel();
        spawner.detach(async move {
            // The receiver waits for every application.
            let _ = tx.send(apply(client, root, number, stop).await);
        });
        rx
    };
    let running: Vec<_> = (0..applications).map(work).collect();
    bench.sleep(seconds).await;
    let end = now();
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    for one in running {
        times.extend(one.await?.into_iter().filter_map(|done| done.by(end)));
    }
    times.sort_unstable();
    let good = times.iter().filter(|time| **time <= PATIENCE).count();
    let median_ms = percentile(&times[..good], 500).map_or(f64::NAN, ms);
    for client in clients {
        client.close().await?;
    }
    // The disks are small.
    let cleaner = bench.cluster.client("reliability: surge").await?;
    cleaner.remove_all(&root).await?;
    cleaner.close().await?;
    let per_second = |n: usize| n as f64 / seconds;
    Ok(Goodput { good: per_second(good), bad: per_second(times.len() - good), median_ms })
}

/// One operation of an application.
struct Done {
    began: Instant,
    ended: Instant,
    good: bool,
}

impl Done {
    async fn of(work: impl Future<Output = bool>) -> Done {
        let began = now();
        let good = work.await;
        Done { began, ended: now(), good }
    }

    /// How long it took, if it ended by then or was late already: one that failed took for ever.
    fn by(&self, end: Instant) -> Option<Duration> {
        let late = end.saturating_duration_since(self.began) > PATIENCE;
        let took = if self.good { self.ended - self.began } else { Duration::MAX };
        (self.ended <= end || late).then_some(took)
    }
}

/// One application, and its operations.
async fn apply(
    client: Arc<Client>,
    root: String,
    number: usize,
    stop: Arc<AtomicBool>,
) -> Vec<Done> {
    let content = Bytes::from(vec![number as u8; FILE_BYTES]);
    let mut done = Vec::new();
    for file in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let path = format!("{root}/{number}-{file}");
        let put = client.put(&path, content.clone(), CreateOptions::default());
        let put = Done::of(async { put.await.is_ok() }).await;
        let written = put.good;
        done.push(put);
        if written {
            let read = client.get(&path, 2 * FILE_BYTES);
            done.push(Done::of(async { read.await.is_ok_and(|bytes| bytes == content) }).await);
        }
    }
    done
}
