//! Reading a block from any replica: the best one first, a second one when the first is slow, the next
//! one when one fails or brings wrong bytes.

use super::choice::is_slow;
use super::plan::Piece;
use crate::client::Client;
use crate::health::{Class, Target};
use crate::wire::WireError;
use bytes::Bytes;
use everhold_proto::map::{ClusterMap, NodeState};
use everhold_proto::planted::{self, Bug};
use everhold_proto::{BlockId, DiskId, Error, Kind, PgId};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// Bounds of the delay after which a second replica is asked, and what is assumed at first.
const HEDGE_MIN: Duration = Duration::from_millis(10);
const HEDGE_MAX: Duration = Duration::from_secs(1);
const HEDGE_UNKNOWN: Duration = Duration::from_millis(150);
/// A replica is late after so many times the delay above, but not before [`LATE_MIN`]; then the next
/// is asked whatever the budget says.
const LATE_FACTOR: u32 = 8;
const LATE_MIN: Duration = Duration::from_millis(250);
const LATE_MAX: Duration = Duration::from_secs(3);
/// One replica may take so long in the end, if no other has it.
const REPLICA_LIMIT: Duration = Duration::from_secs(10);

/// What is read.
struct Wanted {
    id: BlockId,
    pg: PgId,
    range: Range<u32>,
    block_length: u32,
    crc: u32,
}

impl Wanted {
    fn is_whole(&self) -> bool {
        self.range == (0..self.block_length)
    }
}

/// A replica to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replica {
    target: Target,
    address: String,
}

/// Replicas that were asked and have not answered.
type Asked = Vec<(Replica, Instant)>;

impl Client {
    /// The bytes of a piece of a block, verified. `NotFound`: no replica has it any more.
    pub(crate) async fn read_piece(
        &self,
        piece: &Piece,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let Piece::Block { id, pg, range, block_length, crc } = piece else {
            unreachable!("only blocks are read from disks");
        };
        let wanted = Wanted {
            id: *id,
            pg: *pg,
            range: range.clone(),
            block_length: *block_length,
            crc: *crc,
        };
        let started = self.env.clock.now();
        let place = self.window.enter(Class::get(wanted.range.len()), deadline).await?;
        let mut result = self.read_anywhere(&wanted, deadline).await;
        if result.is_err() && self.refresh_map(deadline).await.is_ok() {
            // Perhaps it has moved: once more by the newest map.
            result = self.read_anywhere(&wanted, deadline).await;
        }
        if let Some(place) = place.filter(|_| result.is_ok()) {
            place.ended();
        }
        let elapsed = self.env.clock.now().saturating_duration_since(started);
        self.stats.get.record(elapsed, result.is_ok());
        if let Ok(bytes) = &result {
            self.stats.get_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        result
    }

    async fn read_anywhere(&self, wanted: &Wanted, deadline: Instant) -> Result<Bytes, Error> {
        let class = Class::get(wanted.range.len());
        let map = self.view.map();
        let mut replicas = self.replicas(&map, wanted.pg, class).into_iter();
        drop(map);
        let clock = &self.env.clock;
        let hedge = self.peers.usual(class).unwrap_or(HEDGE_UNKNOWN).clamp(HEDGE_MIN, HEDGE_MAX);
        let late = (hedge * LATE_FACTOR).clamp(LATE_MIN, LATE_MAX);
        self.budget.earn();
        let mut running = FuturesUnordered::new();
        let mut asked: Asked = Vec::new();
        let mut worst: Option<Error> = None;
        let mut go = true;
        let mut hedging = true;
        loop {
            if std::mem::take(&mut go)
                && let Some(replica) = replicas.next()
            {
                asked.push((replica.clone(), clock.now()));
                running.push(self.read_replica(wanted, replica, class, deadline));
            }
            let Some((_, last_asked)) = asked.last() else { break };
            let more = replicas.len() > 0 && self.options.protected;
            let wake = match (more, hedging) {
                (true, true) => *last_asked + hedge,
                (true, false) => *last_asked + late,
                (false, _) => deadline,
            };
            match clock.until(wake.min(deadline), running.next()).await {
                Ok(Some((replica, Ok(bytes)))) => {
                    asked.retain(|(r, _)| *r != replica);
                    self.blame_slower(&asked, class);
                    return Ok(bytes);
                }
                Ok(Some((replica, Err(e)))) => {
                    asked.retain(|(r, _)| *r != replica);
                    worst = Some(worse(worst, e.into()));
                    go = true;
                }
                Ok(None) => break,
                Err(_) if clock.now() >= deadline => {
                    worst.get_or_insert(Error::new(
                        Kind::Retry,
                        format!("no replica of {} answered in time", wanted.id),
                    ));
                    self.blame_slower(&asked, class);
                    break;
                }
                Err(_) if hedging => {
                    go = self.budget.spend();
                    hedging = false;
                    self.stats.hedges.fetch_add(go.into(), Ordering::Relaxed);
                }
                Err(_) => go = true,
            }
        }
        let none = || Error::new(Kind::Retry, format!("{} has no reachable member", wanted.pg));
        Err(worst.unwrap_or_else(none))
    }

    /// Every disk that may have the block, the best first: reachable before not, complete members
    /// before the rest, quick ones more often than slow ones.
    fn replicas(&self, map: &ClusterMap, pg: PgId, class: Class) -> Vec<Replica> {
        let Some(pg) = map.pgs.get(&pg) else { return Vec::new() };
        let rank = |disk: DiskId| {
            let node = map.node_of(disk)?;
            let target = Target { disk, node: node.id };
            let doubtful = node.state > NodeState::Suspect || !self.peers.allows(target);
            let tier = match pg.member(disk) {
                Some(member) if member.is_full() => 0,
                Some(member) if member.complete => 1,
                Some(_) => 2,
                None => 3,
            };
            let suspect = node.state == NodeState::Suspect || is_slow(map, disk);
            let micros = self.peers.mean(disk, class).as_micros() as f64 + 100.0;
            let cost = (micros * (0.5 + self.env.entropy.unit())) as u64;
            let replica = Replica { target, address: node.address.clone() };
            Some(((doubtful, tier, suspect, cost), replica))
        };
        let mut ranked: Vec<_> = pg.holders().filter_map(rank).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        ranked.into_iter().map(|(_, replica)| replica).collect()
    }

    async fn read_replica(
        &self,
        wanted: &Wanted,
        replica: Replica,
        class: Class,
        deadline: Instant,
    ) -> (Replica, Result<Bytes, WireError>) {
        let started = self.env.clock.now();
        let until = deadline.min(started + REPLICA_LIMIT);
        let _under_way = self.peers.begin(replica.target);
        let range = (!wanted.is_whole()).then(|| wanted.range.clone());
        let Replica { target: Target { disk, .. }, address } = &replica;
        let read = self.wire.try_get_block(address, *disk, wanted.pg, wanted.id, range, until);
        let result = match read.await {
            Ok((bytes, crc)) if wanted.is_whole() && !wanted.is(&bytes, crc) => {
                Err(WireError::corrupt(address, wanted.id, wanted.crc, crc))
            }
            Ok((bytes, _)) => Ok(bytes),
            Err(e) => Err(e),
        };
        let now = self.env.clock.now();
        match &result {
            Ok(_) => {
                let elapsed = now.saturating_duration_since(started);
                self.peers.succeeded(replica.target, class, elapsed);
            }
            Err(e) => {
                tracing::debug!(block = %wanted.id, disk = %disk, error = %e, "replica not read");
                if matches!(e, WireError::Remote(e) if e.kind == Kind::Busy) {
                    self.window.refused(class);
                }
                self.peers.failed(replica.target, e, now);
            }
        }
        (replica, result)
    }

    /// Replicas that another one, asked later, has overtaken.
    fn blame_slower(&self, asked: &Asked, class: Class) {
        let now = self.env.clock.now();
        let usual = self.peers.usual(class).unwrap_or(HEDGE_UNKNOWN);
        for (replica, since) in asked {
            let elapsed = now.saturating_duration_since(*since);
            if elapsed > usual {
                self.peers.late(replica.target, class, elapsed, now);
            }
        }
    }
}

impl Wanted {
    fn is(&self, bytes: &Bytes, crc: u32) -> bool {
        bytes.len() == self.block_length as usize
            && (crc == self.crc || planted::has(Bug::ServeUnverified))
    }
}

/// `NotFound` only when all say so: any other error leaves hope.
fn worse(old: Option<Error>, new: Error) -> Error {
    match old {
        Some(old) if old.kind != Kind::NotFound => old,
        _ => new,
    }
}
