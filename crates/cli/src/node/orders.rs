//! `everhold node drain|remove|label`: how nodes come to stand elsewhere, and leave.

use crate::args::Global;
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::{json, line, size};
use everhold_proto::command::MapCommand;
use everhold_proto::map::{ClusterMap, Labels, NodeState};
use everhold_proto::rpc::{ChangeMap, ClusterStatus};
use everhold_proto::{DiskId, NodeId};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a drain is looked at.
const POLL: Duration = Duration::from_millis(500);

/// Begins to empty a node, or takes it back.
pub(super) async fn drain(node: NodeId, cancel: bool, wait: bool, global: &Global) -> CliResult {
    let admin = Admin::new(&seeds(global)?);
    let order = ChangeMap(MapCommand::DrainNode { node, on: !cancel });
    admin.leader(&order, LEADER_LIMIT).await.map_err(explain)?;
    if cancel {
        return told(global, node, "drained", false, "it takes copies again");
    }
    if !wait {
        let next = format!("follow it with `everhold disk ls`, then `everhold node remove {node}`");
        return told(global, node, "draining", true, &next);
    }
    loop {
        let status = admin.status(LEADER_LIMIT).await?;
        let (places, bytes) = left(&status.map, node);
        let votes = has_seat(&status, node);
        if places == 0 && !votes {
            return told(
                global,
                node,
                "empty",
                true,
                &format!("`everhold node remove {node}` is next"),
            );
        }
        if !global.json {
            let seat = if votes { ", and its vote" } else { "" };
            line(format!("node {node}: {places} places, {} to move{seat}", size(bytes, false)))?;
        }
        sleep(POLL).await;
    }
}

/// Takes a node out of the map.
pub(super) async fn remove(node: NodeId, global: &Global) -> CliResult {
    let admin = Admin::new(&seeds(global)?);
    let order = ChangeMap(MapCommand::RemoveNode { node });
    admin.leader(&order, LEADER_LIMIT).await.map_err(explain)?;
    told(
        global,
        node,
        "removed",
        true,
        "its process ends by itself, and its directory may be deleted",
    )
}

/// Takes the place of a node that does not come back: what it held is made anew elsewhere without the patience that a node
/// gets that may return, and then it is removed. One that answers is refused: it is drained instead.
pub(super) async fn replace(node: NodeId, limit: Duration, global: &Global) -> CliResult {
    let admin = Admin::new(&seeds(global)?);
    let status = admin.status(LEADER_LIMIT).await?;
    check_lost(&status.map, node)?;
    let order = ChangeMap(MapCommand::DrainNode { node, on: true });
    admin.leader(&order, LEADER_LIMIT).await.map_err(explain)?;
    let deadline = Instant::now() + limit;
    let mut shown = None;
    loop {
        let status = admin.status(LEADER_LIMIT).await?;
        check_lost(&status.map, node)?;
        let (places, bytes) = left(&status.map, node);
        let votes = has_seat(&status, node);
        if places == 0 && !votes {
            return remove(node, global).await;
        }
        if Instant::now() >= deadline {
            return Err(CliError::new(
                Exit::Busy,
                format!("node {node} has {places} places still after {} s", limit.as_secs()),
                format!("see `everhold health`; then `everhold node replace {node}` goes on"),
            ));
        }
        if !global.json && shown != Some((places, votes)) {
            let seat = if votes { ", and its vote" } else { "" };
            let bytes = size(bytes, false);
            line(format!("node {node}: {places} places, {bytes} to make elsewhere{seat}"))?;
            shown = Some((places, votes));
        }
        sleep(POLL).await;
    }
}

/// Refuses what is not lost: a node that answers has its own copies to give.
fn check_lost(map: &ClusterMap, node: NodeId) -> CliResult {
    match map.nodes.get(&node).map(|row| row.state) {
        Some(NodeState::Down | NodeState::Out) => Ok(()),
        Some(state) => Err(CliError::new(
            Exit::Conflict,
            format!("node {node} is {state}, not lost"),
            format!(
                "`everhold node drain {node} --wait` empties a node that answers, then `everhold node remove {node}`"
            ),
        )),
        None => Err(CliError::new(
            Exit::NotFound,
            format!("the cluster has no node {node}"),
            "see `everhold node ls`",
        )),
    }
}

/// Labels that were given; the others stay.
pub(super) struct Given {
    pub(super) region: Option<String>,
    pub(super) zone: Option<String>,
    pub(super) rack: Option<String>,
    pub(super) host: Option<String>,
}

impl Given {
    fn over(self, now: &Labels) -> Labels {
        let Given { region, zone, rack, host } = self;
        Labels {
            region: region.unwrap_or_else(|| now.region.clone()),
            zone: zone.unwrap_or_else(|| now.zone.clone()),
            rack: rack.unwrap_or_else(|| now.rack.clone()),
            host: host.unwrap_or_else(|| now.host.clone()),
        }
    }

    fn is_empty(&self) -> bool {
        let Given { region, zone, rack, host } = self;
        [region, zone, rack, host].iter().all(|label| label.is_none())
    }
}

/// Says where a node stands.
pub(super) async fn label(node: NodeId, given: Given, reset: bool, global: &Global) -> CliResult {
    if given.is_empty() && !reset {
        return Err(CliError::usage(
            "no label is given",
            "name one, such as --zone b, or give the choice back to the process with --reset",
        ));
    }
    let admin = Admin::new(&seeds(global)?);
    let status = admin.status(LEADER_LIMIT).await?;
    let now = status.map.nodes.get(&node).ok_or_else(|| {
        CliError::new(
            Exit::NotFound,
            format!("the cluster has no node {node}"),
            "see `everhold node ls`",
        )
    })?;
    let labels = (!reset).then(|| given.over(&now.labels));
    let order = ChangeMap(MapCommand::SetLabels { node, labels });
    admin.leader(&order, LEADER_LIMIT).await.map_err(explain)?;
    told(global, node, "labelled", true, "copies that stand wrong now move by themselves")
}

/// Places in placement groups that a node still has, and about how many bytes these are.
fn left(map: &ClusterMap, node: NodeId) -> (usize, u64) {
    let disks: Vec<DiskId> =
        map.disks.values().filter(|disk| disk.node == node).map(|disk| disk.id).collect();
    let held = map.pgs.values().filter(|pg| pg.holders().any(|disk| disks.contains(&disk)));
    held.fold((0, 0), |(places, bytes), pg| (places + 1, bytes + pg.live_bytes))
}

fn has_seat(status: &ClusterStatus, node: NodeId) -> bool {
    status.voters.contains(&node) || status.learners.contains(&node)
}

/// A refusal says why; what to do about it depends on that.
fn explain(mut error: CliError) -> CliError {
    if error.exit == Exit::Conflict {
        error.hint =
            "add nodes or wait, as the reason says; see `everhold health` and `everhold disk ls`"
                .into();
    }
    error
}

fn told(global: &Global, node: NodeId, what: &str, yes: bool, next: &str) -> CliResult {
    if global.json {
        return json(&serde_json::json!({ "node": node, what: yes }));
    }
    let not = if yes { "" } else { "not " };
    line(format!("node {node}: {not}{what}; {next}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is not given stays.
    #[test]
    fn labels_are_given_one_by_one() {
        let now = Labels { zone: "a".into(), rack: "r".into(), ..Labels::default() };
        let given = Given { region: None, zone: Some("b".into()), rack: None, host: None };
        assert!(!given.is_empty());
        assert_eq!(given.over(&now), Labels { zone: "b".into(), ..now });
    }
}
