//! A cluster of real processes on hosts of their own, and what it says of itself.

use crate::real::disks::Disks;
use crate::real::hosts::{Hosts, address};
use crate::real::nodes::Nodes;
use anyhow::{Context, Result, bail};
use everhold_client::{Client, ClientOptions};
use everhold_env::{Clock, Env};
use everhold_proto::NodeId;
use everhold_proto::map::{Node, NodeState};
use everhold_proto::rpc::{ClusterStatus, GetNodeStatus, GetStatus, Rpc};
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const POLL: Duration = Duration::from_millis(200);
/// One question to the cluster.
const STATUS_LIMIT: Duration = Duration::from_secs(3);
/// A cluster may take so long to come up: the machine is small and busy.
const READY_LIMIT: Duration = Duration::from_secs(120);

/// What a cluster is made of.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    /// The binary under test.
    pub(crate) everhold: PathBuf,
    /// Nodes, one host each.
    pub(crate) nodes: u32,
    /// Zones that they are dealt to in turn.
    pub(crate) zones: u32,
    /// Size of each node's disk.
    pub(crate) disk_bytes: u64,
}

/// The cluster; dropped from the top, so the processes end before their disks and hosts go.
pub(crate) struct Cluster {
    admin: Option<Arc<Client>>,
    pub(crate) nodes: Nodes,
    pub(crate) disks: Disks,
    pub(crate) hosts: Hosts,
    pub(crate) count: u32,
    clock: Clock,
    /// Registrations of each node when the cluster had converged last.
    boots: BTreeMap<u32, (NodeId, u64)>,
    /// Nodes that were started since then: they must have registered anew.
    started: BTreeSet<u32>,
    /// Servers that ended by themselves, and how; whoever judges them takes them out.
    pub(crate) deaths: Vec<(u32, String)>,
}

impl Cluster {
    /// Starts all nodes in `dir` and waits until the cluster is ready. There is a disk for each of the hosts,
    /// of which more than the nodes may be there.
    pub(crate) async fn start(setup: &Setup, hosts: Hosts, dir: &Path) -> Result<Self> {
        let count = setup.nodes;
        let nodes =
            Nodes::new(setup.everhold.clone(), dir.join("logs"), hosts.count(), setup.zones)?;
        let disks = Disks::make(dir, hosts.count(), setup.disk_bytes)?;
        let clock = Env::real().clock;
        let mut cluster = Cluster {
            admin: None,
            nodes,
            disks,
            hosts,
            count,
            clock,
            boots: BTreeMap::new(),
            started: BTreeSet::new(),
            deaths: Vec::new(),
        };
        cluster.start_missing()?;
        let ready = clock.now() + READY_LIMIT;
        while cluster.admin.is_none() {
            match cluster.client_of("faults: watch", STATUS_LIMIT).await {
                Ok(client) => cluster.admin = Some(client),
                Err(e) if clock.now() >= ready => bail!("the cluster does not come up: {e}"),
                Err(_) => clock.sleep(POLL).await,
            }
            cluster.notice_deaths();
        }
        cluster.converge(READY_LIMIT).await.context("the cluster does not come up")?;
        Ok(cluster)
    }

    /// Connects a client with the usual deadline.
    pub(crate) async fn client(&self, name: &str) -> Result<Arc<Client>> {
        self.client_of(name, ClientOptions::default().deadline).await
    }

    async fn client_of(&self, name: &str, deadline: Duration) -> Result<Arc<Client>> {
        let options = ClientOptions { name: name.into(), deadline, ..ClientOptions::default() };
        Ok(Client::connect(Env::real(), &self.addresses(), options).await?)
    }

    /// Where the nodes listen.
    pub(crate) fn addresses(&self) -> Vec<String> {
        (1..=self.count).map(address).collect()
    }

    /// Starts every node that does not run.
    pub(crate) fn start_missing(&mut self) -> Result<()> {
        for number in 1..=self.count {
            if !self.nodes.runs(number) {
                self.nodes.start(number, &self.hosts, &self.disks.data(number))?;
                self.started.insert(number);
            }
        }
        Ok(())
    }

    /// Kills a node and takes what it stored. What starts again at its address is a new node.
    pub(crate) fn lose_disk(&mut self, number: u32) -> Result<()> {
        self.nodes.kill(&[number]);
        self.nodes.forget(number);
        self.disks.renew(number)
    }

    /// Bad copies that the nodes have met since their last start.
    pub(crate) async fn checksum_errors(&self) -> u64 {
        let Some(admin) = &self.admin else { return 0 };
        let deadline = self.clock.now() + STATUS_LIMIT;
        let mut errors = 0;
        for address in self.addresses() {
            if let Ok(status) = admin.wire().call(&address, &GetNodeStatus {}, deadline).await {
                errors += status.disks.iter().map(|disk| disk.checksum_errors).sum::<u64>();
            }
        }
        errors
    }

    /// Records the servers that ended by themselves.
    pub(crate) fn notice_deaths(&mut self) {
        self.deaths.extend(self.nodes.ended());
    }

    /// Any call to the leader that is safe to repeat.
    pub(crate) async fn ask<R: Rpc>(&self, request: &R) -> Result<R::Reply> {
        let admin = self.admin.as_ref().context("not connected yet")?;
        Ok(self.clock.within(2 * STATUS_LIMIT, admin.call_leader(request)).await??)
    }

    /// A call to one node.
    pub(crate) async fn ask_node<R: Rpc>(&self, number: u32, request: &R) -> Result<R::Reply> {
        let admin = self.admin.as_ref().context("not connected yet")?;
        let deadline = self.clock.now() + STATUS_LIMIT;
        Ok(admin.wire().call(&address(number), request, deadline).await?)
    }

    /// The row of a node in a status.
    pub(crate) fn row<'a>(&self, status: &'a ClusterStatus, number: u32) -> Option<&'a Node> {
        node_of(status, number)
    }

    /// Stops a node well, and waits until it has ended.
    pub(crate) async fn stop(&mut self, number: u32, limit: Duration) -> Result<()> {
        self.nodes.signal(number, Signal::TERM);
        let deadline = self.clock.now() + limit;
        while !self.nodes.take_ended(number) {
            if self.clock.now() >= deadline {
                bail!("node {number} does not stop within {} s", limit.as_secs());
            }
            self.clock.sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    /// The state of the cluster.
    pub(crate) async fn status(&self) -> Result<ClusterStatus> {
        let admin = self.admin.as_ref().context("not connected yet")?;
        Ok(self.clock.within(2 * STATUS_LIMIT, admin.call_leader(&GetStatus {})).await??)
    }

    /// The number of the node that leads, as soon as one does.
    pub(crate) async fn leader(&self) -> Result<u32> {
        let deadline = self.clock.now() + READY_LIMIT;
        loop {
            if let Ok(status) = self.status().await
                && let Some(leader) = status.leader.and_then(|id| status.map.nodes.get(&id))
                && let Some(number) = (1..=self.count).find(|n| address(*n) == leader.address)
            {
                return Ok(number);
            }
            if self.clock.now() >= deadline {
                bail!("no leader within {} s", READY_LIMIT.as_secs());
            }
            self.clock.sleep(POLL).await;
        }
    }

    /// Waits until every node is up and every copy where it belongs, with the time that it took; a server
    /// that ended by itself is started again, as an init system would. The error says what is lacking.
    pub(crate) async fn converge(&mut self, limit: Duration) -> Result<Duration> {
        let started = self.clock.now();
        loop {
            self.notice_deaths();
            self.start_missing()?;
            let lacking = match self.status().await {
                Ok(status) => match self.lacking(&status) {
                    None => {
                        self.converged(&status);
                        return Ok(self.clock.now() - started);
                    }
                    Some(what) => what,
                },
                Err(e) => format!("an answer to GetStatus ({e:#})"),
            };
            if self.clock.now() - started >= limit {
                bail!("not converged within {} s: waiting for {lacking}", limit.as_secs());
            }
            self.clock.sleep(POLL).await;
        }
    }

    fn converged(&mut self, status: &ClusterStatus) {
        let boot = |number| node_of(status, number).map(|node| (number, (node.id, node.boot)));
        self.boots = (1..=self.count).filter_map(boot).collect();
        self.started.clear();
    }

    /// What a status lacks of full redundancy with every node.
    fn lacking(&self, status: &ClusterStatus) -> Option<String> {
        for number in 1..=self.count {
            let known = self.boots.get(&number);
            match node_of(status, number) {
                None => return Some(format!("node {number} to join")),
                Some(node) if node.state != NodeState::Up => {
                    return Some(format!(
                        "node {number} to be up: {} ({})",
                        node.state, node.reason
                    ));
                }
                // An old registration says nothing about the process that runs now.
                Some(node)
                    if self.started.contains(&number) && known == Some(&(node.id, node.boot)) =>
                {
                    return Some(format!("node {number} to register again"));
                }
                Some(_) => {}
            }
        }
        let repair = &status.repair;
        if status.voters.len() < 5 {
            Some(format!("voters: there are {}", status.voters.len()))
        } else if status.map.pgs.is_empty() || !repair.redundant {
            Some(format!(
                "redundancy: {} groups degraded, {} copies missing, {} blocks lost",
                repair.pgs_degraded, repair.copies_missing, repair.blocks_lost
            ))
        } else if !repair.queue.is_empty() || repair.blocks_lost > 0 {
            Some(format!(
                "{} groups in the repair queue, {} blocks lost",
                repair.queue.len(),
                repair.blocks_lost
            ))
        } else {
            status.brake.clone().map(|why| format!("the brake to go off: {why}"))
        }
    }
}

/// The newest node at the address; those before it lost their disks.
fn node_of(status: &ClusterStatus, number: u32) -> Option<&Node> {
    let nodes = status.map.nodes.values().filter(|node| node.address == address(number));
    nodes.max_by_key(|node| node.id)
}
