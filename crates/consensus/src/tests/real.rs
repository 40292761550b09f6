//! The real world: files in a temporary directory, threads, the system's clock. The calls come from plain
//! tasks, as a server's do.

use super::*;

struct Direct(Arc<Mesh>);

#[async_trait]
impl RaftTransport for Direct {
    async fn call(
        &self,
        to: &RaftNode,
        what: RaftRpc,
        body: Bytes,
        _: Duration,
    ) -> Result<Bytes, Error> {
        let target = self.0.replicas.lock().get(&to.address).cloned();
        match target {
            Some(target) => target.handle_rpc(what, body).await,
            None => Err(Error::new(Kind::Retry, "no connection")),
        }
    }

    fn is_known(&self, raft: RaftId) -> bool {
        self.0.replicas.lock().contains_key(&address(raft.0))
    }
}

async fn open(mesh: &Arc<Mesh>, dir: &Path, number: u64, new: bool) -> Arc<Consensus> {
    let node = NodeId(number as u32);
    let opening = match new {
        true => Opening::New(LogIdentity {
            cluster: CLUSTER,
            node,
            raft_id: RaftId(number),
            boot_counter: 0,
        }),
        false => Opening::Existing { cluster: CLUSTER, node },
    };
    let config = ConsensusConfig {
        store_cache_bytes: 8 << 20,
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    let dir = dir.join(number.to_string());
    let transport = Arc::new(Direct(mesh.clone()));
    let replica =
        Consensus::open(&Env::real(), &dir, config, opening, Arc::new(Counter), transport)
            .await
            .unwrap();
    mesh.replicas.lock().insert(address(number), replica.clone());
    replica
}

async fn propose_many(replica: &Arc<Consensus>, tasks: usize, each: usize, prefix: &'static str) {
    let work = (0..tasks).map(|task| {
        let replica = replica.clone();
        tokio::spawn(async move {
            for i in 0..each {
                let command = format!("{prefix}-{task}-{i}-{:0280}", 0);
                replica.propose(command.into(), soon()).await.unwrap();
            }
        })
    });
    futures_util::future::try_join_all(work).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_files_and_threads() {
    let dir = tempfile::tempdir().unwrap();
    let mesh = Arc::new(Mesh::default());
    let first = open(&mesh, dir.path(), 1, true).await;
    first.initialize(raft_node(1)).await.unwrap();
    wait_until(&first, |s| s.role == Role::Leader).await;
    for number in 2..=3 {
        open(&mesh, dir.path(), number, true).await;
        first.add_learner(RaftId(number), raft_node(number), soon()).await.unwrap();
    }
    first.change_voters((1..=3).map(RaftId).collect(), soon()).await.unwrap();
    propose_many(&first, 16, 20, "a").await;
    let index = first.barrier(soon()).await.unwrap();
    let replicas: Vec<_> = mesh.replicas.lock().values().cloned().collect();
    for replica in &replicas {
        wait_until(replica, |s| s.applied >= index).await;
        assert_eq!(contents(replica).len(), 320);
    }
    mesh.replicas.lock().clear();
    for replica in replicas {
        replica.shutdown().await.unwrap();
    }
    drop(first);
    let mut reopened = Vec::new();
    for number in 1..=3 {
        reopened.push(open(&mesh, dir.path(), number, false).await);
    }
    let status = wait_until(&reopened[0], |s| s.leader_id.is_some()).await;
    let leader = reopened[status.leader_id.unwrap().0 as usize - 1].clone();
    leader.barrier(soon()).await.unwrap();
    assert!(contents(&leader).values().all(|count| *count == 1));
    assert_eq!(contents(&leader).len(), 320);
}

/// Not a test but a measurement; prints commits per second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn measure_commits() {
    let voters: u64 = std::env::var("VOTERS").map_or(3, |v| v.parse().unwrap());
    let dir = tempfile::tempdir_in(std::env::var("DIR").unwrap_or("/tmp".into())).unwrap();
    let mesh = Arc::new(Mesh::default());
    let first = open(&mesh, dir.path(), 1, true).await;
    first.initialize(raft_node(1)).await.unwrap();
    wait_until(&first, |s| s.role == Role::Leader).await;
    for number in 2..=voters {
        open(&mesh, dir.path(), number, true).await;
        first.add_learner(RaftId(number), raft_node(number), soon()).await.unwrap();
    }
    first.change_voters((1..=voters).map(RaftId).collect(), soon()).await.unwrap();
    for tasks in [1, 16, 64, 256] {
        let started = Instant::now();
        let each = 4000 / tasks + 50;
        propose_many(&first, tasks, each, "m").await;
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{voters} voters, {tasks} at once: {:.0} commits/s",
            (tasks * each) as f64 / seconds
        );
    }
}
