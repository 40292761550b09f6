//! Writing a block: to all members of a placement group at once, without waiting for a broken one.
//!
//! **Invariant:** an id is used for one placement group only; a block that has to be written
//! elsewhere takes a fresh one. The bytes are kept until the commit's answer.

use super::choice::{is_slow, takes_writes, target_of};
use crate::client::Client;
use crate::error::{ClientError, Result};
use crate::health::{Class, Target};
use crate::session::OpenBlock;
use crate::wire::WireError;
use bytes::Bytes;
use everhold_proto::checksum::crc32c;
use everhold_proto::fs::{Extent, FsError, Source};
use everhold_proto::limits::BLOCK_BYTES_MAX;
use everhold_proto::map::{ClusterMap, Pg};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::{Ack, NewBlock};
use everhold_proto::{BlockId, Error, Kind, PgId, PolicyId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

/// A copy is late after so many times the usual 95th percentile.
const LATE_FACTOR: u32 = 6;
/// And after so many times what the quorum took: when all are slow, none is late.
const QUORUM_FACTOR: u32 = 4;
/// Bounds of that, and what is assumed before anything was measured.
const LATE_MIN: Duration = Duration::from_millis(120);
const LATE_MAX: Duration = Duration::from_secs(10);
const LATE_UNKNOWN: Duration = Duration::from_secs(2);
/// Without a quorum the block is written elsewhere after at least this long.
const GIVE_UP_MIN: Duration = Duration::from_secs(1);
/// Pause before a block is tried again, times the number of tries so far.
const PAUSE: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(500);
/// How often one member is asked again because the client's map was old or it was busy.
const MEMBER_TRIES_MAX: u32 = 3;

/// A block on its disks that waits for its commit. Its id stays above the floor, and its memory
/// accounted for, until this is dropped.
pub(crate) struct Written {
    pub(crate) block: NewBlock,
    pub(crate) data: Bytes,
    /// Where it goes in the file.
    pub(crate) offset: u64,
    /// The runs that it is made of, when it is not one run of the file at `offset`.
    pub(crate) parts: Vec<Part>,
    /// Fewer copies than wanted.
    pub(crate) degraded: bool,
    pub(crate) memory: Option<OwnedSemaphorePermit>,
    open: OpenBlock,
}

/// A run of a file that is part of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// Where it goes in the file.
    pub(crate) offset: u64,
    /// Where it begins in the block.
    pub(crate) at: u32,
    /// Its bytes.
    pub(crate) length: u32,
}

impl Written {
    /// The extents that make it part of a file.
    pub(crate) fn extents(&self) -> impl Iterator<Item = Extent> {
        let NewBlock { id, pg, length: block_length, crc, .. } = self.block;
        let whole = Part { offset: self.offset, at: 0, length: block_length };
        let whole = self.parts.is_empty().then_some(whole);
        self.parts.iter().copied().chain(whole).map(move |part| Extent {
            offset: part.offset,
            length: part.length.into(),
            source: Source::Block { id, pg, offset: part.at, block_length, crc },
        })
    }
}

/// A block about to be written.
struct Copying {
    id: BlockId,
    pg: PgId,
    crc: u32,
    data: Bytes,
    class: Class,
    started: Instant,
    give_up: Instant,
}

impl Client {
    /// Writes a block so that a commit of it would count, or fails by the deadline.
    pub(crate) async fn write_block(
        &self,
        policy: PolicyId,
        offset: u64,
        data: Bytes,
        memory: Option<OwnedSemaphorePermit>,
        deadline: Instant,
    ) -> Result<Written> {
        assert!(!data.is_empty() && data.len() <= BLOCK_BYTES_MAX, "a block has 1 byte to 4 MiB");
        let started = self.env.clock.now();
        let place = self.window.enter(Class::put(data.len()), deadline).await?;
        let crc = crc32c(&data);
        let result = self.write_somewhere(policy, offset, data, crc, memory, deadline).await;
        if let Some(place) = place.filter(|_| result.is_ok()) {
            place.ended();
        }
        let elapsed = self.env.clock.now().saturating_duration_since(started);
        self.stats.put.record(elapsed, result.is_ok());
        if let Ok(written) = &result {
            self.stats.put_bytes.fetch_add(written.block.length.into(), Ordering::Relaxed);
            self.stats.degraded.fetch_add(written.degraded.into(), Ordering::Relaxed);
        }
        result
    }

    /// Writes the bytes of a refused block again, under a fresh id.
    pub(crate) async fn rewrite_block(
        &self,
        policy: PolicyId,
        refused: Written,
        deadline: Instant,
    ) -> Result<Written> {
        self.stats.rewrites.fetch_add(1, Ordering::Relaxed);
        let Written { block, data, offset, parts, memory, open, .. } = refused;
        drop(open);
        let again = self.write_somewhere(policy, offset, data, block.crc, memory, deadline).await?;
        Ok(Written { parts, ..again })
    }

    async fn write_somewhere(
        &self,
        policy: PolicyId,
        offset: u64,
        data: Bytes,
        crc: u32,
        memory: Option<OwnedSemaphorePermit>,
        deadline: Instant,
    ) -> Result<Written> {
        let mut avoid = Vec::new();
        let mut last = None;
        let mut kept = None;
        for tries in 1u32.. {
            let map = self.view.map();
            let pg = self.choose_pg(&map, policy, &avoid);
            if let Some(pg) = pg.and_then(|pg| map.pgs.get(&pg)) {
                let open = kept.take().unwrap_or_else(|| self.session().block());
                match self.put_once(&map, pg, open.id(), crc, data.clone(), deadline).await {
                    Ok((acks, degraded)) => {
                        let length = data.len() as u32;
                        let block = NewBlock { id: open.id(), pg: pg.id, length, crc, acks };
                        let parts = Vec::new();
                        return Ok(Written { block, data, offset, parts, degraded, memory, open });
                    }
                    Err(e) => last = Some(e),
                }
                kept = planted::has(Bug::ReuseBlockId).then_some(open);
                avoid.push(pg.id);
                self.stats.rewrites.fetch_add(1, Ordering::Relaxed);
            } else {
                avoid.clear();
            }
            let wait = (PAUSE * tries.min(100)).min(PAUSE_MAX);
            let wait = wait.mul_f64(0.5 + self.env.entropy.unit() / 2.0);
            if self.env.clock.now() + wait >= deadline {
                break;
            }
            self.env.clock.sleep(wait).await;
            if let Err(e) = self.refresh_map(deadline).await {
                tracing::debug!(error = %e, "the map was not refreshed");
            }
        }
        Err(self.why_unwritten(policy, last))
    }

    fn why_unwritten(&self, policy: PolicyId, last: Option<Error>) -> ClientError {
        let map = self.view.map();
        let full = |pg: &Pg| pg.members.iter().any(|m| !takes_writes(&map, m.disk));
        if last.as_ref().is_some_and(|e| e.kind == Kind::Full) {
            return ClientError::Fs(FsError::NoSpace);
        }
        let last = last.map_or(String::new(), |e| format!(" (last: {})", e.message));
        let pgs: Vec<&Pg> = map.pgs.values().filter(|pg| pg.policy == policy).collect();
        let blocked = pgs.iter().filter(|pg| full(pg)).count();
        let text = format!(
            "no placement group took the block in time; {blocked} of {} miss a member that can \
             take it; see `everhold status`{last}",
            pgs.len()
        );
        ClientError::new(Kind::Retry, text)
    }

    /// One try on one placement group: the acknowledgements, and whether copies are missing.
    async fn put_once(
        &self,
        map: &ClusterMap,
        pg: &Pg,
        id: BlockId,
        crc: u32,
        data: Bytes,
        deadline: Instant,
    ) -> Result<(Vec<Ack>, bool), Error> {
        let policy = map.policies.get(&pg.policy);
        let policy = policy.ok_or_else(|| Error::new(Kind::Fenced, "the map lacks the policy"))?;
        let (quorum, copies) = (usize::from(policy.write_quorum), usize::from(policy.copies));
        let targets = self.targets(map, pg, quorum);
        let reachable = pg.members.iter().map(|m| m.disk).filter(|disk| map.is_reachable(*disk));
        let zones_needed = map.zones_of(reachable).min(2);
        let enough = |acks: &[Ack]| {
            acks.len() >= quorum && map.zones_of(acks.iter().map(|a| a.disk)) >= zones_needed
        };
        let class = Class::put(data.len());
        let usual = self.peers.usual(class).map_or(LATE_UNKNOWN, |p95| p95 * LATE_FACTOR);
        let late = usual.clamp(LATE_MIN, LATE_MAX);
        let started = self.env.clock.now();
        let give_up = deadline.min(started + (late * 2).clamp(GIVE_UP_MIN, LATE_MAX));
        let copying = Copying { id, pg: pg.id, crc, data, class, started, give_up };
        let mut waiting: Vec<Target> = targets.clone();
        let mut acks = Vec::with_capacity(targets.len());
        let mut last = Error::new(Kind::Retry, format!("too few members of {} answered", pg.id));
        let mut puts: FuturesUnordered<_> =
            targets.into_iter().map(|target| self.put_copy(&copying, target)).collect();
        let mut until = give_up;
        while let Ok(Some((target, result))) = self.env.clock.until(until, puts.next()).await {
            waiting.retain(|t| t.disk != target.disk);
            match result {
                Ok(ack) => acks.push(ack),
                Err(e) => last = e.into(),
            }
            if enough(&acks) && until == give_up && self.options.protected {
                let took = self.env.clock.now().saturating_duration_since(started);
                until = give_up.min(started + late.max(took * QUORUM_FACTOR));
            }
        }
        drop(puts);
        self.blame_late(&copying, &waiting);
        if enough(&acks) {
            let degraded = acks.len() < copies.min(pg.members.len());
            return Ok((acks, degraded));
        }
        Err(last)
    }

    /// The members to send copies to: those that look well, or when these are too few, all that the
    /// map does not call down.
    fn targets(&self, map: &ClusterMap, pg: &Pg, quorum: usize) -> Vec<Target> {
        let takes = pg.members.iter().map(|m| m.disk).filter(|disk| takes_writes(map, *disk));
        let all: Vec<Target> = takes.filter_map(|disk| target_of(map, disk)).collect();
        let looks_well = |t: &&Target| self.peers.admits(**t) && !is_slow(map, t.disk);
        let well: Vec<Target> = all.iter().filter(looks_well).copied().collect();
        let zones = |targets: &[Target]| map.zones_of(targets.iter().map(|t| t.disk)).min(2);
        if well.len() >= quorum && zones(&well) == zones(&all) { well } else { all }
    }

    /// One copy to one member; asked again when the map was old, or it was busy for a moment.
    async fn put_copy(
        &self,
        copying: &Copying,
        target: Target,
    ) -> (Target, Result<Ack, WireError>) {
        let mut tries = 0;
        loop {
            tries += 1;
            let result = self.put_now(copying, &target).await;
            let again = match &result {
                Err(WireError::Remote(e)) if tries < MEMBER_TRIES_MAX => match e.kind {
                    Kind::Fenced => self.refresh_map(copying.give_up).await.is_ok(),
                    Kind::Busy | Kind::Retry | Kind::Corrupt => {
                        let pause = e.retry_after().unwrap_or(PAUSE * tries);
                        let pause = pause.mul_f64(1.0 + self.env.entropy.unit() / 2.0);
                        let in_time = self.env.clock.now() + pause < copying.give_up;
                        if in_time {
                            self.env.clock.sleep(pause).await;
                        }
                        in_time
                    }
                    _ => false,
                },
                _ => false,
            };
            if !again {
                return (target, result);
            }
        }
    }

    async fn put_now(&self, copying: &Copying, target: &Target) -> Result<Ack, WireError> {
        let Copying { id, pg, crc, class, give_up, .. } = *copying;
        let map = self.view.map();
        let fenced = || WireError::Remote(Error::new(Kind::Fenced, format!("{pg} has changed")));
        let generation = map.pgs.get(&pg).map(|pg| pg.generation).ok_or_else(fenced)?;
        let node = map.nodes.get(&target.node).ok_or_else(fenced)?;
        let started = self.env.clock.now();
        let data = copying.data.clone();
        let _under_way = self.peers.begin(*target);
        let put = self.wire.try_put_block(
            &node.address,
            target.disk,
            pg,
            id,
            generation,
            crc,
            data,
            give_up,
        );
        let result = match put.await {
            Ok(ack) if ack.disk == target.disk => Ok(ack),
            Ok(ack) => Err(WireError::malformed(
                &node.address,
                format_args!("{} acknowledged for {}", ack.disk, target.disk),
            )),
            Err(e) => Err(e),
        };
        let now = self.env.clock.now();
        match &result {
            Ok(_) => self.peers.succeeded(*target, class, now.saturating_duration_since(started)),
            Err(e) => {
                if matches!(e, WireError::Remote(e) if e.kind == Kind::Busy) {
                    self.window.refused(class);
                }
                self.peers.failed(*target, e, now);
            }
        }
        result
    }

    fn blame_late(&self, copying: &Copying, waiting: &[Target]) {
        let now = self.env.clock.now();
        let elapsed = now.saturating_duration_since(copying.started);
        for target in waiting {
            self.peers.late(*target, copying.class, elapsed, now);
        }
    }
}
