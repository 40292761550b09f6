//! More than half of the nodes look dead at once.

use crate::real::hosts::{CLIENTS, Cut, ip};
use crate::real::reliability::bench::Bench;
use crate::real::reliability::options::Row;
use crate::real::reliability::report::Verdict;
use anyhow::{Context, Result, ensure};
use everhold_proto::map::NodeState;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(20);

/// Two more nodes join, so that a majority of the voters can be left; then more than half of all are cut off.
pub(super) async fn mass(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::Mass, "more than half of the nodes cut off");
    bench.cluster.count = bench.options.hosts();
    bench.converge().await.context("after nodes were added")?;
    let cut = chosen(bench).await?;
    let inside: Vec<u32> = (1..=bench.cluster.count).filter(|n| !cut.contains(n)).collect();
    let peers: Vec<String> =
        inside.iter().map(|number| ip(*number)).chain([CLIENTS.into()]).collect();
    let fetched_before = total(bench, &inside).await;
    let from = bench.seconds();
    for number in &cut {
        bench.cluster.hosts.cut(*number, &peers, Cut::Both)?;
    }
    let braked = bench.watch.until(&bench.clock, from, LIMIT, |s| s.brake).await;
    let named = bench
        .watch
        .until(&bench.clock, from, LIMIT, |s| s.findings.iter().any(|f| f.contains("brake")))
        .await;
    bench.sleep(bench.options.either(30.0, 12.0)).await;
    let to = bench.seconds();
    let fetched = total(bench, &inside).await.saturating_sub(fetched_before);
    let samples = bench.watch.between(from, to);
    let out = |sample: &super::super::watch::Sample| {
        sample.states.values().filter(|state| **state == NodeState::Out).count()
    };
    let given_up = samples.iter().map(out).max().unwrap_or(0);
    for number in &cut {
        bench.cluster.hosts.mend(*number)?;
    }
    bench.check(
        row,
        fault,
        "no rebuild starts",
        format!(
            "{} of {} nodes cut off for {:.0} s: {given_up} given up, {} KiB fetched by the others",
            cut.len(),
            bench.cluster.count,
            to - from,
            fetched >> 10
        ),
        Verdict::of(given_up == 0 && braked.is_some() && !samples.is_empty()),
    );
    let told = named.map_or("never".into(), |seconds| format!("after {seconds:.1} s"));
    bench.check(row, fault, "an alert names the brake", told, Verdict::of(named.is_some()));
    let healed = bench.converge().await;
    let measured = match &healed {
        Ok(seconds) => format!("whole again {seconds:.1} s later"),
        Err(e) => format!("{e:#}"),
    };
    bench.check(
        row,
        fault,
        "all is well when the network returns",
        measured,
        Verdict::of(healed.is_ok()),
    );
    Ok(())
}

/// Which nodes are cut off: not the leader, and of the voters only so many that a majority is left.
async fn chosen(bench: &Bench<'_>) -> Result<Vec<u32>> {
    let status = bench.cluster.status().await?;
    let leader = bench.cluster.leader().await?;
    let votes = |number: &u32| {
        let row = bench.cluster.row(&status, *number);
        row.is_some_and(|row| status.voters.contains(&row.id))
    };
    let spare = (status.voters.len() - 1) / 2;
    let others = || (1..=bench.cluster.count).filter(|number| *number != leader);
    let voters = others().filter(votes).take(spare);
    let rest = others().filter(|number| !votes(number));
    let wanted = bench.cluster.count as usize / 2 + 1;
    let cut: Vec<u32> = rest.chain(voters).take(wanted).collect();
    ensure!(
        cut.len() == wanted,
        "only {} nodes can be cut off without losing the quorum",
        cut.len()
    );
    Ok(cut)
}

async fn total(bench: &Bench<'_>, numbers: &[u32]) -> u64 {
    let mut sum = 0;
    for number in numbers {
        let ask = everhold_proto::rpc::GetNodeStatus {};
        if let Ok(status) = bench.cluster.ask_node(*number, &ask).await {
            sum += status.repair.fetched_bytes;
        }
    }
    sum
}
