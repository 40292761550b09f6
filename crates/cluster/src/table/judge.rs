//! The judgement of a commit's blocks against the newest map.
//!
//! An acknowledgement counts if it is of the current session of a disk that is a member now, and was
//! made after the disk's current join. Everything else is as if it had not been given.

use crate::state;
use crate::table::row;
use everhold_proto::kv::{KvRead, KvResult};
use everhold_proto::limits::{BLOCK_BYTES_MAX, PG_MEMBERS_MAX};
use everhold_proto::map::{Disk, DiskState, Node, NodeState, Pg, Policy};
use everhold_proto::planted::{self, Bug};
use everhold_proto::table::{NewBlock, Refusal};
use everhold_proto::{BlockId, DiskId, NodeId, PgId, PolicyId, SessionId};
use std::collections::{BTreeMap, BTreeSet};

/// Judges the blocks that a commit of `session` wants to make part of files; `floor` is the lowest
/// counter that the session may still commit. Empty: all of them may be admitted, in this entry.
pub fn judge(
    kv: &dyn KvRead,
    session: SessionId,
    floor: u64,
    blocks: &[NewBlock],
) -> KvResult<Vec<(BlockId, Refusal)>> {
    let mut bench = Bench::new(kv);
    let (mut refused, mut seen) = (Vec::new(), BTreeSet::new());
    for block in blocks {
        let refusal = if !seen.insert(block.id) {
            Some(Refusal::InTable)
        } else if block.id.session != session || block.id.counter < floor {
            Some(Refusal::BelowFloor)
        } else {
            bench.judge(block)?
        };
        refused.extend(refusal.map(|refusal| (block.id, refusal)));
    }
    Ok(refused)
}

/// Disks of `pg` whose acknowledgement of the block counts.
pub(crate) fn counted(kv: &dyn KvRead, pg: &Pg, block: &NewBlock) -> KvResult<Vec<DiskId>> {
    Bench::new(kv).counted(pg, block)
}

/// The rows that a judgement needs, read once: the blocks of a commit share PGs, disks and nodes.
struct Bench<'a> {
    kv: &'a dyn KvRead,
    pgs: BTreeMap<PgId, Option<Pg>>,
    policies: BTreeMap<PolicyId, Option<Policy>>,
    disks: BTreeMap<DiskId, Option<Disk>>,
    nodes: BTreeMap<NodeId, Option<Node>>,
}

impl<'a> Bench<'a> {
    fn new(kv: &'a dyn KvRead) -> Self {
        Bench {
            kv,
            pgs: BTreeMap::new(),
            policies: BTreeMap::new(),
            disks: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    fn judge(&mut self, block: &NewBlock) -> KvResult<Option<Refusal>> {
        let length_fits = block.length > 0 && block.length as usize <= BLOCK_BYTES_MAX;
        if !length_fits || block.acks.len() > PG_MEMBERS_MAX {
            return Ok(Some(Refusal::Malformed));
        }
        let Some(pg) = cached(&mut self.pgs, block.pg, |id| state::pg(self.kv, id))? else {
            return Ok(Some(Refusal::NoPg));
        };
        let policy = cached(&mut self.policies, pg.policy, |id| state::policy(self.kv, id))?;
        let Some(policy) = policy else {
            return Ok(Some(Refusal::NoPg));
        };
        if row(self.kv, block.pg, block.id)?.is_some() {
            return Ok(Some(Refusal::InTable));
        }
        let counted = self.counted(&pg, block)?;
        if counted.len() < usize::from(policy.write_quorum) {
            return Ok(Some(Refusal::TooFewAcks));
        }
        Ok(self.lacks_zone(&pg, &policy, &counted)?.then_some(Refusal::OneZone))
    }

    fn counted(&mut self, pg: &Pg, block: &NewBlock) -> KvResult<Vec<DiskId>> {
        let mut counted = Vec::with_capacity(block.acks.len());
        for ack in &block.acks {
            let current = pg.member(ack.disk).is_some_and(|member| member.joined == ack.joined);
            if !current || counted.contains(&ack.disk) {
                continue;
            }
            let disk = self.disk(ack.disk)?;
            let current = |d: &Disk| d.session == ack.session || planted::has(Bug::OldSessionAck);
            if disk.is_some_and(|d| current(&d) && d.state != DiskState::Failed) {
                counted.push(ack.disk);
            }
        }
        Ok(counted)
    }

    /// Whether the acknowledgements stand in one zone although the PG has members in service in two. A
    /// policy whose quorum is one disk asks for no second zone.
    fn lacks_zone(&mut self, pg: &Pg, policy: &Policy, counted: &[DiskId]) -> KvResult<bool> {
        if policy.write_quorum < 2 || self.zones(counted.iter().copied(), false)? > 1 {
            return Ok(false);
        }
        Ok(self.zones(pg.members.iter().map(|member| member.disk), true)? > 1)
    }

    /// Number of distinct zones of `disks`, of those in service only if `in_service`.
    fn zones(&mut self, disks: impl Iterator<Item = DiskId>, in_service: bool) -> KvResult<usize> {
        let mut zones = BTreeSet::new();
        for id in disks {
            let Some(disk) = self.disk(id)? else { continue };
            let node = cached(&mut self.nodes, disk.node, |id| state::node(self.kv, id))?;
            let serves =
                |node: &Node| disk.state != DiskState::Failed && node.state <= NodeState::Suspect;
            zones.extend(node.filter(|node| !in_service || serves(node)).map(|node| node.zone()));
        }
        Ok(zones.len())
    }

    fn disk(&mut self, id: DiskId) -> KvResult<Option<Disk>> {
        cached(&mut self.disks, id, |id| state::disk(self.kv, id))
    }
}

fn cached<K: Ord + Copy, V: Clone>(
    cache: &mut BTreeMap<K, Option<V>>,
    key: K,
    read: impl FnOnce(K) -> KvResult<Option<V>>,
) -> KvResult<Option<V>> {
    if let Some(known) = cache.get(&key) {
        return Ok(known.clone());
    }
    let value = read(key)?;
    cache.insert(key, value.clone());
    Ok(value)
}
