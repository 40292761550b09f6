//! Two applications that work all the time: one writes small files, durably, one after another; one
//! reads them again. Their operations are the stalls that a user would feel.

use crate::real::ledger::{Findings, Ledger};
use crate::real::timeline::{Direction, Operation, Outcome, Timeline};
use everhold_client::{Client, ClientError};
use everhold_env::Task;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One file in two is small enough to stay in the metadata, one takes a block on storage nodes.
const LENGTHS: [usize; 2] = [1 << 10, 16 << 10];
/// Pause between operations: the probe is to feel the cluster, not to load it.
const PAUSE: Duration = Duration::from_millis(20);

/// Both applications, each with a client of its own.
pub(crate) struct Probe {
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    tasks: Vec<Task<()>>,
}

impl Probe {
    /// Starts both.
    pub(crate) async fn start(
        writer: Arc<Client>,
        reader: Arc<Client>,
        timeline: Arc<Timeline>,
        seed: u64,
    ) -> Result<Self, ClientError> {
        let ledger = Arc::new(Ledger::new(&writer, "/probe".into(), seed).await?);
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = writer.env().tasks;
        let writing = write(writer, ledger.clone(), timeline.clone(), stop.clone());
        let reading = read(reader, ledger.clone(), timeline, stop.clone());
        Ok(Probe { ledger, stop, tasks: vec![tasks.spawn(writing), tasks.spawn(reading)] })
    }

    /// Ends both after the operations that they are at.
    pub(crate) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.join().await.expect("a probe neither panics nor is aborted");
        }
    }

    /// Reads every file again.
    pub(crate) async fn check(&self, client: &Arc<Client>) -> Findings {
        self.ledger.check(client).await
    }
}

async fn write(
    client: Arc<Client>,
    ledger: Arc<Ledger>,
    timeline: Arc<Timeline>,
    stop: Arc<AtomicBool>,
) {
    let clock = client.env().clock;
    for (number, length) in (0..).zip(LENGTHS.into_iter().cycle()) {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let started = clock.now() - timeline.start;
        let outcome = ledger.put(&client, number, length).await;
        let ended = clock.now() - timeline.start;
        timeline.add(Operation { direction: Direction::Write, started, ended, outcome });
        clock.sleep(PAUSE).await;
    }
}

async fn read(
    client: Arc<Client>,
    ledger: Arc<Ledger>,
    timeline: Arc<Timeline>,
    stop: Arc<AtomicBool>,
) {
    let clock = client.env().clock;
    let mut turn: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        // Steps by a prime visit old and new files alike.
        turn = turn.wrapping_add(7919);
        let started = clock.now() - timeline.start;
        let outcome: Option<Outcome> = ledger.read_any(&client, turn).await;
        let ended = clock.now() - timeline.start;
        if let Some(outcome) = outcome {
            timeline.add(Operation { direction: Direction::Read, started, ended, outcome });
        }
        clock.sleep(PAUSE).await;
    }
}
