//! What was acknowledged, to be asked for again: files whose content follows from their number.

use crate::real::timeline::{Counts, Outcome};
use bytes::Bytes;
use everhold_client::{Client, ClientError, CreateOptions};
use everhold_proto::Kind;
use futures_util::StreamExt;
use parking_lot::Mutex;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Files read back at once.
const READERS: usize = 16;
/// A file that cannot be read is asked for so often before it counts as lost.
const TRIES: usize = 3;

/// The files of one writer in a directory of its own.
pub(crate) struct Ledger {
    directory: String,
    /// Separates its contents from those of other writers.
    seed: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Acknowledged and not removed: number and length.
    files: BTreeMap<u64, usize>,
    acknowledged: u64,
    lost: BTreeSet<String>,
    altered: BTreeSet<String>,
    counts: Counts,
}

/// What came of the acknowledged files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings {
    pub(crate) acknowledged: u64,
    pub(crate) lost: Vec<String>,
    pub(crate) altered: Vec<String>,
    pub(crate) counts: Counts,
}

impl Ledger {
    /// Makes the directory.
    pub(crate) async fn new(
        client: &Arc<Client>,
        directory: String,
        seed: u64,
    ) -> Result<Self, ClientError> {
        client.mkdir_all(&directory, 0o755).await?;
        Ok(Ledger { directory, seed, state: Mutex::default() })
    }

    /// Writes the file with this number, which must be new.
    pub(crate) async fn put(&self, client: &Arc<Client>, number: u64, length: usize) -> Outcome {
        let data = self.content(number, length);
        let put = client.put(self.path(number), data, CreateOptions::default()).await;
        let outcome = self.count("put", &put);
        if outcome == Outcome::Done {
            let mut state = self.state.lock();
            state.acknowledged += 1;
            state.files.insert(number, length);
        }
        outcome
    }

    /// Reads a file back that is there, and compares it. `None`: there is none yet.
    pub(crate) async fn read_any(&self, client: &Arc<Client>, pick: u64) -> Option<Outcome> {
        let (number, length) = {
            let files = &self.state.lock().files;
            let index = (pick % files.len().max(1) as u64) as usize;
            files.iter().nth(index).map(|(number, length)| (*number, *length))?
        };
        let read = client.get(self.path(number), 2 * length).await;
        let outcome = self.count("get", &read);
        match read {
            Ok(bytes) => self.compare(number, length, &bytes),
            // It was acknowledged, and nobody but this writer removes its files.
            Err(e) if e.is_not_found() => {
                self.state.lock().lost.insert(format!("{}: {e}", self.path(number)));
            }
            Err(_) => {}
        }
        Some(outcome)
    }

    /// Removes the oldest file when there are more than `most`.
    pub(crate) async fn remove_beyond(&self, client: &Arc<Client>, most: usize) {
        let number = {
            let files = &mut self.state.lock().files;
            if files.len() <= most {
                return;
            }
            // Forgotten first: whatever comes of the removal, the file is no longer owed.
            files.pop_first().map(|(number, _)| number)
        };
        if let Some(number) = number {
            self.count("remove", &client.remove(self.path(number)).await);
        }
    }

    /// Reads all that is owed back and compares it.
    pub(crate) async fn check(&self, client: &Arc<Client>) -> Findings {
        let owed: Vec<(u64, usize)> =
            self.state.lock().files.iter().map(|(number, length)| (*number, *length)).collect();
        futures_util::stream::iter(owed)
            .for_each_concurrent(READERS, |(number, length)| self.verify(client, number, length))
            .await;
        let state = self.state.lock();
        Findings {
            acknowledged: state.acknowledged,
            lost: state.lost.iter().cloned().collect(),
            altered: state.altered.iter().cloned().collect(),
            counts: state.counts.clone(),
        }
    }

    async fn verify(&self, client: &Arc<Client>, number: u64, length: usize) {
        let mut error = None;
        for _ in 0..TRIES {
            match client.get(self.path(number), 2 * length).await {
                Ok(bytes) => return self.compare(number, length, &bytes),
                Err(e) => error = Some(e),
            }
        }
        let error = error.expect("it was tried");
        self.state.lock().lost.insert(format!("{}: {error}", self.path(number)));
    }

    fn compare(&self, number: u64, length: usize, bytes: &[u8]) {
        let expected = self.content(number, length);
        if expected == bytes {
            return;
        }
        let at = expected.iter().zip(bytes).position(|(a, b)| a != b);
        let found = format!("{} bytes, first difference at {at:?}", bytes.len());
        let what = format!("{}: {found}, written were {length}", self.path(number));
        self.state.lock().altered.insert(what);
    }

    fn count<T>(&self, what: &str, result: &Result<T, ClientError>) -> Outcome {
        let outcome = match result {
            Ok(_) => Outcome::Done,
            Err(e) if e.kind() == Kind::MaybeApplied => Outcome::Unknown,
            Err(e) => {
                tracing::info!(what, directory = self.directory, error = %e, "an operation failed");
                Outcome::Failed
            }
        };
        let mut state = self.state.lock();
        let name = format!("{} {what}", self.directory);
        *state.counts.entry(name).or_default().entry(outcome).or_default() += 1;
        outcome
    }

    fn path(&self, number: u64) -> String {
        format!("{}/{number}", self.directory)
    }

    fn content(&self, number: u64, length: usize) -> Bytes {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed.rotate_left(32) ^ number);
        let mut bytes = vec![0; length];
        rng.fill(&mut bytes[..]);
        bytes.into()
    }
}

impl Findings {
    /// Both together.
    pub(crate) fn merge(mut self, other: Findings) -> Self {
        self.acknowledged += other.acknowledged;
        self.lost.extend(other.lost);
        self.altered.extend(other.altered);
        for (name, outcomes) in other.counts {
            for (outcome, count) in outcomes {
                *self.counts.entry(name.clone()).or_default().entry(outcome).or_default() += count;
            }
        }
        self
    }
}
