//! Who holds something for long: a lock with a counter under it, and files that stay open while others remove them.
//!
//! A counter that was raised under a lock, and made durable, is raised by nobody else from the same value. A file that
//! is open, and registered in a session that lives, outlives its name.

use super::Worker;
use super::ops::Ops;
use crate::history::ObjectId;
use bytes::Bytes;
use everhold_client::{Client, ClientError, CreateOptions, OpenFile};
use everhold_proto::fs::{LockKind, LockOwner, LockSpace};
use everhold_proto::{InodeId, SessionId};
use parking_lot::Mutex;
use rand::RngExt;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Two holders of one lock did not both count.
const LOCKED: &str = "locks_exclude";
/// An open file outlives its name.
const OPEN: &str = "open_files_outlive_their_names";
/// A registration and a removal that are so far apart do not overtake each other.
const APART_MS: u64 = 15_000;
/// How long a lock is held, least and most.
const HELD_MS: (u64, u64) = (0, 600);
/// Files that one client keeps open.
const KEPT_MAX: usize = 6;
/// Bytes of a counter.
const COUNTER_BYTES: usize = 8;

/// What the holders of a run share. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Holdings(Arc<Mutex<Shared>>);

#[derive(Default)]
struct Shared {
    /// Who raised each counter to each value.
    counts: BTreeMap<ObjectId, BTreeMap<u64, u32>>,
    /// Files that are kept open, by path: who has them open, and when somebody began to remove them.
    kept: BTreeMap<String, (u32, Option<u64>)>,
}

impl Holdings {
    fn highest(&self, object: &ObjectId) -> u64 {
        let shared = self.0.lock();
        let last = shared.counts.get(object).and_then(|counts| counts.last_key_value());
        last.map_or(0, |(count, _)| *count)
    }

    fn counted(&self, object: &ObjectId, count: u64, client: u32) -> Result<(), String> {
        let mut shared = self.0.lock();
        match shared.counts.entry(object.clone()).or_default().insert(count, client) {
            Some(other) => Err(format!("c{other} and c{client} both counted to {count}")),
            None => Ok(()),
        }
    }
}

/// A file that is kept open.
struct Kept {
    path: String,
    file: Arc<OpenFile>,
    content: Bytes,
    since_ms: u64,
}

/// A session, and when it was first seen to be the current one.
struct Seen {
    session: SessionId,
    since_ms: u64,
}

impl Worker {
    pub(super) async fn holders(&mut self) {
        let counters = self.ops.plan.counter_objects();
        let mut kept = Vec::new();
        let mut seen = self.session_seen();
        while !self.is_stopped() && !counters.is_empty() {
            let object = counters[self.rng.random_range(0..counters.len())].clone();
            // A failure is no finding: the cluster may be away.
            if let Err(e) = self.raise(&object).await {
                crate::event!("c{} did not count: {e}", self.ops.number);
            }
            if self.ops.client.session_id() != seen.session {
                seen = self.session_seen();
            }
            if kept.len() < KEPT_MAX && self.rng.random_bool(0.3) {
                match self.keep().await {
                    Ok(file) => kept.push(file),
                    Err(e) => crate::event!("c{} keeps nothing: {e}", self.ops.number),
                }
            }
            if self.rng.random_bool(0.03) {
                self.remove_one_of_others().await;
            }
            if !kept.is_empty() {
                let at = self.rng.random_range(0..kept.len());
                if self.look_at_kept(&kept[at], &seen).await {
                    let over: Kept = kept.swap_remove(at);
                    self.ops.client.closed(over.file.inode());
                }
            }
            self.pause().await;
        }
        for file in kept {
            self.ops.client.closed(file.file.inode());
        }
    }

    fn session_seen(&self) -> Seen {
        Seen { session: self.ops.client.session_id(), since_ms: self.ops.recorder.now_ms() }
    }

    /// Raises a counter under a lock, as a mount does it for a program.
    async fn raise(&mut self, object: &ObjectId) -> Result<(), ClientError> {
        let client = self.ops.client.clone();
        let inode = client.stat(self.ops.plan.path(object, None)).await?.inode;
        let session = client.session_id();
        if !client.may_change_in(inode, session) {
            return Ok(());
        }
        let (owner, range) = (LockOwner(self.ops.number.into()), 0..=u64::MAX);
        let exclusive = LockKind::Write;
        client.lock(inode, LockSpace::Posix, owner, exclusive, range.clone(), 1).await?;
        let file = OpenFile::new(client.clone(), inode);
        let counted = match client.bind(inode, session) && client.session_id() == session {
            true => self.raise_locked(object, &file, session).await,
            false => Ok(None),
        };
        // What was not committed is not committed later.
        while file.abandon(None).await.is_err() && !self.is_stopped() {
            self.pause().await;
        }
        client.unbind(inode, session);
        let unlocked = client.unlock(inode, LockSpace::Posix, owner, range).await;
        if let Some(count) = counted? {
            crate::event!("c{} counted {object} to {count}", self.ops.number);
            if let Err(wrong) = self.ops.recorder.holdings().counted(object, count, self.ops.number)
            {
                self.ops.recorder.violation(LOCKED, object, wrong);
            }
        }
        unlocked
    }

    /// `None`: the lock was lost.
    async fn raise_locked(
        &mut self,
        object: &ObjectId,
        file: &Arc<OpenFile>,
        session: SessionId,
    ) -> Result<Option<u64>, ClientError> {
        let client = self.ops.client.clone();
        let highest = self.ops.recorder.holdings().highest(object);
        let bytes = file.read(0, COUNTER_BYTES).await?;
        let count = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if !holds(&client, session).await? {
            return Ok(None); // what was read may be of before
        }
        if count < highest {
            let detail =
                format!("c{} counts from {count}, and {highest} is durable", self.ops.number);
            self.ops.recorder.violation(LOCKED, object, detail);
        }
        self.pause_within(HELD_MS).await;
        if !holds(&client, session).await? {
            return Ok(None);
        }
        file.write(0, &(count + 1).to_le_bytes()).await?;
        file.sync().await?;
        Ok(holds(&client, session).await?.then_some(count + 1))
    }

    /// Makes a file that stays open.
    async fn keep(&mut self) -> Result<Kept, ClientError> {
        let (client, number) = (self.ops.client.clone(), self.ops.number);
        let tag = self.ops.recorder.fresh_tag(number);
        let path = format!("{}/kept-{number}-{}", self.ops.plan.root, tag.0);
        let content = Bytes::from(tag.0.to_le_bytes().to_vec());
        let attr = client.put(&path, content.clone(), CreateOptions::default()).await?;
        let file = OpenFile::new(client.clone(), attr.inode);
        client.opened(attr.inode);
        // What is removed is durable, and everybody sees it.
        client.until_settled(attr.inode).await?;
        self.ops.recorder.holdings().0.lock().kept.insert(path.clone(), (number, None));
        Ok(Kept { path, file, content, since_ms: self.ops.recorder.now_ms() })
    }

    async fn remove_one_of_others(&mut self) {
        let holdings = self.ops.recorder.holdings().clone();
        let others: Vec<String> = {
            let shared = holdings.0.lock();
            let of_others = shared
                .kept
                .iter()
                .filter(|(_, (who, began))| *who != self.ops.number && began.is_none());
            of_others.map(|(path, _)| path.clone()).collect()
        };
        if others.is_empty() {
            return;
        }
        let path = &others[self.rng.random_range(0..others.len())];
        if let Some((_, began)) = holdings.0.lock().kept.get_mut(path) {
            *began = Some(self.ops.recorder.now_ms());
        }
        let removed = self.ops.client.remove(path).await;
        crate::event!("c{} removed {path}: {:?}", self.ops.number, removed.err());
    }

    /// Reads a file that is kept open, from the cluster. `true`: there is nothing more to be learned of it.
    async fn look_at_kept(&mut self, kept: &Kept, seen: &Seen) -> bool {
        let client = self.ops.client.clone();
        kept.file.changed();
        let read = kept.file.read(0, kept.content.len()).await;
        let object = ObjectId::new(&kept.path);
        let began = self.ops.recorder.holdings().0.lock().kept.get(&kept.path).and_then(|k| k.1);
        match read {
            Ok(bytes) if bytes == kept.content => false,
            Ok(bytes) => {
                let detail =
                    format!("c{} reads {bytes:?}, not {:?}", self.ops.number, kept.content);
                self.ops.recorder.violation(OPEN, &object, detail);
                true
            }
            Err(e) if e.is_not_found() => {
                // Who stood still may not know yet that its session has ended.
                let lives = client.confirm_session(seen.session).await.unwrap_or(false);
                let is_same = lives && self.ops.plan.calm;
                let is_later =
                    began.is_some_and(|began| began > seen.since_ms.max(kept.since_ms) + APART_MS);
                if began.is_none() || (is_same && is_later) {
                    let detail = format!(
                        "c{} has it open since {} ms, with {} since {} ms; it is gone, and its removal began at {began:?}",
                        self.ops.number, kept.since_ms, seen.session, seen.since_ms,
                    );
                    self.ops.recorder.violation(OPEN, &object, detail);
                }
                true
            }
            Err(_) => false,
        }
    }
}

async fn holds(client: &Arc<Client>, session: SessionId) -> Result<bool, ClientError> {
    Ok(client.session_lives(session) || client.confirm_session(session).await?)
}

impl Ops {
    /// The counter after all faults is not below what was made durable.
    pub(crate) async fn final_count(&self, object: &ObjectId) -> Result<(), ClientError> {
        let bytes = self.client.get(self.plan.path(object, None), COUNTER_BYTES).await?;
        let count = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        let highest = self.recorder.holdings().highest(object);
        if count < highest {
            let detail = format!("it is {count} at the end, and {highest} was durable");
            self.recorder.violation(LOCKED, object, detail);
        }
        Ok(())
    }

    /// The file of an object, open.
    pub(crate) async fn open_file(&self, object: &ObjectId) -> Result<Arc<OpenFile>, ClientError> {
        if let Some(file) = self.files.lock().get(object) {
            return Ok(file.clone());
        }
        let inode: InodeId = self.client.stat(self.plan.path(object, None)).await?.inode;
        let file = OpenFile::new(self.client.clone(), inode);
        Ok(self.files.lock().entry(object.clone()).or_insert(file).clone())
    }
}
