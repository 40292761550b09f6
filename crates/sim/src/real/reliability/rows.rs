//! The rows, one after another. A row that breaks off is noted and the next one is run.

mod crash;
mod mass;
mod partition;
mod restart;
mod rot;
mod slow;
mod surge;

use super::bench::Bench;
use super::options::{Options, Row};
use super::report::Report;
use crate::real::cluster::Setup;
use crate::real::hosts::Hosts;
use anyhow::Result;
use std::path::Path;

/// Runs all that were asked for.
pub(super) async fn run(
    options: &Options,
    setup: &Setup,
    hosts: Hosts,
    dir: &Path,
) -> Result<Report> {
    let mut bench = Bench::start(options, setup, hosts, dir).await?;
    for row in options.rows() {
        bench.say(&format!("row {row:?}"));
        let result = match row {
            Row::Kill => crash::kill(&mut bench).await,
            Row::Pause => crash::pause(&mut bench).await,
            Row::ShortPauses => crash::short_pauses(&mut bench).await,
            Row::KillLeader => crash::leader(&mut bench, row).await,
            Row::PauseLeader => crash::leader(&mut bench, row).await,
            Row::Zone => partition::zone(&mut bench).await,
            Row::OneWay => partition::one_way(&mut bench).await,
            Row::Partial => partition::partial(&mut bench).await,
            Row::SlowDisk => slow::slow_disk(&mut bench).await,
            Row::BitRot => rot::bit_rot(&mut bench).await,
            Row::Return => restart::returning(&mut bench).await,
            Row::Rolling => restart::rolling(&mut bench).await,
            Row::Surge => surge::surge(&mut bench).await,
            Row::Mass => mass::mass(&mut bench).await,
        };
        if let Err(e) = result {
            bench.broke(format!("row {row:?} broke off: {e:#}"));
            bench.undo_all()?;
        }
        if let Err(e) = bench.converge().await {
            bench.broke(format!("the cluster is not whole after row {row:?}: {e:#}"));
            break;
        }
    }
    Ok(bench.finish().await)
}
