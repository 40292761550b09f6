//! Two ways for a request to end early: an answer for the client, or a failed store. Only the second
//! one is an error of the state machine, so the two are told apart at the edge of each request.

use everhold_proto::fs::FsError;
use everhold_proto::kv::{KvError, KvResult};

/// Why an operation ended early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// An answer for the client.
    Fs(FsError),
    /// The store failed: the process ends.
    Kv(KvError),
}

/// Result of a step of an operation.
pub(crate) type Outcome<T> = Result<T, Failure>;

impl From<FsError> for Failure {
    fn from(e: FsError) -> Self {
        Failure::Fs(e)
    }
}

impl From<KvError> for Failure {
    fn from(e: KvError) -> Self {
        Failure::Kv(e)
    }
}

/// Separates what the client hears from what ends the process.
pub(crate) fn split<T>(outcome: Outcome<T>) -> KvResult<Result<T, FsError>> {
    match outcome {
        Ok(value) => Ok(Ok(value)),
        Err(Failure::Fs(e)) => Ok(Err(e)),
        Err(Failure::Kv(e)) => Err(e),
    }
}
