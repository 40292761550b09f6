//! The seam between the harness and what its clients do: start it, stop it, ask what came of it.
//!
//! Each client puts unique files, reads them back, compares them and removes the oldest; beside it the
//! clients do the simulator's workloads, whose histories are judged.

use crate::real::ledger::{Findings, Ledger};
use crate::real::recorded::{Guest, Judgement, Recorded};
use anyhow::Result;
use everhold_client::Client;
use everhold_env::Task;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Above and below what is kept in the metadata.
const LENGTHS: [usize; 2] = [1 << 10, 64 << 10];
/// Files that each client keeps.
const FILES_KEPT: usize = 400;
const PAUSE: Duration = Duration::from_millis(30);

/// The work under way.
pub(crate) struct Load {
    ledgers: Vec<Arc<Ledger>>,
    recorded: Recorded,
    stop: watch::Sender<bool>,
    tasks: Vec<Task<()>>,
}

/// What the workload found out; nothing may be lost, altered or violated.
#[derive(Clone, Debug, Default)]
pub(crate) struct LoadReport {
    pub(crate) findings: Findings,
    pub(crate) judgement: Judgement,
}

impl Load {
    /// Starts the work of these clients, for about so many minutes.
    pub(crate) async fn start(clients: Vec<Arc<Client>>, seed: u64, minutes: f64) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut ledgers = Vec::new();
        let (recorded, mut tasks) = Recorded::start(&clients, seed, minutes, &stopped).await?;
        for (number, client) in (1u64..).zip(clients) {
            let seed = seed.wrapping_add(number);
            let ledger = Ledger::new(&client, format!("/load/{number}"), seed).await?;
            let ledger = Arc::new(ledger);
            ledgers.push(ledger.clone());
            let spawner = client.env().tasks;
            tasks.push(spawner.spawn(work(client, ledger, seed, stopped.clone())));
        }
        Ok(Load { ledgers, recorded, stop, tasks })
    }

    /// One more client that takes part in the recorded work until it is gone.
    pub(crate) fn guest(&mut self, seed: u64) -> Guest {
        self.recorded.guest(seed)
    }

    /// Ends the work, each client after the operation that it is at.
    pub(crate) async fn stop(&mut self) {
        self.stop.send_replace(true);
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
        LoadReport { findings, judgement: self.recorded.judge(client).await }
    }
}

async fn work(client: Arc<Client>, ledger: Arc<Ledger>, seed: u64, stop: watch::Receiver<bool>) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for number in 0.. {
        if *stop.borrow() {
            return;
        }
        let length = LENGTHS[rng.random_range(0..LENGTHS.len())];
        ledger.put(&client, number, length).await;
        ledger.read_any(&client, rng.next_u64()).await;
        ledger.remove_beyond(&client, FILES_KEPT).await;
        client.env().clock.sleep(PAUSE).await;
    }
}
