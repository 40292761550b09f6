//! Replicas in one process: paused time, disks that lose power, a transport of function calls.

mod failure;
mod fuzzing;
mod group;
mod hostile;
mod real;
mod replica;
mod snapshot;

use crate::{
    Consensus, ConsensusConfig, ConsensusError, LogIdentity, Opening, RaftNode, RaftRpc,
    RaftStatus, RaftTransport, Role, StateMachine,
};
use async_trait::async_trait;
use bytes::Bytes;
use everhold_env::disk::SimDisk;
use everhold_env::{Clock, Entropy, Env, Net, Tasks};
use everhold_proto::kv::{KvError, KvRead, KvResult, KvTxn};
use everhold_proto::{ClusterId, Error, Kind, LogIndex, NodeId, RaftId};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Long enough for several elections; simulated, so it costs nothing.
const PATIENCE: Duration = Duration::from_secs(60);
const CLUSTER: ClusterId = ClusterId([5; 16]);

/// Counts how often each command was applied, so that both loss and repetition show. [`BROKEN`] fails half done.
struct Counter;

const BROKEN: &str = "broken";

impl StateMachine for Counter {
    fn apply(&self, txn: &mut dyn KvTxn, index: LogIndex, command: &[u8]) -> KvResult<Vec<u8>> {
        let count = txn.get(command)?.map_or(0, |v| v[0]) + 1;
        txn.put(command, &[count])?;
        if command == BROKEN.as_bytes() {
            return Err(KvError::Engine("as asked for".into()));
        }
        Ok(format!("{index}").into_bytes())
    }
}

/// All replicas that run, by address, and who is cut off.
#[derive(Default)]
struct Mesh {
    replicas: Mutex<BTreeMap<String, Arc<Consensus>>>,
    cut: Mutex<BTreeSet<String>>,
    /// Messages that carry entries or tell of commits, and heartbeats.
    appends: AtomicUsize,
}

/// One replica's way to the others; dead once its process is.
struct Link {
    mesh: Arc<Mesh>,
    from: String,
    alive: Arc<AtomicBool>,
}

#[async_trait]
impl RaftTransport for Link {
    async fn call(
        &self,
        to: &RaftNode,
        what: RaftRpc,
        body: Bytes,
        _: Duration,
    ) -> Result<Bytes, Error> {
        if what == RaftRpc::Append {
            self.mesh.appends.fetch_add(1, Ordering::Relaxed);
        }
        tokio::time::sleep(Duration::from_micros(200)).await;
        let cut = self.mesh.cut.lock().iter().any(|a| *a == self.from || *a == to.address);
        let target = self.mesh.replicas.lock().get(&to.address).cloned();
        match target {
            Some(target) if !cut && self.alive.load(Ordering::Relaxed) => {
                target.handle_rpc(what, body).await
            }
            _ => Err(Error::new(Kind::Retry, "no connection")),
        }
    }

    fn is_known(&self, raft: RaftId) -> bool {
        self.mesh.replicas.lock().contains_key(&address(raft.0))
    }
}

struct Node {
    number: u64,
    disk: SimDisk,
    replica: Option<Arc<Consensus>>,
    alive: Arc<AtomicBool>,
}

struct Group {
    mesh: Arc<Mesh>,
    config: ConsensusConfig,
    nodes: BTreeMap<u64, Node>,
    seed: u64,
}

fn address(number: u64) -> String {
    format!("node{number}:1")
}

fn raft_node(number: u64) -> RaftNode {
    RaftNode { node: NodeId(number as u32), address: address(number) }
}

fn soon() -> Instant {
    Instant::now() + PATIENCE
}

/// Small segments and snapshots, so that a test of some hundred commands sees all of it.
fn small() -> ConsensusConfig {
    ConsensusConfig {
        segment_bytes: 64 << 10,
        log_cache_bytes: 16 << 10,
        snapshot_log_bytes: 48 << 10,
        keep_log_bytes: 16 << 10,
        flush_interval: Duration::from_millis(200),
        flush_entries: 64,
        store_cache_bytes: 1 << 20,
        ..Default::default()
    }
}

/// A state that is made durable for snapshots only, and is in memory for long.
fn lazy() -> ConsensusConfig {
    ConsensusConfig { flush_interval: PATIENCE * 60, flush_entries: u64::MAX, ..small() }
}

impl Group {
    fn new(config: ConsensusConfig, seed: u64) -> Self {
        Group { mesh: Arc::default(), config, nodes: BTreeMap::new(), seed }
    }

    /// `size` voters with a leader.
    async fn of(size: u64, config: ConsensusConfig, seed: u64) -> Group {
        let mut group = Group::new(config, seed);
        let first = group.create(1).await;
        first.initialize(raft_node(1)).await.unwrap();
        group.leader().await;
        for number in 2..=size {
            group.create(number).await;
            first.add_learner(RaftId(number), raft_node(number), soon()).await.unwrap();
        }
        if size > 1 {
            first.change_voters((1..=size).map(RaftId).collect(), soon()).await.unwrap();
        }
        group
    }

    async fn create(&mut self, number: u64) -> Arc<Consensus> {
        let node = Node { number, disk: SimDisk::new(), replica: None, alive: Arc::default() };
        self.nodes.insert(number, node);
        let identity = LogIdentity {
            cluster: CLUSTER,
            node: NodeId(number as u32),
            raft_id: RaftId(number),
            boot_counter: 0,
        };
        self.start(number, Opening::New(identity)).await.unwrap()
    }

    async fn start(
        &mut self,
        number: u64,
        opening: Opening,
    ) -> Result<Arc<Consensus>, ConsensusError> {
        self.seed += 1;
        let node = self.nodes.get_mut(&number).unwrap();
        let env = Env {
            clock: Clock::real(),
            entropy: Entropy::seeded(self.seed),
            net: Net::real(),
            disk: Arc::new(node.disk.clone().with_sync_delay(Duration::from_millis(2))),
            tasks: Tasks::simulated(self.seed),
            witness: everhold_env::Witnesses::none(),
        };
        node.alive = Arc::new(AtomicBool::new(true));
        let link =
            Link { mesh: self.mesh.clone(), from: address(node.number), alive: node.alive.clone() };
        let config = self.config.clone();
        let replica = Consensus::open(
            &env,
            Path::new("/raft"),
            config,
            opening,
            Arc::new(Counter),
            Arc::new(link),
        )
        .await?;
        self.mesh.replicas.lock().insert(address(number), replica.clone());
        node.replica = Some(replica.clone());
        Ok(replica)
    }

    async fn reopen(&mut self, number: u64) -> Arc<Consensus> {
        let opening = Opening::Existing { cluster: CLUSTER, node: NodeId(number as u32) };
        self.start(number, opening).await.unwrap()
    }

    /// The process ends without warning and its machine loses power.
    fn crash(&mut self, number: u64, seed: Option<u64>) {
        let node = self.nodes.get_mut(&number).unwrap();
        node.alive.store(false, Ordering::Relaxed);
        self.mesh.replicas.lock().remove(&address(number));
        node.disk.crash(seed);
        drop(node.replica.take());
    }

    async fn stop(&mut self, number: u64) {
        self.mesh.replicas.lock().remove(&address(number));
        let node = self.nodes.get_mut(&number).unwrap();
        node.replica.take().unwrap().shutdown().await.unwrap();
        node.alive.store(false, Ordering::Relaxed);
    }

    fn cut(&self, number: u64) {
        self.mesh.cut.lock().insert(address(number));
    }

    fn heal(&self) {
        self.mesh.cut.lock().clear();
    }

    fn replica(&self, number: u64) -> Arc<Consensus> {
        self.nodes[&number].replica.clone().unwrap()
    }

    fn running(&self) -> Vec<Arc<Consensus>> {
        let cut = self.mesh.cut.lock().clone();
        let replicas = self.nodes.values().filter(|n| !cut.contains(&address(n.number)));
        replicas.filter_map(|n| n.replica.clone()).collect()
    }

    /// Waits for a leader that the running replicas agree with a quorum about.
    async fn leader(&self) -> Arc<Consensus> {
        let end = soon();
        loop {
            for replica in self.running() {
                if replica.status().role == Role::Leader
                    && replica.barrier(Instant::now() + Duration::from_secs(1)).await.is_ok()
                {
                    return replica;
                }
            }
            assert!(Instant::now() < end, "no leader");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Proposes until it is known to be applied; a command may be applied more than once this way.
    async fn propose(&self, command: &str) -> LogIndex {
        loop {
            let leader = self.leader().await;
            match leader
                .propose(Bytes::from(command.to_owned()), Instant::now() + Duration::from_secs(2))
                .await
            {
                Ok((index, answer)) => {
                    assert_eq!(answer, format!("{index}").into_bytes());
                    return index;
                }
                Err(e) => assert!(e.is_retryable() || e.kind == Kind::MaybeApplied, "{e:?}"),
            }
        }
    }

    /// Waits until all running replicas have applied `index`.
    async fn applied(&self, index: LogIndex) {
        for replica in self.running() {
            wait_until(&replica, |s| s.applied >= index).await;
        }
    }
}

async fn wait_until(replica: &Consensus, condition: impl Fn(&RaftStatus) -> bool) -> RaftStatus {
    let end = soon();
    loop {
        let status = replica.status();
        if condition(&status) {
            return status;
        }
        assert!(Instant::now() < end, "waited in vain: {status:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Every command with how often it was applied.
fn contents(replica: &Consensus) -> BTreeMap<String, u8> {
    let read = |kv: &dyn KvRead, _: LogIndex| {
        let mut rows = BTreeMap::new();
        kv.scan(&[], &[0xff; 8], &mut |key, value| {
            rows.insert(String::from_utf8_lossy(key).into_owned(), value[0]);
            std::ops::ControlFlow::Continue(())
        })?;
        Ok(rows)
    };
    replica.read(read).unwrap()
}

/// Seeds that a test is run with; `SEEDS=500` in the environment makes it a long search.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    0..std::env::var("SEEDS").ok().and_then(|s| s.parse().ok()).unwrap_or(usual)
}

fn run<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    let local = everhold_env::RaftRuntime::scope(1, future);
    runtime.expect("a runtime").block_on(local)
}
