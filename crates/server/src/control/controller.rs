//! What a leader concludes from what it hears: the pure core of the control loops.
//!
//! Events in, actions out; no clock, no network. Times are durations since the leadership began.
//! **Invariant:** an action is only a proposal. It names what it was planned on (boot, generation), so
//! one that comes late or twice is refused where it is applied; one that gets lost is planned again.

use super::Observation;
use everhold_cluster::brake;
use everhold_cluster::detector::{self, Detector, DetectorConfig};
use everhold_cluster::repair::{self, Evenness, Limits};
use everhold_cluster::slow::{SlowConfig, SlowDisks};
use everhold_cluster::voters::{self, Membership, VoterPlan};
use everhold_proto::command::{Command, DiskUsage, MapCommand, TableCommand};
use everhold_proto::map::{ClusterMap, Disk, DiskState, Node, NodeState};
use everhold_proto::rpc::DiskSpeed;
use everhold_proto::{DiskId, Epoch, NodeId, PolicyId, RaftId, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::Instant;

/// Plans, sweeps, usage and voters are looked at this often, plans also at every change of the map.
const SLOW: Duration = Duration::from_secs(1);
/// The first PGs wait until no disk was added for so long, if there are enough nodes for all copies.
const SETTLE: Duration = Duration::from_millis(500);
/// They wait this long for more nodes if there are not.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// Usage is reported when it changed by more than this share of the disk, in percent.
const USAGE_STEP_PERCENT: u64 = 2;
/// Sessions ended by one tick, and dead blocks swept by one entry.
const SESSIONS_PER_TICK: usize = 64;
const SWEEP_LIMIT: u32 = 1024;

/// Something that the shell found out.
pub(crate) enum Event {
    /// Services heard something.
    Heard(Vec<Observation>),
    /// A connection to a node was refused: its process is gone.
    Refused(NodeId),
}

/// What the shell reads for a tick.
pub(crate) struct View<'a> {
    /// The newest map.
    pub(crate) map: &'a ClusterMap,
    /// How fast the disks answered lately.
    pub(crate) speeds: BTreeMap<DiskId, DiskSpeed>,
    /// How even the disks are to be.
    pub(crate) evenness: Evenness,
    /// What costs more to read, when [`Controller::looks_slowly`] said so.
    pub(crate) slow: Option<SlowView>,
}

/// The part of the view that is read about once a second.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlowView {
    /// Usage as the last heartbeats have it.
    pub(crate) usage: Vec<DiskUsage>,
    /// Sessions that were not renewed in time.
    pub(crate) expired: Vec<SessionId>,
    /// Something waits to be swept.
    pub(crate) sweepable: bool,
    /// Who is in Raft.
    pub(crate) members: Membership,
    /// Disks that their own nodes call failed, and why.
    pub(crate) failed: Vec<(DiskId, String)>,
}

/// What the shell should do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Propose these, in order.
    Propose(Task, Vec<Command>),
    /// Find out whether a node still accepts connections.
    Probe(NodeId),
    /// Make this step towards the right voters.
    Voters(VoterPlan),
    /// Take the Raft id from a node that is no member any more.
    Retire(NodeId),
}

/// Kinds of proposals. Of each kind one batch is under way at a time; a batch that finds its kind busy
/// is dropped and planned anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// States of nodes.
    Verdicts,
    /// Changes of placement groups.
    Plan,
    /// Ends of sessions.
    Sessions,
    /// Dead blocks.
    Sweep,
    /// Usage of disks.
    Usage,
    /// Disks that are slow, or no longer.
    Slow,
    /// Disks that have failed.
    Failed,
    /// The brake went on or off.
    Brake,
}

/// See the module's words. Lives as long as one term of leadership.
pub(crate) struct Controller {
    began: Instant,
    /// Log time at which it began.
    log_ms: u64,
    detector: Detector,
    slow_at: Duration,
    planned_on: Epoch,
    growth: Growth,
    slow: SlowDisks,
    brake: Option<String>,
    /// The brake as the event log has it, as far as this leader told it.
    brake_noted: bool,
    probes: BTreeSet<NodeId>,
    stray: Option<(NodeId, RaftId)>,
}

/// When a disk was last added.
#[derive(Default)]
struct Growth {
    disks: usize,
    at: Duration,
}

impl Controller {
    /// The leadership begins now, at log time `log_ms`.
    pub(crate) fn new(config: DetectorConfig, began: Instant, log_ms: u64) -> Self {
        Controller {
            began,
            log_ms,
            detector: Detector::new(config, Duration::ZERO, log_ms),
            slow_at: Duration::ZERO,
            planned_on: Epoch(0),
            growth: Growth::default(),
            slow: SlowDisks::new(SlowConfig::default()),
            brake: None,
            brake_noted: false,
            probes: BTreeSet::new(),
            stray: None,
        }
    }

    /// Why the brake is on, if it is.
    pub(crate) fn brake(&self) -> Option<&str> {
        self.brake.as_deref()
    }

    /// Takes note of something; the conclusions come with the next tick, which should follow at once.
    pub(crate) fn apply(&mut self, event: Event, map: &ClusterMap, now: Instant) {
        let now = self.since(now);
        match event {
            Event::Heard(observations) => {
                for observation in observations {
                    self.hear(observation, map);
                }
            }
            Event::Refused(node) => {
                // Also a node that this leader never heard: nothing listens where it should.
                self.detector.observe(now, detector::Observation::ConnectionClosed(node));
                self.detector.observe(now, detector::Observation::ProbeRefused(node));
            }
        }
    }

    /// Whether the next tick wants a [`SlowView`].
    pub(crate) fn looks_slowly(&self, now: Instant) -> bool {
        self.since(now) >= self.slow_at
    }

    /// Concludes. Call it a few times a second, and soon after something urgent was heard.
    pub(crate) fn tick(&mut self, view: &View<'_>, now: Instant) -> Vec<Action> {
        let now = self.since(now);
        let mut actions: Vec<Action> =
            std::mem::take(&mut self.probes).into_iter().map(Action::Probe).collect();
        self.brake = brake::reason(view.map);
        let verdicts = self.detector.verdicts(view.map, now, self.brake.is_some());
        propose(&mut actions, Task::Verdicts, verdicts.into_iter().map(Command::Map));
        let slow = self.slow.verdicts(view.map, &view.speeds, now);
        propose(&mut actions, Task::Slow, slow.into_iter().map(Command::Map));
        self.note_brake(&mut actions);
        self.note_growth(view.map, now);
        if view.slow.is_some() || view.map.epoch != self.planned_on {
            self.planned_on = view.map.epoch;
            let plan = self.plan(view.map, view.evenness, now);
            propose(&mut actions, Task::Plan, plan.into_iter().map(Command::Map));
        }
        if let Some(slow) = &view.slow {
            self.slow_at = now + SLOW;
            self.look_slowly(view.map, slow, now, &mut actions);
        }
        actions
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    fn hear(&mut self, observation: Observation, map: &ClusterMap) {
        let (at, seen) = match observation {
            Observation::Heartbeat { node, boot, at } => {
                (at, detector::Observation::Heartbeat { node, boot })
            }
            Observation::Leaving { node, boot, at } => {
                (at, detector::Observation::Leaving { node, boot })
            }
            Observation::Reached { node, reporter, at } => {
                let of_node = map.nodes.get(&reporter).map(|node| node.zone());
                let Some(zone) = of_node else { return };
                (at, detector::Observation::Reached { node, zone })
            }
            Observation::Closed { node, at } => {
                self.probes.insert(node);
                (at, detector::Observation::ConnectionClosed(node))
            }
            Observation::Unreachable { node, reporter, at } => {
                // All clients together count as one zone: nobody knows where they stand.
                let of_node = reporter.and_then(|id| map.nodes.get(&id)).map(|node| node.zone());
                let zone = of_node.unwrap_or_else(|| "clients".into());
                (at, detector::Observation::Unreachable { node, zone })
            }
        };
        self.detector.observe(self.since(at), seen);
    }

    /// Tells the event log when the brake goes on or off. A note that gets lost is not given again: the brake
    /// itself does not depend on it.
    fn note_brake(&mut self, actions: &mut Vec<Action>) {
        if self.brake.is_some() != self.brake_noted {
            self.brake_noted = self.brake.is_some();
            let note = Command::Map(MapCommand::NoteBrake(self.brake.clone()));
            propose(actions, Task::Brake, [note]);
        }
    }

    fn note_growth(&mut self, map: &ClusterMap, now: Duration) {
        if map.disks.len() != self.growth.disks {
            self.growth = Growth { disks: map.disks.len(), at: now };
        }
    }

    /// The planner's actions. New PGs wait a moment while disks are still being added, so that the
    /// first ones are not all made of the first nodes.
    fn plan(&self, map: &ClusterMap, evenness: Evenness, now: Duration) -> Vec<MapCommand> {
        let now_ms = self.log_ms + u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        let limits = Limits { braked: self.brake.is_some(), now_ms, evenness, ..Limits::default() };
        let mut plan = repair::plan(map, &limits);
        if !self.has_settled(map, now) {
            plan.retain(|command| !matches!(command, MapCommand::CreatePgs { .. }));
        }
        plan
    }

    fn has_settled(&self, map: &ClusterMap, now: Duration) -> bool {
        let quiet = now.saturating_sub(self.growth.at);
        let copies = map.policies.get(&PolicyId(0)).map_or(1, |policy| usize::from(policy.copies));
        let present = map.nodes.values().filter(|n| n.state <= NodeState::Suspect).count();
        quiet >= if present >= copies { SETTLE } else { SETTLE_MAX }
    }

    fn look_slowly(
        &mut self,
        map: &ClusterMap,
        view: &SlowView,
        now: Duration,
        actions: &mut Vec<Action>,
    ) {
        let ended = view.expired.iter().take(SESSIONS_PER_TICK);
        propose(actions, Task::Sessions, ended.map(|id| Command::EndSession { session: *id }));
        let sweep = Command::Table(TableCommand::Sweep { limit: SWEEP_LIMIT });
        propose(actions, Task::Sweep, view.sweepable.then_some(sweep));
        let failed = newly_failed(map, &view.failed);
        propose(actions, Task::Failed, failed.map(Command::Map));
        let usage = changed_usage(map, &view.usage);
        let usage = (!usage.is_empty()).then(|| Command::Map(MapCommand::SetDiskUsage(usage)));
        propose(actions, Task::Usage, usage);
        match self.voters(map, &view.members, now) {
            VoterPlan::Settled => {}
            VoterPlan::Waiting(why) => tracing::debug!(why, "the choice of voters waits"),
            step => actions.push(Action::Voters(step)),
        }
        let stray = stray(map, &view.members);
        if stray == self.stray {
            actions.extend(stray.map(|(node, _)| Action::Retire(node)));
        }
        self.stray = stray;
        self.probe_the_silent(map, now, actions);
    }

    /// A node that does not answer may have died before this leader heard it: then no connection of
    /// it will ever close here, but a probe is refused.
    fn probe_the_silent(&self, map: &ClusterMap, now: Duration, actions: &mut Vec<Action>) {
        let silent = |node: &&Node| {
            node.state <= NodeState::Suspect && !self.detector.is_heard(node.id, now)
        };
        actions.extend(map.nodes.values().filter(silent).map(|node| Action::Probe(node.id)));
    }

    fn voters(&self, map: &ClusterMap, members: &Membership, now: Duration) -> VoterPlan {
        if self.brake.is_some() {
            return VoterPlan::Waiting("the brake is on".into());
        }
        let away = |id: &NodeId| Some((*id, self.detector.down_for(*id, now)?));
        let down_for: BTreeMap<NodeId, Duration> = map.nodes.keys().filter_map(away).collect();
        voters::choose(map, members, &down_for, voters::REPLACE_AFTER)
    }
}

/// A node that has a Raft id and no seat. It is retired only if it was so a second before: a learner
/// has its id a moment before its seat.
fn stray(map: &ClusterMap, members: &Membership) -> Option<(NodeId, RaftId)> {
    let seated = |id: &NodeId| members.voters.contains(id) || members.learners.contains_key(id);
    let mut up = map.nodes.values().filter(|node| node.state == NodeState::Up && !seated(&node.id));
    up.find_map(|node| Some((node.id, node.raft?)))
}

fn propose(actions: &mut Vec<Action>, task: Task, commands: impl IntoIterator<Item = Command>) {
    let commands: Vec<Command> = commands.into_iter().collect();
    if !commands.is_empty() {
        actions.push(Action::Propose(task, commands));
    }
}

/// Disks that their nodes call failed and the map does not, yet.
fn newly_failed(map: &ClusterMap, failed: &[(DiskId, String)]) -> impl Iterator<Item = MapCommand> {
    let is_new = |id: &DiskId| map.disks.get(id).is_some_and(|d| d.state != DiskState::Failed);
    failed.iter().filter(move |(disk, _)| is_new(disk)).map(|(disk, why)| {
        let reason = format!("its node says: {why}");
        MapCommand::SetDiskState { disk: *disk, state: DiskState::Failed, reason }
    })
}

/// Usage that differs enough from the map's to be worth an entry and a new epoch.
fn changed_usage(map: &ClusterMap, reported: &[DiskUsage]) -> Vec<DiskUsage> {
    let mut newest: BTreeMap<DiskId, DiskUsage> = BTreeMap::new();
    newest.extend(reported.iter().map(|usage| (usage.disk, *usage)));
    newest.retain(|id, usage| map.disks.get(id).is_some_and(|disk| is_worth_telling(disk, usage)));
    newest.into_values().collect()
}

fn is_worth_telling(disk: &Disk, usage: &DiskUsage) -> bool {
    let step = usage.capacity_bytes / 100 * USAGE_STEP_PERCENT;
    usage.fullness != disk.fullness
        || usage.capacity_bytes.abs_diff(disk.capacity_bytes) > step
        || usage.used_bytes.abs_diff(disk.used_bytes) > step
}

#[cfg(test)]
mod tests;
