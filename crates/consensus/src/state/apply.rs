//! The host as openraft sees it: apply, snapshot, install.

use super::db::{self, View};
use super::shown::{BatchTxn, Recent, Shown};
use super::snapshot::{SnapshotData, Staged};
use super::{Host, next};
use crate::types::{
    Answer, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, entry_bytes,
};
use everhold_proto::LogIndex;
use everhold_proto::kv::{KvResult, Writes};
use everhold_proto::planted::{self, Bug};
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Entries that are answered together.
const BATCH_ENTRIES_MAX: usize = 256;
/// Bytes of entries that are answered together, so that a batch of large commands does not delay answers.
const BATCH_BYTES_MAX: usize = 1 << 20;

#[derive(Default)]
struct Batch {
    entries: Vec<Entry>,
    responders: Vec<Option<ApplyResponder<Types>>>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, entry: Entry, responder: Option<ApplyResponder<Types>>) {
        self.bytes += entry_bytes(&entry);
        self.entries.push(entry);
        self.responders.push(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= BATCH_ENTRIES_MAX || self.bytes >= BATCH_BYTES_MAX
    }
}

impl Host {
    /// Applies one batch and answers it. Nothing after a failure: that would leave out what failed.
    async fn apply_batch(&self, batch: Batch) -> io::Result<()> {
        let Some(last) = batch.entries.last().map(|e| e.log_id) else { return Ok(()) };
        let writer = self.0.writer.lock().await;
        self.check_sound()?;
        let (done, answers) = self.run(&batch.entries).map_err(|e| self.fail(e))?;
        let is_full = self.0.shown.write().absorb(done, last);
        // Told in the order in which it was done.
        self.note_applied(last, batch.entries.len() as u64);
        self.0.env.witness.tell(|witness| {
            for (entry, answer) in batch.entries.iter().zip(&answers) {
                if let EntryPayload::Normal(command) = &entry.payload {
                    witness.applied(LogIndex(entry.log_id.index), &command.0, answer);
                }
            }
        });
        for (responder, answer) in batch.responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(Answer(answer));
            }
        }
        match is_full {
            true => self.commit(&writer),
            false => Ok(()),
        }
    }

    /// What entries do and answer.
    fn run(&self, entries: &[Entry]) -> KvResult<(Recent, Vec<Vec<u8>>)> {
        let mut txn = BatchTxn { shown: self.shown(), writes: Writes::default() };
        let mut membership = None;
        let answers = entries.iter().map(|entry| match &entry.payload {
            EntryPayload::Normal(command) => {
                self.0.machine.apply(&mut txn, LogIndex(entry.log_id.index), &command.0)
            }
            EntryPayload::Membership(m) => {
                membership = Some(StoredMembership::new(Some(entry.log_id), m.clone()));
                Ok(Vec::new())
            }
            EntryPayload::Blank => Ok(Vec::new()),
        });
        let answers = answers.collect::<KvResult<_>>()?;
        Ok((Recent { writes: txn.writes, membership }, answers))
    }

    fn note_applied(&self, last: LogId, entries: u64) {
        self.0.applied_next.send_replace(last.index + 1);
        let mut unflushed = self.0.unflushed.lock();
        *unflushed += entries;
        if *unflushed >= self.0.flush_entries {
            *unflushed = 0;
            self.0.flush_wanted.notify_one();
        }
    }

    /// Shows the witness every row.
    fn show_state(&self) -> KvResult<()> {
        let mut rows = Vec::new();
        self.read(|kv, index| {
            kv.scan(&[], &[u8::MAX; 64], &mut |key, value| {
                rows.push((key.to_vec(), value.to_vec()));
                ControlFlow::Continue(())
            })?;
            self.0.env.witness.tell(|witness| witness.installed(index, &rows));
            Ok(())
        })
    }

    /// Makes `staged` the state. After a crash it is either the old state or the new one.
    async fn install(&self, staged: Staged) -> io::Result<()> {
        let inner = &self.0;
        let _writer = inner.writer.lock().await;
        let applied = staged.meta.last_log_id;
        let number = staged.db.number;
        if next(applied) <= *inner.applied_next.borrow() {
            return Err(io::Error::other("a snapshot older than the state"));
        }
        // The file's own name must be durable before CURRENT leads to it.
        inner.env.disk.sync_dir(&inner.dir).await?;
        db::write_current(&inner.env, &inner.dir, number).await?;
        let view = staged.db.view().map_err(|e| self.fail(e))?;
        self.show(Shown::of(view));
        *inner.current.write() = Arc::new(staged.db);
        if inner.env.witness.is_someone() {
            self.show_state().map_err(|e| self.fail(e))?;
        }
        inner.applied_next.send_replace(next(applied));
        inner.durable_next.send_replace(next(applied));
        inner.purge_limit.raise(next(applied));
        db::remove_others(&inner.env, &inner.dir, number, false).await
    }
}

impl RaftStateMachine<Types> for Host {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let view = self.view().await?;
        let membership = view.membership().map_err(|e| self.fail(e))?;
        Ok((view.applied, membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        let mut batch = Batch::default();
        while let Some((entry, responder)) = entries.try_next().await? {
            batch.push(entry, responder);
            if batch.is_full() {
                self.apply_batch(std::mem::take(&mut batch)).await?;
            }
        }
        self.apply_batch(batch).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The view is taken here, between two applies, so openraft knows of everything in it.
        Builder { host: self.clone(), view: self.view().await }
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: SnapshotData,
    ) -> Result<(), io::Error> {
        let result = match snapshot {
            SnapshotData::Staged(staged) if staged.meta == *meta => self.install(staged).await,
            SnapshotData::Staged(_) => {
                Err(io::Error::other("a snapshot under another one's description"))
            }
            SnapshotData::Live(_) => Err(io::Error::other("a snapshot of the state that is there")),
        };
        result.inspect_err(|e| self.0.fatal.trip(format!("snapshot installation: {e}")))
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        let view = self.view().await?;
        view.applied.is_some().then(|| live(view)).transpose().map_err(|e| self.fail(e))
    }
}

fn live(view: Arc<View>) -> KvResult<Snapshot> {
    Ok(Snapshot { meta: view.meta()?, snapshot: SnapshotData::Live(view) })
}

/// Builds a snapshot: makes durable what the view shows, so that the log may be purged up to it.
pub(crate) struct Builder {
    host: Host,
    view: io::Result<Arc<View>>,
}

impl RaftSnapshotBuilder<Types> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let view = std::mem::replace(
            &mut self.view,
            Err(io::Error::other("the snapshot was built already")),
        )?;
        if !planted::has(Bug::PurgePastDurable) {
            self.host.flush().await?;
        }
        live(view).map_err(|e| self.host.fail(e))
    }
}
