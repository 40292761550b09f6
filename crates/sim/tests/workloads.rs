//! The workloads against a cluster of real servers in this process, without faults: nothing is wrong, and
//! every kind of operation happens.

use everhold_client::{Client, ClientOptions, Wire};
use everhold_env::{Env, Task};
use everhold_proto::ByteSize;
use everhold_proto::map::Labels;
use everhold_proto::rpc::{ClusterStatus, GetStatus};
use everhold_server::{Origin, Server, ServerConfig};
use everhold_sim::check::check_all;
use everhold_sim::history::Recorder;
use everhold_sim::workload::{Kind, WorkloadPlan, final_check, run, setup};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::watch;

const NODES: usize = 3;
const LIMIT: Duration = Duration::from_secs(90);

/// Kinds of operations that the workloads have.
const KINDS: usize = 21;

/// So many operations at least, so that the workloads meet.
const OPERATIONS_MIN: usize = 4000;

struct TestNode {
    _dir: TempDir,
    config: ServerConfig,
    server: Option<Server>,
}

struct Cluster(Vec<TestNode>);

impl TestNode {
    async fn start(&mut self) {
        let server = Server::start(Env::real(), self.config.clone()).await.expect("starts");
        self.config.listen = server.address().into();
        self.server = Some(server);
    }

    async fn stop(&mut self) {
        self.server.take().expect("it runs").shutdown().await.expect("ends well");
    }
}

impl Cluster {
    async fn start() -> Self {
        let mut cluster = Cluster(Vec::new());
        for number in 0..NODES {
            let origin = match cluster.0.first() {
                None => Origin::Bootstrap { copies: 3 },
                Some(first) => Origin::Join(vec![first.config.listen.clone()]),
            };
            let dir = tempfile::tempdir().expect("temporary directory");
            let mut config = ServerConfig::new(dir.path(), "127.0.0.1:0", origin);
            config.capacity = Some(ByteSize(1 << 30));
            config.segment_bytes = ByteSize(20 << 20);
            config.labels = Labels { zone: format!("z{number}"), ..Labels::default() };
            let mut node = TestNode { _dir: dir, config, server: None };
            node.start().await;
            cluster.0.push(node);
        }
        tokio::time::timeout(LIMIT, cluster.is_whole()).await.expect("is whole in time");
        cluster
    }

    /// Waits until all nodes are in service and vote, and every PG is full.
    async fn is_whole(&self) {
        for server in self.0.iter().filter_map(|node| node.server.as_ref()) {
            server.in_service().await;
        }
        while self.status().await.is_none_or(|status| {
            status.map.disks.len() != NODES
                || status.map.pgs.is_empty()
                || status.voters.len() != NODES
                || !status.repair.redundant
        }) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn status(&self) -> Option<ClusterStatus> {
        let id = self.0.iter().find_map(|node| node.server.as_ref())?.cluster();
        let wire = Wire::new(Env::real(), Arc::new(everhold_client::Identity::of(id)));
        for node in &self.0 {
            let deadline = Env::real().clock.now() + Duration::from_secs(5);
            if let Ok(status) = wire.call(&node.config.listen, &GetStatus {}, deadline).await {
                return Some(status);
            }
        }
        None
    }

    /// Which node leads.
    async fn leader(&self) -> usize {
        let status = self.status().await.expect("a status");
        let address = &status.map.nodes[&status.leader.expect("a leader")].address;
        self.0.iter().position(|node| node.config.listen == *address).expect("is one of ours")
    }

    async fn client(&self, deadline: Duration) -> Arc<Client> {
        let seeds: Vec<String> = self.0.iter().map(|node| node.config.listen.clone()).collect();
        loop {
            let options = ClientOptions { deadline, ..ClientOptions::default() };
            match Client::connect(Env::real(), &seeds, options).await {
                Ok(client) => return client,
                Err(e) => println!("not connected in {deadline:?}: {e}"),
            }
        }
    }
}

/// All workloads on each client, with numbers from `first` on.
fn start_all(
    clients: &[Arc<Client>],
    first: u32,
    plan: &Arc<WorkloadPlan>,
    recorder: &Recorder,
    stopped: &watch::Receiver<bool>,
) -> Vec<Task<()>> {
    let mut tasks = Vec::new();
    for (number, client) in (first..).zip(clients) {
        for kind in Kind::ALL {
            let seed = 100 * u64::from(number) + kind as u64;
            let (plan, recorder, stopped) = (plan.clone(), recorder.clone(), stopped.clone());
            let work = run(kind, client.clone(), number, seed, plan, recorder, stopped);
            tasks.push(client.env().tasks.spawn(work));
        }
    }
    tasks
}

/// The kinds of operations that were tried and never succeeded; none when not all were tried.
fn not_done(recorder: &Recorder) -> Option<Vec<&'static str>> {
    let statistics = recorder.statistics();
    let without = statistics.iter().filter(|(_, counts)| counts.done == 0);
    (statistics.len() == KINDS).then(|| without.map(|(kind, _)| *kind).collect())
}

/// Reads everything once more, and judges.
async fn judge(client: &Arc<Client>, plan: &Arc<WorkloadPlan>, recorder: &Recorder) {
    let clock = client.env().clock;
    let unread = final_check(client, plan, recorder, clock.now() + LIMIT).await;
    assert!(unread.is_empty(), "{unread:?}");
    let begun = clock.now();
    let verdict = check_all(recorder);
    println!("{verdict}, checked in {:?}", begun.elapsed());
    for (kind, counts) in recorder.statistics() {
        println!("{kind}: {counts:?}");
    }
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(recorder.statistics().len(), KINDS, "every kind of operation happens");
}

/// Three clients run all workloads until each kind of operation was done often enough; then everything is
/// read once more.
#[tokio::test(flavor = "multi_thread")]
async fn workloads_find_nothing_wrong_without_faults() {
    let cluster = Cluster::start().await;
    let plan = Arc::new(WorkloadPlan::default());
    let recorder = Recorder::by_clock(Env::real().clock);
    let mut clients = Vec::new();
    for _ in 0..3 {
        clients.push(cluster.client(Duration::from_secs(30)).await);
    }
    setup(&clients[0], &plan).await.expect("is set up");
    let (stop, stopped) = watch::channel(false);
    let tasks = start_all(&clients, 1, &plan, &recorder, &stopped);
    let every_kind = async {
        while recorder.len() < OPERATIONS_MIN
            || not_done(&recorder).is_none_or(|kinds| !kinds.is_empty())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(LIMIT, every_kind).await;
    assert!(in_time.is_ok(), "{} operations, not done: {:?}", recorder.len(), not_done(&recorder));
    stop.send(true).expect("the workloads listen");
    for task in tasks {
        task.join().await.expect("ends well");
    }
    judge(&clients[1], &plan, &recorder).await;
    for (kind, counts) in recorder.statistics() {
        assert_eq!((counts.failed, counts.unknown), (0, 0), "{kind}");
    }
}

/// Clients that are impatient, one that dies, and a leader that stops and comes back: outcomes are
/// unknown, and still nothing is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn workloads_find_nothing_wrong_when_leaders_stop_and_a_client_dies() {
    let mut cluster = Cluster::start().await;
    let plan = Arc::new(WorkloadPlan { pause_ms: (0, 60), ..WorkloadPlan::default() });
    let recorder = Recorder::by_clock(Env::real().clock);
    let patient = cluster.client(Duration::from_secs(30)).await;
    setup(&patient, &plan).await.expect("is set up");
    let mut clients = Vec::new();
    for milliseconds in [60, 300, 3000] {
        clients.push(cluster.client(Duration::from_millis(milliseconds)).await);
    }
    let (stop, stopped) = watch::channel(false);
    let mut tasks = start_all(&clients, 1, &plan, &recorder, &stopped);
    for round in 0..2 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let leader = cluster.leader().await;
        cluster.0[leader].stop().await;
        if round == 0 {
            while recorder.open(1) < Kind::ALL.len() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            drop(tasks.drain(..Kind::ALL.len())); // the first client dies in a burst
            recorder.crash(1);
            tasks.extend(start_all(std::slice::from_ref(&patient), 1, &plan, &recorder, &stopped));
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
        cluster.0[leader].start().await;
        tokio::time::timeout(LIMIT, cluster.is_whole()).await.expect("is whole in time");
    }
    stop.send(true).expect("the workloads listen");
    for task in tasks {
        task.join().await.expect("ends well");
    }
    judge(&patient, &plan, &recorder).await;
    let unknown: u64 = recorder.statistics().values().map(|counts| counts.unknown).sum();
    assert!(unknown > 0, "a client is impatient and dies");
}
