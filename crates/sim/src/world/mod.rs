//! The simulated world: servers and clients of one cluster on a simulated network, each with a disk and
//! a clock of its own, driven step by step from outside.

pub mod admin;
mod client;
pub(crate) mod host;

pub use client::ClientWork;

use crate::net::Connections;
use crate::oracle::Oracle;
use crate::trace;
use client::ClientHost;
use everhold_env::Rate;
use everhold_server::Origin;
use host::{HostState, NodeHost, PORT};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
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
    /// How far the rate of a clock may be from the exact one, in millionths.
    pub drift: u32,
}

/// See the module's words.
pub struct World {
    pub(crate) sim: turmoil::Sim<'static>,
    pub(crate) nodes: Vec<Rc<NodeHost>>,
    pub(crate) running: Vec<bool>,
    clients: Vec<Rc<ClientHost>>,
    /// Told when a client has died.
    client_gone: Option<Box<dyn Fn(usize, u64)>>,
    connections: Connections,
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
        let (nodes, running, clients) = (Vec::new(), Vec::new(), Vec::new());
        let client_gone = None;
        let mut world =
            World { sim, nodes, running, clients, client_gone, connections, oracle, shape };
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
        let rate = self.rate(seed);
        let host = HostState::new(&name, seed, rate, &self.connections, &self.oracle);
        let zone = format!("z{}", (number - 1) % self.shape.zones);
        let node = NodeHost::new(host, zone, origin, host::usual_pace(self.shape.sync_ms));
        let running = node.clone();
        self.sim.host(name, move || running.clone().run());
        self.nodes.push(node);
        self.running.push(true);
    }

    /// How fast the clocks of the host with a seed run.
    fn rate(&self, seed: u64) -> Rate {
        let off = self.shape.drift;
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0xd41f_7000);
        Rate(Rate::EXACT.0 - off + rng.random_range(0..=2 * off))
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

    /// `gone` is told the number of each client that dies, and how often it was started.
    pub fn when_client_dies(&mut self, gone: impl Fn(usize, u64) + 'static) {
        self.client_gone = Some(Box::new(gone));
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

    /// Ends a server's process. If `silent`, its peers do not learn it from the network.
    pub(crate) fn kill(&mut self, node: usize, silent: bool) {
        let name = self.nodes[node].name().to_owned();
        crate::event!("{name} is killed{}", if silent { ", silently" } else { "" });
        self.end(node, silent);
        self.nodes[node].host.disk.kill();
    }

    /// A machine loses power. If `torn`, of what was not synced some sectors survive.
    pub(crate) fn power_off(&mut self, node: usize, torn: bool, silent: bool) {
        let name = self.nodes[node].name().to_owned();
        crate::event!("{name} loses power{}", if silent { ", silently" } else { "" });
        self.end(node, silent);
        let seed = self.sim.elapsed().as_nanos() as u64 ^ self.shape.seed;
        self.nodes[node].host.disk.crash(torn.then_some(seed));
    }

    fn end(&mut self, node: usize, silent: bool) {
        let name = self.nodes[node].name().to_owned();
        // A machine that is off sends nothing, not even resets of its connections.
        let others: Vec<(String, String)> = self
            .host_names()
            .into_iter()
            .filter(|o| *o != name)
            .map(|other| (name.clone(), other))
            .collect();
        if silent {
            self.part(&others);
        }
        self.sim.crash(name.as_str());
        if silent {
            others.iter().for_each(|(a, b)| self.sim.repair(a.as_str(), b.as_str()));
        }
        self.nodes[node].ended.borrow_mut().take();
        self.running[node] = false;
    }

    pub(crate) fn start(&mut self, node: usize) {
        self.running[node] = true;
        let name = self.nodes[node].name().to_owned();
        self.sim.bounce(name.as_str());
    }

    /// Nothing passes between the hosts of each pair.
    pub(crate) fn part(&mut self, pairs: &[(String, String)]) {
        for (a, b) in pairs {
            self.sim.partition(a.as_str(), b.as_str());
        }
    }

    /// Everybody reaches everybody.
    pub(crate) fn heal_network(&mut self) {
        let hosts = self.host_names();
        for (at, a) in hosts.iter().enumerate() {
            for b in &hosts[at + 1..] {
                self.sim.repair(a.as_str(), b.as_str());
                self.sim.release(a.as_str(), b.as_str());
                self.usual_latency(a, b);
            }
        }
    }

    pub(crate) fn usual_latency(&self, a: &str, b: &str) {
        self.sim.set_link_latency(a, b, self.shape.latency / 2);
    }

    pub(crate) fn reset(&self, a: &str, b: &str) -> usize {
        self.connections.reset(a, b, |host| self.sim.lookup(host))
    }

    /// All hosts but the operator's.
    pub(crate) fn host_names(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.name().to_owned());
        nodes.chain(self.clients.iter().map(|client| client.name().to_owned())).collect()
    }
}
