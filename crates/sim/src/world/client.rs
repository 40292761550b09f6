//! Hosts of clients.

use super::World;
use super::host::HostState;
use everhold_client::{Client, ClientOptions};
use everhold_env::Env;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// What a client does: it is given its number, how often it was started, and its connection.
pub type ClientWork =
    Rc<dyn Fn(usize, u64, Arc<Client>) -> Pin<Box<dyn Future<Output = ()>>> + 'static>;

/// See the module's words.
pub(super) struct ClientHost {
    host: HostState,
    number: usize,
    starts: Cell<u64>,
    running: Cell<bool>,
    seeds: Vec<String>,
    deadline: Duration,
    follow: bool,
    behind: bool,
    work: ClientWork,
}

impl ClientHost {
    pub(super) fn name(&self) -> &str {
        &self.host.name
    }

    async fn run(self: Rc<Self>) -> turmoil::Result {
        let env = self.host.env(false);
        let starts = self.starts.get() + 1;
        self.starts.set(starts);
        let scoped = everhold_env::RaftRuntime::scope(starts, self.clone().serve(env, starts));
        self.host.gate.pass(scoped).await;
        Ok(())
    }

    async fn serve(self: Rc<Self>, env: Env, starts: u64) {
        let name = self.name().to_owned();
        crate::event!("{name} starts");
        let options = ClientOptions {
            name: name.clone(),
            deadline: self.deadline,
            uid: 0,
            gid: 0,
            follow: self.follow,
            write_behind: self.behind,
            ..ClientOptions::default()
        };
        let client = loop {
            match Client::connect(env.clone(), &self.seeds, options.clone()).await {
                Ok(client) => break client,
                Err(e) => crate::event!("{name} does not connect: {e}"),
            }
            env.clock.sleep(Duration::from_millis(200)).await;
        };
        (self.work)(self.number, starts, client.clone()).await;
        if let Err(e) = client.close().await {
            crate::event!("{name} ends its session uncleanly: {e}");
        }
        crate::event!("{name} is done");
    }
}

impl World {
    /// Adds a client that does `work`, with a cache if it is to `follow` the change feed, and with delegations if it
    /// is to make changes `behind` them.
    pub fn add_client(
        &mut self,
        deadline: Duration,
        (follow, behind): (bool, bool),
        work: ClientWork,
    ) {
        let number = self.clients.len();
        let name = format!("c{}", number + 1);
        let seed = self.shape.seed.wrapping_mul(37).wrapping_add(1000 + number as u64);
        let rate = self.rate(seed);
        let host = HostState::new(&name, seed, rate, &self.connections, &self.oracle);
        let seeds = self.addresses();
        let (starts, running) = (Cell::new(0), Cell::new(true));
        let client = Rc::new(ClientHost {
            host,
            number,
            starts,
            running,
            seeds,
            deadline,
            follow,
            behind,
            work,
        });
        let software = client.clone();
        self.sim.host(name, move || software.clone().run());
        self.clients.push(client);
    }

    pub(crate) fn clients(&self) -> usize {
        self.clients.len()
    }

    /// A client dies: nothing that it has under way is finished.
    pub(crate) fn crash_client(&mut self, number: usize) {
        let Some(client) = self.clients.get(number).filter(|c| c.running.get()) else { return };
        client.running.set(false);
        let name = client.name().to_owned();
        crate::event!("{name} dies");
        self.sim.crash(name.as_str());
        if let Some(gone) = &self.client_gone {
            gone(number, client.starts.get());
        }
    }

    /// Whether a client's process stands still.
    pub(crate) fn is_paused(&self, number: usize) -> bool {
        self.clients.get(number).is_some_and(|client| client.host.gate.is_closed())
    }

    /// A client's process stands still, or goes on. Its system takes messages and connections all the same.
    pub(crate) fn pause_client(&mut self, number: usize, paused: bool) {
        let Some(client) = self.clients.get(number).filter(|c| c.running.get()) else { return };
        crate::event!("{} {}", client.name(), if paused { "stands still" } else { "goes on" });
        match paused {
            true => client.host.gate.close(),
            false => client.host.gate.open(),
        }
    }

    pub(crate) fn start_client(&mut self, number: usize) {
        let Some(client) = self.clients.get(number).filter(|c| !c.running.get()) else { return };
        client.running.set(true);
        let name = client.name().to_owned();
        self.sim.bounce(name.as_str());
    }
}
