//! What waits to be written, in the order in which Raft asked for it.

use crate::types::{Entry, LogId, Types, Vote};
use openraft::storage::IOFlushed;
use std::collections::VecDeque;
use std::io;
use tokio::sync::oneshot;

/// Answers one waiting caller.
pub(crate) type Done = oneshot::Sender<io::Result<()>>;

/// One request to the log.
pub(crate) enum Op {
    /// Append entries; `generation` is the index's at that time.
    Append {
        entries: VecDeque<Entry>,
        generation: u64,
        done: IOFlushed<Types>,
    },
    Vote(Vote, Done),
    Truncate(Option<LogId>, Done),
    Purge(LogId, Done),
    /// Answer when all before it is durable, and end the writer.
    Close(Done),
}

/// Whoever is told that a frame is durable, or that it never will be.
pub(crate) enum Completion {
    Flushed(IOFlushed<Types>),
    Done(Done),
}

impl Completion {
    pub(crate) fn complete(self, result: io::Result<()>) {
        match self {
            Completion::Flushed(callback) => callback.io_completed(result),
            // A caller that went away does not care any more.
            Completion::Done(done) => drop(done.send(result)),
        }
    }
}

impl Op {
    /// The completion of a request that will not be carried out any more.
    pub(crate) fn into_completion(self) -> Completion {
        match self {
            Op::Append { done, .. } => Completion::Flushed(done),
            Op::Vote(_, done) | Op::Truncate(_, done) | Op::Purge(_, done) | Op::Close(done) => {
                Completion::Done(done)
            }
        }
    }
}
