//! The end of each fault.

use super::{FAILURES_MAX, Faults};
use crate::world::World;
use crate::world::admin::{Admin, Order};
use everhold_env::disk::Pace;
use std::sync::atomic::Ordering::Relaxed;

/// What is done when a fault has lasted long enough.
#[derive(Clone, Debug)]
pub(super) enum Undo {
    /// The machine is started.
    Start(usize),
    /// The machine's process is killed, and started again at once.
    Restart(usize),
    /// Both ways between these hosts work again.
    Connect(Vec<(String, String)>),
    /// What was held is delivered.
    Release(String, String),
    /// Messages take as long as before.
    Latency(String, String),
    /// The disk is as fast as before.
    Pace(usize, Pace),
    /// Space, and no more errors.
    Disk(usize),
    /// The clock goes right again.
    Clock(usize),
    /// Something for the operator.
    Order(Order),
    /// The client starts anew.
    Client(usize),
    /// The client's process goes on.
    Resume(usize),
}

impl Faults {
    pub(super) fn take_back(&mut self, world: &mut World, admin: &Admin, undo: Undo) {
        match undo {
            Undo::Start(node) => self.start(world, admin, node),
            Undo::Restart(node) => {
                if world.running[node] {
                    world.kill(node, false);
                    self.start(world, admin, node);
                }
            }
            Undo::Connect(pairs) => {
                for (a, b) in pairs {
                    crate::event!("{a} and {b} hear each other again");
                    world.sim.repair(a.as_str(), b.as_str());
                }
            }
            Undo::Release(a, b) => {
                crate::event!("messages between {a} and {b} are released");
                world.sim.release(a.as_str(), b.as_str());
            }
            Undo::Latency(a, b) => {
                crate::event!("messages between {a} and {b} are fast again");
                world.usual_latency(&a, &b);
            }
            Undo::Pace(node, pace) => world.nodes[node].host.disk.set_pace(pace),
            Undo::Disk(node) => world.nodes[node].host.disk.heal(),
            Undo::Clock(node) => world.nodes[node].host.clock.store(0, Relaxed),
            Undo::Order(order) => admin.order(order),
            Undo::Client(client) => world.start_client(client),
            Undo::Resume(client) => world.pause_client(client, false),
        }
    }

    /// Starts a machine. One that cannot be started is set up anew by its operator, if the cluster can
    /// bear it; else it is tried again. Nobody empties a machine that the metadata cannot do without.
    fn start(&mut self, world: &mut World, admin: &Admin, node: usize) {
        if world.running[node] {
            return;
        }
        if self.failures.get(&node).is_some_and(|failures| *failures >= FAILURES_MAX) {
            let free = self.damaged.as_ref().is_none_or(|damaged| damaged.node == node);
            let voters = admin.voters(world);
            let spared = voters.len() >= 3 || (!voters.is_empty() && !voters.contains(&node));
            if free && spared {
                crate::event!("the operator sets up {} anew", world.nodes[node].name());
                self.failures.remove(&node);
                self.wipe(world, node, super::act::Wiped::Node);
            }
        }
        world.start(node);
    }
}
