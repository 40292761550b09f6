//! What the writer is asked to do.

use crate::format::{BlockBody, HEADER_BYTES, TOMBSTONES_MAX, Tombstone};
use crate::index::Entry;
use crate::shared::Shared;
use crate::{BlockBuf, StoreError};
use everhold_env::AlignedBuf;
use everhold_proto::BlockId;
use std::sync::Arc;
use tokio::sync::{Semaphore, mpsc, oneshot};

/// Operations that wait at most, besides the bound on their bytes.
const QUEUE_OPS_MAX: usize = 1024;

/// An operation and whom to answer.
pub(crate) enum Op {
    Put(PutOp),
    Move(MoveOp),
    /// Answered with how many of the ids were there.
    Delete {
        ids: Vec<BlockId>,
        reply: Reply<usize>,
    },
    /// Writes tombstones again that a compacted segment held.
    Retain {
        tombstones: Vec<Tombstone>,
        reply: Reply<usize>,
    },
}

/// Store a block.
pub(crate) struct PutOp {
    pub(crate) body: BlockBody,
    pub(crate) buf: BlockBuf,
    /// The sequence of a damaged copy that this one is to replace.
    pub(crate) replace: Option<u64>,
    pub(crate) reply: Reply<Found>,
}

/// Copy a live block to the head of the log.
pub(crate) struct MoveOp {
    pub(crate) body: BlockBody,
    pub(crate) buf: AlignedBuf,
    /// Where it was when it was read.
    pub(crate) from: Entry,
    /// Whether it was moved; not if it died meanwhile.
    pub(crate) reply: Reply<bool>,
}

/// What a put found.
pub(crate) enum Found {
    /// It is stored now.
    Stored,
    /// The id is taken; the block is given back.
    Exists(Entry, Box<(BlockBody, BlockBuf)>),
}

/// Where an answer goes; whoever asked may have left.
pub(crate) struct Reply<T>(oneshot::Sender<Result<T, StoreError>>);

impl<T> Reply<T> {
    pub(crate) fn channel() -> (Self, oneshot::Receiver<Result<T, StoreError>>) {
        let (tx, rx) = oneshot::channel();
        (Reply(tx), rx)
    }

    pub(crate) fn send(self, result: Result<T, StoreError>) {
        // The outcome is in the catalog; nobody listening is the caller's choice.
        drop(self.0.send(result));
    }
}

impl Op {
    /// The blocks it touches.
    pub(crate) fn ids(&self) -> impl Iterator<Item = BlockId> {
        let (one, many) = match self {
            Op::Put(put) => (Some(put.body.id), &[][..]),
            Op::Move(moved) => (Some(moved.body.id), &[][..]),
            Op::Delete { ids, .. } => (None, &ids[..]),
            Op::Retain { .. } => (None, &[][..]),
        };
        one.into_iter().chain(many.iter().copied())
    }

    /// The most bytes it appends to the log.
    pub(crate) fn bytes(&self) -> u64 {
        let pages = |tombstones: usize| tombstones.div_ceil(TOMBSTONES_MAX).max(1);
        match self {
            // A replacement writes a tombstone too.
            Op::Put(put) => put.body.record_bytes() + HEADER_BYTES as u64,
            Op::Move(moved) => moved.body.record_bytes(),
            Op::Delete { ids, .. } => (pages(ids.len()) * HEADER_BYTES) as u64,
            Op::Retain { tombstones, .. } => (pages(tombstones.len()) * HEADER_BYTES) as u64,
        }
    }

    /// Answers with an error.
    pub(crate) fn refuse(self, error: StoreError) {
        match self {
            Op::Put(put) => put.reply.send(Err(error)),
            Op::Move(moved) => moved.reply.send(Err(error)),
            Op::Delete { reply, .. } | Op::Retain { reply, .. } => reply.send(Err(error)),
        }
    }
}

/// The way to the writer, bounded by number and by bytes.
pub(crate) struct Queue {
    tx: mpsc::Sender<super::Queued>,
    bytes: Arc<Semaphore>,
    bytes_max: u64,
}

impl Queue {
    pub(crate) fn new(bytes_max: u64) -> (Self, mpsc::Receiver<super::Queued>) {
        let (tx, rx) = mpsc::channel(QUEUE_OPS_MAX);
        let permits = (bytes_max as usize).min(Semaphore::MAX_PERMITS);
        (Queue { tx, bytes: Arc::new(Semaphore::new(permits)), bytes_max }, rx)
    }

    /// Waits for a place, at most as long as configured, and queues the operation.
    pub(crate) async fn send(&self, shared: &Shared, op: Op) -> Result<(), StoreError> {
        let bytes = op.bytes().min(self.bytes_max).min(u64::from(u32::MAX)) as u32;
        let enter = async {
            let permit = self.bytes.clone().acquire_many_owned(bytes).await;
            let permit = permit.map_err(|_| StoreError::Closed)?;
            self.tx.send((op, Some(permit))).await.map_err(|_| StoreError::Closed)
        };
        match shared.env.clock.within(shared.config.queue_wait, enter).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Busy),
        }
    }
}

/// The writer's answer.
pub(crate) async fn answer<T>(
    rx: oneshot::Receiver<Result<T, StoreError>>,
) -> Result<T, StoreError> {
    rx.await.unwrap_or(Err(StoreError::Closed))
}
