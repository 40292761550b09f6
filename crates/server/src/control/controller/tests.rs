//! The controller, tick by tick, with the real detector, planner and choice of voters.

use super::*;
use everhold_proto::DiskSession;
use everhold_proto::map::{DiskState, Fullness, Labels, Policy};

const CAPACITY: u64 = 1000;

/// A cluster of `nodes` nodes with one disk each, all Up.
fn cluster(nodes: u32, copies: u8) -> ClusterMap {
    let mut map = ClusterMap { epoch: Epoch(1), ..Default::default() };
    map.policies.insert(PolicyId(0), Policy::replicated(PolicyId(0), "default", copies));
    for number in 1..=nodes {
        add_node(&mut map, number);
    }
    map
}

fn add_node(map: &mut ClusterMap, number: u32) {
    let (node, disk) = (NodeId(number), DiskId(number));
    let row = Node {
        id: node,
        uuid: [number as u8; 16],
        address: format!("host{number}:1"),
        labels: Labels::default(),
        state: NodeState::Up,
        since_ms: 0,
        reason: String::new(),
        boot: 1,
        raft: None,
        maintenance: false,
        labels_fixed: false,
        mark: 0,
    };
    map.nodes.insert(node, row);
    let row = Disk {
        id: disk,
        uuid: [number as u8; 16],
        node,
        session: DiskSession(1),
        capacity_bytes: CAPACITY,
        used_bytes: 100,
        fullness: Fullness::Normal,
        state: DiskState::In,
    };
    map.disks.insert(disk, row);
    map.epoch.0 += 1;
}

/// A leader and its clock.
struct Leader {
    controller: Controller,
    began: Instant,
    now: Instant,
    map: ClusterMap,
    slow: SlowView,
    speeds: BTreeMap<DiskId, DiskSpeed>,
    silent: BTreeSet<NodeId>,
}

impl Leader {
    fn new(map: ClusterMap) -> Self {
        let now = Instant::now();
        let voters = map.nodes.keys().copied().take(1).collect();
        let members = Membership { voters, ..Membership::default() };
        Leader {
            controller: Controller::new(DetectorConfig::default(), now, 0),
            began: now,
            now,
            map,
            slow: SlowView { members, ..SlowView::default() },
            speeds: BTreeMap::new(),
            silent: BTreeSet::new(),
        }
    }

    fn hear(&mut self, observation: Observation) {
        self.controller.apply(Event::Heard(vec![observation]), &self.map, self.now);
    }

    /// One tick after `ms`, with heartbeats of everybody who is not silent. Verdicts take effect.
    fn tick(&mut self, ms: u64) -> Vec<Action> {
        self.now += Duration::from_millis(ms);
        let at = self.now;
        let heard: Vec<Observation> = self
            .map
            .nodes
            .values()
            .filter(|node| !self.silent.contains(&node.id))
            .map(|node| Observation::Heartbeat { node: node.id, boot: node.boot, at })
            .collect();
        self.controller.apply(Event::Heard(heard), &self.map, at);
        self.conclude()
    }

    fn conclude(&mut self) -> Vec<Action> {
        let slow = self.controller.looks_slowly(self.now).then(|| self.slow.clone());
        let actions = self.controller.tick(
            &View {
                map: &self.map,
                speeds: self.speeds.clone(),
                evenness: Evenness::default(),
                slow,
            },
            self.now,
        );
        for action in &actions {
            let Action::Propose(Task::Verdicts, verdicts) = action else { continue };
            for verdict in verdicts {
                let Command::Map(MapCommand::SetNodeState { node, state, .. }) = verdict else {
                    panic!("not a verdict: {verdict:?}");
                };
                self.map.nodes.get_mut(node).expect("in the map").state = *state;
                self.map.epoch.0 += 1;
            }
        }
        actions
    }

    /// Ticks every 100 ms for `ms`; everything that was concluded.
    fn run(&mut self, ms: u64) -> Vec<Action> {
        (0..ms / 100).flat_map(|_| self.tick(100)).collect()
    }

    fn state(&self, number: u32) -> NodeState {
        self.map.nodes[&NodeId(number)].state
    }
}

fn creates_pgs(actions: &[Action]) -> bool {
    actions.iter().any(|action| match action {
        Action::Propose(Task::Plan, commands) => {
            commands.iter().any(|c| matches!(c, Command::Map(MapCommand::CreatePgs { .. })))
        }
        _ => false,
    })
}

/// The first PGs wait until the disks have gathered.
#[test]
fn first_pgs_wait_for_the_cluster_to_gather() {
    let mut leader = Leader::new(cluster(2, 3));
    assert!(!creates_pgs(&leader.run(1000)), "two of three nodes: more may come");
    add_node(&mut leader.map, 3);
    assert!(!creates_pgs(&leader.run(400)), "a disk was added just now");
    assert!(creates_pgs(&leader.run(1500)));
    let mut alone = Leader::new(cluster(2, 3));
    assert!(creates_pgs(&alone.run(7000)), "a quorum of nodes must do in the end");
}

/// A closed connection leads to a probe and to Suspect at once; a refused probe to Down at once.
#[test]
fn a_dead_process_is_down_at_once() {
    let mut leader = Leader::new(cluster(3, 3));
    leader.run(5000);
    leader.silent.insert(NodeId(2));
    let at = leader.now;
    leader.hear(Observation::Closed { node: NodeId(2), at });
    assert!(leader.conclude().contains(&Action::Probe(NodeId(2))));
    assert_eq!(leader.state(2), NodeState::Suspect);
    leader.controller.apply(Event::Refused(NodeId(2)), &leader.map, at);
    let actions = leader.conclude();
    assert_eq!(leader.state(2), NodeState::Down);
    assert!(!actions.contains(&Action::Probe(NodeId(2))), "it was probed once");
}

/// A node that died before this leader heard it is probed, and Down when it refuses.
#[test]
fn a_node_never_heard_is_probed() {
    let mut leader = Leader::new(cluster(3, 3));
    leader.silent.insert(NodeId(3));
    assert!(leader.run(2500).contains(&Action::Probe(NodeId(3))));
    leader.controller.apply(Event::Refused(NodeId(3)), &leader.map, leader.now);
    leader.tick(100);
    assert_eq!(leader.state(3), NodeState::Down);
    assert!(!leader.run(3000).contains(&Action::Probe(NodeId(3))));
}

/// A node that does not return is given up after its time; one in maintenance is not.
#[test]
fn silence_leads_to_out_unless_maintenance() {
    let mut leader = Leader::new(cluster(5, 3));
    leader.run(5000);
    leader.map.nodes.get_mut(&NodeId(5)).expect("there").maintenance = true;
    leader.silent.extend([NodeId(4), NodeId(5)]);
    leader.run(6000);
    assert_eq!((leader.state(4), leader.state(5)), (NodeState::Down, NodeState::Down));
    leader.run(12_000);
    assert_eq!((leader.state(4), leader.state(5)), (NodeState::Out, NodeState::Down));
    leader.silent.clear();
    leader.run(5000);
    assert_eq!((leader.state(4), leader.state(5)), (NodeState::Up, NodeState::Up));
}

/// Most nodes silent at once: the brake, and nobody is given up.
#[test]
fn the_brake_holds_everybody_in() {
    let mut leader = Leader::new(cluster(5, 3));
    leader.run(5000);
    leader.silent.extend([NodeId(3), NodeId(4), NodeId(5)]);
    leader.run(30_000);
    assert!(leader.controller.brake().is_some());
    assert!((3..=5).all(|number| leader.state(number) == NodeState::Down));
}

/// Usage is told when it changed by enough, or when the level did.
#[test]
fn small_changes_of_usage_are_not_told() {
    let mut leader = Leader::new(cluster(3, 3));
    let usage = |disk: u32, used_bytes, fullness| DiskUsage {
        disk: DiskId(disk),
        used_bytes,
        capacity_bytes: CAPACITY,
        fullness,
    };
    let (same, more) = (usage(1, 110, Fullness::Normal), usage(2, 150, Fullness::Normal));
    let full = usage(3, 100, Fullness::Nearfull);
    leader.slow.usage = vec![same, more, full, usage(9, 500, Fullness::Full)];
    let told: Vec<Command> = leader
        .tick(100)
        .into_iter()
        .filter_map(|action| match action {
            Action::Propose(Task::Usage, commands) => Some(commands),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(told, [Command::Map(MapCommand::SetDiskUsage(vec![more, full]))]);
}

/// Expired sessions end and dead blocks are swept, once a second.
#[test]
fn slow_work_is_done_once_a_second() {
    let mut leader = Leader::new(cluster(3, 3));
    leader.slow.expired = vec![SessionId(7)];
    leader.slow.sweepable = true;
    let of = |actions: &[Action], kind: Task| {
        actions.iter().filter(|a| matches!(a, Action::Propose(k, _) if *k == kind)).count()
    };
    let actions = leader.run(2000);
    assert_eq!((of(&actions, Task::Sessions), of(&actions, Task::Sweep)), (2, 2));
    assert!(leader.now > leader.began);
}

/// Three nodes make three voters, step by step; a node with a Raft id that is no member gives it back.
#[test]
fn voters_follow_the_nodes() {
    let mut leader = Leader::new(cluster(3, 3));
    let step = |actions: Vec<Action>| {
        actions.into_iter().find(|action| matches!(action, Action::Voters(_) | Action::Retire(_)))
    };
    assert_eq!(step(leader.tick(100)), Some(Action::Voters(VoterPlan::AddLearner(NodeId(2)))));
    leader.slow.members.learners = [(NodeId(2), true), (NodeId(3), true)].into();
    let all: BTreeSet<NodeId> = [1, 2, 3].map(NodeId).into();
    let change = VoterPlan::ChangeVoters(all.clone());
    assert_eq!(step(leader.run(1000)), Some(Action::Voters(change)));
    leader.slow.members = Membership { voters: all, ..Membership::default() };
    assert_eq!(step(leader.run(1000)), None);
    add_node(&mut leader.map, 4);
    leader.map.nodes.get_mut(&NodeId(4)).expect("there").raft = Some(RaftId(9));
    assert_eq!(step(leader.run(1000)), None, "it may be a learner in the making");
    assert_eq!(step(leader.run(1000)), Some(Action::Retire(NodeId(4))));
}

/// A disk that lags far behind its peers is proposed as slow.
#[test]
fn a_slow_disk_is_proposed() {
    let mut leader = Leader::new(cluster(5, 3));
    for disk in leader.map.disks.keys() {
        let write_micros = Some(if disk.0 == 4 { 80_000 } else { 2_000 });
        leader
            .speeds
            .insert(*disk, DiskSpeed { disk: *disk, write_micros, ..DiskSpeed::default() });
    }
    let named = |actions: Vec<Action>| {
        actions.into_iter().find_map(|action| match action {
            Action::Propose(Task::Slow, commands) => Some(commands),
            _ => None,
        })
    };
    assert_eq!(named(leader.run(16_000)), None, "it may be warming up");
    let commands = named(leader.run(1000)).expect("named within two seconds");
    let Command::Map(MapCommand::SetDiskState { disk, state, .. }) = &commands[0] else {
        panic!("{commands:?}");
    };
    assert_eq!((*disk, *state), (DiskId(4), DiskState::Slow));
}

/// The event log hears of the brake once when it goes on, with the reason, and once when it goes off.
#[test]
fn the_brake_is_told_once() {
    let mut leader = Leader::new(cluster(5, 3));
    leader.run(3000);
    let notes = |actions: &[Action]| -> Vec<Option<String>> {
        let noted = actions.iter().filter_map(|action| match action {
            Action::Propose(Task::Brake, commands) => Some(commands),
            _ => None,
        });
        let of = |command: &Command| match command {
            Command::Map(MapCommand::NoteBrake(reason)) => reason.clone(),
            other => panic!("{other:?}"),
        };
        noted.flatten().map(of).collect()
    };
    leader.silent = [2, 3, 4].map(NodeId).into();
    let on = notes(&leader.run(10_000));
    assert!(matches!(&on[..], [Some(why)] if why.contains("3 of 5")), "{on:?}");
    leader.silent.clear();
    assert_eq!(notes(&leader.run(10_000)), [None]);
}
