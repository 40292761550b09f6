//! What every background worker of a disk has in common: a name, a status, and a loop.

use async_trait::async_trait;
use parking_lot::Mutex;
use std::fmt;
use std::sync::Arc;

/// What a worker does at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// It works.
    Busy(String),
    /// It would work, but something holds it back.
    Throttled(String),
    /// There is nothing to do.
    #[default]
    Idle,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Busy(what) => write!(f, "busy: {what}"),
            Status::Throttled(why) => write!(f, "throttled: {why}"),
            Status::Idle => f.write_str("idle"),
        }
    }
}

/// A status that the worker writes and the node's status page reads.
#[derive(Debug, Default)]
pub(super) struct StatusCell(Mutex<Status>);

impl StatusCell {
    /// Replaces the status.
    pub(super) fn set(&self, status: Status) {
        *self.0.lock() = status;
    }

    /// The status.
    pub(super) fn get(&self) -> Status {
        self.0.lock().clone()
    }
}

/// Background work on one disk.
#[async_trait]
pub trait Worker: Send + Sync + 'static {
    /// What it is, with the disk.
    fn name(&self) -> String;
    /// What it does at the moment.
    fn status(&self) -> Status;
    /// Works until it is aborted.
    async fn run(self: Arc<Self>);
}
