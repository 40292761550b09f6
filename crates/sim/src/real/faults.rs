//! Which fault comes next: pure, decided by the seed alone.
//!
//! The budget keeps faults survivable: one node is hurt at a time, at most the link of another one is
//! slow or one pair of hosts cut meanwhile, and the next fault waits until the cluster converged. Bits
//! are flipped on one node in the whole run, since damage may stay unseen until it is read: two
//! such nodes could damage two copies of one block.

use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use std::fmt;
use std::time::Duration;

/// What is done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL of a node; it is started again later.
    KillNode,
    /// SIGKILL of the leader.
    KillLeader,
    /// SIGKILL of a node and the loss of its disk; it starts again with an empty one, as a new node.
    LoseDisk,
    /// SIGSTOP of a node, then SIGCONT.
    PauseNode,
    /// SIGSTOP of the leader, then SIGCONT: it wakes up as a leader of the past.
    PauseLeader,
    /// SIGKILL of all nodes at once, as a power cut.
    KillAll,
    /// No packet between one host and the others.
    Isolate,
    /// A host hears nothing.
    Deaf,
    /// A host is not heard.
    Mute,
    /// Two hosts do not hear each other; everybody else hears both.
    CutPair,
    /// The link of a host is slow.
    SlowLink,
    /// The disk of a node is full.
    FillDisk,
    /// Bits flip in the segments of a node that runs.
    FlipBits,
    /// A client is gone in the middle of its writes.
    LoseClient,
}

impl FaultKind {
    /// All of them.
    pub(crate) const ALL: [FaultKind; 14] = [
        FaultKind::KillNode,
        FaultKind::KillLeader,
        FaultKind::LoseDisk,
        FaultKind::PauseNode,
        FaultKind::PauseLeader,
        FaultKind::KillAll,
        FaultKind::Isolate,
        FaultKind::Deaf,
        FaultKind::Mute,
        FaultKind::CutPair,
        FaultKind::SlowLink,
        FaultKind::FillDisk,
        FaultKind::FlipBits,
        FaultKind::LoseClient,
    ];
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use clap::ValueEnum;
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

/// Whom a fault hits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victim {
    /// Whoever leads when it comes.
    Leader,
    /// This node.
    Node(u32),
    /// No particular node.
    Nobody,
}

/// A lesser fault beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Companion {
    /// The link of another node is slow.
    SlowLink,
    /// Two other nodes do not hear each other.
    CutPair,
}

/// One fault. All that chance decides about it is in here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) victim: Victim,
    /// The next nodes round from the victim: whom a pair or a companion takes in.
    pub(crate) others: [u32; 2],
    pub(crate) companion: Option<Companion>,
    /// From its beginning until it is healed.
    pub(crate) lasts: Duration,
    /// Quiet after it.
    pub(crate) pause: Duration,
    /// Whether a cut host loses the clients too.
    pub(crate) from_clients: bool,
    /// Rate of a slow link.
    pub(crate) kilobits: u32,
    /// Bytes left on a full disk.
    pub(crate) leave_bytes: u64,
    /// Bits that flip.
    pub(crate) flips: usize,
    /// Seed of what is decided inside of it.
    pub(crate) salt: u64,
}

/// The faults of a seed, without end.
pub(crate) struct Schedule {
    rng: ChaCha8Rng,
    kinds: Vec<FaultKind>,
    /// What is left of the present shuffle: every kind comes before one comes again.
    bag: Vec<FaultKind>,
    nodes: u32,
    /// The node whose disk flips bits.
    flipping: u32,
}

impl Schedule {
    /// The schedule of `seed` for so many nodes.
    pub(crate) fn new(seed: u64, kinds: Vec<FaultKind>, nodes: u32) -> Self {
        assert!(!kinds.is_empty() && nodes >= 5, "there is something to do, and somebody survives");
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let flipping = rng.random_range(1..=nodes);
        Schedule { rng, kinds, bag: Vec::new(), nodes, flipping }
    }

    /// The next fault.
    pub(crate) fn next(&mut self) -> Fault {
        let kind = self.kind();
        let rng = &mut self.rng;
        let node = rng.random_range(1..=self.nodes);
        let leader = rng.random_bool(0.4);
        let companion = match rng.random_range(0..8u8) {
            0 => Some(Companion::SlowLink),
            1 => Some(Companion::CutPair),
            _ => None,
        };
        let first = rng.random_range(1..self.nodes);
        let second = 1 + (first + rng.random_range(0..self.nodes - 2)) % (self.nodes - 1);
        Fault {
            kind,
            victim: match kind {
                FaultKind::KillLeader | FaultKind::PauseLeader => Victim::Leader,
                FaultKind::KillAll | FaultKind::LoseClient => Victim::Nobody,
                FaultKind::FlipBits => Victim::Node(self.flipping),
                FaultKind::KillNode | FaultKind::PauseNode | FaultKind::LoseDisk => {
                    Victim::Node(node)
                }
                _ if leader => Victim::Leader,
                _ => Victim::Node(node),
            },
            others: [first, second],
            companion: companion.filter(|_| kind.hurts_one_node()),
            lasts: kind.lasts(rng),
            pause: Duration::from_millis(rng.random_range(500..3000)),
            from_clients: rng.random_bool(0.5),
            kilobits: rng.random_range(1_000..20_000),
            leave_bytes: [0, 4 << 20, 64 << 20][rng.random_range(0..3usize)],
            flips: rng.random_range(8..=64),
            salt: rng.random(),
        }
    }

    fn kind(&mut self) -> FaultKind {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.kinds);
            self.bag.shuffle(&mut self.rng);
        }
        self.bag.pop().expect("it was filled just now")
    }
}

impl FaultKind {
    /// Whether a lesser fault beside it leaves a majority that hears each other.
    fn hurts_one_node(self) -> bool {
        use FaultKind::*;
        matches!(self, KillNode | KillLeader | PauseNode | PauseLeader | Isolate | Deaf | Mute)
    }

    fn lasts(self, rng: &mut ChaCha8Rng) -> Duration {
        let most = match self {
            // Long ones exceed the ten seconds after which a node is given up and rebuilt.
            FaultKind::KillNode | FaultKind::KillLeader | FaultKind::LoseDisk => 20_000,
            FaultKind::PauseNode | FaultKind::PauseLeader => 15_000,
            FaultKind::KillAll => 3_000,
            FaultKind::FlipBits | FaultKind::LoseClient => 5_000,
            _ => 15_000,
        };
        let least = if self == FaultKind::LoseClient { 2_000 } else { 1_000 };
        Duration::from_millis(rng.random_range(least..most))
    }
}

impl Fault {
    /// The node `steps` further round than `victim`.
    pub(crate) fn other(victim: u32, steps: u32, nodes: u32) -> u32 {
        assert!((1..=nodes).contains(&victim) && (1..nodes).contains(&steps), "another node");
        (victim - 1 + steps) % nodes + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_one_schedule() {
        let draw = |seed| {
            let mut schedule = Schedule::new(seed, FaultKind::ALL.to_vec(), 5);
            (0..100).map(|_| schedule.next()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_kind_comes_before_one_comes_again() {
        let mut schedule = Schedule::new(1, FaultKind::ALL.to_vec(), 5);
        for _ in 0..20 {
            let mut round: Vec<_> = FaultKind::ALL.iter().map(|_| schedule.next().kind).collect();
            round.sort();
            assert_eq!(round, FaultKind::ALL);
        }
    }

    #[test]
    fn faults_stay_within_the_budget() {
        let mut schedule = Schedule::new(3, FaultKind::ALL.to_vec(), 5);
        let mut flipping = std::collections::BTreeSet::new();
        for _ in 0..2000 {
            let fault = schedule.next();
            assert!(fault.lasts <= Duration::from_secs(20));
            assert_ne!(fault.others[0], fault.others[1]);
            let nodes = [1, 2, 3, 4, 5];
            for victim in nodes {
                for steps in fault.others {
                    assert_ne!(Fault::other(victim, steps, 5), victim);
                }
            }
            if fault.kind == FaultKind::FlipBits {
                flipping.insert(format!("{:?}", fault.victim));
            }
        }
        assert_eq!(flipping.len(), 1, "one disk flips bits");
    }
}
