//! The hosts of the simulated world: servers that are started again whenever they end, and clients.

use crate::net::{Connections, SimNetwork};
use crate::oracle::Oracle;
use everhold_env::disk::{Pace, SimDisk};
use everhold_env::{Clock, Entropy, Env, Gate, Net, Rate, Tasks, Witnesses};
use everhold_proto::map::Labels;
use everhold_proto::{ByteSize, Timestamp};
use everhold_server::{MetadataStorage, Origin, Server, ServerConfig};
use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

/// Port that every server listens on.
pub(crate) const PORT: u16 = 7400;
/// Data directory of every server on its own disk.
pub(crate) const DATA: &str = "/data";
/// 2026-01-01, in nanoseconds: when simulated wall clocks start.
const WALL_START: i64 = 1_767_225_600_000_000_000;
/// The smallest segments that hold four of the largest blocks, and few of them.
const SEGMENT_BYTES: u64 = 20 << 20;
const CAPACITY_BYTES: u64 = 400 << 20;

/// What a host shares with the driver of the world.
pub(crate) struct HostState {
    pub(crate) name: String,
    pub(crate) disk: SimDisk,
    /// Its wall clock was set by so much.
    pub(crate) clock: &'static AtomicI64,
    /// Its process stands still while this is closed.
    pub(crate) gate: &'static Gate,
    /// How fast its clocks run.
    rate: Rate,
    seed: u64,
    life: Cell<u64>,
    connections: Connections,
    oracle: Oracle,
}

/// A server's host.
pub(crate) struct NodeHost {
    pub(crate) host: HostState,
    pub(crate) zone: String,
    pub(crate) origin: RefCell<Origin>,
    /// Why the server ended by itself, since the driver last looked.
    pub(crate) ended: RefCell<Option<String>>,
    /// The server shall end well.
    pub(crate) stop: Rc<tokio::sync::Notify>,
}

impl HostState {
    pub(crate) fn new(
        name: &str,
        seed: u64,
        rate: Rate,
        connections: &Connections,
        oracle: &Oracle,
    ) -> Self {
        HostState {
            name: name.into(),
            disk: SimDisk::new(),
            // One for each host of a process that simulates one world and ends.
            clock: Box::leak(Box::new(AtomicI64::new(0))),
            gate: Box::leak(Box::new(Gate::new())),
            rate,
            seed,
            life: Cell::new(0),
            connections: connections.clone(),
            oracle: oracle.clone(),
        }
    }

    /// The ports of the next life of this host; to be called inside it.
    pub(crate) fn env(&self, witness: bool) -> Env {
        let life = self.life.get() + 1;
        self.life.set(life);
        self.gate.open();
        let seed = self.seed.wrapping_add(life.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let witness = match witness {
            true => Witnesses::one(self.oracle.witness(&self.name)),
            false => Witnesses::none(),
        };
        Env {
            clock: Clock::simulated(Timestamp(WALL_START), self.clock, self.rate),
            entropy: Entropy::seeded(seed),
            net: Net::simulated(SimNetwork::of(&self.name, &self.connections)),
            disk: Arc::new(self.disk.clone()),
            tasks: Tasks::gated(seed, self.gate),
            witness,
        }
    }
}

impl NodeHost {
    pub(crate) fn new(host: HostState, zone: String, origin: Origin, pace: Pace) -> Rc<Self> {
        host.disk.set_pace(pace);
        Rc::new(NodeHost {
            host,
            zone,
            origin: RefCell::new(origin),
            ended: RefCell::new(None),
            stop: Rc::default(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.host.name
    }

    fn config(&self) -> ServerConfig {
        let listen = format!("0.0.0.0:{PORT}");
        let mut config = ServerConfig::new(Path::new(DATA), listen, self.origin.borrow().clone());
        config.advertise = Some(format!("{}:{PORT}", self.name()));
        config.labels = Labels { zone: self.zone.clone(), ..Labels::default() };
        config.capacity = Some(ByteSize(CAPACITY_BYTES));
        config.segment_bytes = ByteSize(SEGMENT_BYTES);
        // Small, so that a run of a minute takes snapshots and purges the log.
        config.metadata = MetadataStorage {
            log_segment_bytes: ByteSize(2 << 20),
            snapshot_log_bytes: ByteSize(192 << 10),
            keep_log_bytes: ByteSize(64 << 10),
            cache_bytes: ByteSize(8 << 20),
        };
        config
    }

    /// The software of the host. It never returns: the driver ends it.
    pub(crate) async fn run(self: Rc<Self>) -> turmoil::Result {
        let env = self.host.env(true);
        let name = self.name().to_owned();
        crate::event!("{name} starts");
        let seed = self.host.seed;
        let served = everhold_env::RaftRuntime::scope(seed, self.clone().serve(env));
        let reason = served.await;
        crate::event!("{name} ends: {reason}");
        *self.ended.borrow_mut() = Some(reason);
        std::future::pending().await
    }

    async fn serve(self: Rc<Self>, env: Env) -> String {
        let server = match Server::start(env, self.config()).await {
            Ok(server) => server,
            Err(e) => return format!("does not start: {e}"),
        };
        match server.run_until(self.stop.notified()).await {
            Ok(()) => "stopped".into(),
            Err(fatal) => format!("fatal: {fatal}"),
        }
    }
}

/// A device of a usual kind: syncs take a few milliseconds.
pub(crate) fn usual_pace(sync_ms: u64) -> Pace {
    Pace { sync: Duration::from_millis(sync_ms), ..Pace::default() }
}
