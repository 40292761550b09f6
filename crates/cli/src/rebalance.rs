//! `everhold rebalance start|stop|status`: how even the disks are, and what it takes to make them so.

use crate::args::{Global, RebalanceCommand};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::CliResult;
use crate::output::{Table, json, line, size};
use everhold_proto::rpc::{Rebalance, RebalanceOrder, RebalanceStatus};
use std::time::Duration;
use tokio::time::sleep;

/// How often a rebalance is looked at, and ordered again: a leader that came since knows nothing of it.
const POLL: Duration = Duration::from_millis(500);

/// Runs one of them.
pub(crate) async fn run(command: RebalanceCommand, global: &Global) -> CliResult {
    match command {
        RebalanceCommand::Start { dry_run: true, .. } | RebalanceCommand::Status => {
            show(&ask(RebalanceOrder::Look, global).await?, global)
        }
        RebalanceCommand::Start { wait: false, .. } => {
            let status = ask(RebalanceOrder::Start, global).await?;
            if global.json {
                return json(&status);
            }
            line(format!("{}; follow it with `everhold rebalance status`", summary(&status)))
        }
        RebalanceCommand::Start { wait: true, .. } => wait(global).await,
        RebalanceCommand::Stop => {
            let status = ask(RebalanceOrder::Stop, global).await?;
            if global.json {
                return json(&status);
            }
            line("stopped; what is on the move ends, and large differences are evened out as ever")
        }
    }
}

async fn ask(order: RebalanceOrder, global: &Global) -> CliResult<RebalanceStatus> {
    Admin::new(&seeds(global)?).leader(&Rebalance { order }, LEADER_LIMIT).await
}

async fn wait(global: &Global) -> CliResult {
    let mut told = String::new();
    loop {
        let status = ask(RebalanceOrder::Start, global).await?;
        if is_done(&status) {
            return show(&status, global);
        }
        let text = summary(&status);
        if !global.json && text != told {
            line(text.clone())?;
            told = text;
        }
        sleep(POLL).await;
    }
}

fn is_done(status: &RebalanceStatus) -> bool {
    status.exact_moves == 0 && status.in_motion == 0
}

fn summary(status: &RebalanceStatus) -> String {
    let held = status.held.as_ref().map_or(String::new(), |why| format!("; waits: {why}"));
    format!(
        "{} places to move ({}), {} on the move{held}",
        status.exact_moves,
        size(status.exact_bytes, false),
        status.in_motion
    )
}

fn show(status: &RebalanceStatus, global: &Global) -> CliResult {
    if global.json {
        return json(status);
    }
    let mut table = Table::new(&["DISK", "NODE", ">CAPACITY", ">PLACES", ">WHEN EVEN"]);
    for share in &status.shares {
        table.row([
            share.disk.to_string(),
            share.node.to_string(),
            size(share.capacity_bytes, false),
            share.places.to_string(),
            share.places_after.to_string(),
        ]);
    }
    table.print()?;
    line(summary(status))?;
    let ordered = if status.ordered { "a rebalance is ordered" } else { "no rebalance is ordered" };
    line(format!(
        "{ordered}; by itself, {} places ({}) move",
        status.moves,
        size(status.bytes, false)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_summary_says_what_is_left_and_why_it_waits() {
        let mut status = RebalanceStatus {
            exact_moves: 3,
            exact_bytes: 1 << 20,
            in_motion: 1,
            ..Default::default()
        };
        assert!(!is_done(&status));
        assert_eq!(summary(&status), "3 places to move (1.0 MiB), 1 on the move");
        status.held = Some("the brake is on".into());
        assert!(summary(&status).ends_with("; waits: the brake is on"));
        assert!(is_done(&RebalanceStatus::default()));
    }
}
