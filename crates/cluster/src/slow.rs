//! Fail-slow disks and nodes: those that answer, but far slower than their peers, for no reason of the load.
//!
//! A node whose calls to the leader take far longer than those of the others has a slow link or processor, and all its
//! disks are slow with it.
//!
//! The measures of a disk are the median and the 90th percentile of the times of its own writes and reads over the last
//! seconds, each held against the median of the same figure of all other disks: what slows all down makes none slow. A
//! disk that was slow has to be as fast as the others for a while before it counts again, and for longer each time. It
//! is emptied only when its medians stay bad: one that stands still now and then may have other work. Like the detector
//! of nodes, this one only proposes.

#[cfg(test)]
mod tests;

use everhold_proto::command::MapCommand;
use everhold_proto::map::{ClusterMap, Disk, DiskState, NodeState};
use everhold_proto::rpc::DiskSpeed;
use everhold_proto::{DiskId, DiskSession};
use std::collections::BTreeMap;
use std::time::Duration;

/// What is slow.
#[derive(Clone, Debug)]
pub struct SlowConfig {
    /// A disk is slow when it takes this many times as long as the median of the others.
    pub factor: u32,
    /// However fast the others are, a disk is not slow while its medians are below this.
    pub floor: Duration,
    /// Nor while its 90th percentiles are below this.
    pub tail_floor: Duration,
    /// However fast the others are, a node is not slow while its calls take less than this.
    pub answer_floor: Duration,
    /// It has been so for this long.
    pub after: Duration,
    /// It is well when it takes at most this many times as long as the median of the others.
    pub recover_factor: u32,
    /// It has been so for this long; doubled each time that it was slow before.
    pub recover_after: Duration,
    /// A disk whose medians have been slow for so long is emptied, if the others can take what it holds: where they cannot, that is
    /// refused when it is applied.
    pub drain_after: Duration,
    /// Which is tried again after so long.
    pub drain_again: Duration,
    /// Fewest other disks that are needed to judge one.
    pub peers_min: usize,
    /// A disk that registered so lately is not judged: it opens its files, and catches up.
    pub warm_up: Duration,
}

impl Default for SlowConfig {
    fn default() -> Self {
        SlowConfig {
            factor: 5,
            floor: Duration::from_millis(5),
            tail_floor: Duration::from_millis(20),
            answer_floor: Duration::from_millis(150),
            after: Duration::from_millis(1500),
            recover_factor: 3,
            recover_after: Duration::from_secs(15),
            drain_after: Duration::from_secs(600),
            drain_again: Duration::from_secs(60),
            peers_min: 2,
            warm_up: Duration::from_secs(15),
        }
    }
}

/// Most doublings of the time to recover: 15 s become 8 minutes.
const RELAPSES_MAX: u32 = 5;
/// At most one disk in so many is slow at a time: a minority that can be gone round.
const SHARE: usize = 3;

#[derive(Clone, Debug, Default)]
struct Watched {
    session: DiskSession,
    registered: Duration,
    slow_since: Option<Duration>,
    well_since: Option<Duration>,
    relapses: u32,
    /// Called slow by the map, and slow at the median, since then, as far as this leader saw.
    lasting_since: Option<Duration>,
    drain_tried: Option<Duration>,
}

/// The judge of one term of leadership.
#[derive(Clone, Debug)]
pub struct SlowDisks {
    config: SlowConfig,
    disks: BTreeMap<DiskId, Watched>,
}

/// One of the figures of a disk.
type Figure = fn(&DiskSpeed) -> Option<u32>;

/// What is measured of a disk.
struct Measure {
    what: &'static str,
    floor: Duration,
    figure: Figure,
    /// Whether a disk that is slow by this for long is emptied.
    lasting: bool,
}

/// What the figures of one disk say.
#[derive(Clone, Debug, PartialEq)]
enum Verdict {
    Slow { why: String, lasting: bool },
    Between,
    Well,
    Unknown,
}

impl SlowDisks {
    /// A judge who knows nothing yet.
    pub fn new(config: SlowConfig) -> Self {
        SlowDisks { config, disks: BTreeMap::new() }
    }

    /// What should become of the disks, by the figures in the newest heartbeats. Times are of any monotonic
    /// clock.
    pub fn verdicts(
        &mut self,
        map: &ClusterMap,
        speeds: &BTreeMap<DiskId, DiskSpeed>,
        now: Duration,
    ) -> Vec<MapCommand> {
        self.disks.retain(|id, _| map.disks.contains_key(id));
        let in_service = |disk: &&Disk| {
            matches!(disk.state, DiskState::In | DiskState::Slow)
                && map.nodes.get(&disk.node).is_some_and(|node| node.state == NodeState::Up)
        };
        let disks: Vec<&Disk> = map.disks.values().filter(in_service).collect();
        let mut slow = map.disks.values().filter(|disk| disk.state == DiskState::Slow).count();
        let mut verdicts = Vec::new();
        for disk in &disks {
            if !self.is_warm(disk, now) {
                continue;
            }
            let verdict = self.judge(disk.id, &disks, speeds);
            if let Some(drain) = self.drain(disk, &verdict, now) {
                verdicts.push(drain);
                continue;
            }
            let Some((state, reason)) = self.conclude(disk, verdict, now) else { continue };
            if state == DiskState::Slow && (slow + 1) * SHARE > map.disks.len() {
                continue;
            }
            slow += usize::from(state == DiskState::Slow);
            verdicts.push(MapCommand::SetDiskState { disk: disk.id, state, reason });
        }
        verdicts
    }

    /// Whether the disk has been in its session for long enough, as far as this leader saw.
    fn is_warm(&mut self, disk: &Disk, now: Duration) -> bool {
        let watched = self.disks.entry(disk.id).or_default();
        if watched.session != disk.session {
            let relapses = watched.relapses;
            *watched =
                Watched { session: disk.session, registered: now, relapses, ..Watched::default() };
        }
        now.saturating_sub(watched.registered) >= self.config.warm_up
    }

    /// Whether the disk has been slow for so long that it had better be emptied.
    fn drain(&mut self, disk: &Disk, verdict: &Verdict, now: Duration) -> Option<MapCommand> {
        let SlowConfig { drain_after, drain_again, .. } = self.config;
        let watched = self.disks.entry(disk.id).or_default();
        let lasts = matches!(verdict, Verdict::Slow { lasting: true, .. } | Verdict::Unknown);
        if disk.state != DiskState::Slow || !lasts {
            (watched.lasting_since, watched.drain_tried) = (None, None);
            return None;
        }
        let since = *watched.lasting_since.get_or_insert(now);
        let lasted = now.saturating_sub(since);
        let again = watched.drain_tried.is_none_or(|at| now.saturating_sub(at) >= drain_again);
        if lasted < drain_after || !again {
            return None;
        }
        watched.drain_tried = Some(now);
        let reason = format!("slow for {} minutes: it is emptied", lasted.as_secs() / 60);
        Some(MapCommand::SetDiskState { disk: disk.id, state: DiskState::Draining, reason })
    }

    fn judge(&self, id: DiskId, disks: &[&Disk], speeds: &BTreeMap<DiskId, DiskSpeed>) -> Verdict {
        let mut worst = Verdict::Unknown;
        let node = disks.iter().find(|disk| disk.id == id).map(|disk| disk.node);
        for measure in self.measures() {
            let micros = measure.figure;
            let own = speeds.get(&id).and_then(micros);
            // Disks of the same node share its link and its processor: they are no measure of it.
            let others = disks.iter().filter(|disk| {
                disk.id != id && Some(disk.node) != node && disk.state == DiskState::In
            });
            let mut others: Vec<u32> =
                others.filter_map(|disk| micros(speeds.get(&disk.id)?)).collect();
            let Some(own) = own.filter(|_| others.len() >= self.config.peers_min) else { continue };
            let middle = others.len() / 2;
            let usual = *others.select_nth_unstable(middle).1;
            match self.compare(&measure, own, usual) {
                slow @ Verdict::Slow { .. } => return slow,
                Verdict::Between => worst = Verdict::Between,
                Verdict::Well if worst == Verdict::Unknown => worst = Verdict::Well,
                Verdict::Well | Verdict::Unknown => {}
            }
        }
        worst
    }

    /// Those that last come first: one of them is enough to empty a disk.
    fn measures(&self) -> [Measure; 5] {
        let SlowConfig { floor, tail_floor, answer_floor, .. } = self.config;
        let of = |what, floor, lasting, figure| Measure { what, floor, figure, lasting };
        [
            of("writes", floor, true, |speed| speed.write_micros),
            of("reads", floor, true, |speed| speed.read_micros),
            of("answers of its node", answer_floor, true, |speed| speed.answer_micros),
            of("the slowest tenth of writes", tail_floor, false, |speed| speed.write_tail_micros),
            of("the slowest tenth of reads", tail_floor, false, |speed| speed.read_tail_micros),
        ]
    }

    fn compare(&self, measure: &Measure, own: u32, usual: u32) -> Verdict {
        let Measure { what, floor, lasting, .. } = *measure;
        let floor = u32::try_from(floor.as_micros()).unwrap_or(u32::MAX);
        if own >= floor && own >= usual.saturating_mul(self.config.factor) {
            let ms = |micros: u32| f64::from(micros) / 1000.0;
            let why =
                format!("{what} take {:.1} ms, those of its peers {:.1} ms", ms(own), ms(usual));
            return Verdict::Slow { why, lasting };
        }
        let well = own < floor || own <= usual.saturating_mul(self.config.recover_factor);
        if well { Verdict::Well } else { Verdict::Between }
    }

    fn conclude(
        &mut self,
        disk: &Disk,
        verdict: Verdict,
        now: Duration,
    ) -> Option<(DiskState, String)> {
        let watched = self.disks.entry(disk.id).or_default();
        match &verdict {
            Verdict::Slow { .. } => {
                watched.slow_since.get_or_insert(now);
                watched.well_since = None;
            }
            Verdict::Well => {
                watched.slow_since = None;
                watched.well_since.get_or_insert(now);
            }
            Verdict::Between => {
                watched.slow_since = None;
                watched.well_since = None;
            }
            // Without figures nothing becomes better or worse: clients may go round it already.
            Verdict::Unknown => {}
        }
        let lasts = |since: Option<Duration>, wanted| {
            since.is_some_and(|since| now.saturating_sub(since) >= wanted)
        };
        match (disk.state, verdict) {
            (DiskState::In, Verdict::Slow { why, .. })
                if lasts(watched.slow_since, self.config.after) =>
            {
                watched.relapses = (watched.relapses + 1).min(RELAPSES_MAX);
                Some((DiskState::Slow, why))
            }
            (DiskState::Slow, Verdict::Well) => {
                let doublings = watched.relapses.saturating_sub(1);
                let wanted = self.config.recover_after * 2u32.pow(doublings);
                let recovered = lasts(watched.well_since, wanted);
                recovered.then(|| (DiskState::In, "as fast as its peers again".into()))
            }
            _ => None,
        }
    }
}
