//! Background work: tokio tasks, and calls that block.

use crate::gate::Gate;
use std::future::Future;
use tokio::task::JoinHandle;

/// The port to task spawning.
#[derive(Clone, Copy, Debug)]
pub struct Tasks {
    simulated: Option<Simulated>,
}

#[derive(Clone, Copy, Debug)]
struct Simulated {
    /// The seed of openraft's random numbers, which live in a task-local.
    seed: u64,
    /// Holds up all tasks of the process.
    gate: &'static Gate,
}

/// A running task; it is aborted when this handle is dropped, so work never outlives its owner.
#[derive(Debug)]
pub struct Task<T>(JoinHandle<T>);

/// The runtime that openraft runs on: tokio with seedable random numbers.
pub type RaftRuntime =
    openraft_rt::deterministic_rng::DeterministicRng<openraft_rt_tokio::TokioRuntime>;

impl Tasks {
    /// The multi-threaded world.
    pub fn real() -> Self {
        Tasks { simulated: None }
    }

    /// One thread, everything inline and replayable.
    pub fn simulated(seed: u64) -> Self {
        static ALWAYS_OPEN: Gate = Gate::new();
        Tasks::gated(seed, &ALWAYS_OPEN)
    }

    /// The same; the tasks stand still while the gate is closed.
    pub fn gated(seed: u64, gate: &'static Gate) -> Self {
        Tasks { simulated: Some(Simulated { seed, gate }) }
    }

    /// Starts `future`; dropping the handle aborts it.
    pub fn spawn<T: Send + 'static>(
        &self,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        Task(match self.simulated {
            Some(Simulated { seed, gate }) => {
                tokio::spawn(gate.pass(RaftRuntime::scope(seed, future)))
            }
            None => tokio::spawn(future),
        })
    }

    /// Starts `future` and lets it run to its end by itself. For work with a bound of its own only.
    pub fn detach(&self, future: impl Future<Output = ()> + Send + 'static) {
        match self.simulated {
            Some(Simulated { seed, gate }) => {
                drop(tokio::spawn(gate.pass(RaftRuntime::scope(seed, future))));
            }
            None => drop(tokio::spawn(future)),
        }
    }

    /// Runs a call that may block: on a thread for blocking calls, or inline in the simulator.
    pub async fn blocking<T: Send + 'static>(
        &self,
        call: impl FnOnce() -> T + Send + 'static,
    ) -> T {
        if self.simulated.is_some() {
            return call();
        }
        match tokio::task::spawn_blocking(call).await {
            Ok(value) => value,
            Err(e) => std::panic::resume_unwind(e.into_panic()),
        }
    }

    /// Whether this is the simulator.
    pub fn is_simulated(&self) -> bool {
        self.simulated.is_some()
    }
}

impl<T> Task<T> {
    /// Waits for the result; `None` when the task panicked or was aborted.
    pub async fn join(mut self) -> Option<T> {
        (&mut self.0).await.ok()
    }

    /// Whether it has ended.
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }

    /// Ends it at its next wait.
    pub fn abort(&self) {
        self.0.abort();
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}
