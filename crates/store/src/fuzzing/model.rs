//! The store against a model: whatever was acknowledged holds, through crashes at any change of the
//! disk, torn writes, compaction, lost indexes and a full disk.

use super::world::{PG, World, bytes, id, put};
use crate::format::HEADER_BYTES;
use crate::{BlockStore, Compaction, StoreError};
use everhold_env::disk::Fault;
use everhold_proto::BlockId;
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub(crate) enum Event {
    Put(u64),
    /// Several at once, so that they share a batch.
    PutMany(u64, u64),
    Delete(u64, u64),
    Read(u64),
    /// A part of one: where it begins and how long it is, in 256ths.
    ReadRange(u64, u64, u64),
    /// A bit of a block's record decays, is noticed by a verification, and flips back.
    Flip(u64, u64),
    Compact,
    Flush,
    /// A clean restart.
    Reopen,
    /// Power loss now; a seed lets parts of what was not synced survive.
    Crash(Option<u64>),
    /// Power loss at the n-th change from now.
    CrashAt(u64),
    /// Power loss and the index is gone.
    LoseIndex,
}

pub(crate) const IDS: u64 = 24;
/// Bounds the time that one run takes.
pub(crate) const EVENTS_MAX: usize = 100;

/// What may be true of a block: one of these, or both when a call did not return.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Expected {
    Absent,
    Present,
    Either,
}

struct Model {
    world: World,
    store: Arc<BlockStore>,
    blocks: BTreeMap<u64, Expected>,
    log: Vec<String>,
}

fn content(counter: u64) -> Vec<u8> {
    bytes(counter, 1 + (counter as usize * 1733) % 28_000)
}

impl Model {
    async fn new() -> Self {
        let mut world = World::new();
        world.config.segment_bytes = 64 << 10;
        world.config.capacity_bytes = Some((24 * 64) << 10);
        world.config.page_bytes = 8 << 10;
        world.config.memtable_entries_max = 8;
        let store = world.open().await;
        let blocks = (0..IDS + 10).map(|i| (i, Expected::Absent)).collect();
        Model { world, store, blocks, log: Vec::new() }
    }

    async fn apply(&mut self, event: &Event) {
        self.log.push(format!("{event:?}"));
        match event {
            Event::Put(i) => self.put_many(*i, 1).await,
            Event::PutMany(first, count) => self.put_many(*first, *count).await,
            Event::Delete(first, count) => self.delete(*first, *count).await,
            Event::Read(i) => self.check(*i).await,
            Event::ReadRange(i, start, length) => self.check_range(*i, *start, *length).await,
            Event::Flip(i, at) => self.flip(*i, *at).await,
            Event::Compact => match self.store.compact_step().await {
                Ok(Compaction::Damaged(ids)) => panic!("nothing is damaged: {ids:?}"),
                Ok(_) | Err(StoreError::Full) => {}
                Err(error) => self.fell_over(error).await,
            },
            Event::Flush => match self.store.flush().await {
                Ok(()) => {}
                Err(error) => self.fell_over(error).await,
            },
            Event::Reopen => match self.store.close().await {
                Ok(()) => self.reopen().await,
                Err(error) => self.fell_over(error).await,
            },
            Event::Crash(seed) => self.crash(*seed).await,
            Event::CrashAt(n) => self.world.disk.inject(Fault::PowerAt(*n)),
            Event::LoseIndex => {
                self.world.disk.crash(None);
                let index = self.world.path("index.redb");
                self.world.env.disk.remove(&index).await.unwrap();
                self.reopen().await;
            }
        }
    }

    async fn put_many(&mut self, first: u64, count: u64) {
        let ids: Vec<_> = (first..first + count).collect();
        let store = &self.store;
        let puts = ids.iter().map(|i| async move { put(store, *i, &content(*i)).await });
        let results = futures_util::future::join_all(puts).await;
        let mut failure = None;
        for (i, result) in ids.into_iter().zip(results) {
            match result {
                Ok(_) => self.blocks.extend([(i, Expected::Present)]),
                Err(StoreError::Full) => {}
                Err(error) => {
                    self.doubt(i, Expected::Present);
                    failure = Some(error);
                }
            }
        }
        if let Some(error) = failure {
            self.fell_over(error).await;
        }
    }

    async fn delete(&mut self, first: u64, count: u64) {
        let ids: Vec<BlockId> = (first..first + count).map(id).collect();
        match self.store.delete(&ids).await {
            Ok(_) => {
                self.blocks.extend((first..first + count).map(|i| (i, Expected::Absent)));
            }
            Err(StoreError::Full) => {}
            Err(error) => {
                (first..first + count).for_each(|i| self.doubt(i, Expected::Absent));
                self.fell_over(error).await;
            }
        }
    }

    /// A change to `wanted` did not return.
    fn doubt(&mut self, i: u64, wanted: Expected) {
        let expected = self.blocks.get_mut(&i).unwrap();
        if *expected != wanted {
            *expected = Expected::Either;
        }
    }

    /// Only a power failure may make calls fail.
    async fn fell_over(&mut self, error: StoreError) {
        assert!(
            matches!(error, StoreError::Failed(_) | StoreError::Io { .. } | StoreError::Closed),
            "{error:?}"
        );
        assert!(format!("{error:?}").contains("power loss"), "{error:?}");
        self.crash(Some(self.log.len() as u64)).await;
    }

    async fn crash(&mut self, seed: Option<u64>) {
        self.world.disk.crash(seed);
        self.reopen().await;
    }

    async fn reopen(&mut self) {
        let (store, report) = loop {
            match self.world.try_open().await {
                Ok(opened) => break opened,
                // Power may fail while the store opens, too.
                Err(error) => {
                    assert!(format!("{error:?}").contains("power loss"), "{error:?}");
                    self.world.disk.crash(Some(self.log.len() as u64));
                }
            }
        };
        self.store = store;
        assert!(report.lost.is_empty() && report.gaps == 0, "{report:?}");
        assert!(report.damaged_segments.is_empty() && report.unreadable_pages == 0, "{report:?}");
        self.check_all().await;
    }

    async fn check(&mut self, i: u64) {
        let found = match self.store.get_whole(id(i)).await {
            Ok((_, data)) => {
                assert_eq!(data, content(i), "block {i}");
                Expected::Present
            }
            Err(StoreError::NotFound(_)) => Expected::Absent,
            Err(error) => {
                // A dead disk does not answer; it is looked at again after the restart.
                assert!(format!("{error:?}").contains("power loss"), "block {i}: {error:?}");
                return;
            }
        };
        let expected = self.blocks[&i];
        assert!(expected == Expected::Either || expected == found, "block {i}: {found:?}");
        self.blocks.insert(i, found);
    }

    async fn check_range(&mut self, i: u64, start: u64, length: u64) {
        let whole = content(i);
        let scale = |part: u64| (whole.len() as u64 * part / 256) as usize;
        let start = scale(start);
        let end = (start + scale(length)).clamp(start + 1, whole.len());
        match self.store.get(id(i), start as u32..end as u32).await {
            Ok(part) => assert!(part == whole[start..end], "block {i}, {start}..{end}"),
            Err(StoreError::NotFound(_)) => {
                assert_ne!(self.blocks[&i], Expected::Present, "block {i}");
            }
            Err(error) => assert!(format!("{error:?}").contains("power loss"), "{error:?}"),
        }
    }

    /// Damage at rest is an error until it is undone: the model goes on with a sound disk.
    async fn flip(&mut self, i: u64, at: u64) {
        let Some(entry) = self.store.place(id(i)).filter(|_| self.store.failure().is_none()) else {
            return;
        };
        let offset = entry.place.offset() + at % (HEADER_BYTES as u64 + u64::from(entry.length));
        let path = self.world.segment(entry.place.slot);
        let flip = Fault::BitFlip { path, offset, bit: (at % 8) as u8 };
        self.world.disk.inject(flip.clone());
        let verified = self.store.verify(id(i)).await;
        assert!(verified.is_err(), "block {i}: flipped bit {} of byte {offset}", at % 8);
        self.world.disk.inject(flip);
    }

    /// invariant: acknowledged blocks are there, deleted ones are not, and all listings agree.
    async fn check_all(&mut self) {
        for i in 0..IDS + 10 {
            self.check(i).await;
        }
        let Ok(listed) = self.store.list(PG, None, 1000).await else { return };
        if self.store.failure().is_some() {
            return;
        }
        let listed: Vec<_> = listed.into_iter().map(|block| block.id.counter).collect();
        let present = |(i, e): (&u64, &Expected)| (*e == Expected::Present).then_some(*i);
        assert_eq!(listed, self.blocks.iter().filter_map(present).collect::<Vec<_>>());
        self.store.audit();
    }
}

pub(crate) fn run(events: &[Event]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut model = Model::new().await;
        for event in events {
            model.apply(event).await;
        }
        model.crash(Some(3)).await;
        // In peace everything that can be given back is, and nothing changes by it.
        let mut steps = 0;
        while let Ok(Compaction::Freed { .. }) = model.store.compact_step().await {
            steps += 1;
            assert!(steps < 100, "compaction never ends");
        }
        model.check_all().await;
        model.apply(&Event::LoseIndex).await;
    });
}
