//! The simulated world: servers and clients of one cluster on a simulated network, each with a disk and
//! a clock of its own, driven step by step from outside.

pub(crate) mod host;

use crate::net::Connections;
use crate::oracle::Oracle;
use crate::trace;
use everhold_server::Origin;
use host::{HostState, NodeHost, PORT};
use std::rc::Rc;
use std::time::Duration;

/// What a world is made of.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Everything random follows from it.
    pub seed: u64,
    /// Servers at the start, and servers that may be added later.
    pub nodes: usize,
    /// Servers that may be added later.
    pub spares: usize,
    /// Zones that the servers stand in, by turns.
    pub zones: usize,
    /// Length of a step: messages are delivered between steps.
    pub tick: Duration,
    /// Longest time that a message takes on a healthy link.
    pub latency: Duration,
    /// Milliseconds that a sync takes.
    pub sync_ms: u64,
}

/// See the module's words.
pub struct World {
    pub(crate) sim: turmoil::Sim<'static>,
    pub(crate) nodes: Vec<Rc<NodeHost>>,
    pub(crate) running: Vec<bool>,
    pub(crate) connections: Connections,
    pub(crate) oracle: Oracle,
    pub(crate) shape: Shape,
}

/// The simulation is never ended by its own limit: the phases have theirs.
const FOR_EVER: Duration = Duration::from_secs(86_400);
/// Messages that a connection holds before its sender waits.
const TCP_CAPACITY: usize = 4096;

impl World {
    /// Builds the world; nothing has run yet.
    pub fn new(shape: Shape) -> Self {
        let sim = turmoil::Builder::new()
            .rng_seed(shape.seed)
            .simulation_duration(FOR_EVER)
            .tick_duration(shape.tick)
            .min_message_latency(Duration::from_micros(200))
            .max_message_latency(shape.latency)
            .tcp_capacity(TCP_CAPACITY)
            .enable_random_order()
            .build();
        let (connections, oracle) = (Connections::default(), Oracle::default());
        let mut world = World { sim, nodes: vec![], running: vec![], connections, oracle, shape };
        for number in 1..=world.shape.nodes {
            world.add_node(number);
        }
        world
    }

    /// Adds the host of a server and starts it. The first one founds the cluster, all others join it.
    pub(crate) fn add_node(&mut self, number: usize) {
        let name = format!("n{number}");
        let origin = match number {
            1 => Origin::Bootstrap { copies: 3 },
            _ => Origin::Join(self.addresses_but(&name)),
        };
        let seed = self.shape.seed.wrapping_mul(31).wrapping_add(number as u64);
        let host = HostState::new(&name, seed, &self.connections, &self.oracle);
        let zone = format!("z{}", (number - 1) % self.shape.zones);
        let node = NodeHost::new(host, zone, origin, host::usual_pace(self.shape.sync_ms));
        let running = node.clone();
        self.sim.host(name, move || running.clone().run());
        self.nodes.push(node);
        self.running.push(true);
    }

    /// `HOST:PORT` of every server but one.
    pub(crate) fn addresses_but(&self, name: &str) -> Vec<String> {
        let others = self.nodes.iter().filter(|node| node.name() != name);
        let mut all: Vec<String> = others.map(|n| format!("{}:{PORT}", n.name())).collect();
        if all.is_empty() {
            all.push(format!("n1:{PORT}"));
        }
        all
    }

    /// `HOST:PORT` of every server.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|n| format!("{}:{PORT}", n.name())).collect()
    }

    /// What looks on.
    pub fn oracle(&self) -> &Oracle {
        &self.oracle
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.sim.elapsed()
    }

    /// One step of time for everybody.
    pub fn step(&mut self) -> turmoil::Result<()> {
        trace::set_clock(self.sim.elapsed().as_millis() as u64);
        self.sim.step()?;
        Ok(())
    }

    /// Runs some software on a host of its own, such as a client; it may return.
    pub fn spawn_host<F>(&mut self, name: &str, software: impl Fn() -> F + 'static)
    where
        F: Future<Output = turmoil::Result> + 'static,
    {
        self.sim.host(name, software);
    }
}
