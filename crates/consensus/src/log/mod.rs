//! The Raft log: append-only segments with group commit, a cache of recent entries, and the identity
//! of the replica. Implements openraft's `RaftLogStorage` in [`storage`].
//!
//! **Invariants.** Entries, votes, truncations and purges become durable in the order in which Raft
//! asked for them. A callback is completed only after a sync that covers it. `purge` never passes
//! what the state machine holds on stable storage.

mod frame;
mod identity;
mod index;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod model;
mod open;
mod queue;
mod record;
mod recover;
mod segment;
mod storage;
#[cfg(test)]
mod tests;
mod writer;

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

pub use identity::LogIdentity;
pub use open::Opening;
pub(crate) use record::{ENTRY_OVERHEAD, INDEX_MAX};

use crate::fatal::Fatal;
use crate::types::{Entry, LogId, Types, Vote};
use crate::{ConsensusConfig, ConsensusError};
use everhold_env::{Env, Task};
use everhold_proto::planted::{self, Bug};
use identity::{IdentityFile, Mark};
use index::{Hole, Index};
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use queue::{Done, Op};
use record::Base;
use recover::{Recovered, recover};
use segment::Segment;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::{Notify, oneshot};
use writer::Writer;

/// Entries that wait for the disk; beyond it an append waits, and with it all of Raft.
const QUEUED_BYTES_MAX: usize = 32 << 20;
/// Bytes read from disk for one request for entries.
const READ_BYTES_MAX: usize = 1 << 20;

/// Entries below it are on stable storage in the state machine, so the log may be purged below it.
#[derive(Clone, Default)]
pub(crate) struct PurgeLimit(Arc<AtomicU64>);

impl PurgeLimit {
    /// The state machine holds all entries below `next` on stable storage.
    pub(crate) fn raise(&self, next: u64) {
        self.0.fetch_max(next, Ordering::AcqRel);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

/// Bytes that fit into the payload of one frame of such segments. A segment holds its base frame and
/// at least one more.
pub(crate) fn frame_payload_max(segment_bytes: u64) -> usize {
    let page = everhold_env::ALIGNMENT as u64;
    let room = segment_bytes.saturating_sub(4 * page) as usize;
    room.min(frame::PAYLOAD_BYTES_MAX - page as usize)
}

/// A handle to the log; clones share it.
#[derive(Clone)]
pub(crate) struct Log {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Option<Task<()>>>>,
}

pub(crate) struct Shared {
    env: Env,
    dir: PathBuf,
    segment_bytes: u64,
    fatal: Fatal,
    state: Mutex<State>,
    /// Something is in the queue.
    work: Notify,
    /// The queue became shorter.
    room: Notify,
    /// Held while segment files change their names.
    names: tokio::sync::Mutex<()>,
    identity: LogIdentity,
    /// What the identity file says is durable; held while it is written.
    saved_mark: tokio::sync::Mutex<Mark>,
    purge_limit: PurgeLimit,
}

struct State {
    index: Index,
    segments: BTreeMap<u64, Segment>,
    queue: VecDeque<Op>,
    queued_bytes: usize,
    /// Everything up to it is durable.
    synced: Mark,
    ended: Option<String>,
}

impl Log {
    /// Opens or creates the log in `dir` and starts its writer.
    pub(crate) async fn open(
        env: &Env,
        dir: &Path,
        config: &ConsensusConfig,
        opening: Opening,
        purge_limit: PurgeLimit,
        fatal: Fatal,
    ) -> Result<(Log, LogIdentity), ConsensusError> {
        env.disk
            .create_dir_all(dir)
            .await
            .map_err(ConsensusError::io(format!("create {}", dir.display())))?;
        let mut file = match opening {
            Opening::New(identity) => open::create(env, dir, config, identity).await?,
            Opening::Existing { cluster, node } => open::existing(env, dir, cluster, node).await?,
        };
        let recovered = recover(env, dir, file.synced, config.log_cache_bytes).await?;
        // A process that was killed leaves frames that it never synced: they are read back from the page
        // cache, and count as durable from here on.
        for (number, segment) in recovered.segments.range(file.synced.segment..) {
            let failed = || format!("sync {}", segment::path(dir, *number).display());
            segment.file.sync_data().await.map_err(ConsensusError::io(failed()))?;
        }
        file.identity.boot_counter += 1;
        file.synced = Mark { segment: recovered.current, end: recovered.end };
        file.write(env, dir)
            .await
            .map_err(ConsensusError::io(format!("write identity in {}", dir.display())))?;
        let log = Log::start(env, dir, config, recovered, file, purge_limit, fatal)?;
        Ok((log, file.identity))
    }

    fn start(
        env: &Env,
        dir: &Path,
        config: &ConsensusConfig,
        recovered: Recovered,
        file: IdentityFile,
        purge_limit: PurgeLimit,
        fatal: Fatal,
    ) -> Result<Log, ConsensusError> {
        let Recovered { index, segments, current, end, sequence } = recovered;
        let segment_file = segments.get(&current).map(|s| s.file.clone()).ok_or_else(|| {
            ConsensusError::Incomplete {
                path: dir.to_owned(),
                reason: "no segment to append to".into(),
            }
        })?;
        let written = Base {
            vote: index.vote,
            committed: index.committed,
            purged: index.purged,
            last: index.last,
        };
        let state = State {
            index,
            segments,
            queue: VecDeque::new(),
            queued_bytes: 0,
            synced: file.synced,
            ended: None,
        };
        let shared = Arc::new(Shared {
            env: env.clone(),
            dir: dir.to_owned(),
            segment_bytes: config.segment_bytes,
            fatal,
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
            names: tokio::sync::Mutex::new(()),
            identity: file.identity,
            saved_mark: tokio::sync::Mutex::new(file.synced),
            purge_limit,
        });
        shared.prepare_spare();
        let writer = Writer {
            shared: shared.clone(),
            file: segment_file,
            segment: current,
            offset: end,
            sequence,
            written,
            buffer: None,
        };
        let task = env.tasks.spawn(writer.run());
        Ok(Log { shared, writer: Arc::new(Mutex::new(Some(task))) })
    }

    /// The log id up to which the log is gone.
    pub(crate) fn purged(&self) -> Option<LogId> {
        self.shared.state.lock().index.purged
    }

    /// Bytes of durable entries behind `index`.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.shared.state.lock().index.bytes_after(index)
    }

    /// Where to purge so that a segment comes free and `keep_bytes` of entries stay; at most `limit`, and
    /// only what is durably applied: after a start, the state shows entries that it does not hold durably.
    pub(crate) fn purge_candidate(&self, limit: u64, keep_bytes: u64) -> Option<u64> {
        let state = self.shared.state.lock();
        if planted::has(Bug::PurgePastDurable) {
            return Some(limit);
        }
        let durable = self.shared.purge_limit.get().checked_sub(1)?;
        let wanted = state.index.index_before_last(keep_bytes)?.min(limit).min(durable);
        let newest = *state.segments.last_key_value()?.0;
        let whole = state
            .segments
            .iter()
            .take_while(|(n, s)| **n != newest && s.last_index.is_none_or(|i| i <= wanted));
        let upto = whole.filter_map(|(_, s)| s.last_index).max()?;
        (state.index.purged.is_none_or(|p| p.index < upto)).then_some(upto)
    }

    /// Records how far the log is durable, so that damage below that point shows at the next start.
    pub(crate) async fn save_mark(&self) -> io::Result<()> {
        let saved = self.shared.save_mark().await;
        saved.inspect_err(|e| self.shared.fatal.trip(format!("raft identity: {e}")))
    }

    /// Writes what waits and ends the writer.
    pub(crate) async fn close(&self) -> io::Result<()> {
        let result = self.shared.request(Op::Close).await;
        let task = self.writer.lock().take();
        if let Some(task) = task {
            task.join().await;
        }
        result
    }

    fn append_now(
        &self,
        entries: Vec<Entry>,
        done: IOFlushed<Types>,
    ) -> Result<(), (io::Error, IOFlushed<Types>)> {
        let limit = frame_payload_max(self.shared.segment_bytes);
        if let Some(entry) = entries.iter().find(|e| record::encoded_bytes(e) > limit) {
            let what = format!("entry {} is larger than a frame of the log", entry.log_id);
            return Err((io::Error::new(io::ErrorKind::InvalidInput, what), done));
        }
        let mut state = self.shared.state.lock();
        if let Some(reason) = &state.ended {
            return Err((io::Error::other(reason.clone()), done));
        }
        for entry in &entries {
            if let Err(hole) = state.index.append(entry.clone()) {
                return Err((hole.into(), done));
            }
        }
        state.queued_bytes += entries.iter().map(crate::types::entry_bytes).sum::<usize>();
        let generation = state.index.generation;
        state.queue.push_back(Op::Append { entries: entries.into(), generation, done });
        drop(state);
        self.shared.work.notify_one();
        Ok(())
    }

    fn save_committed_hint(&self, committed: Option<LogId>) {
        self.shared.state.lock().index.committed = committed;
    }

    async fn save_vote_durably(&self, vote: Vote) -> io::Result<()> {
        self.shared.request(|done| Op::Vote(vote, done)).await
    }

    async fn truncate_durably(&self, after: Option<LogId>) -> io::Result<()> {
        self.shared
            .request_with(|state| state.index.truncate(after), |done| Op::Truncate(after, done))
            .await
    }

    async fn purge_durably(&self, upto: LogId) -> io::Result<()> {
        let limit = self.shared.purge_limit.get();
        assert!(
            upto.index < limit || planted::has(Bug::PurgePastDurable),
            "purge up to {upto}, but only entries below {limit} are durably applied"
        );
        self.shared
            .request_with(|state| state.index.purge(upto), |done| Op::Purge(upto, done))
            .await
    }
}

impl Shared {
    fn frame_payload_max(&self) -> usize {
        frame_payload_max(self.segment_bytes)
    }

    async fn request(&self, op: impl FnOnce(Done) -> Op) -> io::Result<()> {
        self.request_with(|_| (), op).await
    }

    /// Changes memory and queues the request in one step, then waits until it is durable.
    async fn request_with(
        &self,
        change: impl FnOnce(&mut State),
        op: impl FnOnce(Done) -> Op,
    ) -> io::Result<()> {
        let (done, answer) = oneshot::channel();
        {
            let mut state = self.state.lock();
            if let Some(reason) = &state.ended {
                return Err(io::Error::other(reason.clone()));
            }
            change(&mut state);
            state.queue.push_back(op(done));
        }
        self.work.notify_one();
        answer.await.unwrap_or_else(|_| Err(io::Error::other("the raft log has ended")))
    }

    async fn save_mark(&self) -> io::Result<()> {
        let mut saved = self.saved_mark.lock().await;
        let synced = self.state.lock().synced;
        if synced > *saved {
            let file = IdentityFile { identity: self.identity, synced };
            file.write(&self.env, &self.dir).await?;
            *saved = synced;
        }
        Ok(())
    }

    /// Waits for requests and takes all of them.
    async fn next_ops(&self) -> VecDeque<Op> {
        loop {
            let ops = std::mem::take(&mut self.state.lock().queue);
            if !ops.is_empty() {
                return ops;
            }
            self.work.notified().await;
        }
    }

    /// Waits until the queue has room for more entries.
    async fn wait_for_room(&self) {
        loop {
            let room = self.room.notified();
            {
                let state = self.state.lock();
                if state.queued_bytes < QUEUED_BYTES_MAX || state.ended.is_some() {
                    return;
                }
            }
            room.await;
        }
    }

    /// The commit point, if the log is written that far once entries up to `writing` are.
    fn committed_within(&self, writing: Option<u64>, written: Option<LogId>) -> Option<LogId> {
        let committed = self.state.lock().index.committed?;
        let last = writing.or(written.map(|w| w.index))?;
        (committed.index <= last).then_some(committed)
    }

    /// The writer has ended: everyone who waits, and whoever comes later, gets an error.
    fn end(&self, pending: VecDeque<Op>, error: Option<io::Error>) {
        let reason = error.map_or("the raft log is closed".to_owned(), |e| e.to_string());
        let queued = {
            let mut state = self.state.lock();
            state.ended = Some(reason.clone());
            std::mem::take(&mut state.queue)
        };
        for op in pending.into_iter().chain(queued) {
            op.into_completion().complete(Err(io::Error::other(reason.clone())));
        }
        self.room.notify_waiters();
    }

    /// Makes a spare segment in the background; without one a rotation makes its own.
    fn prepare_spare(self: &Arc<Self>) {
        let shared = self.clone();
        self.env.tasks.detach(async move {
            let _names = shared.names.lock().await;
            if let Err(error) =
                segment::prepare_spare(&shared.env, &shared.dir, shared.segment_bytes).await
            {
                tracing::warn!(%error, "no spare raft log segment");
            }
        });
    }
}

impl From<Hole> for io::Error {
    fn from(hole: Hole) -> Self {
        io::Error::new(io::ErrorKind::InvalidInput, hole)
    }
}
