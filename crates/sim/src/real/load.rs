//! The seam between the harness and what its clients do: start it, stop it, ask what came of it.
//!
//! Here each client puts unique files, reads them back, compares them and removes the oldest. Another
//! workload takes its place by another body of these three functions.

use crate::real::ledger::{Findings, Ledger};
use anyhow::Result;
use everhold_client::Client;
use everhold_env::Task;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Above and below what is kept in the metadata.
const LENGTHS: [usize; 2] = [1 << 10, 64 << 10];
/// Files that each client keeps.
const FILES_KEPT: usize = 400;
const PAUSE: Duration = Duration::from_millis(30);

/// The work under way.
pub(crate) struct Load {
    ledgers: Vec<Arc<Ledger>>,
    stop: Arc<AtomicBool>,
    tasks: Vec<Task<()>>,
}

/// What the workload found out; nothing may be lost, altered or violated.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) findings: Findings,
    /// Broken invariants, each with what broke it.
    pub(crate) violations: Vec<String>,
}

impl Load {
    /// Starts the work of these clients.
    pub(crate) async fn start(clients: Vec<Arc<Client>>, seed: u64) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (mut ledgers, mut tasks) = (Vec::new(), Vec::new());
        for (number, client) in (1u64..).zip(clients) {
            let seed = seed.wrapping_add(number);
            let ledger = Ledger::new(&client, format!("/load/{number}"), seed).await?;
            let ledger = Arc::new(ledger);
            ledgers.push(ledger.clone());
            let spawner = client.env().tasks;
            tasks.push(spawner.spawn(work(client, ledger, seed, stop.clone())));
        }
        Ok(Load { ledgers, stop, tasks })
    }

    /// Ends the work, each client after the operation that it is at.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.join().await.expect("a client neither panics nor is aborted");
        }
    }

    /// Compares what is there with what was acknowledged.
    pub(crate) async fn check(&self, client: &Arc<Client>) -> LoadReport {
        let mut findings = Findings::default();
        for ledger in &self.ledgers {
            findings = findings.merge(ledger.check(client).await);
        }
        LoadReport { findings, violations: Vec::new() }
    }
}

async fn work(client: Arc<Client>, ledger: Arc<Ledger>, seed: u64, stop: Arc<AtomicBool>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let length = LENGTHS[rng.random_range(0..LENGTHS.len())];
        ledger.put(&client, number, length).await;
        ledger.read_any(&client, rng.next_u64()).await;
        ledger.remove_beyond(&client, FILES_KEPT).await;
        client.env().clock.sleep(PAUSE).await;
    }
}
