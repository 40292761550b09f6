//! Slow disks: found, spared and brought back, and never a majority of them.

use super::*;
use crate::testing::World;
use everhold_proto::NodeId;

struct Case {
    world: World,
    judge: SlowDisks,
    now: Duration,
}

impl Case {
    fn new(disks: usize) -> Self {
        let world = World::new(3, &vec![""; disks]);
        let mut case =
            Case { world, judge: SlowDisks::new(SlowConfig::default()), now: Duration::ZERO };
        case.run(20, &[]);
        case
    }

    /// Lets each disk answer in so many milliseconds for a while, applies the verdicts, and counts them.
    fn run(&mut self, seconds: u64, millis: &[u32]) -> usize {
        let speed = |(place, ms): (usize, &u32)| {
            let disk = DiskId(place as u32 + 1);
            let micros = Some(ms * 1000);
            (disk, DiskSpeed { disk, write_micros: micros, ..DiskSpeed::default() })
        };
        let speeds = millis.iter().enumerate().map(speed).collect();
        self.judge(seconds, &speeds).len()
    }

    /// Lets the figures be so for a while, applies the verdicts, and tells them.
    fn judge(&mut self, seconds: u64, speeds: &BTreeMap<DiskId, DiskSpeed>) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..seconds * 5 {
            self.now += Duration::from_millis(200);
            for verdict in self.judge.verdicts(&self.world.map(), speeds, self.now) {
                told.push(format!("{verdict:?}"));
                self.world.map_command(verdict);
            }
        }
        told
    }

    fn state(&self, disk: u32) -> DiskState {
        self.world.map().disks[&DiskId(disk)].state
    }
}

/// Twenty times slower than its peers: slow within two seconds, and only this one.
#[test]
fn a_slow_disk_is_named() {
    let mut case = Case::new(5);
    assert_eq!(case.run(10, &[2, 2, 3, 2, 4]), 0);
    assert_eq!(case.run(2, &[2, 2, 40, 2, 4]), 1);
    assert_eq!(case.state(3), DiskState::Slow);
}

/// All slow together is load, not a fault; a short hiccup is none either; nor is what is fast enough.
#[test]
fn load_is_no_fault() {
    let mut case = Case::new(5);
    assert_eq!(case.run(10, &[200, 210, 190, 500, 200]), 0);
    assert_eq!(case.run(1, &[2, 2, 40, 2, 2]), 0);
    assert_eq!(case.run(1, &[2, 2, 2, 2, 2]), 0);
    assert_eq!(case.run(10, &[1, 1, 4, 1, 1]), 0);
}

/// It comes back when it is as fast as the others for a while, and later each time.
#[test]
fn a_slow_disk_comes_back_later_each_time() {
    let mut case = Case::new(5);
    let recovery = |case: &mut Case| {
        case.run(3, &[2, 2, 40, 2, 2]);
        assert_eq!(case.state(3), DiskState::Slow);
        (1..1000).find(|_| case.run(1, &[2, 2, 2, 2, 2]) == 1).expect("it comes back")
    };
    let (first, second) = (recovery(&mut case), recovery(&mut case));
    assert!((15..=16).contains(&first), "{first}");
    assert!((30..=31).contains(&second), "{second}");
}

/// A third at most: where more look slow, something else is wrong.
#[test]
fn never_more_than_a_third() {
    let mut case = Case::new(6);
    case.run(10, &[40, 40, 40, 2, 2, 2]);
    let slow = (1..=6).filter(|disk| case.state(*disk) == DiskState::Slow).count();
    assert!(slow <= 2, "{slow}");
    let mut two = Case::new(2);
    assert_eq!(two.run(10, &[2, 400]), 0, "with one peer nobody knows who is slow");
}

/// Without figures nothing happens, and a disk whose node is not Up is not judged.
#[test]
fn no_figures_no_verdict() {
    let mut case = Case::new(5);
    case.run(3, &[2, 2, 40, 2, 2]);
    assert_eq!(case.run(100, &[]), 0);
    assert_eq!(case.state(3), DiskState::Slow);
    case.world.set_node(4, NodeState::Down);
    assert_eq!(case.run(10, &[2, 2, 2, 400]), 0);
    assert!(case.world.map().nodes.contains_key(&NodeId(4)));
}

/// A disk that registered just now opens its files and catches up: that makes it no slow one.
#[test]
fn a_fresh_disk_warms_up() {
    let mut case = Case::new(5);
    case.world.register_disk(3, Some(DiskId(3)));
    assert_eq!(case.run(14, &[2, 2, 40, 2, 2]), 0);
    assert_eq!(case.run(4, &[2, 2, 40, 2, 2]), 1);
}

/// Clients that go round a slow disk leave it without figures for a moment: that does not make it well.
#[test]
fn a_gap_in_the_figures_clears_nobody() {
    let mut case = Case::new(5);
    assert_eq!(case.run(1, &[2, 2, 40, 2, 2]), 0);
    assert_eq!(case.run(1, &[]), 0);
    assert_eq!(case.run(1, &[2, 2, 40, 2, 2]), 1);
}

/// A node whose calls take far longer than those of the others is slow with all its disks; one that is as quick as a
/// person can tell is not, and disks of one node are no measure of each other.
#[test]
fn a_slow_node_is_named() {
    let mut case = Case::new(5);
    let mut run = |seconds: u64, millis: &[u32]| {
        let speed = |(place, ms): (usize, &u32)| {
            let disk = DiskId(place as u32 + 1);
            let answer_micros = Some(ms * 1000);
            (disk, DiskSpeed { disk, answer_micros, ..DiskSpeed::default() })
        };
        let speeds: BTreeMap<_, _> = millis.iter().enumerate().map(speed).collect();
        case.judge(seconds, &speeds)
    };
    assert!(run(10, &[1, 2, 140, 1, 2]).is_empty());
    let told = run(3, &[1, 2, 700, 1, 2]);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("answers of its node take 700.0 ms"), "{told:?}");
}

/// A disk that stays slow is emptied after a while, if others can take its blocks; where they cannot, nothing happens,
/// and it is tried again.
#[test]
fn a_disk_that_stays_slow_is_emptied() {
    let mut case = Case::new(5);
    case.run(3, &[2, 2, 40, 2, 2]);
    assert_eq!(case.run(590, &[2, 2, 40, 2, 2]), 0);
    assert_eq!(case.run(20, &[2, 2, 40, 2, 2]), 1);
    assert_eq!(case.state(3), DiskState::Draining);
    let mut small = Case::new(3);
    small.run(3, &[2, 2, 40]);
    let tried = small.run(600 + 180, &[2, 2, 40]);
    assert!((2..=4).contains(&tried), "{tried}");
    assert_eq!(small.state(3), DiskState::Slow, "three copies need three nodes");
}

/// A disk that stands still for some of its operations has a usual median: its slowest tenth names it, and clients go
/// round it; it is not emptied for that.
#[test]
fn a_disk_that_stands_still_now_and_then_is_named_and_kept() {
    let mut case = Case::new(5);
    let mut run = |seconds: u64, tails: &[u32]| {
        let speed = |(place, ms): (usize, &u32)| {
            let disk = DiskId(place as u32 + 1);
            let (write_micros, write_tail_micros) = (Some(300), Some(ms * 1000));
            (disk, DiskSpeed { disk, write_micros, write_tail_micros, ..DiskSpeed::default() })
        };
        let speeds: BTreeMap<_, _> = tails.iter().enumerate().map(speed).collect();
        case.judge(seconds, &speeds)
    };
    assert!(run(10, &[1, 2, 15, 1, 2]).is_empty(), "that is quick enough");
    let told = run(3, &[1, 2, 80, 1, 2]);
    assert_eq!(told.len(), 1);
    assert!(told[0].contains("the slowest tenth of writes take 80.0 ms"), "{told:?}");
    assert!(run(1200, &[1, 2, 80, 1, 2]).is_empty());
    assert_eq!(case.state(3), DiskState::Slow);
}
