//! Two applications that run all the time beside the copying: one writes files of 64 KiB, durably,
//! one after another; one reads them again and verifies them. Their operations are the stalls that a
//! user would feel.

use crate::demo::stalls::{Direction, Recorder};
use crate::generated;
use bytes::Bytes;
use everhold_client::{Client, CreateOptions};
use everhold_env::Task;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Size of each file: above what is kept inline, so that storage nodes take part.
pub(crate) const FILE_BYTES: usize = 64 << 10;
/// Pause between operations: the probe is to feel the cluster, not to load it.
const PAUSE: Duration = Duration::from_millis(10);
/// Directory of the files.
const DIRECTORY: &str = "/.probe";

/// The two applications.
pub(crate) struct Probe {
    shared: Arc<Shared>,
    tasks: Vec<Task<()>>,
}

struct Shared {
    client: Arc<Client>,
    recorder: Arc<Recorder>,
    stop: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Acknowledged files.
    written: Vec<u64>,
    lost: Vec<u64>,
    altered: Vec<u64>,
}

impl Probe {
    /// Starts both.
    pub(crate) async fn start(
        client: Arc<Client>,
        recorder: Arc<Recorder>,
    ) -> Result<Self, everhold_client::ClientError> {
        client.mkdir_all(DIRECTORY, 0o755).await?;
        let shared = Arc::new(Shared {
            client: client.clone(),
            recorder,
            stop: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let (writer, reader) = (shared.clone(), shared.clone());
        let tasks = client.env().tasks;
        let tasks = vec![
            tasks.spawn(async move { writer.write().await }),
            tasks.spawn(async move { reader.read().await }),
        ];
        Ok(Probe { shared, tasks })
    }

    /// Ends both after the operations that they are at.
    pub(crate) async fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for task in self.tasks.drain(..) {
            task.join().await.expect("a probe neither panics nor is aborted");
        }
    }

    /// Reads every file again.
    pub(crate) async fn read_back(&self) {
        let written = self.shared.state.lock().written.clone();
        for number in written {
            self.shared.verify(number).await;
        }
    }

    /// Files written, lost and altered.
    pub(crate) fn findings(&self) -> (u64, u64, u64) {
        let state = self.shared.state.lock();
        let distinct = |numbers: &[u64]| {
            numbers.iter().collect::<std::collections::BTreeSet<_>>().len() as u64
        };
        (state.written.len() as u64, distinct(&state.lost), distinct(&state.altered))
    }
}

fn path(number: u64) -> String {
    format!("{DIRECTORY}/{number}")
}

fn content(number: u64) -> Bytes {
    generated::bytes(number, FILE_BYTES)
}

impl Shared {
    async fn pause(&self) {
        self.client.env().clock.sleep(PAUSE).await;
    }

    async fn write(&self) {
        for number in 0.. {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            let data = content(number);
            let started = Instant::now();
            let put = self.client.put(path(number), data, CreateOptions::default()).await;
            let what = || format!("probe: put {}", path(number));
            self.recorder.ended(Direction::Write, what, started, &put);
            if put.is_ok() {
                self.state.lock().written.push(number);
            }
            self.pause().await;
        }
    }

    async fn read(&self) {
        let mut turn: u64 = 0;
        while !self.stop.load(Ordering::Relaxed) {
            // Steps by a prime visit old and new files alike.
            turn = turn.wrapping_add(7919);
            let number = {
                let written = &self.state.lock().written;
                written.get((turn % written.len().max(1) as u64) as usize).copied()
            };
            if let Some(number) = number {
                self.verify(number).await;
            }
            self.pause().await;
        }
    }

    async fn verify(&self, number: u64) {
        let started = Instant::now();
        let read = self.client.get(path(number), 2 * FILE_BYTES).await;
        let what = || format!("probe: get {}", path(number));
        self.recorder.ended(Direction::Read, what, started, &read);
        match read {
            Ok(bytes) if bytes == content(number) => {}
            Ok(_) => self.state.lock().altered.push(number),
            Err(_) => self.state.lock().lost.push(number),
        }
    }
}
