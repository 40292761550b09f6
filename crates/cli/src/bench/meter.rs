//! Time and CPU of one measurement: of this process, and of all node processes as they report it.

use crate::bench::baseline::cpu_seconds;
use crate::bench::report::{Figure, Unit};
use crate::connect::Admin;
use crate::exit::{CliError, CliResult, Exit};
use everhold_proto::ClusterId;
use futures_util::future::join_all;
use std::time::Instant;

/// What asks the nodes.
pub(crate) struct Meter {
    admin: Admin,
    addresses: Vec<String>,
}

/// A measurement under way.
pub(crate) struct Running {
    started: Instant,
    nodes: f64,
    client: f64,
}

impl Meter {
    /// A meter over the nodes at `addresses`.
    pub(crate) fn new(addresses: Vec<String>, cluster: ClusterId) -> Self {
        Meter { admin: Admin::of_cluster(&addresses, cluster), addresses }
    }

    /// CPU seconds of all node processes since their start.
    async fn nodes(&self) -> CliResult<f64> {
        let answers = join_all(self.addresses.iter().map(|a| self.admin.node_status(a))).await;
        answers
            .into_iter()
            .map(|answer| {
                answer.map(|status| status.cpu_seconds).map_err(|e| {
                    CliError::new(
                        Exit::Unreachable,
                        format!("a node does not answer: {e}"),
                        "measure when all nodes are up; see `everhold node ls`",
                    )
                })
            })
            .sum()
    }

    /// Begins.
    pub(crate) async fn start(&self) -> CliResult<Running> {
        let nodes = self.nodes().await?;
        Ok(Running { nodes, client: cpu_seconds(), started: Instant::now() })
    }

    /// Ends: `amount` bytes or files were done.
    pub(crate) async fn stop(
        &self,
        running: Running,
        what: &'static str,
        unit: Unit,
        amount: u64,
    ) -> CliResult<Figure> {
        let seconds = running.started.elapsed().as_secs_f64();
        let client = cpu_seconds() - running.client;
        let nodes = self.nodes().await? - running.nodes;
        let per = cost_unit(unit, amount);
        Ok(Figure {
            what,
            rate: rate(unit, amount, seconds),
            unit,
            seconds,
            cpu_nodes: Some(nodes / per),
            cpu_client: client / per,
            target: None,
        })
    }
}

/// In MiB or files per second.
pub(crate) fn rate(unit: Unit, amount: u64, seconds: f64) -> f64 {
    let amount = match unit {
        Unit::Bytes => amount as f64 / (1u64 << 20) as f64,
        Unit::Files => amount as f64,
    };
    amount / seconds.max(1e-9)
}

/// What CPU seconds are divided by: GiB, or millions of files (which gives microseconds).
fn cost_unit(unit: Unit, amount: u64) -> f64 {
    match unit {
        Unit::Bytes => amount as f64 / (1u64 << 30) as f64,
        Unit::Files => amount as f64 / 1e6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_kept_apart() {
        assert_eq!(rate(Unit::Bytes, 4 << 20, 2.0), 2.0);
        assert_eq!(rate(Unit::Files, 100, 2.0), 50.0);
        assert_eq!(cost_unit(Unit::Bytes, 1 << 30), 1.0);
        assert_eq!(0.5 / cost_unit(Unit::Files, 10_000), 50.0, "half a second is 50 µs each");
    }
}
