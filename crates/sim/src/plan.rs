//! A run, drawn from its seed: how the world is made, what is done in it, and what goes wrong.

use crate::faults::{Budget, Kind};
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
    /// How long an operation of a client tries.
    pub deadline: Duration,
    /// How long there are faults.
    pub faults_for: Duration,
    /// Which faults.
    pub budget: Budget,
}

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
        };
        let mut kinds = Kind::ALL.to_vec();
        kinds.shuffle(&mut rng);
        kinds.truncate(rng.random_range(3..12));
        kinds.sort();
        let pause = Duration::from_millis(rng.random_range(400..4_000));
        Plan {
            seed,
            shape,
            clients: rng.random_range(2..5),
            deadline: Duration::from_secs(rng.random_range(4..15)),
            faults_for: Duration::from_secs(rng.random_range(25..70)),
            budget: Budget { kinds, pause },
        }
    }

    /// The same with faults of these kinds only.
    pub fn with_kinds(mut self, kinds: Vec<Kind>) -> Self {
        self.budget.kinds = kinds;
        self
    }
}
