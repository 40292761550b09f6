//! The log as openraft sees it.

use super::index::ReadPlan;
use super::record::{self, Record};
use super::{Log, READ_BYTES_MAX, segment};
use crate::types::{Entry, LogId, Types, Vote};
use futures_util::{Stream, StreamExt, stream};
use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

impl Log {
    /// Entries of `start..end`, as many as make up about `bytes_max` but at least one if there is one.
    pub(super) async fn read(
        &self,
        start: u64,
        end: u64,
        bytes_max: usize,
    ) -> io::Result<Vec<Entry>> {
        let plan = self.shared.state.lock().index.plan(start, end, bytes_max);
        let mut entries = Vec::with_capacity(plan.cached.len());
        self.read_frames(&plan, &mut entries).await?;
        entries.extend(plan.cached);
        Ok(entries)
    }

    async fn read_frames(&self, plan: &ReadPlan, entries: &mut Vec<Entry>) -> io::Result<()> {
        for frame in &plan.frames {
            let file =
                self.shared.state.lock().segments.get(&frame.segment).map(|s| s.file.clone());
            let payload = match file {
                Some(file) => {
                    segment::read_frame(&file, frame.segment, frame.offset, frame.frame_bytes)
                        .await?
                }
                None => None,
            };
            let Some(payload) = payload else {
                if self.purged().is_some_and(|p| p.index >= frame.last) {
                    continue; // purged, and its segment recycled, while this read was on its way
                }
                let what =
                    format!("damaged frame at {} of segment {}", frame.offset, frame.segment);
                self.shared.fatal.trip(format!("raft log: {what}"));
                return Err(io::Error::new(io::ErrorKind::InvalidData, what));
            };
            let records = record::decode_all(&payload)
                .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            let wanted = plan.from.max(frame.first)..plan.upto.min(frame.last + 1);
            entries.extend(records.into_iter().filter_map(|record| match record {
                Record::Entry(entry) if wanted.contains(&entry.log_id.index) => Some(entry),
                _ => None,
            }));
        }
        Ok(())
    }

    /// The commit point that was saved, if the log still agrees with it.
    async fn sound_committed(&self) -> io::Result<Option<LogId>> {
        let (committed, purged) = {
            let state = self.shared.state.lock();
            (state.index.committed, state.index.purged)
        };
        let Some(committed) = committed else { return Ok(None) };
        if purged.is_some_and(|p| p.index >= committed.index) {
            return Ok(purged.filter(|p| *p == committed));
        }
        let found = self.read(committed.index, committed.index + 1, 1).await?;
        Ok(found.first().map(|e| e.log_id).filter(|id| *id == committed))
    }
}

fn bounds(range: impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(before) => before.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<Types> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let (start, end) = bounds(range);
        self.read(start, end, usize::MAX).await
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        Ok(self.shared.state.lock().index.vote)
    }

    async fn limited_get_log_entries(
        &mut self,
        start: u64,
        end: u64,
    ) -> Result<Vec<Entry>, io::Error> {
        let entries = self.read(start, end, READ_BYTES_MAX).await?;
        let mut bytes = 0;
        let fits = |e: &Entry| {
            let first = bytes == 0;
            bytes += crate::types::entry_bytes(e);
            first || bytes <= READ_BYTES_MAX
        };
        Ok(entries.into_iter().take_while(fits).collect())
    }

    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl Stream<Item = Result<Entry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let (start, end) = bounds(range);
        let log = self.clone();
        stream::unfold(Some(start), move |next| {
            let log = log.clone();
            async move {
                let start = next.filter(|start| *start < end)?;
                match log.read(start, end, READ_BYTES_MAX).await {
                    Ok(entries) => {
                        let next = entries.last().map(|e| e.log_id.index + 1);
                        Some((entries.into_iter().map(Ok).collect::<Vec<_>>(), next))
                    }
                    Err(e) => Some((vec![Err(e)], None)),
                }
            }
        })
        .flat_map(stream::iter)
    }
}

impl RaftLogStorage<Types> for Log {
    type LogReader = Log;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let state = self.shared.state.lock();
        Ok(LogState { last_purged_log_id: state.index.purged, last_log_id: state.index.last })
    }

    async fn get_log_reader(&mut self) -> Log {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        self.save_vote_durably(*vote).await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        self.save_committed_hint(committed);
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        self.sound_committed().await
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.shared.wait_for_room().await;
        self.append_now(entries, callback).map_err(|(error, callback)| {
            callback.io_completed(Err(io::Error::new(error.kind(), error.to_string())));
            error
        })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        self.truncate_durably(last_log_id).await
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        self.purge_durably(log_id).await
    }
}
