//! Leaders that die under load: every acknowledged change happens exactly once.

use crate::common::{Cluster, eventually};
use bytes::Bytes;
use everhold_client::{Client, ClientOptions};
use everhold_env::Env;
use everhold_proto::InodeId;
use everhold_proto::fs::{Content, Extent, FsOp, FsReply, Name, NewKind, RenameMode, Source};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const WORKERS: u64 = 4;
const KILLS: u32 = 20;
/// Rounds that must succeed after each kill before the next one.
const PROGRESS: u64 = 20;

fn name(text: String) -> Name {
    Name::new(text.into_bytes()).expect("a good name")
}

fn inode(reply: FsReply) -> InodeId {
    match reply {
        FsReply::Attr(attr) => attr.inode,
        FsReply::Done | FsReply::Numbers(..) => panic!("a create answers with attributes"),
    }
}

struct Load {
    client: Arc<Client>,
    /// The file that all workers append to.
    log: InodeId,
    stop: AtomicBool,
    rounds: AtomicU64,
}

impl Load {
    async fn create(&self, parent: InodeId, text: String, kind: NewKind) -> InodeId {
        let owner = self.client.owner(0o755);
        let op = FsOp::Create { parent, name: name(text.clone()), kind, owner, open: false };
        match self.client.execute(op).await {
            Ok(reply) => inode(reply),
            // The name is used once: "exists" would mean that the create was applied twice.
            Err(e) => panic!("create {text}: {e}"),
        }
    }

    /// Makes directories, moves a token and appends records, each of which shows when it happened
    /// twice or not at all; gives the number of rounds.
    async fn work(&self, worker: u64, home: InodeId) -> u64 {
        self.create(home, "token-0".into(), NewKind::File).await;
        let mut round = 0;
        while !self.stop.load(Ordering::Relaxed) {
            self.create(home, format!("dir-{round}"), NewKind::Directory).await;
            let rename = FsOp::Rename {
                parent: home,
                name: name(format!("token-{round}")),
                new_parent: home,
                new_name: name(format!("token-{}", round + 1)),
                mode: RenameMode::NoReplace,
            };
            if let Err(e) = self.client.execute(rename).await {
                panic!("worker {worker}, round {round}: rename: {e}");
            }
            let record = format!("{worker:03} {round:07}\n");
            let length = record.len() as u64;
            let extent = Extent { offset: 0, length, source: Source::Inline(Bytes::from(record)) };
            let append = FsOp::Commit {
                inode: self.log,
                expected_version: None,
                content: Content { extents: vec![extent], blocks: vec![] },
                size_at_least: 0,
                append: true,
            };
            if let Err(e) = self.client.execute(append).await {
                panic!("worker {worker}, round {round}: append: {e}");
            }
            round += 1;
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        round
    }
}

/// The leader is killed twenty times in a row while four workers change the tree.
#[test]
fn changes_happen_exactly_once_while_leaders_die() {
    let cluster = Cluster::up(3, &[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seeds: Vec<String> = cluster.addresses().into_values().collect();
    let options = ClientOptions { deadline: Duration::from_secs(120), ..ClientOptions::default() };
    let client = runtime.block_on(Client::connect(Env::real(), &seeds, options)).unwrap();
    let mut load = Load {
        client,
        log: InodeId::ROOT,
        stop: AtomicBool::new(false),
        rounds: AtomicU64::new(0),
    };
    load.log = runtime.block_on(load.create(InodeId::ROOT, "log".into(), NewKind::File));
    let load = Arc::new(load);
    let workers: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let load = load.clone();
            runtime.spawn(async move {
                let home = format!("worker-{worker}");
                let home = load.create(InodeId::ROOT, home, NewKind::Directory).await;
                load.work(worker, home).await
            })
        })
        .collect();
    let progress = || {
        let goal = load.rounds.load(Ordering::Relaxed) + PROGRESS;
        eventually("the load to go on", || {
            assert!(workers.iter().all(|worker| !worker.is_finished()), "a worker failed");
            (load.rounds.load(Ordering::Relaxed) >= goal).then_some(())
        });
    };
    for _ in 0..KILLS {
        progress();
        let leader = cluster.leader();
        cluster.kill_at_once(&[leader]);
        progress();
        cluster.start(&[leader]);
        eventually("the killed leader to be up", || {
            let status = cluster.try_status()?;
            (Cluster::node_of(&status, leader)["state"] == "up").then_some(())
        });
    }
    load.stop.store(true, Ordering::Relaxed);
    let rounds: Vec<u64> = workers
        .into_iter()
        .map(|worker| runtime.block_on(worker).expect("every operation succeeded"))
        .collect();

    for (worker, rounds) in (0..).zip(&rounds) {
        let listed =
            String::from_utf8(cluster.ok(&["fs", "ls", &format!("/worker-{worker}")])).unwrap();
        let mut names: Vec<&str> = listed.lines().collect();
        names.sort_unstable();
        let mut expected: Vec<String> = (0..*rounds).map(|round| format!("dir-{round}")).collect();
        expected.push(format!("token-{rounds}"));
        expected.sort_unstable();
        assert_eq!(names, expected, "worker {worker}");
    }
    let log = String::from_utf8(cluster.ok(&["fs", "cat", "/log"])).unwrap();
    let mut records: Vec<&str> = log.lines().collect();
    records.sort_unstable();
    let mut expected: Vec<String> = (0..)
        .zip(&rounds)
        .flat_map(|(worker, rounds)| {
            (0..*rounds).map(move |round| format!("{worker:03} {round:07}"))
        })
        .collect();
    expected.sort_unstable();
    assert!(records == expected, "{} records of {}", records.len(), expected.len());
}
