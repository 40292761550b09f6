//! A run, drawn from its seed: how the world is made, what is done in it, and what goes wrong.

use crate::faults::{Budget, Kind};
use crate::workload::{Kind as Work, SizeMix, WorkloadPlan};
use crate::world::Shape;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::Duration;

/// See the module's words.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// The world.
    pub shape: Shape,
    /// How many clients work.
    pub clients: usize,
    /// Which of them keep a cache, one bit each.
    pub followers: u8,
    /// Which of these make changes behind delegations.
    pub behind: u8,
    /// How long an operation of a client tries.
    pub deadline: Duration,
    /// What they do, by turns.
    pub workloads: Vec<Work>,
    /// What they do it with.
    pub work: WorkloadPlan,
    /// How long there are faults.
    pub faults_for: Duration,
    /// Which faults.
    pub budget: Budget,
}

/// Clocks run up to a tenth too fast or too slow.
const DRIFT_MAX: u32 = 100_000;
/// Every so many-th seed is a run for the brake.
const BRAKE_EVERY: u64 = 20;
const BRAKE_AT: u64 = 13;
/// Every so many-th seed is a run in which leaders come and go.
const LEADERS_EVERY: u64 = 40;
const LEADERS_AT: u64 = 22;
/// Every so many-th seed is a run for programs on open files.
const PROGRAMS_EVERY: u64 = 3;
const PROGRAMS_AT: u64 = 1;

impl Plan {
    /// The plan of a seed. Each seed has faults of some kinds only: many faults of few kinds find more than
    /// few faults of all kinds ("swarm testing", Groce et al., 2012).
    pub fn of(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let nodes = [3, 4, 5, 5, 5, 5][rng.random_range(0..6)];
        let shape = Shape {
            seed,
            nodes,
            spares: 2,
            zones: 3,
            tick: Duration::from_millis([1, 2, 2, 3][rng.random_range(0..4)]),
            latency: Duration::from_millis(rng.random_range(1..10)),
            sync_ms: rng.random_range(1..8),
            drift: [0, 0, 20_000, DRIFT_MAX][rng.random_range(0..4)],
        };
        let mut kinds = Kind::ALL.to_vec();
        kinds.shuffle(&mut rng);
        kinds.truncate(rng.random_range(3..12));
        kinds.sort();
        let pause = Duration::from_millis(rng.random_range(400..4_000));
        let plan = Plan {
            seed,
            shape,
            clients: rng.random_range(2..5),
            workloads: workloads_of(&mut rng),
            work: work(),
            deadline: Duration::from_secs(rng.random_range(4..15)),
            faults_for: Duration::from_secs(rng.random_range(25..70)),
            budget: Budget { kinds, pause },
            followers: [0, 0, 0b0001, 0b0110, 0b1011, 0b1111][rng.random_range(0..6)],
            behind: [0, 0b0011, 0b1110, 0b1111][rng.random_range(0..4)],
        };
        match () {
            () if seed % BRAKE_EVERY == BRAKE_AT => plan.for_the_brake(),
            () if seed % LEADERS_EVERY == LEADERS_AT => plan.for_leaders(),
            () if seed % PROGRAMS_EVERY == PROGRAMS_AT => plan.for_programs(&mut rng),
            () => plan,
        }
    }

    /// A run in which no leader lasts as long as a session, and clients die.
    fn for_leaders(mut self) -> Self {
        self.followers = 0;
        self.behind = 0;
        self.faults_for = Duration::from_secs(170);
        let kinds = vec![Kind::KillLeader, Kind::ClientCrash];
        self.budget = Budget { kinds, pause: Duration::from_secs(6) };
        self
    }

    /// A run in which mounts stand still and lose their sessions under programs that work on open files.
    fn for_programs(mut self, rng: &mut ChaCha8Rng) -> Self {
        self.followers = 0b1111;
        self.behind = 0b1111;
        let works: &[Work] = match rng.random_range(0..8) {
            0..4 => &[Work::Programs],
            4 => &[Work::Programs, Work::Overwriters],
            5..7 => &[Work::Holders],
            _ => &[Work::Overwriters],
        };
        self.workloads = works.to_vec();
        if works[0] != Work::Programs {
            // They have to meet.
            self.clients = self.clients.max(3);
            (self.work.counters, self.work.slot_bytes) = (1, vec![512, 12 << 10]);
        }
        let own = [Kind::ClientPause, Kind::ClientFreeze];
        let others = [0, 0, 2, 12][rng.random_range(0..4)];
        self.work.calm = others == 0;
        // What lost its name lingers for longer than a session.
        let most = if self.workloads[0] == Work::Holders { 200 } else { 120 };
        self.faults_for = Duration::from_secs(rng.random_range(60..most));
        // Most changes wait to be told for a tenth of a second.
        self.work.pause_ms = (2, 60);
        // Long enough that there is work between two pauses.
        self.budget.pause = Duration::from_millis(rng.random_range(2_000..9_000));
        self.budget.kinds.truncate(others);
        self.budget.kinds.retain(|kind| !own.contains(kind));
        self.budget.kinds.extend(own);
        self
    }

    /// A run in which the brake is on for long: it takes more nodes than voters, most of them off at once.
    fn for_the_brake(mut self) -> Self {
        self.shape.nodes = 7;
        self.shape.spares = 0;
        self.faults_for = Duration::from_secs(75);
        self.budget = Budget { kinds: vec![Kind::MassOutage], pause: Duration::from_secs(4) };
        self
    }

    /// The same with faults of these kinds only.
    pub fn with_kinds(mut self, kinds: Vec<Kind>) -> Self {
        self.budget.kinds = kinds;
        self
    }
}

/// One kind for all, or all kinds by turns.
fn workloads_of(rng: &mut ChaCha8Rng) -> Vec<Work> {
    let mut all = Work::ALL.to_vec();
    all.shuffle(rng);
    if rng.random_bool(0.4) {
        all.truncate(1);
    }
    all
}

/// Small objects and a moderate pace: what matters is how operations and faults fall together, and every
/// byte costs time that other seeds could have.
fn work() -> WorkloadPlan {
    WorkloadPlan {
        records_max: 150,
        record_bytes: (16, 3000),
        slot_bytes: vec![512, 12 << 10, 40 << 10],
        slots: 4,
        sizes: SizeMix {
            inline: (16, 8 << 10),
            block: (9 << 10, 60 << 10),
            large: (4 << 20, 5 << 20),
            block_percent: 35,
            large_percent: 0,
        },
        burst: (4, 16),
        burst_pause_ms: (300, 1_500),
        pause_ms: (20, 200),
        ..WorkloadPlan::default()
    }
}
