//! Clusters of servers in this process, on free ports and temporary directories.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use everhold_client::{Client, ClientOptions, Wire};
use everhold_env::Env;
use everhold_proto::map::Labels;
use everhold_proto::rpc::{ClusterStatus, GetStatus, Rpc};
use everhold_proto::{ByteSize, Error, Kind};
use everhold_server::{Origin, Server, ServerConfig};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

/// No condition of these tests takes nearly as long, even on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// One server, running or stopped, with its directory.
pub(crate) struct TestNode {
    _dir: TempDir,
    pub(crate) config: ServerConfig,
    pub(crate) server: Option<Server>,
}

/// Some servers that form a cluster.
pub(crate) struct TestCluster {
    pub(crate) env: Env,
    pub(crate) nodes: Vec<TestNode>,
}

impl TestNode {
    /// A node that was not started yet.
    pub(crate) fn new(number: usize, origin: Origin) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let mut config = ServerConfig::new(dir.path(), "127.0.0.1:0", origin);
        config.capacity = Some(ByteSize(1 << 30));
        config.segment_bytes = ByteSize(20 << 20);
        config.labels = Labels { zone: format!("z{number}"), ..Labels::default() };
        TestNode { _dir: dir, config, server: None }
    }

    /// Starts it, at the address it had before.
    pub(crate) async fn start(&mut self) {
        let started = Server::start(Env::real(), self.config.clone()).await;
        let server = started.unwrap_or_else(|e| panic!("does not start: {e}"));
        self.config.listen = server.address().into();
        self.server = Some(server);
    }

    /// Stops it well.
    pub(crate) async fn stop(&mut self) {
        let server = self.server.take().expect("it runs");
        server.shutdown().await.expect("ends well");
    }

    pub(crate) fn address(&self) -> String {
        self.config.listen.clone()
    }
}

impl TestCluster {
    /// Starts `count` nodes and waits until all are in service and every PG is whole.
    pub(crate) async fn start(count: usize, copies: u8) -> Self {
        let _ = tracing_subscriber::fmt()
            .with_env_filter(tracing_subscriber::EnvFilter::from_env("EVERHOLD_LOG"))
            .with_test_writer()
            .try_init();
        let mut nodes = vec![TestNode::new(0, Origin::Bootstrap { copies })];
        nodes[0].start().await;
        for number in 1..count {
            let seed = nodes[0].address();
            let mut node = TestNode::new(number, Origin::Join(vec![seed]));
            node.start().await;
            nodes.push(node);
        }
        let cluster = TestCluster { env: Env::real(), nodes };
        cluster.is_whole().await;
        cluster
    }

    /// Waits until all running nodes are in service, PGs exist and all are full.
    pub(crate) async fn is_whole(&self) {
        for node in &self.nodes {
            let Some(server) = &node.server else { continue };
            tokio::time::timeout(LIMIT, server.in_service()).await.expect("comes into service");
        }
        let wanted = self.nodes.len();
        self.until("the cluster is whole", || async move {
            let status = self.status().await.ok()?;
            let whole = status.map.nodes.len() == wanted
                && status.map.disks.len() == wanted
                && !status.map.pgs.is_empty()
                && status.repair.redundant;
            whole.then_some(())
        })
        .await;
    }

    /// Polls until there is something.
    pub(crate) async fn until<T, F: Future<Output = Option<T>>>(
        &self,
        what: &str,
        condition: impl Fn() -> F,
    ) -> T {
        let deadline = Instant::now() + LIMIT;
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            if Instant::now() > deadline {
                let status = self.status().await;
                panic!("not reached: {what}\n{status:#?}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks each running node until one answers: only the leader does.
    pub(crate) async fn ask<R: Rpc>(&self, request: &R) -> Result<R::Reply, Error> {
        let mut last = None;
        for node in self.nodes.iter().filter(|node| node.server.is_some()) {
            match call(&self.env, &node.address(), self.cluster_id(), request).await {
                // The leader's own refusal is the answer; the others only send there.
                Err(e) if e.kind != Kind::NotLeader && !e.is_retryable() => return Err(e),
                Err(e) => last = Some(e),
                answer => return answer,
            }
        }
        Err(last.expect("a node runs"))
    }

    pub(crate) async fn status(&self) -> Result<ClusterStatus, Error> {
        self.ask(&GetStatus {}).await
    }

    pub(crate) fn cluster_id(&self) -> everhold_proto::ClusterId {
        let running = self.nodes.iter().find_map(|node| node.server.as_ref());
        running.expect("a node runs").cluster()
    }

    /// A client of the cluster.
    pub(crate) async fn client(&self) -> Arc<Client> {
        self.client_with(ClientOptions::default()).await
    }

    /// A client that keeps a cache.
    pub(crate) async fn follower(&self) -> Arc<Client> {
        self.client_with(ClientOptions { follow: true, ..ClientOptions::default() }).await
    }

    /// A client that makes changes behind delegations.
    pub(crate) async fn behind(&self) -> Arc<Client> {
        let options =
            ClientOptions { follow: true, write_behind: true, ..ClientOptions::default() };
        self.client_with(options).await
    }

    async fn client_with(&self, options: ClientOptions) -> Arc<Client> {
        let seeds: Vec<String> = self.nodes.iter().map(TestNode::address).collect();
        let connected = Client::connect(self.env.clone(), &seeds, options).await;
        connected.expect("connects")
    }
}

/// One call by a peer of `cluster`.
pub(crate) async fn call<R: Rpc>(
    env: &Env,
    address: &str,
    cluster: everhold_proto::ClusterId,
    request: &R,
) -> Result<R::Reply, Error> {
    let wire = Wire::new(env.clone(), Arc::new(everhold_client::Identity::of(cluster)));
    wire.call(address, request, Instant::now() + Duration::from_secs(10)).await
}

/// Bytes that differ from file to file.
pub(crate) fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes: Vec<u8> = (0..length.div_ceil(8)).flat_map(|_| next().to_le_bytes()).collect();
    bytes.truncate(length);
    bytes
}
