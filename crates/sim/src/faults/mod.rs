//! Faults: drawn from the seed, injected between two steps of the world, taken back after a while.
//!
//! They are budgeted so that the cluster ought to survive. What only interrupts (crashes, partitions,
//! slow or full disks) may hit everybody at once: durability must not depend on it. What destroys
//! durable copies hits one machine at a time, and the next one only once every block has all its copies.

mod act;
mod kind;
mod undo;

pub use kind::Kind;

use crate::world::World;
use crate::world::admin::Admin;
use everhold_env::disk::DiskImage;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::BTreeMap;
use std::time::Duration;
use undo::Undo;

/// What a run may do to its cluster.
#[derive(Clone, Debug)]
pub struct Budget {
    /// Kinds that are drawn.
    pub kinds: Vec<Kind>,
    /// Mean time between two faults.
    pub pause: Duration,
}

/// See the module's words.
pub struct Faults {
    rng: ChaCha8Rng,
    budget: Budget,
    next: Duration,
    undo: Vec<(Duration, Undo)>,
    /// The machine that was damaged last, until the cluster is whole again.
    damaged: Option<Damaged>,
    /// The mark that each machine registered with last, and how many it has had.
    marks: BTreeMap<usize, (u64, u64)>,
    marks_at: Duration,
    /// Earlier states of the machines' disks, and how many marks each machine had had then, for
    /// [`Kind::Rollback`].
    images: BTreeMap<usize, (DiskImage, u64)>,
    image_at: Duration,
    /// How often a server has ended by itself in a row.
    failures: BTreeMap<usize, u32>,
    counts: BTreeMap<Kind, u64>,
}

struct Damaged {
    node: usize,
    since: Duration,
}

/// A server that ends by itself is started again after this, as a supervisor does.
const RESTART_AFTER: Duration = Duration::from_millis(700);
/// A server that ended so often in a row is set up anew by its operator.
const FAILURES_MAX: u32 = 6;
/// How often new marks are looked for: registrations are further apart.
const MARKS_EVERY: Duration = Duration::from_millis(100);
/// Images for rollbacks are taken so often.
const IMAGE_EVERY: Duration = Duration::from_secs(7);

impl Faults {
    /// Faults of one run.
    pub fn new(seed: u64, budget: Budget, begin: Duration) -> Self {
        Faults {
            rng: ChaCha8Rng::seed_from_u64(seed ^ 0xfa17_5eed),
            budget,
            next: begin,
            undo: Vec::new(),
            damaged: None,
            marks: BTreeMap::new(),
            marks_at: begin,
            images: BTreeMap::new(),
            image_at: begin,
            failures: BTreeMap::new(),
            counts: BTreeMap::new(),
        }
    }

    /// How many faults of each kind there were.
    pub fn counts(&self) -> &BTreeMap<Kind, u64> {
        &self.counts
    }

    /// What is due before the next step. New faults only while `inject`.
    pub fn between_steps(&mut self, world: &mut World, admin: &Admin, inject: bool) {
        self.restart_ended(world);
        let now = world.elapsed();
        while let Some(at) = self.undo.iter().position(|(due, _)| *due <= now) {
            let (_, undo) = self.undo.remove(at);
            self.take_back(world, admin, undo);
        }
        self.settle_damage(world, admin);
        self.follow_marks(world);
        if inject && now >= self.image_at {
            self.image_at = now + IMAGE_EVERY;
            let node = self.rng.random_range(0..world.nodes.len());
            if world.running[node] {
                let image = world.nodes[node].host.disk.durable_image();
                self.images.insert(node, (image, self.marks_of(node)));
            }
        }
        if inject && now >= self.next {
            let mean = self.budget.pause.as_millis() as u64;
            self.next = now + Duration::from_millis(self.rng.random_range(mean / 4..mean * 2));
            if let Some(kind) = self.draw() {
                self.act(world, admin, kind);
            }
        }
    }

    fn follow_marks(&mut self, world: &World) {
        if world.elapsed() < self.marks_at {
            return;
        }
        self.marks_at = world.elapsed() + MARKS_EVERY;
        for (node, host) in world.nodes.iter().enumerate() {
            let (mark, count) = self.marks.entry(node).or_default();
            let now = world.oracle.mark(host.name());
            if now != *mark {
                (*mark, *count) = (now, *count + 1);
            }
        }
    }

    fn marks_of(&self, node: usize) -> u64 {
        self.marks.get(&node).map_or(0, |(_, count)| *count)
    }

    /// Takes everything back, now: faults have stopped.
    pub fn stop(&mut self, world: &mut World, admin: &Admin) {
        crate::event!("faults stop");
        let mut all = std::mem::take(&mut self.undo);
        all.sort_by_key(|(due, _)| *due);
        for (_, undo) in all {
            self.take_back(world, admin, undo);
        }
        for node in &world.nodes {
            node.host.disk.heal();
        }
        world.heal_network();
    }

    fn draw(&mut self) -> Option<Kind> {
        let weight = |kind: &Kind| kind.weight();
        self.budget.kinds.choose_weighted(&mut self.rng, weight).ok().copied()
    }

    /// Servers that ended by themselves, and machines whose power failed, come back a moment later.
    fn restart_ended(&mut self, world: &mut World) {
        for node in 0..world.nodes.len() {
            if !world.running[node] {
                continue;
            }
            let off = world.nodes[node].host.disk.has_lost_power();
            let ended = world.nodes[node].ended.borrow_mut().take();
            if off {
                world.power_off(node, self.rng.random(), self.rng.random());
            } else if let Some(reason) = &ended {
                world.oracle.ended(world.nodes[node].name(), reason);
                world.kill(node, false);
                if reason == "stopped" {
                    self.failures.remove(&node);
                } else {
                    *self.failures.entry(node).or_default() += 1;
                }
                if reason.contains("restored from a copy") {
                    // The message says what to do, and the operator does it.
                    self.failures.insert(node, FAILURES_MAX);
                }
            } else {
                continue;
            }
            let pause = RESTART_AFTER.mul_f64(self.rng.random_range(0.5..2.0));
            self.undo.push((world.elapsed() + pause, Undo::Start(node)));
        }
    }

    /// The budget for damage is free again once every copy is there and every voter too.
    fn settle_damage(&mut self, world: &World, admin: &Admin) {
        let Some(damaged) = &self.damaged else { return };
        let now = world.elapsed();
        let healed = now >= damaged.since + Duration::from_secs(5)
            && world.running.iter().all(|running| *running)
            // What has decayed is as good as lost, and nobody knows it before it is read.
            && !world.oracle.is_damaged(world.nodes[damaged.node].name())
            && admin.is_settled_since(damaged.since + Duration::from_secs(3))
            && world.oracle.is_redundant(world.nodes.len());
        if healed {
            let name = world.nodes[damaged.node].name();
            crate::event!("the damage of {name} is repaired");
            self.damaged = None;
        }
    }

    /// Whether this machine may be damaged now.
    fn may_damage(&mut self, world: &World, admin: &Admin, node: usize) -> bool {
        let free = match &self.damaged {
            Some(damaged) => damaged.node == node,
            None => world.oracle.is_redundant(world.nodes.len()) && admin.is_settled(),
        };
        if free {
            self.damaged = Some(Damaged { node, since: world.elapsed() });
        }
        free
    }
}
