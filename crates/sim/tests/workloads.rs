//! The workloads against a cluster of real servers in this process, without faults: nothing is wrong, and
//! every kind of operation happens.

use everhold_client::{Client, ClientOptions, Wire};
use everhold_env::Env;
use everhold_proto::ByteSize;
use everhold_proto::map::Labels;
use everhold_proto::rpc::GetStatus;
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

struct Cluster {
    _dirs: Vec<TempDir>,
    servers: Vec<Server>,
}

impl Cluster {
    async fn start() -> Self {
        let mut cluster = Cluster { _dirs: Vec::new(), servers: Vec::new() };
        for number in 0..NODES {
            let origin = match cluster.servers.first() {
                None => Origin::Bootstrap { copies: 3 },
                Some(first) => Origin::Join(vec![first.address().into()]),
            };
            let dir = tempfile::tempdir().expect("temporary directory");
            let mut config = ServerConfig::new(dir.path(), "127.0.0.1:0", origin);
            config.capacity = Some(ByteSize(1 << 30));
            config.segment_bytes = ByteSize(20 << 20);
            config.labels = Labels { zone: format!("z{number}"), ..Labels::default() };
            let server = Server::start(Env::real(), config).await.expect("starts");
            cluster.servers.push(server);
            cluster._dirs.push(dir);
        }
        tokio::time::timeout(LIMIT, cluster.is_whole()).await.expect("is whole in time");
        cluster
    }

    async fn is_whole(&self) {
        for server in &self.servers {
            server.in_service().await;
        }
        let id = self.servers[0].cluster();
        let identity = Arc::new(everhold_client::Identity::of(id));
        let wire = Wire::new(Env::real(), identity);
        loop {
            for server in &self.servers {
                let deadline = Env::real().clock.now() + Duration::from_secs(10);
                let asked = wire.call(server.address(), &GetStatus {}, deadline).await;
                if asked.is_ok_and(|status| {
                    status.map.disks.len() == NODES
                        && !status.map.pgs.is_empty()
                        && status.repair.redundant
                }) {
                    return;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn client(&self) -> Arc<Client> {
        let seeds: Vec<String> = self.servers.iter().map(|s| s.address().into()).collect();
        let connected = Client::connect(Env::real(), &seeds, ClientOptions::default()).await;
        connected.expect("connects")
    }
}

/// Two clients run all workloads for a few seconds; then everything is read once more.
#[tokio::test(flavor = "multi_thread")]
async fn workloads_find_nothing_wrong_without_faults() {
    let cluster = Cluster::start().await;
    let env = Env::real();
    let plan = Arc::new(WorkloadPlan::default());
    let recorder = Recorder::by_clock(env.clock);
    let clients = [cluster.client().await, cluster.client().await, cluster.client().await];
    setup(&clients[0], &plan).await.expect("is set up");
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    for (number, client) in clients.iter().enumerate() {
        for kind in Kind::ALL {
            let seed = 100 * number as u64 + kind as u64;
            let (plan, recorder, stopped) = (plan.clone(), recorder.clone(), stopped.clone());
            let work = run(kind, client.clone(), number as u32 + 1, seed, plan, recorder, stopped);
            tasks.push(env.tasks.spawn(work));
        }
    }
    env.clock.sleep(Duration::from_secs(4)).await;
    stop.send(true).expect("the workloads listen");
    for task in tasks {
        task.join().await.expect("ends well");
    }
    let deadline = env.clock.now() + LIMIT;
    let unread = final_check(&clients[1], &plan, &recorder, deadline).await;
    assert!(unread.is_empty(), "{unread:?}");
    let begun = env.clock.now();
    let verdict = check_all(&recorder);
    println!("{verdict} checked in {:?}", begun.elapsed());
    for (kind, counts) in recorder.statistics() {
        println!("{kind}: {counts:?}");
        assert!(counts.done > 0, "no {kind} was done");
        assert_eq!((counts.failed, counts.unknown), (0, 0), "{kind}");
    }
    assert!(verdict.is_clean(), "{verdict}");
    assert_eq!(recorder.statistics().len(), 21, "every kind of operation happens");
    for server in cluster.servers {
        server.shutdown().await.expect("ends well");
    }
}
