//! All peers of the client: who may be sent work, how long answers take, who is to be probed.

use super::breaker::{Breaker, Severity};
use super::latency::Latency;
use crate::wire::{Transport, WireError};
use everhold_env::Entropy;
use everhold_proto::rpc::{BreakerState, BreakerStatus};
use everhold_proto::{Kind, NodeId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Calls whose latencies are alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    PutSmall,
    PutLarge,
    GetSmall,
    GetLarge,
}

/// Blocks and ranges from this length on are large: their time is mostly transfer.
const LARGE_BYTES: usize = 256 << 10;

impl Class {
    pub(crate) fn put(bytes: usize) -> Class {
        if bytes < LARGE_BYTES { Class::PutSmall } else { Class::PutLarge }
    }

    pub(crate) fn get(bytes: usize) -> Class {
        if bytes < LARGE_BYTES { Class::GetSmall } else { Class::GetLarge }
    }
}

#[derive(Default)]
struct Peer {
    breaker: Breaker,
    latency: [Latency; 4],
    /// The transport failed: worth telling the cluster.
    unreachable: bool,
    /// Calls that are under way to it.
    under_way: u32,
    /// Since when its breaker is not closed, and why it opened last.
    since: Option<Instant>,
    reason: String,
}

/// A call that is under way to a peer, until this is dropped.
pub(crate) struct UnderWay<'a> {
    peers: &'a Peers,
    node: NodeId,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        if let Some(peer) = self.peers.peers.lock().get_mut(&self.node) {
            peer.under_way -= 1;
        }
    }
}

/// All peers. Nodes are few (`NODES_MAX`), so nothing is ever evicted.
pub(crate) struct Peers {
    entropy: Entropy,
    /// Whether breakers count at all.
    protected: bool,
    peers: Mutex<BTreeMap<NodeId, Peer>>,
    /// Raised whenever a breaker opens or closes.
    version: AtomicU64,
    /// How many peers are coming back.
    recovering: AtomicU64,
}

impl Peers {
    pub(crate) fn new(entropy: Entropy, protected: bool) -> Self {
        let (version, recovering) = (AtomicU64::new(0), AtomicU64::new(0));
        Peers { entropy, protected, peers: Mutex::default(), version, recovering }
    }

    /// Raised whenever the answer of [`Peers::allows`] changes for some node.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether work may be sent to `node`.
    pub(crate) fn allows(&self, node: NodeId) -> bool {
        !self.protected || self.peers.lock().get(&node).is_none_or(|peer| peer.breaker.allows())
    }

    /// Whether one more call may be under way to `node`: as [`Peers::allows`], and of a peer that is coming back,
    /// whether its window has room.
    pub(crate) fn admits(&self, node: NodeId) -> bool {
        let admits = |peer: &Peer| peer.breaker.window().is_none_or(|most| peer.under_way < most);
        !self.protected || self.peers.lock().get(&node).is_none_or(admits)
    }

    /// A call to `node` begins.
    pub(crate) fn begin(&self, node: NodeId) -> UnderWay<'_> {
        self.peers.lock().entry(node).or_default().under_way += 1;
        UnderWay { peers: self, node }
    }

    /// A peer that is coming back and has room for a call.
    pub(crate) fn to_be_tried(&self) -> Option<NodeId> {
        if !self.protected || self.recovering.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let peers = self.peers.lock();
        let tried = |peer: &Peer| {
            peer.breaker.is_recovering()
                && peer.breaker.window().is_some_and(|most| peer.under_way < most)
        };
        peers.iter().find(|(_, peer)| tried(peer)).map(|(node, _)| *node)
    }

    /// Average latency of a call to `node`.
    pub(crate) fn mean(&self, node: NodeId, class: Class) -> Duration {
        let peers = self.peers.lock();
        peers.get(&node).map_or(Duration::ZERO, |peer| peer.latency[class as usize].mean())
    }

    /// The median over the peers of their 95th percentiles: a minority of sick peers cannot move it.
    pub(crate) fn usual(&self, class: Class) -> Option<Duration> {
        let peers = self.peers.lock();
        let known = peers.values().filter_map(|peer| peer.latency[class as usize].p95());
        let mut known: Vec<Duration> = known.collect();
        if known.is_empty() {
            return None;
        }
        let middle = (known.len() - 1) / 2;
        Some(*known.select_nth_unstable(middle).1)
    }

    /// An answer came, even if it was an error: the peer lives.
    pub(crate) fn succeeded(&self, node: NodeId, class: Class, elapsed: Duration) {
        let mut peers = self.peers.lock();
        let peer = peers.entry(node).or_default();
        peer.latency[class as usize].record(elapsed);
        peer.unreachable = false;
        if peer.breaker.succeed() {
            if peer.breaker.allows() {
                peer.since = None;
            }
            self.changed(&peers);
        }
    }

    /// The state of a breaker has changed.
    fn changed(&self, peers: &BTreeMap<NodeId, Peer>) {
        let recovering = peers.values().filter(|peer| peer.breaker.is_recovering()).count();
        self.recovering.store(recovering as u64, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// A call failed.
    pub(crate) fn failed(&self, node: NodeId, e: &WireError, now: Instant) {
        let reason = || e.to_string();
        match e {
            WireError::Transport { how: Transport::Refused, .. } => {
                self.fail(node, Severity::Gone, true, now, reason);
            }
            WireError::Transport { how, .. } => {
                // A kept connection breaks when its peer restarts; that alone tells nothing.
                self.fail(node, Severity::Failed, *how != Transport::Broken, now, reason);
            }
            WireError::Garbled { .. } => self.fail(node, Severity::Failed, false, now, reason),
            // A busy peer works, and says when to come back: going round it would only move the load.
            WireError::Remote(e) if e.kind == Kind::Internal => {
                self.fail(node, Severity::Failed, false, now, reason);
            }
            WireError::Remote(_) => {}
        }
    }

    /// No answer came for `elapsed`, and the caller went on without it.
    pub(crate) fn late(&self, node: NodeId, class: Class, elapsed: Duration, now: Instant) {
        self.peers.lock().entry(node).or_default().latency[class as usize].record(elapsed);
        let reason =
            || format!("no answer for {} ms, when others had answered", elapsed.as_millis());
        self.fail(node, Severity::Failed, true, now, reason);
    }

    fn fail(
        &self,
        node: NodeId,
        severity: Severity,
        unreachable: bool,
        now: Instant,
        reason: impl FnOnce() -> String,
    ) {
        let jitter = self.entropy.unit();
        let mut peers = self.peers.lock();
        let peer = peers.entry(node).or_default();
        if peer.breaker.fail(severity, now, jitter) {
            peer.unreachable |= unreachable;
            peer.since.get_or_insert(now);
            peer.reason = reason();
            self.changed(&peers);
            tracing::info!(%node, "going round a node that does not answer well");
        }
    }

    /// Nodes that are to be probed now; each probe must end in [`Peers::probed`].
    pub(crate) fn begin_probes(&self, now: Instant, limit: Duration) -> Vec<NodeId> {
        let mut peers = self.peers.lock();
        let due = |(node, peer): (&NodeId, &mut Peer)| {
            peer.breaker.begin_probe(now, limit).then_some(*node)
        };
        peers.iter_mut().filter_map(due).collect()
    }

    /// A probe ended.
    pub(crate) fn probed(&self, node: NodeId, answered: bool, now: Instant) {
        let jitter = self.entropy.unit();
        let mut peers = self.peers.lock();
        let peer = peers.entry(node).or_default();
        let changed = if answered {
            peer.unreachable = false;
            peer.breaker.probe_succeeded()
        } else {
            peer.unreachable = true;
            peer.reason = "a probe was not answered in time".into();
            peer.breaker.fail(Severity::Failed, now, jitter)
        };
        if changed {
            self.changed(&peers);
        }
    }

    /// The breakers that are not closed; `of` is whose they are.
    pub(crate) fn breakers(&self, of: &str, now: Instant) -> Vec<BreakerStatus> {
        let peers = self.peers.lock();
        let told = |(node, peer): (&NodeId, &Peer)| {
            let state = peer.breaker.position();
            let lasted = now.saturating_duration_since(peer.since.unwrap_or(now));
            (state != BreakerState::Closed).then(|| BreakerStatus {
                of: of.into(),
                node: *node,
                state,
                for_ms: u64::try_from(lasted.as_millis()).unwrap_or(u64::MAX),
                reason: peer.reason.clone(),
            })
        };
        peers.iter().filter_map(told).collect()
    }

    /// Nodes that cannot be reached from here.
    pub(crate) fn unreachable(&self) -> Vec<NodeId> {
        let peers = self.peers.lock();
        let lost = peers.iter().filter(|(_, peer)| peer.unreachable && !peer.breaker.allows());
        lost.map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sick_minority_does_not_move_what_is_usual() {
        let peers = Peers::new(Entropy::seeded(1), true);
        for node in 1..=3 {
            let ms = if node == 3 { 9000 } else { 10 };
            let took = Duration::from_millis(ms);
            peers.succeeded(NodeId(node), Class::PutLarge, took);
        }
        assert_eq!(peers.usual(Class::PutLarge), Some(Duration::from_millis(10)));
        assert_eq!(peers.usual(Class::GetLarge), None);
    }

    #[test]
    fn a_node_that_stays_silent_is_left_alone_and_reported_until_a_probe_answers() {
        let peers = Peers::new(Entropy::seeded(1), true);
        let (node, now) = (NodeId(7), Instant::now());
        let version = peers.version();
        for _ in 0..3 {
            peers.late(node, Class::PutLarge, Duration::from_secs(1), now);
        }
        assert!(!peers.allows(node));
        assert_ne!(peers.version(), version);
        assert_eq!(peers.unreachable(), [node]);
        let told = peers.breakers("me", now + Duration::from_secs(2));
        assert_eq!((told[0].state, told[0].for_ms), (BreakerState::Open, 2000));
        let later = now + Duration::from_secs(60);
        assert_eq!(peers.begin_probes(later, Duration::from_secs(1)), [node]);
        peers.probed(node, true, later);
        assert!(peers.unreachable().is_empty());
        assert!(!peers.allows(node), "one call at a time, until it is known to be well");
        assert_eq!(peers.to_be_tried(), Some(node));
        let tried = peers.begin(node);
        assert!(!peers.admits(node) && peers.to_be_tried().is_none());
        drop(tried);
        while !peers.allows(node) {
            assert!(peers.admits(node));
            peers.succeeded(node, Class::PutLarge, Duration::from_millis(1));
        }
        assert_eq!(peers.to_be_tried(), None);
        assert!(peers.breakers("me", later).is_empty());
    }
}
