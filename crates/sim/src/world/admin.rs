//! The operator of the simulated cluster: looks at its status, and gives orders.

use super::World;
use super::host::HostState;
use everhold_client::{Client, ClientOptions};
use everhold_env::Env;
use everhold_env::Rate;
use everhold_proto::command::MapCommand;
use everhold_proto::map::{DiskState, Node, NodeState};
use everhold_proto::rpc::{ChangeMap, ClusterStatus, GetStatus};
use everhold_proto::{DiskId, NodeId};
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

/// An order, about a server by its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Its disk shall be drained, or taken back.
    Drain(usize, bool),
    /// It is in maintenance, or not any more.
    Maintenance(usize, bool),
}

/// How often the operator looks.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the operator waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// An order that did not reach the cluster is given again so often.
const TRIES_MAX: u32 = 20;

/// See the module's words. Clones are the same operator.
#[derive(Clone)]
pub struct Admin(Rc<Inner>);

struct Inner {
    host: HostState,
    seeds: Vec<String>,
    status: RefCell<Option<(Duration, ClusterStatus)>>,
    /// Since when every look has found the cluster settled.
    settled_since: Cell<Option<Duration>>,
    orders: RefCell<VecDeque<(Order, u32)>>,
}

impl Admin {
    /// Adds the operator's host to the world. Faults do not touch it.
    pub fn new(world: &mut World) -> Self {
        let host = HostState::new(
            "operator",
            world.shape.seed ^ 0xad,
            Rate::EXACT,
            &world.connections,
            &world.oracle,
        );
        let inner = Rc::new(Inner {
            host,
            seeds: world.addresses(),
            status: RefCell::default(),
            settled_since: Cell::new(None),
            orders: RefCell::default(),
        });
        let running = inner.clone();
        world.sim.host("operator", move || running.clone().run());
        Admin(inner)
    }

    /// Gives an order; it is carried out when the cluster can be reached.
    pub fn order(&self, order: Order) {
        crate::event!("ORDER {order:?}");
        self.0.orders.borrow_mut().push_back((order, TRIES_MAX));
    }

    /// Whether all orders were carried out.
    pub fn has_orders(&self) -> bool {
        !self.0.orders.borrow().is_empty()
    }

    /// The place of the server that leads, as last seen.
    pub fn leader(&self, world: &World) -> Option<usize> {
        let status = self.0.status.borrow();
        let (_, status) = status.as_ref()?;
        let address = &status.map.nodes.get(&status.leader?)?.address;
        world.nodes.iter().position(|node| address.starts_with(&format!("{}:", node.name())))
    }

    /// The places of the servers that vote, as last seen.
    pub fn voters(&self, world: &World) -> Vec<usize> {
        let status = self.0.status.borrow();
        let Some((_, status)) = status.as_ref() else { return Vec::new() };
        let place = |id: &NodeId| {
            let address = &status.map.nodes.get(id)?.address;
            world.nodes.iter().position(|node| address.starts_with(&format!("{}:", node.name())))
        };
        status.voters.iter().filter_map(place).collect()
    }

    /// Whether at the last looks there was a leader, all its voters, and no voter to replace.
    pub fn is_settled(&self) -> bool {
        self.0.settled_since.get().is_some()
    }

    /// The same, and it was found so after `since` anew.
    pub fn is_settled_since(&self, since: Duration) -> bool {
        let status = self.0.status.borrow();
        self.is_settled() && status.as_ref().is_some_and(|(at, _)| *at > since)
    }

    /// What was seen last.
    pub fn status(&self) -> Option<ClusterStatus> {
        self.0.status.borrow().as_ref().map(|(_, status)| status.clone())
    }
}

impl Inner {
    async fn run(self: Rc<Self>) -> turmoil::Result {
        let env = self.host.env(false);
        everhold_env::RaftRuntime::scope(1, self.serve(env)).await;
        Ok(())
    }

    async fn serve(self: Rc<Self>, env: Env) {
        let options = ClientOptions {
            name: "operator".into(),
            deadline: PATIENCE,
            uid: 0,
            gid: 0,
            ..ClientOptions::default()
        };
        let client = loop {
            if let Ok(client) = Client::connect(env.clone(), &self.seeds, options.clone()).await {
                break client;
            }
            env.clock.sleep(LOOK_EVERY).await;
        };
        loop {
            match client.call_leader(&GetStatus {}).await {
                Ok(status) => {
                    let now = turmoil::sim_elapsed().unwrap_or_default();
                    let settled = is_settled(&status);
                    let since = self.settled_since.get().unwrap_or(now);
                    self.settled_since.set(settled.then_some(since));
                    *self.status.borrow_mut() = Some((now, status));
                    self.carry_out(&client).await;
                }
                Err(e) => {
                    self.settled_since.set(None);
                    crate::event!("the operator sees nothing: {e}");
                }
            }
            env.clock.sleep(LOOK_EVERY).await;
        }
    }

    async fn carry_out(&self, client: &std::sync::Arc<Client>) {
        let Some((order, tries)) = self.orders.borrow_mut().pop_front() else { return };
        let Some(command) = self.command(order) else {
            crate::event!("{order:?} is about a server that is not in the map");
            return self.again(order, tries);
        };
        if let Err(e) = client.call_leader(&ChangeMap(command)).await {
            crate::event!("{order:?} failed: {e}");
            self.again(order, tries);
        }
    }

    fn again(&self, order: Order, tries: u32) {
        if tries > 1 {
            self.orders.borrow_mut().push_front((order, tries - 1));
        }
    }

    fn command(&self, order: Order) -> Option<MapCommand> {
        match order {
            Order::Drain(place, on) => {
                let state = if on { DiskState::Draining } else { DiskState::In };
                let (_, disk) = self.find(place)?;
                Some(MapCommand::SetDiskState { disk, state, reason: "the operator".into() })
            }
            Order::Maintenance(place, on) => {
                Some(MapCommand::SetMaintenance { node: self.find(place)?.0, on })
            }
        }
    }

    fn find(&self, place: usize) -> Option<(NodeId, DiskId)> {
        let status = self.status.borrow();
        let map = &status.as_ref()?.1.map;
        let prefix = format!("n{}:", place + 1);
        let mut nodes: Vec<_> =
            map.nodes.values().filter(|node| node.address.starts_with(&prefix)).collect();
        // A machine that was set up anew is another node under the same address. The one in maintenance was
        // put there by an order, and the next one is about it; else the newest counts.
        nodes.sort_by_key(|node| (node.maintenance, node.id));
        let node = nodes.last()?.id;
        let disk = map.disks.values().find(|disk| disk.node == node)?.id;
        Some((node, disk))
    }
}

/// There is a leader, and every voter is a machine that is there and was not set up anew since.
fn is_settled(status: &ClusterStatus) -> bool {
    let nodes = &status.map.nodes;
    let up = nodes.values().filter(|node| node.state == NodeState::Up).count();
    let wanted = if up >= 5 { 5 } else { 3 };
    let present = |voter: &NodeId| {
        nodes.get(voter).is_some_and(|node| {
            let newer = |other: &Node| other.address == node.address && other.id > node.id;
            node.state == NodeState::Up && !nodes.values().any(newer)
        })
    };
    status.leader.is_some() && status.voters.len() >= wanted && status.voters.iter().all(present)
}
