//! The log against its model, and damage at rest.

use super::model::{
    DIR, Event, NAME, Trial, append, config, entry, env, existing, identity, log_id, open, run,
};
use super::*;
use everhold_env::disk::{Fault, SimDisk};
use everhold_proto::NodeId;
use openraft::storage::{RaftLogReader, RaftLogStorage};
use proptest::prelude::*;

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
