//! The Raft log: append-only segments with group commit, a cache of recent entries, and the identity
//! of the replica. Implements openraft's `RaftLogStorage` in [`storage`].
//!
//! **Invariants.** Entries, votes, truncations and purges become durable in the order in which Raft
//! asked for them. A callback is completed only after a sync that covers it. `purge` never passes
//! what the state machine holds on stable storage.

mod frame;
mod identity;
mod index;
mod queue;
mod record;
mod recover;
mod segment;
mod storage;
#[cfg(test)]
mod tests;
mod writer;

pub use identity::LogIdentity;
pub(crate) use record::{ENTRY_OVERHEAD, INDEX_MAX};

use crate::fatal::Fatal;
use crate::types::{Entry, LogId, Types, Vote};
use crate::{ConsensusConfig, ConsensusError};
use everhold_env::{Env, Task};
use everhold_proto::{ClusterId, NodeId};
use identity::{IdentityFile, Mark};
use index::{Hole, Index};
use openraft::storage::IOFlushed;
use parking_lot::Mutex;
use queue::{Done, Op};
use record::{Base, Record};
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

/// Whose log to open.
#[derive(Clone, Copy, Debug)]
pub enum Opening {
    /// Create a log for a member that never ran before (its boot counter starts at 1).
    New(LogIdentity),
    /// Open the log that is there; it must belong to this cluster and node.
    Existing {
        /// The cluster it must belong to.
        cluster: ClusterId,
        /// The node it must belong to.
        node: NodeId,
    },
}

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
    /// Held while the identity file is written.
    identity_file: tokio::sync::Mutex<()>,
    purge_limit: PurgeLimit,
}

struct State {
    index: Index,
    segments: BTreeMap<u64, Segment>,
    queue: VecDeque<Op>,
    queued_bytes: usize,
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
            Opening::New(identity) => create(env, dir, config, identity).await?,
            Opening::Existing { cluster, node } => existing(env, dir, cluster, node).await?,
        };
        let recovered = recover(env, dir, file.synced, config.log_cache_bytes).await?;
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
        identity: IdentityFile,
        purge_limit: PurgeLimit,
        fatal: Fatal,
    ) -> Result<Log, ConsensusError> {
        let Recovered { index, segments, current, end, sequence } = recovered;
        let file = segments.get(&current).map(|s| s.file.clone()).ok_or_else(|| {
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
        let state = State { index, segments, queue: VecDeque::new(), queued_bytes: 0, ended: None };
        let shared = Arc::new(Shared {
            env: env.clone(),
            dir: dir.to_owned(),
            segment_bytes: config.segment_bytes,
            fatal,
            state: Mutex::new(state),
            work: Notify::new(),
            room: Notify::new(),
            names: tokio::sync::Mutex::new(()),
            identity_file: tokio::sync::Mutex::new(()),
            purge_limit,
        });
        shared.prepare_spare();
        let writer = Writer {
            shared: shared.clone(),
            file,
            segment: current,
            offset: end,
            sequence,
            written,
            identity,
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

    /// Where to purge so that a segment comes free and `keep_bytes` of entries stay; at most `limit`.
    pub(crate) fn purge_candidate(&self, limit: u64, keep_bytes: u64) -> Option<u64> {
        let state = self.shared.state.lock();
        let wanted = state.index.index_before_last(keep_bytes)?.min(limit);
        let newest = *state.segments.last_key_value()?.0;
        let whole = state
            .segments
            .iter()
            .take_while(|(n, s)| **n != newest && s.last_index.is_none_or(|i| i <= wanted));
        let upto = whole.filter_map(|(_, s)| s.last_index).max()?;
        (state.index.purged.is_none_or(|p| p.index < upto)).then_some(upto)
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
            upto.index < limit,
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

async fn existing(
    env: &Env,
    dir: &Path,
    cluster: ClusterId,
    node: NodeId,
) -> Result<IdentityFile, ConsensusError> {
    let path = dir.join(identity::FILE_NAME);
    let Some(file) = IdentityFile::read(env, dir).await? else {
        return Err(ConsensusError::Incomplete { path, reason: "there is no identity".into() });
    };
    let found = file.identity;
    if (found.cluster, found.node) != (cluster, node) {
        let name = |c: ClusterId, n: NodeId| format!("node {n} of cluster {c}");
        return Err(ConsensusError::Foreign {
            path,
            found: name(found.cluster, found.node),
            wanted: name(cluster, node),
        });
    }
    Ok(file)
}

/// Makes the first segment, then the identity: the other way round a crash between the two would
/// leave an identity without its log.
async fn create(
    env: &Env,
    dir: &Path,
    config: &ConsensusConfig,
    identity: LogIdentity,
) -> Result<IdentityFile, ConsensusError> {
    let failed = || ConsensusError::io(format!("create a raft log in {}", dir.display()));
    if IdentityFile::read(env, dir).await?.is_some() {
        return Err(ConsensusError::Exists(dir.to_owned()));
    }
    let leftover = segment::list(env, dir).await.map_err(failed())?;
    if leftover.iter().any(|n| *n != 1) || (leftover == [1] && !is_unused(env, dir).await?) {
        let reason = "there is a log but no identity".into();
        return Err(ConsensusError::Incomplete { path: dir.to_owned(), reason });
    }
    let file = segment::create(env, dir, 1, config.segment_bytes).await.map_err(failed())?;
    let mut payload = Vec::new();
    record::encode(&Record::Base(Base::default()), &mut payload);
    let first = frame::encode(1, 1, 0, &payload, None);
    let synced = Mark { segment: 1, end: first.len() as u64 };
    file.write_at(0, first).await.map_err(failed())?;
    file.sync_data().await.map_err(failed())?;
    let created = IdentityFile { identity: LogIdentity { boot_counter: 0, ..identity }, synced };
    created.write(env, dir).await.map_err(failed())?;
    Ok(created)
}

/// Whether segment 1 is what an interrupted creation leaves: nothing but its base.
async fn is_unused(env: &Env, dir: &Path) -> Result<bool, ConsensusError> {
    let image = segment::Image::read(env, dir, 1).await?;
    Ok(match image.frame_at(0, None) {
        Some((header, _)) => !image.has_frame_after(0, header.sequence),
        None => !image.has_frame_after(0, 0),
    })
}
