//! The log against a model, with power losses at every kind of moment, and damage at rest.

use super::*;
use crate::types::{Command, LeaderId};
use bytes::Bytes;
use everhold_env::disk::{Fault, SimDisk};
use everhold_env::{Clock, Entropy, Net, Tasks};
use everhold_proto::{ClusterId, NodeId, RaftId};
use openraft::storage::{RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, type_config::TypeConfigExt};
use proptest::prelude::*;

const DIR: &str = "/raft";
const NAME: (ClusterId, NodeId) = (ClusterId([3; 16]), NodeId(1));

fn env(disk: &SimDisk) -> Env {
    Env {
        clock: Clock::real(),
        entropy: Entropy::seeded(1),
        net: Net::real(),
        disk: Arc::new(disk.clone()),
        tasks: Tasks::simulated(1),
        witness: everhold_env::Witnesses::none(),
    }
}

fn config() -> ConsensusConfig {
    // Small, so that a few operations rotate segments and overflow the cache.
    ConsensusConfig { segment_bytes: 64 << 10, log_cache_bytes: 4 << 10, ..Default::default() }
}

fn identity() -> LogIdentity {
    LogIdentity { cluster: NAME.0, node: NAME.1, raft_id: RaftId(1), boot_counter: 0 }
}

async fn open(disk: &SimDisk, opening: Opening) -> Result<(Log, LogIdentity), ConsensusError> {
    let limit = PurgeLimit::default();
    limit.raise(u64::MAX);
    Log::open(&env(disk), Path::new(DIR), &config(), opening, limit, Fatal::new()).await
}

fn existing() -> Opening {
    Opening::Existing { cluster: NAME.0, node: NAME.1 }
}

fn log_id(term: u64, index: u64) -> LogId {
    LogId { leader_id: LeaderId { term, node_id: 1 }, index }
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    let command = Command(Bytes::from(vec![(index % 251) as u8; bytes]));
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(command) }
}

async fn append(log: &mut Log, entries: Vec<Entry>) -> io::Result<()> {
    let (sender, flushed) = Types::oneshot();
    log.append(entries, IOFlushed::signal(sender)).await?;
    flushed.await.unwrap_or_else(|_| Err(io::Error::other("never completed")))
}

/// What a log must hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
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

async fn observe(log: &mut Log) -> Model {
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
enum Event {
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

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (proptest::collection::vec(1usize..9000, 1..6), any::<bool>())
            .prop_map(|(sizes, wait)| Event::Append { sizes, wait }),
        2 => Just(Event::Vote),
        2 => (1u64..6).prop_map(Event::Truncate),
        2 => (1u64..30).prop_map(Event::Purge),
        1 => (1u64..9).prop_map(Event::Skip),
        1 => Just(Event::Restart),
        1 => (1u64..12).prop_map(Event::PowerAt),
        2 => any::<u64>().prop_map(Event::Crash),
    ]
}

struct Trial {
    disk: SimDisk,
    log: Log,
    model: Model,
    /// The states that a crash may leave: the last durable one and all later ones.
    possible: Vec<Model>,
    term: u64,
}

impl Trial {
    async fn new() -> Trial {
        let disk = SimDisk::new();
        let (log, _) = open(&disk, Opening::New(identity())).await.unwrap();
        Trial { disk, log, model: Model::default(), possible: vec![Model::default()], term: 1 }
    }

    async fn step(&mut self, event: Event) {
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

fn run<F: Future>(future: F) -> F::Output {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
    runtime.expect("a runtime").block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..Default::default() })]

    /// Whatever is done to a log, and whenever power is lost: what was durable is there, nothing else
    /// is invented, and the order holds.
    #[test]
    fn behaves_like_its_model(events in proptest::collection::vec(event(), 1..60)) {
        run(async {
            let mut trial = Trial::new().await;
            for event in events {
                trial.step(event).await;
            }
        });
    }
}

async fn filled() -> (SimDisk, Log) {
    let disk = SimDisk::new();
    let (mut log, _) = open(&disk, Opening::New(identity())).await.unwrap();
    for index in 0..40 {
        append(&mut log, vec![entry(1, index, 5000)]).await.unwrap();
    }
    (disk, log)
}

/// A frame that was durable and has changed since is damage, in a full segment as in the newest one.
#[test]
fn damage_below_the_synced_end_is_refused() {
    for segment in [1, 3] {
        run(async {
            let (disk, log) = filled().await;
            log.close().await.unwrap();
            let path = segment::path(Path::new(DIR), segment);
            disk.inject(Fault::BitFlip { path, offset: 4096 + 100, bit: 3 });
            assert!(matches!(open(&disk, existing()).await, Err(ConsensusError::Corrupt { .. })));
        });
    }
}

/// Even the very last frame: the identity file knows how far the log was synced when it was last saved.
#[test]
fn damage_of_the_last_frame_is_refused() {
    for closed in [true, false] {
        run(async {
            let (disk, log) = filled().await;
            match closed {
                true => log.close().await.unwrap(),
                false => log.save_mark().await.unwrap(),
            }
            disk.crash(None);
            let newest = *log.shared.state.lock().segments.keys().last().unwrap();
            let image = segment::Image::read(&env(&disk), Path::new(DIR), newest).await.unwrap();
            let (mut last, mut offset) = (0, 0);
            while let Some((header, _)) = image.frame_at(offset, None) {
                last = offset;
                offset += header.frame_bytes() as u64;
            }
            let path = segment::path(Path::new(DIR), newest);
            disk.inject(Fault::BitFlip { path, offset: last + 60, bit: 0 });
            assert!(matches!(open(&disk, existing()).await, Err(ConsensusError::Corrupt { .. })));
        });
    }
}

/// "No log, no id": neither part of a replica is accepted without the other.
#[test]
fn an_identity_without_its_log_is_refused() {
    run(async {
        let disk = SimDisk::new();
        let missing = open(&disk, existing()).await;
        assert!(matches!(missing, Err(ConsensusError::Incomplete { .. })));
        let (log, created) = open(&disk, Opening::New(identity())).await.unwrap();
        assert_eq!(created.boot_counter, 1);
        log.close().await.unwrap();
        let (log, reopened) = open(&disk, existing()).await.unwrap();
        assert_eq!(reopened, LogIdentity { boot_counter: 2, ..created });
        log.close().await.unwrap();
        let again = open(&disk, Opening::New(identity())).await;
        assert!(matches!(again, Err(ConsensusError::Exists(_))));
        let foreign = Opening::Existing { cluster: NAME.0, node: NodeId(9) };
        assert!(matches!(open(&disk, foreign).await, Err(ConsensusError::Foreign { .. })));
        env(&disk).disk.remove(&segment::path(Path::new(DIR), 1)).await.unwrap();
        assert!(matches!(open(&disk, existing()).await, Err(ConsensusError::Incomplete { .. })));
    });
}

#[test]
fn a_log_without_its_identity_is_refused() {
    run(async {
        let (disk, log) = filled().await;
        log.close().await.unwrap();
        env(&disk).disk.remove(&Path::new(DIR).join(identity::FILE_NAME)).await.unwrap();
        assert!(matches!(open(&disk, existing()).await, Err(ConsensusError::Incomplete { .. })));
        let anew = open(&disk, Opening::New(identity())).await;
        assert!(
            matches!(anew, Err(ConsensusError::Incomplete { .. })),
            "a log with votes must not be overwritten"
        );
    });
}

/// A failed sync is final: nothing later succeeds, and the owner hears of it.
#[test]
fn a_failed_write_ends_the_log() {
    run(async {
        let disk = SimDisk::new();
        let (fatal, limit) = (Fatal::new(), PurgeLimit::default());
        let (mut log, _) = Log::open(
            &env(&disk),
            Path::new(DIR),
            &config(),
            Opening::New(identity()),
            limit,
            fatal.clone(),
        )
        .await
        .unwrap();
        append(&mut log, vec![entry(1, 0, 10)]).await.unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        disk.inject(Fault::WriteErrorAt(2)); // the write succeeds, its sync fails
        assert!(append(&mut log, vec![entry(1, 1, 10)]).await.is_err());
        assert!(append(&mut log, vec![entry(1, 2, 10)]).await.is_err());
        assert!(log.save_vote(&Vote::new(1, 1)).await.is_err());
        assert!(fatal.wait().await.contains("raft log"));
    });
}

/// The invariant that keeps entries until the state machine has them on stable storage.
#[test]
#[should_panic(expected = "durably applied")]
fn purge_never_passes_the_durable_state() {
    run(async {
        let disk = SimDisk::new();
        let limit = PurgeLimit::default();
        let (env, config, new) = (env(&disk), config(), Opening::New(identity()));
        let opened = Log::open(&env, Path::new(DIR), &config, new, limit.clone(), Fatal::new());
        let (mut log, _) = opened.await.unwrap();
        append(&mut log, (0..9).map(|i| entry(1, i, 10)).collect()).await.unwrap();
        limit.raise(5);
        log.purge(log_id(1, 4)).await.unwrap();
        drop(log.purge(log_id(1, 5)).await);
    });
}

/// Purged segments are used again, so the directory does not grow with the log.
#[test]
fn segments_are_recycled() {
    run(async {
        let (disk, mut log) = filled().await;
        for index in 40..400 {
            append(&mut log, vec![entry(1, index, 5000)]).await.unwrap();
            if let Some(upto) = log.purge_candidate(index, 100 << 10) {
                log.purge(log_id(1, upto)).await.unwrap();
            }
        }
        let files = env(&disk).disk.list(Path::new(DIR)).await.unwrap();
        assert!(files.len() <= 7, "{files:?}");
        let kept = log.try_get_log_entries(0..u64::MAX).await.unwrap();
        assert!(kept.len() >= 20 && kept.last().unwrap().log_id.index == 399);
    });
}
