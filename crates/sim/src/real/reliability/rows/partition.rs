//! Networks that fail: a zone, one way, one pair.

use super::crash::none_failed;
use crate::real::hosts::{CLIENTS, Cut, ip};
use crate::real::reliability::bench::Bench;
use crate::real::reliability::options::Row;
use crate::real::reliability::report::Verdict;
use anyhow::{Context, Result};

/// Promised of the map: changes of the state of nodes.
const CHANGES_PER_MINUTE: f64 = 4.0;
/// An operation that takes longer than this hangs.
const HANG_MS: u64 = 5000;

/// Everything of the first zone is cut off, from clients too.
pub(super) async fn zone(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::Zone, "a whole zone gone");
    let zones = bench.options.zones;
    let inside: Vec<u32> = (1..=bench.cluster.count).filter(|n| (n - 1) % zones == 0).collect();
    let outside = (1..=bench.cluster.count).filter(|n| !inside.contains(n)).map(ip);
    let peers: Vec<String> = outside.chain([CLIENTS.into()]).collect();
    let from = bench.seconds();
    for number in &inside {
        bench.cluster.hosts.cut(*number, &peers, Cut::Both)?;
    }
    bench.sleep(bench.options.either(30.0, 15.0)).await;
    let to = bench.seconds();
    for number in &inside {
        bench.cluster.hosts.mend(*number)?;
    }
    let felt = bench.felt(from, to);
    none_failed(bench, row, fault, &felt);
    // A few seconds after the cut the work must go on as if nothing had happened.
    let later = bench.felt(from + 5.0, to);
    bench.check(
        row,
        fault,
        "reads and writes go on",
        format!(
            "{} nodes cut off, {:.0} s: longest write {} ms, read {} ms, names {} ms; {} writes and {} reads from \
             the 5th second on",
            inside.len(),
            to - from,
            felt.write.longest_ms,
            felt.read.longest_ms,
            felt.metadata.longest_ms,
            later.write.operations,
            later.read.operations
        ),
        Verdict::of(felt.write.longest_ms <= HANG_MS && later.write.operations > 0 && later.read.operations > 0),
    );
    Ok(())
}

/// A node that hears nothing, then one that is not heard; clients are cut off in the same way.
pub(super) async fn one_way(bench: &mut Bench<'_>) -> Result<()> {
    for (cut, fault) in
        [(Cut::Arriving, "a node hears nobody"), (Cut::Leaving, "nobody hears a node")]
    {
        let victim = bench.victim().await?;
        let others = (1..=bench.cluster.count).filter(|other| *other != victim).map(ip);
        let peers: Vec<String> = others.chain([CLIENTS.into()]).collect();
        cut_for_a_while(bench, Row::OneWay, fault, victim, &peers, cut).await?;
    }
    Ok(())
}

/// A node and the leader do not reach each other; then two nodes of which none leads.
pub(super) async fn partial(bench: &mut Bench<'_>) -> Result<()> {
    let victim = bench.victim().await?;
    let leader = bench.cluster.leader().await?;
    let fault = "a node and the leader do not reach each other";
    cut_for_a_while(bench, Row::Partial, fault, victim, &[ip(leader)], Cut::Both).await?;
    let leader = bench.cluster.leader().await?;
    let mut others = (1..=bench.cluster.count).filter(|number| *number != leader);
    let (one, other) = (others.next().context("a node")?, others.next().context("another one")?);
    let fault = "two nodes do not reach each other";
    cut_for_a_while(bench, Row::Partial, fault, one, &[ip(other)], Cut::Both).await
}

async fn cut_for_a_while(
    bench: &mut Bench<'_>,
    row: Row,
    fault: &str,
    victim: u32,
    peers: &[String],
    cut: Cut,
) -> Result<()> {
    let from = bench.seconds();
    bench.cluster.hosts.cut(victim, peers, cut)?;
    bench.sleep(bench.options.either(60.0, 12.0)).await;
    let to = bench.seconds();
    bench.cluster.hosts.mend(victim)?;
    let felt = bench.felt(from, to);
    let longest = felt.write.longest_ms.max(felt.read.longest_ms).max(felt.metadata.longest_ms);
    bench.check(
        row,
        fault,
        "no hang",
        format!(
            "longest write {} ms, read {} ms, names {} ms; {} of {} failed",
            felt.write.longest_ms,
            felt.read.longest_ms,
            felt.metadata.longest_ms,
            felt.failed(),
            felt.operations()
        ),
        Verdict::of(longest <= HANG_MS && felt.write.operations > 0 && felt.read.operations > 0),
    );
    let minutes = ((to - from) / 60.0).max(1.0);
    let changes = bench.watch.transitions(from, to);
    let samples = bench.watch.between(from, to);
    let epochs = match (samples.first(), samples.last()) {
        (Some(first), Some(last)) => last.epoch - first.epoch,
        _ => 0,
    };
    bench.check(
        row,
        fault,
        "at most 4 changes of node states per minute",
        format!("{changes} in {:.0} s ({epochs} epochs of all kinds)", to - from),
        Verdict::of(changes as f64 / minutes <= CHANGES_PER_MINUTE && !samples.is_empty()),
    );
    bench.converge().await?;
    Ok(())
}
