//! The one task that writes the log: it takes all that waits, writes it as one frame with one sync,
//! and completes the callbacks in order (group commit).
//!
//! **A failed write or sync is final.** What is on disk is then unknown, so nothing is tried again:
//! every caller gets the error, the replica announces that it failed, and the process ends.

use super::Shared;
use super::frame::{self, frame_bytes};
use super::identity::Mark;
use super::index::FrameRef;
use super::queue::{Completion, Op};
use super::record::{self, Base, Record};
use super::recover::truncate_segments;
use super::segment::{self, Segment};
use crate::types::{Entry, LogId, Vote, entry_bytes};
use everhold_env::{AlignedBuf, File};
use everhold_proto::planted::{self, Bug};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// A frame in the making, and what must happen once it is durable.
#[derive(Default)]
struct Batch {
    payload: Vec<u8>,
    run: Option<Run>,
    last_log_id: Option<LogId>,
    effects: Vec<Effect>,
    completions: Vec<Completion>,
    close: bool,
}

/// The entries of a frame: one ascending run.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    last: u64,
    bytes: usize,
    generation: u64,
}

impl Batch {
    fn add(&mut self, record: Record, effect: Effect) {
        record::encode(&record, &mut self.payload);
        self.effects.push(effect);
    }

    /// Takes entries while they fit; true when none is left.
    fn take_entries(
        &mut self,
        entries: &mut VecDeque<Entry>,
        generation: u64,
        room: usize,
    ) -> bool {
        while let Some(entry) = entries.front() {
            let fits = self.payload.len() + record::encoded_bytes(entry) <= room;
            let continues = self.run.is_none_or(|run| run.last + 1 == entry.log_id.index);
            if (!fits && !self.payload.is_empty()) || !continues {
                return false;
            }
            record::encode_entry(entry, &mut self.payload);
            let (index, bytes) = (entry.log_id.index, entry_bytes(entry));
            let run =
                self.run.get_or_insert(Run { first: index, last: index, bytes: 0, generation });
            (run.last, run.bytes, run.generation) = (index, run.bytes + bytes, generation);
            self.last_log_id = Some(entry.log_id);
            entries.pop_front();
        }
        true
    }

    fn purged_upto(&self) -> Option<u64> {
        self.effects.iter().rev().find_map(|e| match e {
            Effect::Purge(upto) => Some(upto.index),
            _ => None,
        })
    }
}

enum Effect {
    Vote(Vote),
    Truncate(Option<LogId>),
    Purge(LogId),
}

pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) file: Arc<dyn File>,
    pub(super) segment: u64,
    pub(super) offset: u64,
    pub(super) sequence: u64,
    /// The log's state as far as it is written, for the first record of the next segment.
    pub(super) written: Base,
    pub(super) buffer: Option<AlignedBuf>,
}

impl Writer {
    /// Serves requests until it is closed or fails.
    pub(super) async fn run(mut self) {
        let mut pending = VecDeque::new();
        loop {
            if pending.is_empty() {
                pending = self.shared.next_ops().await;
            }
            let mut batch = self.gather(&mut pending);
            let close = batch.close;
            let mut completions = std::mem::take(&mut batch.completions);
            if planted::has(Bug::LogAckBeforeSync) {
                completions.drain(..).for_each(|c| c.complete(Ok(())));
            }
            match self.commit(batch).await {
                Ok(()) => completions.into_iter().for_each(|c| c.complete(Ok(()))),
                Err(e) => return self.fail(e, completions, pending),
            }
            if close {
                let result = self.shared.save_mark().await;
                return self.shared.end(pending, result.err());
            }
        }
    }

    /// Moves requests from `pending` into one frame, as many as fit.
    fn gather(&self, pending: &mut VecDeque<Op>) -> Batch {
        let mut batch = Batch::default();
        let room = self.shared.frame_payload_max();
        while let Some(op) = pending.pop_front() {
            match op {
                Op::Append { mut entries, generation, done } => {
                    if batch.take_entries(&mut entries, generation, room) {
                        batch.completions.push(Completion::Flushed(done));
                    } else {
                        pending.push_front(Op::Append { entries, generation, done });
                        break;
                    }
                }
                Op::Vote(vote, done) => {
                    batch.add(Record::Vote(vote), Effect::Vote(vote));
                    batch.completions.push(Completion::Done(done));
                }
                // Entries of a frame are one run, so what breaks the run starts the next frame.
                op @ (Op::Truncate(..) | Op::Purge(..)) if batch.run.is_some() => {
                    pending.push_front(op);
                    break;
                }
                Op::Truncate(after, done) => {
                    batch.add(Record::Truncate(after), Effect::Truncate(after));
                    batch.completions.push(Completion::Done(done));
                }
                Op::Purge(upto, done) => {
                    batch.add(Record::Purge(upto), Effect::Purge(upto));
                    batch.completions.push(Completion::Done(done));
                }
                Op::Close(done) => {
                    batch.completions.push(Completion::Done(done));
                    batch.close = true;
                    break;
                }
            }
        }
        batch
    }

    async fn commit(&mut self, mut batch: Batch) -> io::Result<()> {
        if batch.payload.is_empty() {
            return Ok(());
        }
        let committed = self.shared.committed_within(batch.run.map(|r| r.last), self.written.last);
        if committed.is_some() && committed != self.written.committed {
            record::encode(&Record::Committed(committed), &mut batch.payload);
            self.written.committed = committed;
        }
        if self.offset + frame_bytes(batch.payload.len()) as u64 > self.shared.segment_bytes {
            self.rotate().await?;
        }
        let (offset, frame_bytes) = (self.offset, self.write(&batch.payload, 0).await?);
        self.apply(&batch, offset, frame_bytes);
        if let Some(upto) = batch.purged_upto() {
            self.retire_segments(upto).await?;
        }
        Ok(())
    }

    /// Writes one frame and makes it durable.
    async fn write(&mut self, payload: &[u8], previous_end: u64) -> io::Result<usize> {
        let buffer = self.buffer.take();
        let frame = frame::encode(self.segment, self.sequence, previous_end, payload, buffer);
        let bytes = frame.len();
        let buffer = self.file.write_durably(self.offset, frame).await?;
        // A large buffer is given back, so that one burst does not pin memory for ever.
        self.buffer = (buffer.capacity() <= 1 << 20).then_some(buffer);
        self.offset += bytes as u64;
        self.sequence += 1;
        self.shared.state.lock().synced = Mark { segment: self.segment, end: self.offset };
        Ok(bytes)
    }

    /// Starts the next segment.
    async fn rotate(&mut self) -> io::Result<()> {
        let shared = self.shared.clone();
        let _names = shared.names.lock().await;
        let number = self.segment + 1;
        self.file = segment::create(&shared.env, &shared.dir, number, shared.segment_bytes).await?;
        let previous_end = std::mem::replace(&mut self.offset, 0);
        self.segment = number;
        let mut payload = Vec::new();
        record::encode(&Record::Base(self.written.clone()), &mut payload);
        self.write(&payload, previous_end).await?;
        let segment = Segment { file: self.file.clone(), last_index: None };
        shared.state.lock().segments.insert(number, segment);
        drop(_names);
        self.shared.save_mark().await?;
        shared.prepare_spare();
        Ok(())
    }

    /// Brings memory up to what is now durable.
    fn apply(&mut self, batch: &Batch, offset: u64, frame_bytes: usize) {
        let mut state = self.shared.state.lock();
        for effect in &batch.effects {
            match effect {
                Effect::Vote(vote) => {
                    self.written.vote = Some(*vote);
                    state.index.vote = Some(*vote);
                }
                Effect::Truncate(after) => {
                    self.written.last = *after;
                    state.index.truncate_frames(*after);
                    truncate_segments(&mut state.segments, after.map(|a| a.index));
                }
                Effect::Purge(upto) => {
                    self.written.purged = Some(*upto);
                    self.written.last = self.written.last.max(Some(*upto));
                    state.index.purge_frames(upto.index);
                }
            }
        }
        if let Some(run) = batch.run {
            self.written.last = batch.last_log_id.or(self.written.last);
            state.index.add_frame(FrameRef {
                segment: self.segment,
                offset,
                frame_bytes,
                entry_bytes: run.bytes,
                first: run.first,
                last: run.last,
            });
            state.index.set_durable(run.last + 1, run.generation);
            if let Some(segment) = state.segments.get_mut(&self.segment) {
                segment.last_index = Some(run.last);
            }
            state.queued_bytes = state.queued_bytes.saturating_sub(run.bytes);
        }
        drop(state);
        self.shared.room.notify_waiters();
    }

    /// Lets go of the oldest segments that hold nothing but purged entries.
    async fn retire_segments(&mut self, upto: u64) -> io::Result<()> {
        let shared = self.shared.clone();
        let _names = shared.names.lock().await;
        let mut retired = false;
        loop {
            let oldest = {
                let mut state = shared.state.lock();
                match state.segments.first_key_value() {
                    Some((number, s))
                        if *number != self.segment && s.last_index.is_none_or(|i| i <= upto) =>
                    {
                        let number = *number;
                        state.segments.remove(&number);
                        number
                    }
                    _ => break,
                }
            };
            segment::retire(&shared.env, &shared.dir, oldest).await?;
            // Oldest first, each durable before the next: a crash never leaves a gap.
            shared.env.disk.sync_dir(&shared.dir).await?;
            retired = true;
        }
        if retired {
            tracing::debug!(upto, "raft log segments recycled");
        }
        Ok(())
    }

    fn fail(self, error: io::Error, completions: Vec<Completion>, pending: VecDeque<Op>) {
        self.shared.fatal.trip(format!("raft log: {error}"));
        let copy = || io::Error::new(error.kind(), error.to_string());
        completions.into_iter().for_each(|c| c.complete(Err(copy())));
        self.shared.end(pending, Some(copy()));
    }
}
