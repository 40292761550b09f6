//! What clients do while faults happen: workloads over the client library that record every operation.
//!
//! **Invariants:** everything a workload does follows from its seed and the answers it gets; time and
//! background work come from the client's environment. An operation is recorded as without effect only
//! if the client library promises so. Every value that is read is compared byte for byte with the one
//! that its tag stands for.

mod content;
mod files;
mod finals;
mod holders;
mod locks;
mod logs;
mod ops;
mod outcome;
mod plan;
mod programs;
mod setup;
mod slots;
mod storm;
mod trees;

pub use finals::final_check;
pub(crate) use holders::Holdings;
pub use ops::Ops;
pub use plan::{Kind, SizeMix, WorkloadPlan};
pub use setup::setup;

use crate::history::Recorder;
use everhold_client::Client;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// One client at work.
struct Worker {
    ops: Ops,
    rng: ChaCha8Rng,
    stop: watch::Receiver<bool>,
}

/// Runs a workload until `stop` says `true`; the operation under way then ends first. Everything it
/// draws follows from `seed`.
pub async fn run(
    kind: Kind,
    client: Arc<Client>,
    client_number: u32,
    seed: u64,
    plan: Arc<WorkloadPlan>,
    recorder: Recorder,
    stop: watch::Receiver<bool>,
) {
    let ops = Ops::new(client, client_number, plan, recorder);
    let mut worker = Worker { ops, rng: ChaCha8Rng::seed_from_u64(seed), stop };
    match kind {
        Kind::Files => worker.files().await,
        Kind::Renamers => worker.renamers().await,
        Kind::Appenders => worker.appenders().await,
        Kind::Overwriters => worker.overwriters().await,
        Kind::SmallFileStorm => worker.storm().await,
        Kind::Trees => worker.trees().await,
        Kind::Lockers => worker.lockers().await,
        Kind::Programs => worker.programs().await,
        Kind::Holders => worker.holders().await,
    }
}

impl Worker {
    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }

    /// Waits a little, as the plan has it.
    async fn pause(&mut self) {
        self.pause_within(self.ops.plan.pause_ms).await;
    }

    /// Waits so many milliseconds, least and most.
    async fn pause_within(&mut self, (least, most): (u64, u64)) {
        let pause = Duration::from_millis(self.rng.random_range(least..=most.max(least)));
        self.ops.client.env().clock.sleep(pause).await;
    }

    /// One of several, by weight.
    fn choose<T: Copy>(&mut self, choices: &[(u32, T)]) -> T {
        let total = choices.iter().map(|(weight, _)| weight).sum();
        let mut at = self.rng.random_range(0..total);
        for (weight, choice) in choices {
            match at.checked_sub(*weight) {
                Some(rest) => at = rest,
                None => return *choice,
            }
        }
        unreachable!("{at} is below the sum of the weights")
    }
}
