//! The detector against synthetic time.

use super::*;
use crate::testing::World;
use everhold_proto::command::Answer;

const TICK: u64 = 100;

/// A cluster of three, its detector, and a clock that only the test moves.
struct Bench {
    world: World,
    detector: Detector,
    now: Duration,
    silent: Vec<u32>,
    braked: bool,
}

impl Bench {
    fn new() -> Self {
        let world = World::new(3, &["a", "b", "c"]);
        let detector = Detector::new(DetectorConfig::default(), Duration::from_secs(100), 0);
        let now = Duration::from_secs(100);
        Bench { world, detector, now, silent: Vec::new(), braked: false }
    }

    /// Lets time pass: heartbeats of all but the silent ones every 200 ms, a tick every 100 ms.
    fn pass(&mut self, millis: u64) {
        for _ in 0..millis / TICK {
            self.now += Duration::from_millis(TICK);
            if self.now.as_millis().is_multiple_of(200) {
                self.heartbeats();
            }
            self.tick();
        }
    }

    fn heartbeats(&mut self) {
        for node in self.world.map().nodes.values() {
            if !self.silent.contains(&node.id.0) {
                let (node, boot) = (node.id, node.boot);
                self.detector.observe(self.now, Observation::Heartbeat { node, boot });
            }
        }
    }

    fn tick(&mut self) {
        for verdict in self.detector.verdicts(&self.world.map(), self.now, self.braked) {
            assert_eq!(self.world.map_command(verdict), Answer::Done);
        }
    }

    fn state(&self, node: u32) -> NodeState {
        self.world.map().nodes[&NodeId(node)].state
    }

    fn observe(&mut self, observation: Observation) {
        self.detector.observe(self.now, observation);
    }

    /// Milliseconds until the node is in this state.
    fn until(&mut self, node: u32, state: NodeState) -> u64 {
        for passed in 0..600 {
            if self.state(node) == state {
                return passed * TICK;
            }
            self.pass(TICK);
        }
        panic!("n{node} never becomes {state}");
    }
}

/// Silence: Suspect after about 1.5 s, Down within 5 s, Out 10 s later; others stay Up.
#[test]
fn a_silent_node_is_suspected_then_down_then_out() {
    let mut bench = Bench::new();
    bench.pass(10_000);
    bench.silent = vec![2];
    let suspect = bench.until(2, NodeState::Suspect);
    assert!((1_000..=2_500).contains(&suspect), "{suspect} ms");
    let down = suspect + bench.until(2, NodeState::Down);
    assert!((2_500..=5_000).contains(&down), "{down} ms");
    let out = bench.until(2, NodeState::Out);
    assert!((9_000..=11_000).contains(&out), "{out} ms");
    assert_eq!((bench.state(1), bench.state(3)), (NodeState::Up, NodeState::Up));
}

/// A pause of a second is no reason to suspect anyone, however regular it was before.
#[test]
fn a_pause_of_a_second_is_forgiven() {
    let mut bench = Bench::new();
    bench.pass(20_000);
    for _ in 0..5 {
        bench.silent = vec![2];
        bench.pass(1_000);
        assert_eq!(bench.state(2), NodeState::Up);
        bench.silent.clear();
        bench.pass(2_000);
    }
}

/// A closed connection counts at once; with a refused probe the node is Down at once.
#[test]
fn a_dead_process_is_down_at_once() {
    let mut bench = Bench::new();
    bench.pass(5_000);
    bench.silent = vec![2];
    bench.observe(Observation::ConnectionClosed(NodeId(2)));
    bench.pass(TICK);
    assert_eq!(bench.state(2), NodeState::Suspect);
    bench.observe(Observation::ProbeRefused(NodeId(2)));
    bench.pass(TICK);
    assert_eq!(bench.state(2), NodeState::Down);
}

/// A closed connection of a node that goes on is forgotten with its next heartbeats.
#[test]
fn a_reconnecting_node_is_up_again() {
    let mut bench = Bench::new();
    bench.pass(5_000);
    bench.observe(Observation::ConnectionClosed(NodeId(2)));
    bench.tick();
    assert_eq!(bench.state(2), NodeState::Suspect);
    bench.pass(1_500);
    assert_eq!(bench.state(2), NodeState::Up);
}

/// A node that says it stops is Down at once, and its next boot is Up.
#[test]
fn a_leaving_node_is_down_until_it_registers() {
    let mut bench = Bench::new();
    bench.pass(3_000);
    bench.observe(Observation::Leaving { node: NodeId(3), boot: 1 });
    bench.silent = vec![3];
    bench.tick();
    assert_eq!(bench.state(3), NodeState::Down);
    bench.world.register_node(3, "c");
    bench.silent.clear();
    bench.pass(3_000);
    assert_eq!(bench.state(3), NodeState::Up);
}

/// A new leader gives nobody up before its grace is over; then it does.
#[test]
fn a_new_leader_waits() {
    let mut bench = Bench::new();
    bench.silent = vec![2];
    bench.pass(2_400);
    assert_eq!(bench.state(2), NodeState::Up);
    let down = 2_400 + bench.until(2, NodeState::Down);
    assert!(down <= 5_000, "{down} ms");
}

/// The leader's own pause is not the silence of the others.
#[test]
fn the_leaders_own_pause_is_forgiven() {
    let mut bench = Bench::new();
    bench.pass(5_000);
    bench.now += Duration::from_secs(30);
    bench.tick();
    bench.pass(3_000);
    assert!((1..=3).all(|node| bench.state(node) == NodeState::Up));
}

/// Reports count by distinct zone: one zone is not believed, two are; a node that the leader hears is
/// not Down by reports.
#[test]
fn reports_count_by_zone() {
    let mut bench = Bench::new();
    bench.pass(5_000);
    let report = |zone: &str| Observation::Unreachable { node: NodeId(2), zone: zone.into() };
    (0..9).for_each(|_| bench.observe(report("a")));
    bench.pass(TICK);
    assert_eq!(bench.state(2), NodeState::Up);
    bench.observe(report("c"));
    bench.pass(TICK);
    assert_eq!(bench.state(2), NodeState::Suspect);
    bench.pass(2_000);
    assert_eq!(bench.state(2), NodeState::Suspect);
    bench.pass(3_000);
    assert_eq!(bench.state(2), NodeState::Up);
}

/// A silent node that two zones cannot reach is Down sooner.
#[test]
fn reports_hasten_down() {
    let mut bench = Bench::new();
    bench.pass(5_000);
    bench.silent = vec![2];
    for zone in ["a", "c"] {
        bench.observe(Observation::Unreachable { node: NodeId(2), zone: zone.into() });
    }
    bench.pass(2_800);
    assert_eq!(bench.state(2), NodeState::Down);
}

/// In maintenance, or while the brake is on, Down does not become Out.
#[test]
fn maintenance_and_the_brake_hold_a_node() {
    let mut bench = Bench::new();
    bench.pass(3_000);
    bench.braked = true;
    bench.silent = vec![2];
    bench.pass(60_000);
    assert_eq!(bench.state(2), NodeState::Down);
    bench.braked = false;
    bench.world.map_command(MapCommand::SetMaintenance { node: NodeId(2), on: true });
    bench.pass(60_000);
    assert_eq!(bench.state(2), NodeState::Down);
    bench.world.map_command(MapCommand::SetMaintenance { node: NodeId(2), on: false });
    bench.pass(1_000);
    assert_eq!(bench.state(2), NodeState::Out);
}

/// Each return of a flapping node takes longer, and a calm while later it does not.
#[test]
fn flapping_is_damped() {
    let mut bench = Bench::new();
    bench.pass(5_000);
    let mut returns = Vec::new();
    for _ in 0..4 {
        bench.silent = vec![2];
        bench.until(2, NodeState::Down);
        bench.silent.clear();
        returns.push(bench.until(2, NodeState::Up));
    }
    assert!(returns.is_sorted() && returns[3] >= 4 * returns[0], "{returns:?}");
    bench.pass(120_000);
    bench.silent = vec![2];
    bench.until(2, NodeState::Down);
    bench.silent.clear();
    assert!(bench.until(2, NodeState::Up) <= returns[1]);
}

/// A node that is Out and heard again, in the same boot, is Up again.
#[test]
fn an_out_node_returns() {
    let mut bench = Bench::new();
    bench.pass(3_000);
    bench.silent = vec![2];
    bench.until(2, NodeState::Out);
    assert!(bench.detector.down_for(NodeId(2), bench.now).unwrap() >= Duration::from_secs(9));
    bench.silent.clear();
    bench.until(2, NodeState::Up);
    bench.pass(TICK);
    assert_eq!(bench.detector.down_for(NodeId(2), bench.now), None);
}

/// A change of leaders does not put off the repair: the time that a node was Down under the old leader
/// counts. The new one gives it up only after its own grace, in which the node may be heard again.
#[test]
fn time_down_under_an_earlier_leader_counts() {
    let mut bench = Bench::new();
    bench.pass(3_000);
    bench.silent = vec![2];
    bench.until(2, NodeState::Down);
    let since_ms = bench.world.map().nodes[&NodeId(2)].since_ms;
    let config = DetectorConfig::default();
    bench.detector = Detector::new(config.clone(), bench.now, since_ms + 9_000);
    let out_after = bench.until(2, NodeState::Out);
    let grace = config.grace.as_millis() as u64;
    assert!((grace..=grace + 1_000).contains(&out_after), "{out_after}");
}

impl Bench {
    /// Lets time pass while nodes in these zones reach a node that the leader does not hear.
    fn pass_reached(&mut self, millis: u64, node: u32, zones: &[&str]) {
        for _ in 0..millis / TICK {
            for zone in zones {
                let (node, zone) = (NodeId(node), format!("/{zone}"));
                self.observe(Observation::Reached { node, zone });
            }
            self.pass(TICK);
        }
    }
}

/// A node that only the leader does not hear is gone round, and neither Down nor given up, as long as nodes in more
/// than half of the other zones reach it. When they do not either, it is dead.
#[test]
fn whoever_others_reach_is_not_given_up() {
    let mut bench = Bench::new();
    bench.pass(5000);
    bench.silent = vec![3];
    bench.pass_reached(60_000, 3, &["a", "b"]);
    assert_eq!(bench.state(3), NodeState::Suspect);
    assert!(bench.world.map().nodes[&NodeId(3)].reason.contains("does not hear it"));
    bench.until(3, NodeState::Down);
    bench.pass_reached(60_000, 3, &["a", "b"]);
    assert_eq!(bench.state(3), NodeState::Down, "reached again: it is not given up");
    bench.silent.clear();
    bench.until(3, NodeState::Up);
}

/// One zone of two is no majority: that may be the other half of a network that is cut in two.
#[test]
fn half_of_the_zones_are_not_enough() {
    let mut bench = Bench::new();
    bench.pass(5000);
    bench.silent = vec![3];
    bench.pass_reached(30_000, 3, &["a"]);
    assert_eq!(bench.state(3), NodeState::Out);
}
