//! Power cuts: every node dies at once under load.

use crate::common::{Cluster, eventually, noise};
use everhold_client::{Client, ClientOptions, CreateOptions};
use everhold_env::Env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const WORKERS: u64 = 4;
/// Files that must be acknowledged before the cut.
const GOAL: usize = 120;

/// Inline files, small blocks and several blocks.
fn content(worker: u64, number: u64) -> Vec<u8> {
    let sizes = [900, 60_000, 8 << 10, 700_000, 1, 5 << 20, 0];
    noise(worker << 32 | number, sizes[(number % sizes.len() as u64) as usize])
}

fn path(worker: u64, number: u64) -> String {
    format!("/load/{worker}-{number}")
}

/// Every node is killed at once while files are written; after the restart every acknowledged file
/// is there, byte for byte.
#[test]
fn nothing_acknowledged_is_lost_when_all_nodes_die_at_once() {
    let cluster = Cluster::up(3, &[]);
    cluster.ok(&["fs", "mkdir", "/load"]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let seeds: Vec<String> = cluster.addresses().into_values().collect();
    let connect = || {
        let options = ClientOptions { deadline: Duration::from_secs(60), ..Default::default() };
        runtime.block_on(Client::connect(Env::real(), &seeds, options)).unwrap()
    };
    let client = connect();
    let acknowledged: Arc<Mutex<Vec<(u64, u64)>>> = Arc::default();
    let stop = Arc::new(AtomicBool::new(false));
    let load: Vec<_> = (0..WORKERS)
        .map(|worker| {
            let (client, acknowledged, stop) = (client.clone(), acknowledged.clone(), stop.clone());
            runtime.spawn(async move {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    let data = content(worker, number).into();
                    let put = client.put(path(worker, number), data, CreateOptions::default());
                    // A failure promises nothing; only what is acknowledged counts.
                    if put.await.is_ok() {
                        acknowledged.lock().unwrap().push((worker, number));
                    }
                }
            })
        })
        .collect();
    eventually("files to be acknowledged", || {
        (acknowledged.lock().unwrap().len() >= GOAL).then_some(())
    });
    cluster.kill_at_once(&[1, 2, 3]);
    stop.store(true, Ordering::Relaxed);
    for worker in load {
        worker.abort();
        // Aborted in the middle of a write that was never acknowledged.
        let _ = runtime.block_on(worker);
    }
    drop(client);
    cluster.start(&[1, 2, 3]);
    let client = connect();
    let acknowledged = acknowledged.lock().unwrap().clone();
    for (worker, number) in &acknowledged {
        let path = path(*worker, *number);
        let read = runtime.block_on(client.get(&path, 16 << 20));
        let read = read.unwrap_or_else(|e| panic!("{path} of {}: {e}", acknowledged.len()));
        assert!(read == content(*worker, *number), "{path} differs");
    }
    cluster.wait_redundant();
}
