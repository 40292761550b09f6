//! Bits that rot where nobody looks.

use super::crash::none_failed;
use crate::real::reliability::bench::Bench;
use crate::real::reliability::options::Row;
use crate::real::reliability::report::Verdict;
use anyhow::{Result, bail};
use everhold_proto::rpc::{GetNodeStatus, StartScrub};

/// Seconds that a scrub of everything may take.
const SCRUB_LIMIT: f64 = 300.0;

/// A thousand bits of one node are flipped; one scrub of everything has to find them all, which the next one
/// proves.
pub(super) async fn bit_rot(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::BitRot, "bit rot on one node");
    let wanted = bench.options.either(1000, 100);
    let victim = bench.victim().await?;
    let before = bad(bench).await?;
    let from = bench.seconds();
    let places = bench.cluster.disks.flip(victim, wanted, bench.options.seed)?.len();
    let took = scrub(bench).await?;
    let found = bad(bench).await? - before;
    bench.converge().await?;
    let again = bad(bench).await?;
    scrub(bench).await?;
    let left = bad(bench).await? - again;
    bench.check(
        row,
        fault,
        "one scrub finds all, and all are repaired",
        format!(
            "{places} bits flipped, {found} bad copies found in {took:.1} s and repaired; the next scrub found {left}"
        ),
        Verdict::of(found > 0 && left == 0),
    );
    let felt = bench.felt(from, bench.seconds());
    none_failed(bench, row, fault, &felt);
    Ok(())
}

/// Bad copies that the nodes have found.
async fn bad(bench: &Bench<'_>) -> Result<u64> {
    let mut sum = 0;
    for number in 1..=bench.cluster.count {
        let status = bench.cluster.ask_node(number, &GetNodeStatus {}).await?;
        sum += status.disks.iter().map(|disk| disk.scrub.bad_blocks).sum::<u64>();
    }
    Ok(sum)
}

async fn passes(bench: &Bench<'_>, number: u32) -> Result<u64> {
    let status = bench.cluster.ask_node(number, &GetNodeStatus {}).await?;
    Ok(status.disks.iter().map(|disk| disk.scrub.urgent_passes).min().unwrap_or(0))
}

/// One scrub of all nodes; how long it took.
async fn scrub(bench: &Bench<'_>) -> Result<f64> {
    let from = bench.seconds();
    let mut before = Vec::new();
    for number in 1..=bench.cluster.count {
        before.push((number, passes(bench, number).await?));
        bench.cluster.ask_node(number, &StartScrub {}).await?;
    }
    for (number, passes_before) in before {
        while passes(bench, number).await? <= passes_before {
            if bench.seconds() - from > SCRUB_LIMIT {
                bail!("the scrub of node {number} does not end");
            }
            bench.sleep(0.2).await;
        }
    }
    Ok(bench.seconds() - from)
}
