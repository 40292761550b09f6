//! Nodes that go and come back.

use super::crash::none_failed;
use crate::real::reliability::bench::Bench;
use crate::real::reliability::figures::mib;
use crate::real::reliability::options::Row;
use crate::real::reliability::report::Verdict;
use anyhow::{Context, Result};
use everhold_proto::command::MapCommand;
use everhold_proto::map::ClusterMap;
use everhold_proto::rpc::{ChangeMap, GetNodeStatus};
use everhold_proto::{NodeId, PgId};
use std::collections::BTreeMap;
use std::time::Duration;

/// A server that is asked to stop does so well before this.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Promised of the traffic, in parts of what was missed.
const TRAFFIC: f64 = 1.5;

/// A node is away for a minute and comes back: once in maintenance, once unannounced.
pub(super) async fn returning(bench: &mut Bench<'_>) -> Result<()> {
    let seconds = bench.options.either(60.0, 20.0);
    for (announced, fault) in [
        (true, "a node in maintenance returns after 60 s"),
        (false, "a killed node returns after 60 s, given up meanwhile"),
    ] {
        let victim = bench.victim().await?;
        let status = bench.cluster.status().await?;
        let node = bench.cluster.row(&status, victim).context("the node is in the map")?.id;
        if announced {
            let order = ChangeMap(MapCommand::SetMaintenance { node, on: true });
            bench.cluster.ask(&order).await?;
        }
        let before = places(&status.map, node);
        let from = bench.seconds();
        bench.cluster.nodes.kill(&[victim]);
        bench.sleep(seconds).await;
        let away = bench.felt(from, bench.seconds());
        let missed = missed(&before, &bench.cluster.status().await?.map);
        bench.cluster.start_missing()?;
        bench.converge().await?;
        if announced {
            let order = ChangeMap(MapCommand::SetMaintenance { node, on: false });
            bench.cluster.ask(&order).await?;
        }
        settle(bench).await?;
        let own = bench.cluster.ask_node(victim, &GetNodeStatus {}).await?;
        let fetched = own.repair.fetched_bytes;
        bench.check(
            Row::Return,
            fault,
            "it fetches at most 1.5 × of what it missed",
            format!("missed {:.1} MiB, fetched {:.1} MiB", mib(missed), mib(fetched)),
            Verdict::of(missed > 0 && fetched as f64 <= TRAFFIC * missed as f64),
        );
        none_failed(bench, Row::Return, fault, &away);
    }
    Ok(())
}

/// Live bytes of the groups that a node has a place in.
fn places(map: &ClusterMap, node: NodeId) -> BTreeMap<PgId, u64> {
    let on_node = |disk| map.node_of(disk).is_some_and(|n| n.id == node);
    let held = map.pgs.values().filter(|pg| pg.members.iter().any(|m| on_node(m.disk)));
    held.map(|pg| (pg.id, pg.live_bytes)).collect()
}

/// Bytes that these groups have got since.
fn missed(before: &BTreeMap<PgId, u64>, map: &ClusterMap) -> u64 {
    let grown = |(pg, bytes): (&PgId, &u64)| {
        map.pgs.get(pg).map_or(0, |pg| pg.live_bytes.saturating_sub(*bytes))
    };
    before.iter().map(grown).sum()
}

/// Waits until no group is in motion any more, so that moves for evenness count too.
async fn settle(bench: &mut Bench<'_>) -> Result<()> {
    for _ in 0..240 {
        let map = bench.cluster.status().await?.map;
        let copies = |pg: &everhold_proto::map::Pg| {
            map.policies.get(&pg.policy).map_or(1, |policy| usize::from(policy.copies))
        };
        let quiet =
            map.pgs.values().all(|pg| pg.members.len() == copies(pg) && pg.formers.is_empty());
        if quiet {
            return Ok(());
        }
        bench.sleep(0.5).await;
    }
    anyhow::bail!("groups are still in motion after two minutes")
}

/// Every node is stopped well and started again, one after another, each time that all is whole.
pub(super) async fn rolling(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::Rolling, "rolling restart of all nodes under load");
    let from = bench.seconds();
    for number in 1..=bench.cluster.count {
        bench.cluster.stop(number, STOP_LIMIT).await?;
        bench.converge().await?;
    }
    let felt = bench.felt(from, bench.seconds());
    none_failed(bench, row, fault, &felt);
    bench.check(
        row,
        fault,
        "(stalls are not promised)",
        format!(
            "{:.0} s; longest write {} ms, read {} ms, names {} ms",
            bench.seconds() - from,
            felt.write.longest_ms,
            felt.read.longest_ms,
            felt.metadata.longest_ms
        ),
        Verdict::Told,
    );
    Ok(())
}
