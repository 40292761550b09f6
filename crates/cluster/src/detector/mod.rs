//! The failure detector: who answers, judged by the metadata leader about once a tick.
//!
//! Three kinds of evidence: the silence of a node against its own rhythm (phi accrual), reports of
//! clients and peers counted by distinct zone, and a closed connection, which counts at once. It only
//! proposes: each verdict names the boot it is about, and the state machine decides.
//!
//! A silent node that nodes in more than half of the other zones reach is not dead, whatever the leader hears: the
//! two do not reach each other. It is gone round, and neither Down nor rebuilt, as long as that lasts.
//!
//! Times are given by the caller, from any monotonic clock. A new leader has a grace period, the leader's
//! own pauses are forgiven, and a node that flaps has to be well for longer each time before it is Up.

mod phi;
#[cfg(test)]
mod tests;

use everhold_proto::NodeId;
use everhold_proto::command::MapCommand;
use everhold_proto::map::{ClusterMap, Node, NodeState};
use phi::Arrivals;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Parameters of the detector.
#[derive(Clone, Debug)]
pub struct DetectorConfig {
    /// How often nodes send heartbeats; the guess until their own rhythm is known.
    pub heartbeat: Duration,
    /// Intervals remembered for each node.
    pub window: usize,
    /// Floor of the deviation of intervals.
    pub deviation_min: Duration,
    /// Phi from which a node is Suspect: with the defaults at about 1.5 s of silence.
    pub suspect_phi: f64,
    /// No node is Suspect by silence sooner, however regular it is.
    pub suspect_after_min: Duration,
    /// A node is Suspect after this silence, however irregular it is.
    pub suspect_after_max: Duration,
    /// A silent node that two zones report as unreachable is Down after this.
    pub down_after_reported: Duration,
    /// A silent node is Down after this.
    pub down_after: Duration,
    /// A Down node is Out after this, unless it is in maintenance or the brake is on.
    pub out_after: Duration,
    /// A new leader gives no verdict but Up before this has passed.
    pub grace: Duration,
    /// How long a report that a node cannot be reached counts.
    pub report_life: Duration,
    /// A node must be heard for this long before it is Up again; doubled by each recent flap.
    pub recover_after: Duration,
    /// How long a flap is remembered.
    pub flap_memory: Duration,
    /// Ticks further apart than this are a pause of the leader itself.
    pub own_pause: Duration,
}

impl Default for DetectorConfig {
    fn default() -> Self {
        DetectorConfig {
            heartbeat: Duration::from_millis(200),
            window: 64,
            deviation_min: Duration::from_millis(250),
            suspect_phi: 8.0,
            suspect_after_min: Duration::from_millis(1200),
            suspect_after_max: Duration::from_millis(2500),
            down_after_reported: Duration::from_millis(2500),
            down_after: Duration::from_millis(4000),
            out_after: Duration::from_secs(10),
            grace: Duration::from_millis(2500),
            report_life: Duration::from_secs(3),
            recover_after: Duration::from_millis(400),
            flap_memory: Duration::from_secs(60),
            own_pause: Duration::from_millis(700),
        }
    }
}

/// Something the leader saw or was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A sign of life.
    Heartbeat {
        /// Of whom.
        node: NodeId,
        /// Its boot count; older ones than known are ignored.
        boot: u64,
    },
    /// The node says that it stops, on purpose.
    Leaving {
        /// Who.
        node: NodeId,
        /// Its boot count.
        boot: u64,
    },
    /// The connection that carried its heartbeats was closed.
    ConnectionClosed(NodeId),
    /// After that, a new connection was refused: the process is gone.
    ProbeRefused(NodeId),
    /// Someone could not reach a node.
    Unreachable {
        /// Whom.
        node: NodeId,
        /// The reporter's zone, or another stable name of where it stands; counted once.
        zone: String,
    },
    /// A node that the map does not call Up answered another node.
    Reached {
        /// Whom.
        node: NodeId,
        /// The other node's zone; counted once.
        zone: String,
    },
}

/// Why a node is doubted and not given up.
const ALIVE: &str = "the leader does not hear it, and nodes in most other zones reach it: look at the network between the two";
/// Zones remembered for each reported node.
const REPORTING_ZONES_MAX: usize = 32;
/// Doublings of the time to recover: 400 ms become half a minute at most.
const FLAPS_MAX: u32 = 6;

/// What is known of one node.
#[derive(Clone, Debug)]
struct Watched {
    arrivals: Arrivals,
    boot: u64,
    /// Heard without a break since then.
    well_since: Option<Duration>,
    closed: bool,
    refused: bool,
    leaving: bool,
    reports: BTreeMap<String, Duration>,
    reached: BTreeMap<String, Duration>,
    /// So many zones have to reach it for it to be alive.
    zones_needed: usize,
    flaps: u32,
    last_flap: Duration,
    /// Seen Down in the map since then.
    down_since: Option<Duration>,
    /// How long the map had called it Down when this leadership began.
    down_before: Duration,
}

impl Watched {
    fn new(boot: u64, now: Duration) -> Self {
        Watched {
            arrivals: Arrivals::new(now),
            boot,
            well_since: None,
            closed: false,
            refused: false,
            leaving: false,
            reports: BTreeMap::new(),
            reached: BTreeMap::new(),
            zones_needed: usize::MAX,
            flaps: 0,
            last_flap: Duration::ZERO,
            down_since: None,
            down_before: Duration::ZERO,
        }
    }

    fn down_for(&self, now: Duration) -> Option<Duration> {
        self.down_since.map(|since| now.saturating_sub(since) + self.down_before)
    }
}

/// The detector of one term of leadership.
#[derive(Clone, Debug)]
pub struct Detector {
    config: DetectorConfig,
    started: Duration,
    /// Log time at which the leadership began.
    started_log_ms: u64,
    last_tick: Duration,
    nodes: BTreeMap<NodeId, Watched>,
}

impl Detector {
    /// A detector whose leadership begins now, at log time `log_ms`. The log time tells how long nodes
    /// were Down before, so that a change of leaders does not put off their repair.
    pub fn new(config: DetectorConfig, now: Duration, log_ms: u64) -> Self {
        let nodes = BTreeMap::new();
        Detector { config, started: now, started_log_ms: log_ms, last_tick: now, nodes }
    }

    /// Takes note of something. What is about nodes that no verdict asked for yet is taken too; they are
    /// dropped at the next verdict if the map does not know them.
    pub fn observe(&mut self, now: Duration, observation: Observation) {
        match observation {
            Observation::Heartbeat { node, boot } => self.heartbeat(now, node, boot),
            Observation::Leaving { node, boot } => {
                let watched = self.watched(node, boot, now);
                watched.leaving |= watched.boot == boot;
            }
            Observation::ConnectionClosed(node) => self.known(node, |watched| {
                watched.closed = true;
                watched.well_since = None;
            }),
            Observation::ProbeRefused(node) => self.known(node, |watched| {
                watched.refused = true;
                watched.well_since = None;
            }),
            Observation::Unreachable { node, zone } => {
                self.known(node, |watched| note(&mut watched.reports, zone, now));
            }
            Observation::Reached { node, zone } => {
                self.known(node, |watched| note(&mut watched.reached, zone, now));
            }
        }
    }

    /// What should become of the nodes. Call it at every tick, a few times a second.
    pub fn verdicts(&mut self, map: &ClusterMap, now: Duration, braked: bool) -> Vec<MapCommand> {
        self.forgive_own_pause(now);
        self.nodes.retain(|id, _| map.nodes.contains_key(id));
        let mut verdicts = Vec::new();
        for node in map.nodes.values() {
            self.watched(node.id, node.boot, now).zones_needed = majority_of_zones(map, node.id);
            self.follow(node, now);
            if let Some((state, reason)) = self.judge(node, now, braked) {
                let (node, boot) = (node.id, node.boot);
                verdicts.push(MapCommand::SetNodeState { node, boot, state, reason });
            }
        }
        verdicts
    }

    /// How long the map has called the node Down or Out, under earlier leaders too.
    pub fn down_for(&self, node: NodeId, now: Duration) -> Option<Duration> {
        self.nodes.get(&node)?.down_for(now)
    }

    /// Whether heartbeats of the node arrive.
    pub fn is_heard(&self, node: NodeId, now: Duration) -> bool {
        let silent = |watched: &Watched| {
            watched.closed || watched.arrivals.silence(now) > self.config.suspect_after_min
        };
        self.nodes.get(&node).is_some_and(|watched| !silent(watched))
    }

    fn watched(&mut self, node: NodeId, boot: u64, now: Duration) -> &mut Watched {
        let watched = self.nodes.entry(node).or_insert_with(|| Watched::new(boot, now));
        if boot > watched.boot {
            let (flaps, last_flap) = (watched.flaps, watched.last_flap);
            *watched = Watched { flaps, last_flap, ..Watched::new(boot, now) };
        }
        watched
    }

    fn known(&mut self, node: NodeId, change: impl FnOnce(&mut Watched)) {
        if let Some(watched) = self.nodes.get_mut(&node) {
            change(watched);
        }
    }

    fn heartbeat(&mut self, now: Duration, node: NodeId, boot: u64) {
        let (window, late) = (self.config.window, self.config.suspect_after_min);
        let watched = self.watched(node, boot, now);
        if boot < watched.boot {
            return;
        }
        if watched.arrivals.silence(now) > late {
            watched.well_since = None;
        }
        watched.arrivals.heard(now, window);
        watched.well_since.get_or_insert(now);
        watched.closed = false;
        watched.refused = false;
    }

    fn forgive_own_pause(&mut self, now: Duration) {
        let gap = now.saturating_sub(self.last_tick);
        self.last_tick = self.last_tick.max(now);
        if gap > self.config.own_pause {
            self.nodes.values_mut().for_each(|watched| watched.arrivals.forgive(gap, now));
        }
    }

    /// Keeps the detector's own clock of what the map says.
    fn follow(&mut self, node: &Node, now: Duration) {
        let memory = self.config.flap_memory;
        let before = Duration::from_millis(self.started_log_ms.saturating_sub(node.since_ms));
        self.known(node.id, |watched| {
            if node.state < NodeState::Down {
                if watched.down_since.take().is_some() {
                    watched.flaps = (watched.flaps + 1).min(FLAPS_MAX);
                    watched.last_flap = now;
                }
            } else if watched.down_since.is_none() {
                watched.down_since = Some(now);
                watched.down_before = before;
            }
            if now.saturating_sub(watched.last_flap) > memory {
                watched.flaps = 0;
            }
        });
    }

    fn judge(&self, node: &Node, now: Duration, braked: bool) -> Option<(NodeState, String)> {
        use NodeState::{Down, Out, Suspect, Up};
        let watched = self.nodes.get(&node.id)?;
        let evidence = self.evidence(watched, now);
        match (node.state, evidence) {
            (Up, Evidence::Dead(why)) | (Suspect, Evidence::Dead(why)) => Some((Down, why)),
            (Up, Evidence::Doubtful(why) | Evidence::Alive(why)) => Some((Suspect, why)),
            (Suspect, Evidence::Alive(why)) if node.reason != why => Some((Suspect, why)),
            (Suspect | Down | Out, Evidence::Well) if self.has_recovered(watched, now) => {
                Some((Up, "answers again".into()))
            }
            (Down, evidence) if !matches!(evidence, Evidence::Well | Evidence::Alive(_)) => {
                let down = watched.down_for(now)?;
                let long_enough = down >= self.config.out_after && self.is_past_grace(now);
                let give_up = long_enough && !node.maintenance && !braked;
                give_up.then(|| (Out, format!("down for {:.0} s", down.as_secs_f64())))
            }
            _ => None,
        }
    }

    fn evidence(&self, watched: &Watched, now: Duration) -> Evidence {
        let config = &self.config;
        if watched.leaving {
            return Evidence::Dead("stopped on purpose".into());
        }
        if watched.closed && watched.refused {
            // Reports of others may be older than its end: whoever refuses a connection is not running.
            return Evidence::Dead(
                "its process is gone: connection closed, a new one refused".into(),
            );
        }
        if watched.closed {
            let silence = watched.arrivals.silence(now);
            return if silence >= config.down_after && self.is_past_grace(now) {
                if let Some(alive) = self.alive_elsewhere(watched, now) {
                    return alive;
                }
                Evidence::Dead(format!("connection closed, {:.1} s ago", silence.as_secs_f64()))
            } else {
                Evidence::Doubtful("its connection was closed".into())
            };
        }
        if !self.is_past_grace(now) {
            let heard = watched.well_since.is_some();
            return if heard { Evidence::Well } else { Evidence::Unknown };
        }
        self.evidence_of_silence(watched, now)
    }

    fn evidence_of_silence(&self, watched: &Watched, now: Duration) -> Evidence {
        let config = &self.config;
        let silence = watched.arrivals.silence(now);
        let phi = watched.arrivals.phi(now, config.heartbeat, config.deviation_min);
        let fresh = |at: &Duration| now.saturating_sub(*at) <= config.report_life;
        let zones = watched.reports.values().filter(|at| fresh(at)).count();
        let text = || format!("no heartbeat for {:.1} s (phi {phi:.1})", silence.as_secs_f64());
        if silence >= config.suspect_after_max
            && let Some(alive) = self.alive_elsewhere(watched, now)
        {
            return alive;
        }
        if silence >= config.down_after {
            return Evidence::Dead(text());
        }
        if silence >= config.down_after_reported && zones >= 2 {
            return Evidence::Dead(format!("{}, unreachable from {zones} zones", text()));
        }
        let surprising = phi >= config.suspect_phi && silence >= config.suspect_after_min;
        if surprising || silence >= config.suspect_after_max {
            return Evidence::Doubtful(text());
        }
        if zones >= 2 {
            // It reaches the leader, but others do not reach it: writes had better go round it.
            return Evidence::Doubtful(format!("unreachable from {zones} zones"));
        }
        Evidence::Well
    }

    /// What is known of a node that the leader does not hear, if enough others do.
    fn alive_elsewhere(&self, watched: &Watched, now: Duration) -> Option<Evidence> {
        let fresh = |at: &Duration| now.saturating_sub(*at) <= self.config.report_life;
        let zones = watched.reached.values().filter(|at| fresh(at)).count();
        // The same words each time: a reason that changes is a new version of the map.
        (zones >= watched.zones_needed).then(|| Evidence::Alive(ALIVE.into()))
    }

    fn is_past_grace(&self, now: Duration) -> bool {
        now.saturating_sub(self.started) >= self.config.grace
    }

    fn has_recovered(&self, watched: &Watched, now: Duration) -> bool {
        let wanted = self.config.recover_after * 2u32.pow(watched.flaps);
        watched.well_since.is_some_and(|since| now.saturating_sub(since) >= wanted)
    }
}

/// Notes what a zone says; new zones only up to a bound.
fn note(zones: &mut BTreeMap<String, Duration>, zone: String, now: Duration) {
    if zones.len() < REPORTING_ZONES_MAX || zones.contains_key(&zone) {
        zones.insert(zone, now);
    }
}

/// More than half of the zones in which other nodes are Up.
fn majority_of_zones(map: &ClusterMap, but: NodeId) -> usize {
    let others = map.nodes.values().filter(|node| node.id != but && node.state == NodeState::Up);
    let zones: BTreeSet<String> = others.map(Node::zone).collect();
    (zones.len() / 2 + 1).min(REPORTING_ZONES_MAX)
}

/// What the observations say of one node.
enum Evidence {
    Well,
    Unknown,
    Doubtful(String),
    /// Others reach it; only the leader does not.
    Alive(String),
    Dead(String),
}
