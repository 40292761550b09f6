//! openraft draws its random numbers from a task-local stream, so that the simulator can replay them. Every
//! task that may call it must carry such a stream; in production it is seeded by real entropy.

use everhold_env::{Env, RaftRuntime};
use std::future::Future;

/// `future` with a stream of random numbers of its own.
pub(crate) fn scoped<F: Future>(env: &Env, future: F) -> impl Future<Output = F::Output> + use<F> {
    RaftRuntime::scope(env.entropy.u64(), future)
}
