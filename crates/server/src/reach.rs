//! Which of the doubtful nodes this one reaches, and how long its own calls to the leader take.
//!
//! A leader that does not hear a node asks, in effect, everybody: each node tries the nodes that the map does not call
//! Up and says in its heartbeats whom it reached. The answers decide whether a silent node is dead
//! (`everhold_cluster::detector`); how long calls take, whether a node is slow (`everhold_cluster::slow`).

use crate::node::Node;
use everhold_proto::NodeId;
use everhold_proto::map::NodeState;
use everhold_proto::rpc::Hello;
use futures_util::future::join_all;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often the doubtful are tried, and how long they have to answer.
const TRY_EVERY: Duration = Duration::from_millis(500);
const TRY_LIMIT: Duration = Duration::from_millis(1000);
/// Nodes that one node tries at a time. Where more are silent, each node takes others of them, so that a leader of a
/// large cluster hears of all and is not flooded.
const TRIED_MAX: usize = 4;
/// An answer says something for so long.
const REACHED_FOR: Duration = Duration::from_secs(3);
/// Calls to the leader that are remembered, for how long, and the fewest that tell something.
const CALLS_MAX: usize = 8;
const CALLS_FOR: Duration = Duration::from_secs(6);
const CALLS_MIN: usize = 3;

/// See the module's words.
#[derive(Default)]
pub(crate) struct Reach {
    reached: Mutex<BTreeMap<NodeId, Instant>>,
    calls: Mutex<VecDeque<(Instant, Duration)>>,
}

impl Reach {
    /// Doubtful nodes that answered lately.
    pub(crate) fn reached_lately(&self, now: Instant) -> Vec<NodeId> {
        let mut reached = self.reached.lock();
        reached.retain(|_, at| now.saturating_duration_since(*at) < REACHED_FOR);
        reached.keys().copied().collect()
    }

    /// A call to the leader took so long, or was given up after it.
    pub(crate) fn called(&self, took: Duration, now: Instant) {
        let mut calls = self.calls.lock();
        if calls.len() == CALLS_MAX {
            calls.pop_front();
        }
        calls.push_back((now, took));
    }

    /// Median of the last calls to the leader, in microseconds.
    pub(crate) fn answer_micros(&self, now: Instant) -> Option<u32> {
        let mut calls = self.calls.lock();
        calls.retain(|(at, _)| now.saturating_duration_since(*at) < CALLS_FOR);
        let mut times: Vec<Duration> = calls.iter().map(|(_, took)| *took).collect();
        if times.len() < CALLS_MIN {
            return None;
        }
        let middle = times.len() / 2;
        let median = *times.select_nth_unstable(middle).1;
        Some(u32::try_from(median.as_micros()).unwrap_or(u32::MAX))
    }

    fn answered(&self, node: NodeId, now: Instant) {
        self.reached.lock().insert(node, now);
    }
}

/// Tries the doubtful nodes, for the life of this one.
pub(crate) async fn run(node: Arc<Node>) {
    loop {
        node.env.clock.sleep(TRY_EVERY).await;
        let map = node.map.current();
        let doubtful: Vec<_> = map
            .nodes
            .values()
            .filter(|other| matches!(other.state, NodeState::Suspect | NodeState::Down))
            .filter(|other| other.address != node.address)
            .map(|other| (other.id, other.address.clone()))
            .collect();
        let own = node.registration.node().map_or(0, |id| id.0 as usize);
        let doubtful = part_of(doubtful, own);
        join_all(doubtful.into_iter().map(|(id, address)| try_one(&node, id, address))).await;
    }
}

/// At most [`TRIED_MAX`] of them; nodes with other numbers take others.
fn part_of<T>(mut all: Vec<T>, own: usize) -> Vec<T> {
    if !all.is_empty() {
        let by = own * TRIED_MAX % all.len();
        all.rotate_left(by);
    }
    all.truncate(TRIED_MAX);
    all
}

async fn try_one(node: &Node, id: NodeId, address: String) {
    let deadline = node.env.clock.now() + TRY_LIMIT;
    let answer = node.wire.try_call(&address, &Hello {}, deadline, true).await;
    let now = node.env.clock.now();
    match answer {
        // Another node may serve at the address of one that is gone.
        Ok(hello) if hello.node == Some(id) => node.reach.answered(id, now),
        Ok(_) => {}
        Err(e) => {
            tracing::debug!(peer = %id, error = %e, "a doubtful node is not reached from here either");
            node.signals.unreachable(id, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The median of the last calls, when there are enough of them and they are not old.
    #[test]
    fn calls_are_remembered_for_a_while() {
        let (reach, now) = (Reach::default(), Instant::now());
        let ms = Duration::from_millis;
        (0..20).for_each(|_| reach.called(ms(900), now));
        (1..=CALLS_MAX as u64).for_each(|n| reach.called(ms(n), now));
        assert_eq!(reach.answer_micros(now), Some(5000));
        assert_eq!(reach.answer_micros(now + CALLS_FOR), None);
        (0..CALLS_MIN - 1).for_each(|_| reach.called(ms(1), now));
        assert_eq!(reach.answer_micros(now + CALLS_FOR), None, "too few tell nothing");
    }

    /// A few nodes together try all.
    #[test]
    fn many_doubtful_nodes_are_shared() {
        let tried: std::collections::BTreeSet<usize> =
            (1..=5).flat_map(|own| part_of((0..18).collect(), own)).collect();
        assert_eq!(tried.len(), 18);
        assert_eq!(part_of((0..3).collect::<Vec<_>>(), 7).len(), 3);
        assert!(part_of(Vec::<u8>::new(), 7).is_empty());
    }

    #[test]
    fn answers_are_forgotten() {
        let (reach, now) = (Reach::default(), Instant::now());
        reach.answered(NodeId(3), now);
        assert_eq!(reach.reached_lately(now), [NodeId(3)]);
        assert!(reach.reached_lately(now + REACHED_FOR).is_empty());
    }
}
