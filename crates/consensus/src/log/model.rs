//! The log against a model, with power losses at every kind of moment.

use super::*;
use crate::types::{Command, LeaderId};
use bytes::Bytes;
use everhold_env::disk::{Fault, SimDisk};
use everhold_env::{Clock, Entropy, Net, Tasks};
use everhold_proto::{ClusterId, NodeId, RaftId};
use openraft::storage::{RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, type_config::TypeConfigExt};

pub(crate) const DIR: &str = "/raft";
pub(crate) const NAME: (ClusterId, NodeId) = (ClusterId([3; 16]), NodeId(1));

pub(crate) fn env(disk: &SimDisk) -> Env {
    Env {
        clock: Clock::real(),
        entropy: Entropy::seeded(1),
        net: Net::real(),
        disk: Arc::new(disk.clone()),
        tasks: Tasks::simulated(1),
        witness: everhold_env::Witnesses::none(),
    }
}

pub(crate) fn config() -> ConsensusConfig {
    // Small, so that a few operations rotate segments and overflow the cache.
    ConsensusConfig { segment_bytes: 64 << 10, log_cache_bytes: 4 << 10, ..Default::default() }
}

pub(crate) fn identity() -> LogIdentity {
    LogIdentity { cluster: NAME.0, node: NAME.1, raft_id: RaftId(1), boot_counter: 0 }
}

pub(crate) async fn open(
    disk: &SimDisk,
    opening: Opening,
) -> Result<(Log, LogIdentity), ConsensusError> {
    let limit = PurgeLimit::default();
    limit.raise(u64::MAX);
    Log::open(&env(disk), Path::new(DIR), &config(), opening, limit, Fatal::new()).await
}

pub(crate) fn existing() -> Opening {
    Opening::Existing { cluster: NAME.0, node: NAME.1 }
}

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

pub(crate) fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let command = Command(Bytes::from(vec![(index % 251) as u8; bytes]));
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(command) }
}

pub(crate) async fn append(log: &mut Log, entries: Vec<Entry>) -> io::Result<()> {
    let (sender, flushed) = Types::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    flushed.await.unwrap_or_else(|_| Err(io::Error::other("never completed")))
}

/// What a log must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    vote: Option<Vote>,
    purged: Option<LogId>,
    last: Option<LogId>,
    entries: BTreeMap<u64, Entry>,
}

impl Model {
    fn next(&self) -> u64 {
        self.last.map_or(0, |l| l.index + 1)
    }

    fn append(&mut self, entries: &[Entry]) {
        for entry in entries {
            self.last = Some(entry.log_id);
            self.entries.insert(entry.log_id.index, entry.clone());
        }
    }

    fn truncate(&mut self, keep: u64) -> Option<LogId> {
        self.entries.retain(|index, _| *index < keep);
        self.last = self.entries.values().next_back().map(|e| e.log_id).or(self.purged);
        self.last
    }

    fn purge(&mut self, upto: LogId) {
        self.purged = Some(upto);
        self.entries.retain(|index, _| *index > upto.index);
        if self.last.is_none_or(|last| last.index <= upto.index) {
            self.last = Some(upto);
        }
    }
}

pub(crate) async fn observe(log: &mut Log) -> Model {
    let state = log.get_log_state().await.unwrap();
    let entries = log.try_get_log_entries(0..u64::MAX).await.unwrap();
    Model {
        vote: log.read_vote().await.unwrap(),
        purged: state.last_purged_log_id,
        last: state.last_log_id,
        entries: entries.into_iter().map(|e| (e.log_id.index, e)).collect(),
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Append entries of so many bytes; wait until they are durable or not.
    Append {
        sizes: Vec<usize>,
        wait: bool,
    },
    Vote,
    /// Make the newest so many entries void.
    Truncate(u64),
    /// Purge so many of the oldest.
    Purge(u64),
    /// A snapshot ahead of the log was installed.
    Skip(u64),
    /// Close and open again.
    Restart,
    /// Power is lost in the n-th change from now.
    PowerAt(u64),
    /// Power is lost now.
    Crash(u64),
}

pub(crate) struct Trial {
    disk: SimDisk,
    log: Log,
    model: Model,
    /// The states that a crash may leave: the last durable one and all later ones.
    possible: Vec<Model>,
    term: u64,
}

impl Trial {
    pub(crate) async fn new() -> Trial {
        let disk = SimDisk::new();
        let (log, _) = open(&disk, Opening::New(identity())).await.unwrap();
        Trial { disk, log, model: Model::default(), possible: vec![Model::default()], term: 1 }
    }

    pub(crate) async fn step(&mut self, event: Event) {
        let before = self.model.clone();
        let result = self.apply(event.clone()).await;
        match (result, event) {
            (_, Event::Crash(seed)) => self.crash(seed).await,
            (Ok(true), _) => self.possible = vec![self.model.clone()],
            (Ok(false), _) => {
                if self.model != before {
                    self.possible.push(self.model.clone());
                }
            }
            (Err(_), _) => {
                self.possible.push(self.model.clone());
                self.crash(7).await;
            }
        }
        let seen = observe(&mut self.log).await;
        // A vote shows when it is durable; everything else at once.
        assert_eq!(seen, self.model);
    }

    /// True when everything so far is durable.
    async fn apply(&mut self, event: Event) -> io::Result<bool> {
        match event {
            Event::Append { sizes, wait } => {
                let first = self.model.next();
                let make = |(i, bytes): (usize, &usize)| entry(self.term, first + i as u64, *bytes);
                let entries: Vec<Entry> = sizes.iter().enumerate().map(make).collect();
                // Any number of them may be durable after a crash: each frame holds some.
                for entry in &entries {
                    self.model.append(std::slice::from_ref(entry));
                    self.possible.push(self.model.clone());
                }
                match wait {
                    true => append(&mut self.log, entries).await.map(|()| true),
                    false => self.log.append(entries, IOFlushed::noop()).await.map(|()| false),
                }
            }
            Event::Vote => {
                self.term += 1;
                let vote =
                    Vote { leader_id: LeaderId { term: self.term, node_id: 1 }, committed: false };
                self.model.vote = Some(vote);
                self.log.save_vote(&vote).await.map(|()| true)
            }
            Event::Truncate(newest) => {
                let purged_next = self.model.purged.map_or(0, |p| p.index + 1);
                let keep = self.model.next().saturating_sub(newest).max(purged_next);
                self.term += 1;
                let after = self.model.truncate(keep);
                self.log.truncate_after(after).await.map(|()| true)
            }
            Event::Purge(oldest) => {
                let upto =
                    self.model.entries.values().take(oldest as usize).last().map(|e| e.log_id);
                let Some(upto) = upto else { return Ok(false) };
                self.model.purge(upto);
                self.log.purge(upto).await.map(|()| true)
            }
            Event::Skip(ahead) => {
                let upto = log_id(self.term, self.model.next() + ahead);
                self.model.purge(upto);
                self.log.purge(upto).await.map(|()| true)
            }
            Event::Restart => {
                self.log.close().await?;
                self.log = open(&self.disk, existing()).await.map_err(io::Error::other)?.0;
                Ok(true)
            }
            Event::PowerAt(changes) => {
                self.disk.inject(Fault::PowerAt(changes));
                Ok(false)
            }
            Event::Crash(_) => Ok(false),
        }
    }

    async fn crash(&mut self, seed: u64) {
        self.disk.crash((!seed.is_multiple_of(4)).then_some(seed));
        self.log = open(&self.disk, existing()).await.expect("a crash is no damage").0;
        let found = observe(&mut self.log).await;
        assert!(
            self.possible.contains(&found),
            "after a crash: purged {:?}, last {:?}, vote {:?}; expected one of {:?}",
            found.purged,
            found.last,
            found.vote,
            self.possible.iter().map(|m| (m.purged, m.last, m.vote)).collect::<Vec<_>>()
        );
        self.possible = vec![found.clone()];
        self.model = found;
    }
}

pub(crate) fn run<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}
