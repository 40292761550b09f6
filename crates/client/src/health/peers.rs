//! All peers of the client: who may be sent work, how long answers take, who is to be probed.
//!
//! A node has a breaker, and each of its disks has one. What the transport tells concerns the node; what the node says
//! of a disk concerns the disk. An answer that does not come may be either: it is the node's when answers of two of
//! its disks in a row stay out, or when no other disk of it is known. An open node makes its disks' breakers
//! meaningless, so they start anew. A node is probed by a small call; a disk only by real work, one call at first.

use super::breaker::Severity;
use super::guard::Guard;
use super::latency::Latency;
use crate::wire::{Transport, WireError};
use everhold_env::Entropy;
use everhold_proto::rpc::BreakerStatus;
use everhold_proto::{DiskId, Kind, NodeId};
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

/// A disk, and the node that it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) disk: DiskId,
    pub(crate) node: NodeId,
}

/// What a breaker stands before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspect {
    Node(NodeId),
    Disk(DiskId),
}

impl Suspect {
    /// Whether calls to `target` go past that breaker.
    pub(crate) fn covers(self, target: Target) -> bool {
        match self {
            Suspect::Node(node) => target.node == node,
            Suspect::Disk(disk) => target.disk == disk,
        }
    }
}

#[derive(Default)]
struct Peer {
    guard: Guard,
    /// The transport failed: worth telling the cluster.
    unreachable: bool,
    /// The first disk whose answer stayed out since the node last answered.
    late: Option<DiskId>,
}

struct Drive {
    node: NodeId,
    guard: Guard,
    latency: [Latency; 4],
}

#[derive(Default)]
struct Table {
    nodes: BTreeMap<NodeId, Peer>,
    disks: BTreeMap<DiskId, Drive>,
}

impl Table {
    fn drive(&mut self, target: Target) -> &mut Drive {
        let Target { disk, node } = target;
        let new = || Drive { node, guard: Guard::default(), latency: Default::default() };
        let drive = self.disks.entry(disk).or_insert_with(new);
        drive.node = node;
        drive
    }

    /// Whether the silence of a disk is its own: it alone was silent since the node last answered, and the node has
    /// others that could have been.
    fn is_alone(&mut self, target: Target) -> bool {
        let mut others = self.disks.iter().filter(|(disk, _)| **disk != target.disk);
        let has_others = others.any(|(_, drive)| drive.node == target.node);
        let first = *self.nodes.entry(target.node).or_default().late.get_or_insert(target.disk);
        has_others && first == target.disk
    }

    fn recovering(&self) -> usize {
        let nodes = self.nodes.values().map(|peer| &peer.guard);
        let guards = nodes.chain(self.disks.values().map(|drive| &drive.guard));
        guards.filter(|guard| guard.breaker.is_recovering()).count()
    }
}

/// A call that is under way, until this is dropped.
pub(crate) struct UnderWay<'a> {
    peers: &'a Peers,
    target: Target,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut table = self.peers.table.lock();
        if let Some(peer) = table.nodes.get_mut(&self.target.node) {
            peer.guard.under_way -= 1;
        }
        if let Some(drive) = table.disks.get_mut(&self.target.disk) {
            drive.guard.under_way -= 1;
        }
    }
}

/// All peers. Nodes are few (`NODES_MAX`), and so are their disks: nothing is ever evicted.
pub(crate) struct Peers {
    entropy: Entropy,
    /// Whether breakers count at all.
    protected: bool,
    table: Mutex<Table>,
    /// Raised whenever a breaker opens or closes.
    version: AtomicU64,
    /// How many nodes and disks are coming back.
    recovering: AtomicU64,
}

impl Peers {
    pub(crate) fn new(entropy: Entropy, protected: bool) -> Self {
        let (version, recovering) = (AtomicU64::new(0), AtomicU64::new(0));
        Peers { entropy, protected, table: Mutex::default(), version, recovering }
    }

    /// Raised whenever the answer of [`Peers::allows`] changes for some disk.
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Relaxed)
    }

    /// Whether work may be sent to a disk.
    pub(crate) fn allows(&self, target: Target) -> bool {
        self.all(target, |guard| guard.breaker.allows())
    }

    /// Whether one more call may be under way to a disk: as [`Peers::allows`], and of what is coming back,
    /// whether its window has room.
    pub(crate) fn admits(&self, target: Target) -> bool {
        self.all(target, Guard::admits)
    }

    /// Whether it is so of both breakers that stand before a disk.
    fn all(&self, target: Target, is: impl Fn(&Guard) -> bool) -> bool {
        if !self.protected {
            return true;
        }
        let table = self.table.lock();
        table.nodes.get(&target.node).is_none_or(|peer| is(&peer.guard))
            && table.disks.get(&target.disk).is_none_or(|drive| is(&drive.guard))
    }

    /// A call to a disk begins.
    pub(crate) fn begin(&self, target: Target) -> UnderWay<'_> {
        let mut table = self.table.lock();
        table.nodes.entry(target.node).or_default().guard.under_way += 1;
        table.drive(target).guard.under_way += 1;
        UnderWay { peers: self, target }
    }

    /// A node or a disk that is coming back and has room for a call.
    pub(crate) fn to_be_tried(&self) -> Option<Suspect> {
        if !self.protected || self.recovering.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let table = self.table.lock();
        let node = table.nodes.iter().find(|(_, peer)| peer.guard.is_to_be_tried());
        let of_allowed = |drive: &Drive| {
            table.nodes.get(&drive.node).is_none_or(|peer| peer.guard.breaker.allows())
        };
        let tried = |drive: &Drive| drive.guard.is_to_be_tried() && of_allowed(drive);
        let disk = || table.disks.iter().find(|(_, drive)| tried(drive));
        node.map(|(id, _)| Suspect::Node(*id)).or_else(|| disk().map(|(id, _)| Suspect::Disk(*id)))
    }

    /// Average latency of a call to a disk.
    pub(crate) fn mean(&self, disk: DiskId, class: Class) -> Duration {
        let table = self.table.lock();
        table.disks.get(&disk).map_or(Duration::ZERO, |drive| drive.latency[class as usize].mean())
    }

    /// The median over the disks of their 95th percentiles: a minority of sick peers cannot move it.
    pub(crate) fn usual(&self, class: Class) -> Option<Duration> {
        let table = self.table.lock();
        let known = table.disks.values().filter_map(|drive| drive.latency[class as usize].p95());
        let mut known: Vec<Duration> = known.collect();
        if known.is_empty() {
            return None;
        }
        let middle = (known.len() - 1) / 2;
        Some(*known.select_nth_unstable(middle).1)
    }

    /// A call ended well.
    pub(crate) fn succeeded(&self, target: Target, class: Class, elapsed: Duration) {
        let mut table = self.table.lock();
        let drive = table.drive(target);
        drive.latency[class as usize].record(elapsed);
        let disk_changed = drive.guard.succeed();
        let peer = table.nodes.entry(target.node).or_default();
        peer.unreachable = false;
        peer.late = None;
        if peer.guard.succeed() | disk_changed {
            self.changed(&table);
        }
    }

    /// The state of a breaker has changed.
    fn changed(&self, table: &Table) {
        self.recovering.store(table.recovering() as u64, Ordering::Relaxed);
        self.version.fetch_add(1, Ordering::Relaxed);
    }

    /// A call failed.
    pub(crate) fn failed(&self, target: Target, e: &WireError, now: Instant) {
        let reason = || e.to_string();
        let Target { disk, node } = target;
        match e {
            WireError::Transport { how: Transport::Refused, .. } => {
                self.fail_node(node, Severity::Gone, true, now, reason);
            }
            WireError::Transport { how: Transport::Late, .. } => self.silent(target, now, reason),
            WireError::Transport { how, .. } => {
                // A kept connection breaks when its peer restarts; that alone tells nothing.
                self.fail_node(node, Severity::Failed, *how != Transport::Broken, now, reason);
            }
            WireError::Garbled { .. } => {
                self.fail_node(node, Severity::Failed, false, now, reason);
            }
            WireError::Remote(e) => {
                self.table.lock().nodes.entry(node).or_default().late = None;
                // A busy peer works, and says when to come back: going round it would only move the load.
                if e.kind == Kind::Internal {
                    self.fail_disk(disk, now, reason);
                }
            }
        }
    }

    /// No answer came for `elapsed`, and the caller went on without it.
    pub(crate) fn late(&self, target: Target, class: Class, elapsed: Duration, now: Instant) {
        self.table.lock().drive(target).latency[class as usize].record(elapsed);
        let reason =
            || format!("no answer for {} ms, when others had answered", elapsed.as_millis());
        self.silent(target, now, reason);
    }

    /// An answer stays out.
    fn silent(&self, target: Target, now: Instant, reason: impl Fn() -> String) {
        let alone = self.table.lock().is_alone(target);
        if alone || !self.fail_node(target.node, Severity::Failed, true, now, &reason) {
            self.fail_disk(target.disk, now, reason);
        }
    }

    /// Says whether the breaker opened.
    fn fail_node(
        &self,
        node: NodeId,
        severity: Severity,
        unreachable: bool,
        now: Instant,
        reason: impl FnOnce() -> String,
    ) -> bool {
        let jitter = self.entropy.unit();
        let mut table = self.table.lock();
        let peer = table.nodes.entry(node).or_default();
        let opened = peer.guard.fail(severity, now, jitter, reason);
        if opened {
            peer.unreachable |= unreachable;
            let own = table.disks.values_mut().filter(|drive| drive.node == node);
            own.for_each(|drive| drive.guard.reset());
            self.changed(&table);
            tracing::info!(%node, "going round a node that does not answer well");
        }
        opened
    }

    fn fail_disk(&self, disk: DiskId, now: Instant, reason: impl FnOnce() -> String) {
        let jitter = self.entropy.unit();
        let mut guard = self.table.lock();
        let Table { nodes, disks } = &mut *guard;
        let Some(drive) = disks.get_mut(&disk) else { return };
        let node = drive.node;
        if nodes.get(&node).is_some_and(|peer| !peer.guard.breaker.allows()) {
            return; // the node's breaker is in charge
        }
        if drive.guard.fail(Severity::Failed, now, jitter, reason) {
            self.changed(&guard);
            tracing::info!(%disk, %node, "going round a disk that does not answer well");
        }
    }

    /// Nodes that are to be probed now; each probe must end in [`Peers::probed`]. Disks whose pause is over are given
    /// a first call.
    pub(crate) fn begin_probes(&self, now: Instant, limit: Duration) -> Vec<NodeId> {
        let mut table = self.table.lock();
        let mut changed = false;
        for drive in table.disks.values_mut() {
            if drive.guard.breaker.begin_probe(now, limit) {
                changed |= drive.guard.breaker.probe_succeeded();
            }
        }
        if changed {
            self.changed(&table);
        }
        let due = |(node, peer): (&NodeId, &mut Peer)| {
            peer.guard.breaker.begin_probe(now, limit).then_some(*node)
        };
        table.nodes.iter_mut().filter_map(due).collect()
    }

    /// A probe ended.
    pub(crate) fn probed(&self, node: NodeId, answered: bool, now: Instant) {
        let jitter = self.entropy.unit();
        let mut table = self.table.lock();
        let peer = table.nodes.entry(node).or_default();
        peer.unreachable = !answered;
        let changed = if answered {
            peer.late = None;
            peer.guard.breaker.probe_succeeded()
        } else {
            let reason = || "a probe was not answered in time".into();
            peer.guard.fail(Severity::Failed, now, jitter, reason)
        };
        if changed {
            self.changed(&table);
        }
    }

    /// The breakers that are not closed; `of` is whose they are.
    pub(crate) fn breakers(&self, of: &str, now: Instant) -> Vec<BreakerStatus> {
        let table = self.table.lock();
        let nodes =
            table.nodes.iter().filter_map(|(id, peer)| peer.guard.status(of, *id, None, now));
        let disk =
            |(id, drive): (&DiskId, &Drive)| drive.guard.status(of, drive.node, Some(*id), now);
        nodes.chain(table.disks.iter().filter_map(disk)).collect()
    }

    /// Nodes that cannot be reached from here.
    pub(crate) fn unreachable(&self) -> Vec<NodeId> {
        let table = self.table.lock();
        let is_lost = |peer: &Peer| peer.unreachable && !peer.guard.breaker.allows();
        let lost = table.nodes.iter().filter(|(_, peer)| is_lost(peer));
        lost.map(|(node, _)| *node).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use everhold_proto::rpc::BreakerState;

    const LIMIT: Duration = Duration::from_secs(1);

    fn target(disk: u32, node: u32) -> Target {
        Target { disk: DiskId(disk), node: NodeId(node) }
    }

    fn peers() -> (Peers, Instant) {
        (Peers::new(Entropy::seeded(1), true), Instant::now())
    }

    fn late(peers: &Peers, target: Target, now: Instant) {
        peers.late(target, Class::PutLarge, LIMIT, now);
    }

    fn well(peers: &Peers, target: Target) {
        peers.succeeded(target, Class::PutLarge, Duration::from_millis(1));
    }

    #[test]
    fn a_sick_minority_does_not_move_what_is_usual() {
        let (peers, _) = peers();
        for node in 1..=3 {
            let ms = if node == 3 { 9000 } else { 10 };
            let took = Duration::from_millis(ms);
            peers.succeeded(target(node, node), Class::PutLarge, took);
        }
        assert_eq!(peers.usual(Class::PutLarge), Some(Duration::from_millis(10)));
        assert_eq!(peers.usual(Class::GetLarge), None);
    }

    #[test]
    fn a_node_that_stays_silent_is_left_alone_and_reported_until_a_probe_answers() {
        let (peers, now) = peers();
        let (only, node) = (target(1, 7), NodeId(7));
        let version = peers.version();
        (0..3).for_each(|_| late(&peers, only, now));
        assert!(!peers.allows(only));
        assert_ne!(peers.version(), version);
        assert_eq!(peers.unreachable(), [node]);
        let told = peers.breakers("me", now + Duration::from_secs(2));
        assert_eq!((told.len(), told[0].disk), (1, None));
        assert_eq!((told[0].state, told[0].for_ms), (BreakerState::Open, 2000));
        let later = now + Duration::from_secs(60);
        assert_eq!(peers.begin_probes(later, LIMIT), [node]);
        peers.probed(node, true, later);
        assert!(peers.unreachable().is_empty());
        assert!(!peers.allows(only), "one call at a time, until it is known to be well");
        assert_eq!(peers.to_be_tried(), Some(Suspect::Node(node)));
        let tried = peers.begin(only);
        assert!(!peers.admits(only) && peers.to_be_tried().is_none());
        drop(tried);
        while !peers.allows(only) {
            assert!(peers.admits(only));
            well(&peers, only);
        }
        assert_eq!(peers.to_be_tried(), None);
        assert!(peers.breakers("me", later).is_empty());
    }

    /// One disk of two that stays silent is gone round; its node is neither gone round nor reported.
    #[test]
    fn a_disk_that_stays_silent_is_left_alone_and_its_neighbour_is_not() {
        let (peers, now) = peers();
        let (sick, neighbour) = (target(1, 7), target(2, 7));
        [sick, neighbour].iter().for_each(|target| well(&peers, *target));
        (0..3).for_each(|_| late(&peers, sick, now));
        assert!(!peers.allows(sick) && peers.allows(neighbour));
        assert!(peers.unreachable().is_empty());
        let told = peers.breakers("me", now);
        assert_eq!((told.len(), told[0].node, told[0].disk), (1, NodeId(7), Some(sick.disk)));

        assert_eq!(peers.to_be_tried(), None);
        let later = now + Duration::from_secs(60);
        assert!(peers.begin_probes(later, LIMIT).is_empty(), "a disk is probed by work only");
        assert_eq!(peers.to_be_tried(), Some(Suspect::Disk(sick.disk)));
        while !peers.allows(sick) {
            let _under_way = peers.begin(sick);
            well(&peers, sick);
        }
        assert!(peers.breakers("me", later).is_empty());
    }

    /// A silent node with many disks is found as soon as two of them are silent, whatever else is under way.
    #[test]
    fn silence_of_several_disks_is_the_nodes() {
        let (peers, now) = peers();
        (1..=12).for_each(|disk| well(&peers, target(disk, 7)));
        (1..=4).for_each(|disk| late(&peers, target(disk, 7), now));
        assert_eq!(peers.unreachable(), [NodeId(7)]);
        assert!((1..=12).all(|disk| !peers.allows(target(disk, 7))));
        assert_eq!(peers.breakers("me", now).len(), 1, "the node's stands for its disks'");
        late(&peers, target(1, 7), now);
        assert_eq!(peers.breakers("me", now).len(), 1);
    }

    /// What a node says of a disk is the disk's; what the transport says is the node's.
    #[test]
    fn failures_count_where_they_belong() {
        let (peers, now) = peers();
        let (broken, neighbour, gone) = (target(1, 7), target(2, 7), target(3, 8));
        [broken, neighbour, gone].iter().for_each(|target| well(&peers, *target));
        let internal = WireError::Remote(everhold_proto::Error::new(Kind::Internal, "i/o error"));
        (0..3).for_each(|_| peers.failed(broken, &internal, now));
        assert!(!peers.allows(broken) && peers.allows(neighbour));
        let refused =
            WireError::Transport { how: Transport::Refused, sent: false, message: "no".into() };
        peers.failed(gone, &refused, now);
        assert!(!peers.allows(gone));
        let told = peers.breakers("me", now);
        assert_eq!(told.iter().map(|b| b.disk).collect::<Vec<_>>(), [None, Some(broken.disk)]);
    }
}
