//! What an error of the client library says about the effect of an operation.

use everhold_client::ClientError;
use everhold_proto::Kind;
use everhold_proto::fs::FsError;

/// What a call came to.
#[derive(Clone, Debug)]
pub(crate) enum Judged<T> {
    /// This answer.
    Answer(T),
    /// The tree refused: an answer too.
    Refused(FsError),
    /// The library promises that nothing was done.
    Failed(String),
    /// It may have been done, or may still be.
    Unknown(String),
}

/// Judges the result of a call. All errors but "may have been applied" promise that there was no effect
/// that anybody sees: what comes before the deciding change (questions, blocks, a hidden file) is
/// invisible.
pub(crate) fn judge<T>(result: Result<T, ClientError>) -> Judged<T> {
    let error = match result {
        Ok(answer) => return Judged::Answer(answer),
        Err(error) => error,
    };
    match error.fs() {
        Some(FsError::MaybeApplied | FsError::NoSession | FsError::Fenced | FsError::Skipped) => {
            Judged::Unknown(error.to_string())
        }
        // These depend on more than the object.
        Some(
            FsError::NoSpace
            | FsError::WindowExceeded
            | FsError::Delegated { .. }
            | FsError::BlocksRefused(_)
            | FsError::Stale { .. },
        ) => Judged::Failed(error.to_string()),
        Some(refusal) => Judged::Refused(refusal.clone()),
        None if error.kind() == Kind::MaybeApplied => Judged::Unknown(error.to_string()),
        None => Judged::Failed(error.to_string()),
    }
}
