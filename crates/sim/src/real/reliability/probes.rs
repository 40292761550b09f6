//! The applications that feel the faults: one writes files of 64 KiB, each durable before the next; one reads
//! and compares; one makes and removes a name.

use crate::real::ledger::{Findings, Ledger};
use crate::real::timeline::{Direction, Operation, Outcome, Timeline};
use anyhow::Result;
use everhold_client::{Client, ClientError};
use everhold_env::Task;
use everhold_proto::Kind;
use futures_util::StreamExt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// What is written, as an application would.
pub(super) const FILE_BYTES: usize = 64 << 10;
/// What is stored first.
const STORED_BYTES: usize = 1 << 20;
/// Files stored at once.
const STORERS: usize = 8;
/// Between two operations: the probes are to feel the cluster, not to fill it.
const PAUSE: Duration = Duration::from_millis(10);

/// The clients that do it.
pub(super) struct Clients {
    pub(super) writer: Arc<Client>,
    pub(super) reader: Arc<Client>,
    pub(super) namer: Arc<Client>,
}

/// All of them at work.
pub(super) struct Probes {
    written: Arc<Ledger>,
    stored: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    rest: Arc<AtomicBool>,
    tasks: Vec<Task<()>>,
}

impl Probes {
    /// Stores `bytes`, then starts.
    pub(super) async fn start(
        clients: Clients,
        timeline: Arc<Timeline>,
        bytes: u64,
        seed: u64,
    ) -> Result<Self> {
        let stored = Arc::new(Ledger::new(&clients.writer, "/stored".into(), seed).await?);
        let files = bytes / STORED_BYTES as u64;
        let store = |number| {
            let (writer, stored) = (clients.writer.clone(), stored.clone());
            async move { stored.put(&writer, number, STORED_BYTES).await }
        };
        let mut storing = futures_util::stream::iter(0..files).map(store).buffer_unordered(STORERS);
        while let Some(outcome) = storing.next().await {
            anyhow::ensure!(outcome == Outcome::Done, "a healthy cluster did not store a file");
        }
        drop(storing);
        let written =
            Arc::new(Ledger::new(&clients.writer, "/written".into(), seed.rotate_left(7)).await?);
        clients.namer.mkdir_all("/names", 0o755).await?;
        let (stop, rest) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let tasks = clients.writer.env().tasks;
        let felt = Felt { timeline, rest: rest.clone() };
        let writing = write(clients.writer, written.clone(), felt.clone(), stop.clone());
        let ledgers = [written.clone(), stored.clone()];
        let reading = read(clients.reader, ledgers, felt.clone(), stop.clone());
        let naming = name(clients.namer, felt, stop.clone());
        let tasks = vec![tasks.spawn(writing), tasks.spawn(reading), tasks.spawn(naming)];
        Ok(Probes { written, stored, stop, rest, tasks })
    }

    /// Lets them rest after the operations that they are at, or go on.
    pub(super) fn rest(&self, rest: bool) {
        self.rest.store(rest, Ordering::Relaxed);
    }

    /// Ends all after the operations that they are at.
    pub(super) async fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.join().await.expect("a probe neither panics nor is aborted");
        }
    }

    /// Reads every file again.
    pub(super) async fn check(&self, client: &Arc<Client>) -> Findings {
        self.written.check(client).await.merge(self.stored.check(client).await)
    }
}

/// Where operations are noted, and whether none are made for now.
#[derive(Clone)]
struct Felt {
    timeline: Arc<Timeline>,
    rest: Arc<AtomicBool>,
}

/// Times one operation.
async fn timed(
    client: &Client,
    Felt { timeline, rest }: &Felt,
    direction: Direction,
    operation: impl Future<Output = Outcome>,
) {
    let clock = client.env().clock;
    let started = clock.now() - timeline.start;
    let outcome = operation.await;
    let ended = clock.now() - timeline.start;
    timeline.add(Operation { direction, started, ended, outcome });
    clock.sleep(PAUSE).await;
    while rest.load(Ordering::Relaxed) {
        clock.sleep(PAUSE).await;
    }
}

async fn write(client: Arc<Client>, ledger: Arc<Ledger>, felt: Felt, stop: Arc<AtomicBool>) {
    for number in 0.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let put = ledger.put(&client, number, FILE_BYTES);
        timed(&client, &felt, Direction::Write, put).await;
    }
}

async fn read(client: Arc<Client>, ledgers: [Arc<Ledger>; 2], felt: Felt, stop: Arc<AtomicBool>) {
    let mut turn: u64 = 0;
    while !stop.load(Ordering::Relaxed) {
        // Steps by a prime visit old and new files alike.
        turn = turn.wrapping_add(7919);
        let ledger = &ledgers[(turn % 2) as usize];
        // Until something was written there is nothing to read, and that fails nothing.
        let outcome = async { ledger.read_any(&client, turn).await.unwrap_or(Outcome::Done) };
        timed(&client, &felt, Direction::Read, outcome).await;
    }
}

async fn name(client: Arc<Client>, felt: Felt, stop: Arc<AtomicBool>) {
    for number in 0u64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let path = format!("/names/{number}");
        let mut made = Outcome::Failed;
        let making = async {
            made = outcome(client.mkdir(&path, 0o755).await);
            made
        };
        timed(&client, &felt, Direction::Metadata, making).await;
        if made == Outcome::Done {
            let removing = async { outcome(client.remove(&path).await) };
            timed(&client, &felt, Direction::Metadata, removing).await;
        }
    }
}

fn outcome<T>(result: Result<T, ClientError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Done,
        Err(e) if e.kind() == Kind::MaybeApplied => Outcome::Unknown,
        Err(e) => {
            tracing::info!(error = %e, "a change of names failed");
            Outcome::Failed
        }
    }
}
