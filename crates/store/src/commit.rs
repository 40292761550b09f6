//! The one writer of a store. It takes whatever waits in the queue, appends it to the head of the
//! log in one go, makes it durable with one sync, then changes the catalog and answers.
//!
//! **Invariant:** a batch lies in one segment and touches a block at most once, so that its order
//! does not matter; nothing is shown or acknowledged before the sync returned; a sync that failed
//! ends the store.

mod batch;
mod op;

pub(crate) use op::{Found, MoveOp, Op, PutOp, Queue, Reply, answer};

use crate::StoreError;
use crate::format::{BlockBody, Body, HEADER_BYTES, TOMBSTONES_MAX, Tombstone};
use crate::index::{Entry, IndexError};
use crate::segments::Class;
use crate::shared::Shared;
use batch::{Batch, Effect};
use everhold_env::{AlignedBuf, File};
use everhold_proto::BlockId;
use everhold_proto::map::Fullness;
use everhold_proto::planted::{self, Bug};
use futures_util::{StreamExt, TryStreamExt, stream};
use std::io;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Writes under way at once: enough to keep the device busy, as measured with 4 MiB records.
const WRITES_AT_ONCE: usize = 8;

/// The writer; `run` it in a task of its own.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Queued>,
    /// Did not fit into the last batch.
    carried: Option<Queued>,
    /// Sequence of the last record given out, written or not.
    sequence: u64,
    /// How full the disk was when it was last looked at, and the bytes written since.
    level: (Fullness, u64),
    /// The index failed while a batch was planned.
    index_error: Option<IndexError>,
}

/// An operation with its claim on the queue's memory.
pub(crate) type Queued = (Op, Option<tokio::sync::OwnedSemaphorePermit>);

/// What became of an operation that was to join a batch.
enum Planned {
    /// It is in the batch, or was answered.
    Done,
    /// It must wait for the batch to be written.
    NotNow(Op),
    /// It needs a new head.
    NoRoom(Op),
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, queue: mpsc::Receiver<Queued>, sequence: u64) -> Self {
        Writer {
            shared,
            queue,
            carried: None,
            sequence,
            level: (Fullness::Full, 0),
            index_error: None,
        }
    }

    /// Serves the queue until it is closed and empty.
    pub(crate) async fn run(mut self) {
        while let Some(first) = self.next().await {
            self.serve(first).await;
        }
    }

    async fn next(&mut self) -> Option<Queued> {
        match self.carried.take() {
            Some(op) => Some(op),
            None => self.queue.recv().await,
        }
    }

    fn next_now(&mut self) -> Option<Queued> {
        self.carried.take().or_else(|| self.queue.try_recv().ok())
    }

    /// One batch, from `first` to whatever is there or fits.
    async fn serve(&mut self, first: Queued) {
        if let Err(e) = self.make_way().await {
            return first.0.refuse(e);
        }
        let mut batch = self.new_batch();
        let mut permits = Vec::new();
        let mut next = Some(first);
        while let Some((op, permit)) = next.take() {
            match self.plan(op, &mut batch) {
                Planned::Done => permits.push(permit),
                Planned::NotNow(op) => {
                    self.carried = Some((op, permit));
                    break;
                }
                Planned::NoRoom(op) if batch.is_empty() => {
                    match self.shared.new_head(op.class()).await {
                        Ok(()) => {
                            batch = self.new_batch();
                            next = Some((op, permit));
                            continue;
                        }
                        Err(e) => op.refuse(e),
                    }
                }
                Planned::NoRoom(op) => {
                    self.carried = Some((op, permit));
                    break;
                }
            }
            if batch.bytes() < self.shared.config.batch_bytes_max {
                next = self.next_now();
            }
        }
        self.level.1 += batch.bytes();
        self.write(batch).await;
        if let Some(e) = self.index_error.take() {
            self.shared.fail_index(e).await;
        }
    }

    /// Keeps the changes that only memory has within bounds.
    async fn make_way(&self) -> Result<(), StoreError> {
        self.shared.check()?;
        let (pending, max) =
            (self.shared.catalog.lock().pending(), self.shared.config.memtable_entries_max);
        if pending > max {
            self.shared.maintenance.notify_one();
        }
        match pending > max.saturating_mul(4) {
            true => self.shared.flush_index().await,
            false => Ok(()),
        }
    }

    fn new_batch(&self) -> Batch {
        let catalog = self.shared.catalog.lock();
        Batch::new(catalog.head, catalog.segments.segment_bytes, catalog.sequence)
    }

    fn plan(&mut self, op: Op, batch: &mut Batch) -> Planned {
        if op.ids().any(|id| batch.touches(id)) {
            return Planned::NotNow(op);
        }
        if !batch.has_room(op.bytes()) {
            return Planned::NoRoom(op);
        }
        match op {
            Op::Put(put) => self.plan_put(put, batch),
            Op::Move(moved) => self.plan_move(moved, batch),
            Op::Delete { ids, reply } => match self.entries(&ids) {
                Ok(entries) => self.plan_delete(entries, reply, batch),
                Err(e) => reply.send(Err(e)),
            },
            Op::Retain { tombstones, reply } => {
                self.append_tombstones(&tombstones, batch);
                batch.answer(move |result| reply.send(result.map(|()| tombstones.len())));
            }
        }
        Planned::Done
    }

    fn lookup(&mut self, id: BlockId) -> Result<Option<Entry>, StoreError> {
        self.shared.lookup_now(id).map_err(|e| {
            let error = self.shared.fail("use the index", &e);
            self.index_error = Some(e);
            error
        })
    }

    /// Whether there is no space for new blocks. Counting takes a pass over all segments, so it is
    /// not done for each block while there is plenty.
    fn is_full(&mut self) -> bool {
        let (level, written) = self.level;
        let often = self.shared.catalog.lock().segments.segment_bytes / 16;
        if level != Fullness::Normal || written >= often {
            self.level = (self.shared.space().level, 0);
        }
        self.level.0 == Fullness::Full
    }

    fn entries(&mut self, ids: &[BlockId]) -> Result<Vec<(BlockId, Entry)>, StoreError> {
        let mut found = Vec::new();
        for id in ids {
            found.extend(self.lookup(*id)?.map(|entry| (*id, entry)));
        }
        Ok(found)
    }

    fn plan_put(&mut self, put: PutOp, batch: &mut Batch) {
        let PutOp { body, buf, replace, reply } = put;
        let old = match self.lookup(body.id) {
            Ok(old) => old,
            Err(e) => return reply.send(Err(e)),
        };
        match old {
            Some(entry) if replace != Some(entry.sequence) => {
                return reply.send(Ok(Found::Exists(entry, Box::new((body, buf)))));
            }
            _ => {}
        }
        if self.is_full() {
            return reply.send(Err(StoreError::Full));
        }
        let id = body.id;
        if let Some(old) = old {
            // The damaged copy must not come back when the index is made anew.
            let tombstone = self.shared.catalog.lock().tombstone(id, &old);
            self.append_tombstones(&[tombstone], batch);
        }
        let entry = self.append_block(body, buf.into_record(), batch);
        batch.effect(Effect::Put { id, entry, old });
        batch.answer(move |result| reply.send(result.map(|()| Found::Stored)));
    }

    /// Copies a live block to the head, unless it died or moved since it was read.
    fn plan_move(&mut self, moved: MoveOp, batch: &mut Batch) {
        let MoveOp { body, buf, from, reply } = moved;
        let id = body.id;
        let old = match self.lookup(id) {
            Ok(Some(old)) if old == from => old,
            Ok(_) => return reply.send(Ok(false)),
            Err(e) => return reply.send(Err(e)),
        };
        let entry = self.append_block(body, buf, batch);
        batch.effect(Effect::Put { id, entry, old: Some(old) });
        batch.answer(move |result| reply.send(result.map(|()| true)));
    }

    fn plan_delete(
        &mut self,
        entries: Vec<(BlockId, Entry)>,
        reply: Reply<usize>,
        batch: &mut Batch,
    ) {
        let tombstones: Vec<_> = {
            let catalog = self.shared.catalog.lock();
            entries.iter().map(|(id, entry)| catalog.tombstone(*id, entry)).collect()
        };
        self.append_tombstones(&tombstones, batch);
        let count = entries.len();
        for (id, old) in entries {
            batch.effect(Effect::Delete { id, old });
        }
        batch.answer(move |result| reply.send(result.map(|()| count)));
    }

    fn append_block(&mut self, body: BlockBody, mut buf: AlignedBuf, batch: &mut Batch) -> Entry {
        self.sequence += 1;
        let record = batch.header(self.sequence, Body::Block(body));
        record.encode(&self.shared.store, &mut buf[..HEADER_BYTES]);
        let Body::Block(body) = &record.body else { unreachable!("it was made of a block") };
        let entry = Entry::of(body, record.place, record.sequence);
        batch.push(&record, buf);
        entry
    }

    fn append_tombstones(&mut self, tombstones: &[Tombstone], batch: &mut Batch) {
        for some in tombstones.chunks(TOMBSTONES_MAX) {
            self.sequence += 1;
            let record = batch.header(self.sequence, Body::Tombstones(some.to_vec()));
            let mut page = AlignedBuf::zeroed(HEADER_BYTES);
            record.encode(&self.shared.store, &mut page);
            batch.push(&record, page);
        }
    }

    /// Makes the batch durable and answers everybody in it.
    async fn write(&self, batch: Batch) {
        let Some(written) = batch.into_written() else { return };
        let result = match self.write_and_sync(written.slot, written.writes).await {
            Ok(()) => {
                for effect in &written.effects {
                    self.shared.env.witness.tell(|witness| effect.show(&self.shared.dir, witness));
                }
                let mut catalog = self.shared.catalog.lock();
                if let Some(last) = written.last {
                    catalog.advance(written.end, last);
                }
                written.effects.into_iter().for_each(|effect| effect.apply(&mut catalog));
                Ok(())
            }
            Err(e) => Err(e),
        };
        written.answers.into_iter().for_each(|answer| answer(result.clone()));
    }

    async fn write_and_sync(
        &self,
        slot: u32,
        writes: Vec<(u64, AlignedBuf)>,
    ) -> Result<(), StoreError> {
        if writes.is_empty() {
            return Ok(());
        }
        let shared = &self.shared;
        let file = shared.files.get(slot).await.map_err(|e| shared.fail("open a segment", &e))?;
        match write_all(&*file, writes).await {
            Ok(()) => {}
            // A file system that copies on write may lack space for a file that it has space for.
            // Nothing was acknowledged; the next batch goes to the same place.
            Err(e) if e.kind() == io::ErrorKind::StorageFull => return Err(StoreError::Full),
            Err(e) => return Err(shared.fail("write to a segment", &e)),
        }
        if planted::has(Bug::AckBeforeSync) {
            return Ok(());
        }
        file.sync_data().await.map_err(|e| shared.fail("sync a segment", &e))
    }
}

async fn write_all(file: &dyn File, writes: Vec<(u64, AlignedBuf)>) -> io::Result<()> {
    stream::iter(writes)
        .map(|(offset, buf)| async move { file.write_at(offset, buf).await.map(drop) })
        .buffer_unordered(WRITES_AT_ONCE)
        .try_collect()
        .await
}

impl Op {
    /// Whether it may use the reserve.
    fn class(&self) -> Class {
        match self {
            Op::Put(_) => Class::Ordinary,
            Op::Move(_) | Op::Delete { .. } | Op::Retain { .. } => Class::Reserved,
        }
    }
}
