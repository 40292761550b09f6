//! The host as openraft sees it: apply, snapshot, install.

use super::db::{self, View};
use super::kv::WriteKv;
use super::snapshot::{SnapshotData, Staged};
use super::{Host, next};
use crate::types::{
    Answer, Entry, LogId, Snapshot, SnapshotMeta, StoredMembership, Types, entry_bytes,
};
use everhold_proto::LogIndex;
use everhold_proto::kv::KvResult;
use everhold_proto::planted::{self, Bug};
use futures_util::{Stream, TryStreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::Mutex;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;

/// Entries in one redb transaction: a commit costs about as much as ten commands, so 256 hide it. Where nobody waits
/// for answers, entries gather for it ([`Host::apply_deferred`]).
const BATCH_ENTRIES_MAX: usize = 256;
/// Bytes of entries in one redb transaction, so that a batch of large commands does not stall reads.
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

    /// Nobody here waits for an answer: this replica does not lead, or did not when it got the entries.
    fn may_wait(&self) -> bool {
        !self.is_full() && self.responders.iter().all(Option::is_none)
    }

    fn append(&mut self, mut later: Batch) {
        self.entries.append(&mut later.entries);
        self.responders.append(&mut later.responders);
        self.bytes += later.bytes;
    }
}

/// Committed entries that are applied a little later, together: for openraft they are applied. They are in the
/// log, and nothing is read that should show them: reads wait for `applied_next`.
#[derive(Default)]
pub(super) struct Deferred(Mutex<Batch>);

impl Host {
    /// Returns when entries have been put off; they are to be applied soon.
    pub(crate) async fn deferred(&self) {
        self.0.defers.notified().await;
    }

    /// Applies what was put off. Whoever applies at this moment takes it along.
    pub(crate) async fn apply_deferred(&self) -> io::Result<()> {
        if self.0.deferred.0.lock().entries.is_empty() {
            return Ok(());
        }
        self.apply_batch(Batch::default()).await
    }

    /// Puts a batch off, unless too much is already.
    async fn defer(&self, batch: Batch) -> io::Result<()> {
        if batch.entries.is_empty() {
            return Ok(());
        }
        let is_full = {
            let mut deferred = self.0.deferred.0.lock();
            deferred.append(batch);
            deferred.is_full()
        };
        if is_full {
            return self.apply_deferred().await;
        }
        self.0.defers.notify_one();
        Ok(())
    }

    /// Applies what was put off and then one batch, and answers it. Nothing after a failure: that would leave out what
    /// failed.
    async fn apply_batch(&self, batch: Batch) -> io::Result<()> {
        let writer = self.0.writer.lock().await;
        self.check_sound()?;
        let mut all = std::mem::take(&mut *self.0.deferred.0.lock());
        all.append(batch);
        let batch = all;
        let Some(last) = batch.entries.last().map(|e| e.log_id) else { return Ok(()) };
        let answers = self.commit_batch(&batch.entries, last).map_err(|e| self.fail(e))?;
        // Several apply, one after the other: what is announced keeps their order.
        self.note_applied(last, batch.entries.len() as u64);
        self.0.env.witness.tell(|witness| {
            for (entry, answer) in batch.entries.iter().zip(&answers) {
                if let EntryPayload::Normal(command) = &entry.payload {
                    witness.applied(LogIndex(entry.log_id.index), &command.0, answer);
                }
            }
        });
        drop(writer);
        for (responder, answer) in batch.responders.into_iter().zip(answers) {
            if let Some(responder) = responder {
                responder.send(Answer(answer));
            }
        }
        Ok(())
    }

    fn commit_batch(&self, entries: &[Entry], last: LogId) -> KvResult<Vec<Vec<u8>>> {
        let membership = entries.iter().rev().find_map(|entry| match &entry.payload {
            EntryPayload::Membership(m) => {
                Some(StoredMembership::new(Some(entry.log_id), m.clone()))
            }
            _ => None,
        });
        self.current().write(Some(last), membership.as_ref(), |kv: &mut WriteKv<'_>| {
            let apply = |entry: &Entry| match &entry.payload {
                EntryPayload::Normal(command) => {
                    self.0.machine.apply(kv, LogIndex(entry.log_id.index), &command.0)
                }
                EntryPayload::Blank | EntryPayload::Membership(_) => Ok(Vec::new()),
            };
            entries.iter().map(apply).collect()
        })
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
        *inner.current.write() = Arc::new(staged.db);
        // What was put off is in the snapshot: openraft installs none that is older than what it takes for applied.
        *inner.deferred.0.lock() = Batch::default();
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
        self.apply_deferred().await?;
        let view = self.view().map_err(|e| self.fail(e))?;
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
        match batch.may_wait() {
            true => self.defer(batch).await,
            false => self.apply_batch(batch).await,
        }
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // The view is taken here, between two applies, so openraft knows of everything in it, and it shows all that
        // openraft takes for applied.
        let view = match self.apply_deferred().await {
            Ok(()) => self.view().map_err(|e| self.fail(e)),
            Err(e) => Err(e),
        };
        Builder { host: self.clone(), view }
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
        self.apply_deferred().await?;
        let view = self.view().map_err(|e| self.fail(e))?;
        view.applied.is_some().then(|| live(view)).transpose().map_err(|e| self.fail(e))
    }
}

fn live(view: View) -> KvResult<Snapshot> {
    Ok(Snapshot { meta: view.meta()?, snapshot: SnapshotData::Live(Arc::new(view)) })
}

/// Builds a snapshot: makes durable what the view shows, so that the log may be purged up to it.
pub(crate) struct Builder {
    host: Host,
    view: io::Result<View>,
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
