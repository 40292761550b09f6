//! The leader's loop: while this node leads, it hears, concludes and acts; otherwise it waits.
//!
//! A tick never waits for a proposal: each kind of work runs in a task of its own, one at a time, and
//! all of them end with the leadership.

use super::actions::Hands;
use super::controller::{Controller, Event, SlowView, View};
use crate::node::Node;
use everhold_cluster::detector::DetectorConfig;
use everhold_cluster::repair::Evenness;
use everhold_cluster::voters::Membership;
use everhold_cluster::{reads, rebalance};
use everhold_consensus::{Consensus, RaftStatus, Role};
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end};
use everhold_proto::limits::{DEAD_GRACE_MS, SESSION_TTL_MS};
use everhold_proto::map::ClusterMap;
use everhold_proto::table::SessionRow;
use everhold_proto::tables::{self, Header, Key, Table};
use everhold_proto::{Error, NodeId, SessionId};
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// The rhythm of the loop.
const TICK: Duration = Duration::from_millis(100);
/// The least time between two ticks, however urgent what was heard is.
const TICK_MIN: Duration = Duration::from_millis(10);
/// A node that does not lead looks this often whether it does.
const IDLE: Duration = Duration::from_millis(50);
/// The first read of a leadership waits so long for the entries before it.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Answers of probes under way.
const PROBES_MAX: usize = 1024;
/// A learner this close to the log's end has caught up.
const CAUGHT_UP_LAG: u64 = 256;

/// Runs for the life of the node.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        if let Some(consensus) = node.raft.current() {
            let status = consensus.status();
            if status.role == Role::Leader {
                tracing::info!(term = status.term, "this node leads");
                lead(&node, &consensus, status.term).await;
                tracing::info!(term = status.term, "this node leads no more");
            }
        }
        node.env.clock.sleep(IDLE).await;
    }
}

/// One term of leadership.
async fn lead(node: &Arc<Node>, consensus: &Arc<Consensus>, term: u64) {
    let clock = node.env.clock;
    node.observations.reset();
    // Everything that was committed before this term is seen before anything is concluded.
    if let Err(e) = consensus.barrier(clock.now() + CATCH_UP).await {
        return tracing::info!(error = %e, "the leadership is not confirmed yet");
    }
    let log_ms = match log_ms(node, consensus) {
        Ok(log_ms) => log_ms,
        Err(e) => return tracing::warn!(error = %e, "the leader cannot read its own state"),
    };
    let mut controller = Controller::new(DetectorConfig::default(), clock.now(), log_ms);
    let (refused_tx, mut refused) = mpsc::channel(PROBES_MAX);
    let mut hands = Hands::new(node.clone(), consensus.clone(), refused_tx);
    while is_leading(node, consensus, term) {
        if let Err(e) = round(node, consensus, &mut controller, &mut hands, &mut refused) {
            tracing::warn!(error = %e, "the leader cannot read its own state");
        }
        clock.sleep(TICK_MIN).await;
        // Either something urgent was heard or the tick is over: both lead to the next round.
        let _ = clock.within(TICK, node.observations.urgent()).await;
    }
    node.observations.reset();
}

/// Hears, concludes, publishes and acts.
fn round(
    node: &Arc<Node>,
    consensus: &Consensus,
    controller: &mut Controller,
    hands: &mut Hands,
    refused: &mut mpsc::Receiver<NodeId>,
) -> Result<(), Error> {
    let now = node.env.clock.now();
    let (map, slow) = if controller.looks_slowly(now) {
        let (map, slow) = look_slowly(node, consensus)?;
        (map, Some(slow))
    } else {
        (node.local_map()?, None)
    };
    let evenness = evenness(node, &map, slow.is_some());
    controller.apply(Event::Heard(node.observations.take()), &map, now);
    while let Ok(gone) = refused.try_recv() {
        controller.apply(Event::Refused(gone), &map, now);
    }
    let view = View { map: &map, speeds: node.observations.speeds(now), evenness, slow };
    let actions = controller.tick(&view, now);
    node.observations.publish(map.clone(), controller.brake().map(Into::into));
    actions.into_iter().for_each(|action| hands.act(action, &map));
    Ok(())
}

/// How even the disks are to be. An order to rebalance ends when nothing is left to move; that is looked at about once a
/// second.
fn evenness(node: &Node, map: &ClusterMap, looks: bool) -> Evenness {
    if !node.observations.rebalance_ordered() {
        return Evenness::Worthwhile;
    }
    let done = || {
        let forecast = rebalance::forecast(map, Evenness::Exact);
        rebalance::in_motion(map) + forecast.moves + forecast.created == 0
    };
    if looks && done() {
        tracing::info!("the rebalance that was ordered is done");
        node.observations.order_rebalance(false);
    }
    Evenness::Exact
}

fn is_leading(node: &Node, consensus: &Arc<Consensus>, term: u64) -> bool {
    let status = consensus.status();
    let seated = node.raft.current().is_some_and(|current| Arc::ptr_eq(&current, consensus));
    seated && status.role == Role::Leader && status.term == term
}

/// The map with fresh counts (they change without a new epoch), and the rest that is read about once a
/// second.
fn look_slowly(node: &Node, consensus: &Consensus) -> Result<(Arc<ClusterMap>, SlowView), Error> {
    let now = node.env.clock.now();
    let newest = node.local_map()?;
    let log_ms = log_ms(node, consensus)?;
    let (map, open, sweepable) = consensus.read(|kv, _| {
        Ok((reads::load_map(kv)?, open_sessions(kv, log_ms)?, is_sweepable(kv, log_ms)?))
    })?;
    debug_assert!(map.epoch >= newest.epoch, "the replica is not behind its own cache");
    let ttl = Duration::from_millis(SESSION_TTL_MS);
    let heard = node.observations.nodes();
    let slow = SlowView {
        usage: heard.into_values().flat_map(|seen| seen.disks).collect(),
        expired: node.observations.expired_sessions(&open, ttl, now),
        sweepable,
        members: membership(&consensus.status()),
        failed: node.observations.failed_disks(),
    };
    Ok((Arc::new(map), slow))
}

/// The log time that a command proposed now would be stamped with.
fn log_ms(node: &Node, consensus: &Consensus) -> Result<u64, Error> {
    let stamp = node.log_time.stamp(&node.env.clock, consensus.status().term, || {
        consensus.read(|kv, _| {
            let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
            Ok(header.log_ms)
        })
    })?;
    Ok(stamp.log_ms)
}

/// Who is in Raft, by node.
pub(super) fn membership(status: &RaftStatus) -> Membership {
    let mut members = Membership { joint: status.changing, ..Membership::default() };
    for member in &status.members {
        if member.voter {
            members.voters.insert(member.node.node);
        } else {
            let caught_up = member.lag.is_some_and(|lag| lag <= CAUGHT_UP_LAG);
            members.learners.insert(member.node.node, caught_up);
        }
    }
    members
}

/// Open sessions, and for how long the leaders have not seen them by what is recorded. Log time is time in which
/// somebody led, so a gap between two leaders counts for nobody.
fn open_sessions(kv: &dyn KvRead, log_ms: u64) -> KvResult<BTreeMap<SessionId, Duration>> {
    let open = everhold_namespace::sessions::list(kv, None, usize::MAX)?.into_iter();
    let age = |row: &SessionRow| match row.seen_ms {
        0 => Duration::ZERO,
        seen_ms => Duration::from_millis(log_ms.saturating_sub(seen_ms)),
    };
    Ok(open.map(|(session, row)| (session, age(&row))).collect())
}

/// Whether a sweep at this log time would find something to do.
fn is_sweepable(kv: &dyn KvRead, log_ms: u64) -> KvResult<bool> {
    if everhold_namespace::is_reapable(kv, log_ms)? {
        return Ok(true);
    }
    // Dead blocks are in the order of their death, which follows the table's byte in the key.
    let died = first_key(kv, Table::Dead)?
        .and_then(|key| Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?)));
    Ok(died.is_some_and(|died_ms| died_ms.saturating_add(DEAD_GRACE_MS) <= log_ms))
}

fn first_key(kv: &dyn KvRead, table: Table) -> KvResult<Option<Vec<u8>>> {
    let from = Key::new(table).done();
    let mut first = None;
    kv.scan(&from, &prefix_end(&from), &mut |key, _| {
        first = Some(key.to_vec());
        ControlFlow::Break(())
    })?;
    Ok(first)
}
