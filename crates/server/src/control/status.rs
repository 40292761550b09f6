//! The state of the whole cluster, as the leader sees it.

use super::lead::membership;
use crate::feed::Overdue;
use crate::node::Node;
use everhold_cluster::{health, reads};
use everhold_proto::Error;
use everhold_proto::kv::get_row;
use everhold_proto::limits::SESSION_SILENCE_MS;
use everhold_proto::rpc::{ClusterStatus, Finding, RepairStatus, Severity};
use everhold_proto::tables::{self, Header};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Rates below this are noise, not progress that an end could be computed from.
const RATE_MIN: f64 = 1.0;

/// Assembles the status, from a linearizable read of the state and from what was heard lately.
pub(crate) async fn cluster_status(
    node: &Arc<Node>,
    deadline: Instant,
) -> Result<ClusterStatus, Error> {
    let (map, header, mut repair, applied) = node
        .read(deadline, |kv, at| {
            let map = reads::load_map(kv)?;
            let repair = reads::repair_status(kv, &map)?;
            let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
            Ok((map, header, repair, at))
        })
        .await?;
    let raft = node.leading()?.status();
    let now = node.env.clock.now();
    add_rate(&mut repair, node.observations.repair_rate(now));
    let breakers = node.observations.breakers(now);
    let members = membership(&raft);
    let brake = node.observations.brake();
    let mut health = health::findings(&map, &repair, brake.as_deref(), &members.voters, &breakers);
    health.extend(node.feed.overdue(now).into_iter().map(|overdue| held_up(node, &overdue)));
    Ok(ClusterStatus {
        map: map.told(),
        leader: raft.leader.map(|leader| leader.node),
        term: raft.term,
        voters: members.voters.into_iter().collect(),
        learners: members.learners.into_keys().collect(),
        applied,
        repair,
        brake,
        health,
        breakers,
        speeds: node.observations.speeds(now).into_values().collect(),
        inodes: header.inodes,
        bytes: header.bytes,
    })
}

/// What to do about a client that keeps others waiting for a directory.
fn held_up(node: &Node, overdue: &Overdue) -> Finding {
    let Overdue { session, inode, waits, address } = *overdue;
    let (client, waits) = (node.client_of(session), waits.as_secs());
    let at = address.map(|address| format!(" at {}", address.ip())).unwrap_or_default();
    let silence = Duration::from_millis(SESSION_SILENCE_MS).as_secs();
    Finding {
        severity: Severity::Warning,
        text: format!(
            "{client}{at} (session {session}) keeps other clients waiting for {waits} s: it has changes in \
             directory {inode} that the cluster does not know yet"
        ),
        remedy: format!(
            "look at the load of its machine and at its log; when it is silent for {silence} s the others go on \
             without it"
        ),
    }
}

pub(crate) fn add_rate(repair: &mut RepairStatus, bytes_per_second: f64) {
    repair.bytes_per_second = bytes_per_second;
    let moves = bytes_per_second >= RATE_MIN && repair.bytes_missing > 0;
    repair.eta_seconds = moves.then(|| repair.bytes_missing as f64 / bytes_per_second);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// There is an end in sight only while something is missing and something is fetched.
    #[test]
    fn eta_follows_the_rate() {
        let mut repair = RepairStatus { bytes_missing: 1000, ..Default::default() };
        add_rate(&mut repair, 100.0);
        assert_eq!(repair.eta_seconds, Some(10.0));
        add_rate(&mut repair, 0.0);
        assert_eq!(repair.eta_seconds, None);
        let mut whole = RepairStatus::default();
        add_rate(&mut whole, 100.0);
        assert_eq!(whole.eta_seconds, None);
    }
}
