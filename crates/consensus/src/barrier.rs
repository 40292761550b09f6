//! Coalesces linearizable reads: one ReadIndex round answers all who asked before it started. A round that
//! is under way when a caller asks does not count for it: its leadership check may be older than the call.

use crate::answer::read_error;
use crate::scope::scoped;
use crate::types::Raft;
use everhold_env::Env;
use everhold_proto::{Error, Kind};
use openraft::ReadPolicy;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// Callers that wait for a round; more are answered `Busy`.
const WAITING_MAX: usize = 65_536;

type Waiting = Vec<oneshot::Sender<Result<u64, Error>>>;

#[derive(Default)]
struct Rounds {
    waiting: Waiting,
    running: bool,
}

pub(crate) struct Barrier {
    env: Env,
    raft: Raft,
    /// A round that takes longer fails: without a quorum there is no answer.
    round_limit: Duration,
    rounds: Arc<Mutex<Rounds>>,
}

impl Barrier {
    pub(crate) fn new(env: Env, raft: Raft, round_limit: Duration) -> Self {
        Barrier { env, raft, round_limit, rounds: Arc::default() }
    }

    /// The read index of a round that starts after this call. The caller bounds the wait.
    pub(crate) async fn read_index(&self) -> Result<u64, Error> {
        let (sender, answer) = oneshot::channel();
        let start = {
            let mut rounds = self.rounds.lock();
            if rounds.waiting.len() >= WAITING_MAX {
                return Err(Error::new(
                    Kind::Busy,
                    "too many reads wait for the leader's confirmation",
                ));
            }
            rounds.waiting.push(sender);
            !std::mem::replace(&mut rounds.running, true)
        };
        if start {
            let rounds =
                run(self.raft.clone(), self.env.clone(), self.round_limit, self.rounds.clone());
            self.env.tasks.detach(scoped(&self.env, rounds));
        }
        answer
            .await
            .unwrap_or_else(|_| Err(Error::new(Kind::Retry, "the replica is shutting down")))
    }
}

/// Runs rounds until nobody waits.
async fn run(raft: Raft, env: Env, limit: Duration, rounds: Arc<Mutex<Rounds>>) {
    loop {
        let waiting: Waiting = {
            let mut rounds = rounds.lock();
            if rounds.waiting.is_empty() {
                rounds.running = false;
                return;
            }
            std::mem::take(&mut rounds.waiting)
        };
        let answer =
            match env.clock.within(limit, raft.get_read_linearizer(ReadPolicy::ReadIndex)).await {
                Ok(Ok(linearizer)) => Ok(linearizer.read_log_id().index()),
                Ok(Err(e)) => Err(read_error(e)),
                Err(_) => Err(Error::new(Kind::Retry, "no quorum confirmed the leader in time")),
            };
        for sender in waiting {
            // A caller whose deadline passed is gone.
            drop(sender.send(answer.clone()));
        }
    }
}
