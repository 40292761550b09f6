//! What the leader has heard lately, shared between the services that hear it and the control loops
//! that judge it. Services call the short methods below; the loops drain [`Observations::take`] and
//! publish the map they go by with [`Observations::publish`].
//!
//! **Invariant:** nothing here is durable and nothing here decides. A new leader starts empty
//! ([`Observations::reset`]), and everything is bounded by the caps in this file.

use everhold_proto::command::DiskUsage;
use everhold_proto::limits::NODES_MAX;
use everhold_proto::map::ClusterMap;
use everhold_proto::planted::{self, Bug};
use everhold_proto::rpc::{BreakerStatus, DiskSpeed, Heartbeat, HeartbeatReply, RepairProgress};
use everhold_proto::{DiskId, Epoch, NodeId, SessionId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Observations that wait for the next tick. At 5 heartbeats a second from each of 1024 nodes a tick
/// of 100 ms sees about 500; the rest is for reports.
const PENDING_MAX: usize = 8192;
/// Disks that one heartbeat may name: far more than a machine holds.
const DISKS_PER_NODE_MAX: usize = 256;
/// Sessions whose renewals are remembered: far more clients than one leader serves.
const SESSIONS_MAX: usize = 1 << 18;
/// A session that lives is heard of by a new leader within this time, whatever its row says: mounts follow the feed all
/// the time, and who could not renew its session tries again each second.
const FIRST_WORD: Duration = Duration::from_secs(3);
/// A node that registered is in the published map well before this.
const STRANGE_AFTER: Duration = Duration::from_secs(2);
/// Older figures of disks say nothing.
const SPEED_LIFE: Duration = Duration::from_secs(2);
/// Clients tell of their breakers every second; what was told longer ago is over.
const BREAKER_LIFE: Duration = Duration::from_secs(4);
/// Breakers that are remembered: of all clients of a machine room against a few sick nodes.
const BREAKERS_MAX: usize = 4096;
/// Longest text of a breaker that is kept.
const BREAKER_TEXT_MAX: usize = 200;
/// Repair progress is sampled this often, and so many samples make the rate.
const RATE_SAMPLE: Duration = Duration::from_secs(1);
const RATE_SAMPLES: usize = 10;

/// One thing that was heard, in the order of hearing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A sign of life.
    Heartbeat {
        /// The node.
        node: NodeId,
        /// Its boot count.
        boot: u64,
        /// When.
        at: Instant,
    },
    /// The connection that carried a node's heartbeats closed: the process may be dead.
    Closed {
        /// The node.
        node: NodeId,
        /// When.
        at: Instant,
    },
    /// Somebody could not reach a node.
    Unreachable {
        /// Whom.
        node: NodeId,
        /// Who says so, when it is a node.
        reporter: Option<NodeId>,
        /// When.
        at: Instant,
    },
    /// A node that the map does not call Up answered somebody.
    Reached {
        /// Whom.
        node: NodeId,
        /// Who says so.
        reporter: NodeId,
        /// When.
        at: Instant,
    },
    /// The node stops on purpose, now.
    Leaving {
        /// The node.
        node: NodeId,
        /// Its boot count.
        boot: u64,
        /// When.
        at: Instant,
    },
}

/// The last heartbeat of a node.
#[derive(Clone, Debug)]
pub struct NodeSeen {
    /// Its boot count.
    pub boot: u64,
    /// The map it has.
    pub epoch: Epoch,
    /// When the last heartbeat arrived.
    pub at: Instant,
    /// Its disks.
    pub disks: Vec<DiskUsage>,
    /// Peers it could not reach.
    pub unreachable: BTreeSet<NodeId>,
    /// Repair going on.
    pub repair: RepairProgress,
    /// It said that it is stopping.
    pub leaving: bool,
    /// How fast its disks answered.
    pub speeds: Vec<DiskSpeed>,
    /// Disks of it that have failed.
    pub failed: Vec<(DiskId, String)>,
    samples: VecDeque<(Instant, u64)>,
}

/// See the module's words. Cheap to share in an `Arc`.
#[derive(Default)]
pub struct Observations {
    inner: Mutex<Inner>,
    urgent: Notify,
}

#[derive(Default)]
struct Inner {
    pending: VecDeque<Observation>,
    dropped: u64,
    nodes: BTreeMap<NodeId, NodeSeen>,
    sessions: BTreeMap<SessionId, Instant>,
    map: Arc<ClusterMap>,
    /// Since when nodes are heard that the map does not have.
    strangers: BTreeMap<NodeId, Instant>,
    /// Circuit breakers of clients that are not closed, and when that was told.
    breakers: BTreeMap<(String, NodeId, Option<DiskId>), (BreakerStatus, Instant)>,
    /// Nodes with a disk that is a member somewhere and not full there.
    work: BTreeSet<NodeId>,
    brake: Option<String>,
    rebalance: bool,
}

impl Observations {
    /// Empty observations.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// A heartbeat arrived. One of an older boot than the newest heard is ignored.
    pub fn heartbeat(&self, heartbeat: &Heartbeat, now: Instant) {
        let mut inner = self.inner.lock();
        let known = inner.nodes.get(&heartbeat.node);
        if known.is_some_and(|seen| seen.boot > heartbeat.boot)
            || (known.is_none() && inner.nodes.len() >= NODES_MAX)
        {
            return;
        }
        let (node, boot) = (heartbeat.node, heartbeat.boot);
        let unreachable: BTreeSet<NodeId> =
            heartbeat.unreachable.iter().copied().filter(|n| *n != node).take(NODES_MAX).collect();
        inner.push(Observation::Heartbeat { node, boot, at: now });
        for target in &unreachable {
            inner.push(Observation::Unreachable { node: *target, reporter: Some(node), at: now });
        }
        for target in heartbeat.reached.iter().take(NODES_MAX).filter(|n| **n != node) {
            inner.push(Observation::Reached { node: *target, reporter: node, at: now });
        }
        let said_before = known_leaving(&inner, node, boot);
        if heartbeat.leaving && !said_before {
            inner.push(Observation::Leaving { node, boot, at: now });
            self.urgent.notify_one();
        }
        inner.remember(heartbeat, unreachable, now);
    }

    /// The connection that carried heartbeats of `node` closed.
    pub fn connection_closed(&self, node: NodeId, now: Instant) {
        self.inner.lock().push(Observation::Closed { node, at: now });
        self.urgent.notify_one();
    }

    /// A client (`None`) or node could not reach these nodes.
    pub fn unreachable(&self, nodes: &[NodeId], reporter: Option<NodeId>, now: Instant) {
        let mut inner = self.inner.lock();
        for node in nodes.iter().take(NODES_MAX).filter(|n| Some(**n) != reporter) {
            inner.push(Observation::Unreachable { node: *node, reporter, at: now });
        }
    }

    /// A client told of its circuit breakers.
    pub fn breakers_told(&self, breakers: Vec<BreakerStatus>, now: Instant) {
        let mut inner = self.inner.lock();
        inner.breakers.retain(|_, (_, at)| now.saturating_duration_since(*at) <= BREAKER_LIFE);
        for mut breaker in breakers.into_iter().take(NODES_MAX) {
            shorten(&mut breaker.of);
            shorten(&mut breaker.reason);
            let key = (breaker.of.clone(), breaker.node, breaker.disk);
            if inner.breakers.len() < BREAKERS_MAX || inner.breakers.contains_key(&key) {
                inner.breakers.insert(key, (breaker, now));
            }
        }
    }

    /// Circuit breakers of clients that are not closed.
    pub fn breakers(&self, now: Instant) -> Vec<BreakerStatus> {
        let inner = self.inner.lock();
        let fresh = |at: Instant| now.saturating_duration_since(at) <= BREAKER_LIFE;
        let told = inner.breakers.values().filter(|(_, at)| fresh(*at));
        told.map(|(breaker, _)| breaker.clone()).collect()
    }

    /// A client's session was opened, renewed or used: its time to live starts anew.
    pub fn session_seen(&self, session: SessionId, now: Instant) {
        let mut inner = self.inner.lock();
        if inner.sessions.len() < SESSIONS_MAX || inner.sessions.contains_key(&session) {
            inner.sessions.insert(session, now);
        }
    }

    /// The answer to a heartbeat that was just passed to [`Observations::heartbeat`]. The published map
    /// lags a little: a node whose boot is newer than the map's, or that the map does not have yet,
    /// need not register.
    pub fn reply_for(&self, heartbeat: &Heartbeat) -> HeartbeatReply {
        let inner = self.inner.lock();
        let map = &inner.map;
        let node = map.nodes.get(&heartbeat.node);
        let known = map.epoch > Epoch(0);
        HeartbeatReply {
            epoch: map.epoch,
            work: inner.work.contains(&heartbeat.node),
            brake: inner.brake.is_some(),
            register: match node {
                Some(node) => node.boot > heartbeat.boot,
                None => known && inner.is_strange(heartbeat.node),
            },
            register_disks: heartbeat
                .disks
                .iter()
                .take(DISKS_PER_NODE_MAX)
                .map(|usage| usage.disk)
                .filter(|id| map.disks.get(id).is_some_and(|d| d.node != heartbeat.node))
                .collect(),
        }
    }

    /// The map that answers go by. Nodes that are no longer in it are forgotten.
    pub fn publish(&self, map: Arc<ClusterMap>, brake: Option<String>) {
        let work = nodes_with_work(&map);
        let mut inner = self.inner.lock();
        inner.nodes.retain(|node, _| map.nodes.contains_key(node));
        inner.strangers.retain(|node, _| !map.nodes.contains_key(node));
        inner.work = work;
        inner.map = map;
        inner.brake = brake;
    }

    /// The map last published (empty before the first).
    pub fn map(&self) -> Arc<ClusterMap> {
        self.inner.lock().map.clone()
    }

    /// Why the brake is on, if it is.
    pub fn brake(&self) -> Option<String> {
        self.inner.lock().brake.clone()
    }

    /// Forgets everything: a new leadership begins.
    pub fn reset(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// Everything heard since the last call, in order.
    pub fn take(&self) -> Vec<Observation> {
        let mut inner = self.inner.lock();
        if std::mem::take(&mut inner.dropped) > 0 {
            tracing::warn!("observations overflowed; the oldest were dropped");
        }
        inner.pending.drain(..).collect()
    }

    /// Resolves when something was heard that should not wait for the next tick.
    pub async fn urgent(&self) {
        self.urgent.notified().await;
    }

    /// Makes [`Observations::urgent`] resolve: something outside of the observations is urgent.
    pub fn ring(&self) {
        self.urgent.notify_one();
    }

    /// The last heartbeat of each node.
    pub fn nodes(&self) -> BTreeMap<NodeId, NodeSeen> {
        self.inner.lock().nodes.clone()
    }

    /// How fast the disks answered, by heartbeats that are not old.
    pub fn speeds(&self, now: Instant) -> BTreeMap<DiskId, DiskSpeed> {
        let inner = self.inner.lock();
        let fresh = |seen: &&NodeSeen| now.saturating_duration_since(seen.at) <= SPEED_LIFE;
        let speeds = inner.nodes.values().filter(fresh).flat_map(|seen| &seen.speeds);
        speeds.map(|speed| (speed.disk, *speed)).collect()
    }

    /// Disks that their own nodes call failed, and why.
    pub fn failed_disks(&self) -> Vec<(DiskId, String)> {
        let inner = self.inner.lock();
        let of = |node: NodeId, disk: DiskId| {
            inner.map.disks.get(&disk).is_some_and(|row| row.node == node)
        };
        let told = inner.nodes.iter().flat_map(|(node, seen)| {
            seen.failed.iter().filter(|(disk, _)| of(*node, *disk)).cloned()
        });
        told.map(|(disk, mut why)| {
            shorten(&mut why);
            (disk, why)
        })
        .collect()
    }

    /// An operator wants the disks as even as they can be, or no longer.
    pub fn order_rebalance(&self, wanted: bool) {
        self.inner.lock().rebalance = wanted;
    }

    /// Whether an operator wants the disks as even as they can be.
    pub fn rebalance_ordered(&self) -> bool {
        self.inner.lock().rebalance
    }

    /// Sessions of `open` that were not seen for `ttl`. One that this leader has not heard of is as old as its row says
    /// (the value: for how long the leaders had not seen it), but has three seconds to be heard of.
    pub fn expired_sessions(
        &self,
        open: &BTreeMap<SessionId, Duration>,
        ttl: Duration,
        now: Instant,
    ) -> Vec<SessionId> {
        let mut inner = self.inner.lock();
        inner.sessions.retain(|session, _| open.contains_key(session));
        let mut expired = Vec::new();
        for (session, age) in open {
            let age = match planted::has(Bug::SessionAgeReset) {
                true => Duration::ZERO,
                false => (*age).min(ttl.saturating_sub(FIRST_WORD)),
            };
            // A machine that runs for less than this age has a clock that starts later.
            let then = now.checked_sub(age).unwrap_or(now);
            let seen = *inner.sessions.entry(*session).or_insert(then);
            if now.saturating_duration_since(seen) > ttl {
                expired.push(*session);
            }
        }
        expired
    }

    /// Bytes per second that all nodes fetched over the last seconds.
    pub fn repair_rate(&self, now: Instant) -> f64 {
        let horizon = RATE_SAMPLE * (RATE_SAMPLES as u32 + 2);
        self.inner
            .lock()
            .nodes
            .values()
            .filter(|seen| now.saturating_duration_since(seen.at) < horizon)
            .map(NodeSeen::fetch_rate)
            .sum()
    }
}

fn shorten(text: &mut String) {
    if let Some((at, _)) = text.char_indices().nth(BREAKER_TEXT_MAX) {
        text.truncate(at);
    }
}

fn known_leaving(inner: &Inner, node: NodeId, boot: u64) -> bool {
    inner.nodes.get(&node).is_some_and(|seen| seen.boot == boot && seen.leaving)
}

fn nodes_with_work(map: &ClusterMap) -> BTreeSet<NodeId> {
    let members = map.pgs.values().flat_map(|pg| &pg.members);
    let disks = members.filter(|member| !member.is_full()).map(|member| member.disk);
    disks.filter_map(|disk| Some(map.disks.get(&disk)?.node)).collect()
}

impl Inner {
    fn push(&mut self, observation: Observation) {
        if self.pending.len() >= PENDING_MAX {
            self.pending.pop_front();
            self.dropped += 1;
        }
        self.pending.push_back(observation);
    }

    fn remember(&mut self, heartbeat: &Heartbeat, unreachable: BTreeSet<NodeId>, now: Instant) {
        let before = self.nodes.remove(&heartbeat.node).filter(|s| s.boot == heartbeat.boot);
        let mut samples = before.map(|seen| seen.samples).unwrap_or_default();
        let due = samples.back().is_none_or(|(at, _)| now.duration_since(*at) >= RATE_SAMPLE);
        if due {
            samples.push_back((now, heartbeat.repair.fetched_bytes));
            if samples.len() > RATE_SAMPLES {
                samples.pop_front();
            }
        }
        let seen = NodeSeen {
            boot: heartbeat.boot,
            epoch: heartbeat.epoch,
            at: now,
            disks: heartbeat.disks.iter().copied().take(DISKS_PER_NODE_MAX).collect(),
            unreachable,
            repair: heartbeat.repair,
            leaving: heartbeat.leaving,
            speeds: heartbeat.speeds.iter().copied().take(DISKS_PER_NODE_MAX).collect(),
            failed: heartbeat.failed.iter().take(DISKS_PER_NODE_MAX).cloned().collect(),
            samples,
        };
        self.nodes.insert(heartbeat.node, seen);
        let strange = self.map.epoch > Epoch(0) && !self.map.nodes.contains_key(&heartbeat.node);
        if strange && self.strangers.len() < NODES_MAX {
            self.strangers.entry(heartbeat.node).or_insert(now);
        }
    }

    /// Whether the map has lacked a node that is heard for too long for it to be merely new.
    fn is_strange(&self, node: NodeId) -> bool {
        let (Some(since), Some(seen)) = (self.strangers.get(&node), self.nodes.get(&node)) else {
            return false;
        };
        seen.at.saturating_duration_since(*since) >= STRANGE_AFTER
    }
}

impl NodeSeen {
    fn fetch_rate(&self) -> f64 {
        let (Some((from, before)), Some((to, after))) = (self.samples.front(), self.samples.back())
        else {
            return 0.0;
        };
        let seconds = to.saturating_duration_since(*from).as_secs_f64();
        if seconds > 0.0 { after.saturating_sub(*before) as f64 / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::map::{Labels, Node, NodeState};

    fn heartbeat(node: u32, boot: u64, fetched_bytes: u64) -> Heartbeat {
        Heartbeat {
            node: NodeId(node),
            boot,
            epoch: Epoch(1),
            disks: vec![],
            unreachable: vec![],
            reached: vec![],
            repair: RepairProgress { fetched_bytes, ..Default::default() },
            leaving: false,
            speeds: vec![],
            failed: vec![],
        }
    }

    fn map_with(node: u32, boot: u64) -> Arc<ClusterMap> {
        let row = Node {
            id: NodeId(node),
            uuid: [0; 16],
            address: "a:1".into(),
            labels: Labels::default(),
            state: NodeState::Up,
            since_ms: 0,
            reason: String::new(),
            boot,
            raft: None,
            maintenance: false,
            labels_fixed: false,
            mark: 0,
        };
        let mut map = ClusterMap { epoch: Epoch(3), ..Default::default() };
        map.nodes.insert(row.id, row);
        Arc::new(map)
    }

    /// An older boot is neither remembered nor passed on, and is told to register.
    #[test]
    fn old_boots_do_not_count() {
        let (seen, now) = (Observations::new(), Instant::now());
        seen.heartbeat(&heartbeat(1, 2, 0), now);
        seen.heartbeat(&heartbeat(1, 1, 0), now);
        assert_eq!(seen.take().len(), 1);
        seen.publish(map_with(1, 2), None);
        assert!(seen.reply_for(&heartbeat(1, 1, 0)).register);
        assert!(!seen.reply_for(&heartbeat(1, 2, 0)).register);
        assert!(!seen.reply_for(&heartbeat(1, 3, 0)).register, "it is ahead of the map");
        seen.heartbeat(&heartbeat(9, 1, 0), now);
        assert!(!seen.reply_for(&heartbeat(9, 1, 0)).register, "it may have registered just now");
        seen.heartbeat(&heartbeat(9, 1, 0), now + STRANGE_AFTER);
        assert!(seen.reply_for(&heartbeat(9, 1, 0)).register, "nobody knows it");
    }

    /// Before the first map nobody is told to register: the leader does not know yet.
    #[test]
    fn no_verdict_without_a_map() {
        assert!(!Observations::new().reply_for(&heartbeat(1, 1, 0)).register);
    }

    /// The rate is that of the last seconds, over all nodes.
    #[test]
    fn repair_rate_is_measured_from_progress() {
        let (seen, start) = (Observations::new(), Instant::now());
        for second in 0..20u64 {
            let now = start + Duration::from_secs(second);
            seen.heartbeat(&heartbeat(1, 1, second * 100), now);
            seen.heartbeat(&heartbeat(2, 1, second * 50), now);
        }
        let rate = seen.repair_rate(start + Duration::from_secs(20));
        assert!((rate - 150.0).abs() < 1e-6, "{rate}");
    }

    /// A session expires one TTL after it was last seen.
    #[test]
    fn sessions_expire_by_the_leaders_clock() {
        let ttl = Duration::from_secs(30);
        let (seen, start) = (Observations::new(), Instant::now() + ttl);
        let young = Duration::ZERO;
        let open: BTreeMap<_, _> = [(SessionId(1), young), (SessionId(2), young)].into();
        assert!(seen.expired_sessions(&open, ttl, start).is_empty());
        seen.session_seen(SessionId(1), start + Duration::from_secs(20));
        let late = start + Duration::from_secs(31);
        assert_eq!(seen.expired_sessions(&open, ttl, late), [SessionId(2)]);
    }

    /// Each leader goes on with the age that a session has: leaders that change do not keep a dead one. A living one is
    /// heard of in time.
    #[test]
    fn the_age_of_a_session_survives_leaders() {
        let ttl = Duration::from_secs(30);
        let (seen, start) = (Observations::new(), Instant::now() + ttl);
        let age = |seconds: u64| Duration::from_secs(seconds);
        let rows = |dead: u64, living: u64| {
            [(SessionId(1), age(dead)), (SessionId(2), age(living))].into()
        };
        let look = |open: &BTreeMap<_, _>, after| seen.expired_sessions(open, ttl, start + after);
        assert!(look(&rows(20, 2), age(0)).is_empty());
        seen.reset();
        // Ten seconds later another one leads.
        assert!(look(&rows(29, 11), age(10)).is_empty());
        assert!(look(&rows(29, 11), age(11)).is_empty(), "it may just be about to be heard of");
        assert_eq!(look(&rows(29, 11), age(10) + FIRST_WORD + age(1)), [SessionId(1)]);
        seen.reset();
        assert!(look(&rows(300, 30), age(40)).is_empty(), "nobody ends at the first look");
        seen.session_seen(SessionId(2), start + age(41));
        assert_eq!(look(&rows(300, 30), age(44)), [SessionId(1)]);
    }

    /// What clients tell of their breakers is bounded, shortened and forgotten.
    #[test]
    fn breakers_are_remembered_for_a_while() {
        let (seen, now) = (Observations::new(), Instant::now());
        let breaker = |of: &str, node| BreakerStatus {
            of: of.into(),
            node: NodeId(node),
            disk: None,
            state: everhold_proto::rpc::BreakerState::Open,
            for_ms: 5,
            reason: "x".repeat(10_000),
        };
        seen.breakers_told(vec![breaker("a", 1), breaker("b", 1)], now);
        seen.breakers_told(vec![breaker("a", 1)], now + BREAKER_LIFE);
        assert_eq!(seen.breakers(now + BREAKER_LIFE).len(), 2);
        let of_disk = BreakerStatus { disk: Some(DiskId(1)), ..breaker("b", 1) };
        seen.breakers_told(vec![of_disk], now + BREAKER_LIFE);
        assert_eq!(
            seen.breakers(now + BREAKER_LIFE).len(),
            3,
            "a disk's is told beside its node's"
        );
        let later = seen.breakers(now + BREAKER_LIFE * 2);
        assert_eq!(later.iter().map(|b| b.of.as_str()).collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(later[0].reason.len(), BREAKER_TEXT_MAX);
        for client in 0..2 * BREAKERS_MAX {
            seen.breakers_told(vec![breaker(&client.to_string(), 1)], now);
        }
        assert_eq!(seen.breakers(now).len(), BREAKERS_MAX);
    }

    /// Whatever arrives, the queue stays within its bound and keeps the newest.
    #[test]
    fn pending_is_bounded() {
        let (seen, now) = (Observations::new(), Instant::now());
        for node in 0..PENDING_MAX as u32 + 10 {
            seen.connection_closed(NodeId(node), now);
        }
        let pending = seen.take();
        assert_eq!(pending.len(), PENDING_MAX);
        let newest = NodeId(PENDING_MAX as u32 + 9);
        assert_eq!(pending.last(), Some(&Observation::Closed { node: newest, at: now }));
    }
}
