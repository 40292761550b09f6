//! A disk that answers, but twenty times slower than before.

use super::crash::told;
use crate::real::reliability::bench::Bench;
use crate::real::reliability::options::Row;
use crate::real::reliability::report::Verdict;
use crate::real::reliability::throttle::{Throttle, unavailable};
use anyhow::{Context, Result};
use everhold_proto::DiskId;
use std::time::Duration;

/// How much slower.
const TIMES: f64 = 20.0;
/// Promised: the 99th percentiles are back within this, so soon.
const SLOWER: f64 = 2.0;
const BACK_S: f64 = 5.0;
const NAMED_LIMIT: Duration = Duration::from_secs(30);

/// The kernel holds one node's disk back.
pub(super) async fn slow_disk(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::SlowDisk, "a disk slow by 20 ×");
    if let Some(why) = unavailable() {
        bench.check(
            row,
            fault,
            "p99 back within 2 × in 5 s; named in `health`",
            why,
            Verdict::NotRun,
        );
        return Ok(());
    }
    let victim = bench.victim().await?;
    let dir = bench.cluster.disks.place(victim);
    let pid = bench.cluster.nodes.pid(victim).context("the node runs")?;
    let earlier = bench.seconds();
    bench.sleep(15.0).await;
    let usual = usual_write(bench, victim).await?;
    let per_second = (1.0 / (usual.as_secs_f64() * TIMES)).max(1.0) as u32;
    let from = bench.seconds();
    let throttle = Throttle::begin(pid, &dir, per_second)?;
    let usual_ms = usual.as_secs_f64() * 1000.0;
    let slowed =
        format!("a durable write took {usual_ms:.1} ms; {per_second} accesses per second left");
    let named =
        bench.watch.until(&bench.clock, from, NAMED_LIMIT, |s| s.slow.contains(&victim)).await;
    let left = from + 20.0 - bench.seconds();
    bench.sleep(left.max(1.0)).await;
    let to = bench.seconds();
    drop(throttle);
    let ((write_0, read_0), (write, read)) =
        (bench.p99(earlier, from), bench.p99(from + BACK_S, to));
    let within = |now: Option<f64>, before: Option<f64>| {
        now.zip(before).is_some_and(|(now, before)| now <= SLOWER * before)
    };
    bench.check(
        row,
        fault,
        "p99 of writes and reads within 2 × from the 5th second on",
        format!(
            "{slowed}; writes {} ms (before {}), reads {} ms (before {})",
            told(write),
            told(write_0),
            told(read),
            told(read_0)
        ),
        Verdict::of(within(write, write_0) && within(read, read_0)),
    );
    let finding = bench.watch.between(from, to);
    let finding = finding.iter().flat_map(|s| &s.findings).find(|f| f.contains("slower"));
    let measured = match (named, finding) {
        (Some(seconds), Some(text)) => format!("after {seconds:.1} s: \"{text}\""),
        _ => "never".into(),
    };
    bench.check(
        row,
        fault,
        "named in `health`",
        measured,
        Verdict::of(named.is_some() && finding.is_some()),
    );
    Ok(())
}

/// Median time of a durable write of the victim's disk under this load, as its node measures it.
async fn usual_write(bench: &Bench<'_>, victim: u32) -> Result<Duration> {
    let status = bench.cluster.status().await?;
    let node = bench.cluster.row(&status, victim).context("the node is known")?.id;
    let of = |disk: &DiskId| status.map.disks.get(disk).is_some_and(|row| row.node == node);
    let speed = status.speeds.iter().find(|speed| of(&speed.disk));
    let micros = speed.and_then(|speed| speed.write_micros).context("the disk is written to")?;
    Ok(Duration::from_micros(micros.into()))
}
