//! Answers from the rows of one consistent point: pages of the block table, work for a disk,
//! permission to delete, the map, the state of repair.

use crate::state;
use crate::table::{is_below_floor, is_live, row};
use everhold_proto::kv::{KvRead, KvResult, get_row, prefix_end, scan_rows};
use everhold_proto::map::{ClusterMap, Disk, Event, Member, Node, Pg, Policy};
use everhold_proto::planted::{self, Bug};
use everhold_proto::rpc::{RepairItem, RepairStatus};
use everhold_proto::table::{BlockEntry, BlockRow, Missing, PgWork};
use everhold_proto::tables::{self, Header, Key, Table};
use everhold_proto::{BlockId, DiskId, DiskSession, LogIndex, PgId};

/// Most PGs that a status lists.
const QUEUE_MAX: usize = 100;

/// The whole map.
pub fn load_map(kv: &dyn KvRead) -> KvResult<ClusterMap> {
    let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
    let mut map =
        ClusterMap { cluster: header.cluster, epoch: header.epoch, ..ClusterMap::default() };
    let nodes: Vec<Node> = state::all(kv, Table::Node)?;
    let disks: Vec<Disk> = state::all(kv, Table::Disk)?;
    let pgs: Vec<Pg> = state::all(kv, Table::Pg)?;
    let policies: Vec<Policy> = state::all(kv, Table::Policy)?;
    map.nodes.extend(nodes.into_iter().map(|node| (node.id, node)));
    map.disks.extend(disks.into_iter().map(|disk| (disk.id, disk)));
    map.pgs.extend(pgs.into_iter().map(|pg| (pg.id, pg)));
    map.policies.extend(policies.into_iter().map(|policy| (policy.id, policy)));
    Ok(map)
}

/// The last events, oldest first.
pub fn events(kv: &dyn KvRead, limit: usize) -> KvResult<Vec<Event>> {
    let header: Header = get_row(kv, &tables::header())?.unwrap_or_default();
    let first = header.next_event.saturating_sub(limit as u64);
    scan_rows(kv, &tables::event(first), &tables::event(header.next_event), limit, |_, row| {
        Some(row)
    })
}

/// The key after which a page begins.
fn page_start(prefix: Vec<u8>, after: Option<BlockId>) -> Option<Vec<u8>> {
    let first = match after {
        None => BlockId::MIN,
        Some(id) => id.next()?,
    };
    Some([prefix, first.to_bytes().to_vec()].concat())
}

/// Live blocks of a PG after an id, in id order, at most `limit`, and whether there are more.
pub fn page(
    kv: &dyn KvRead,
    pg: PgId,
    after: Option<BlockId>,
    limit: usize,
) -> KvResult<(Vec<BlockEntry>, bool)> {
    let prefix = Key::new(Table::Block).u32(pg.0).done();
    let end = prefix_end(&prefix);
    let Some(from) = page_start(prefix, after) else {
        return Ok((Vec::new(), false));
    };
    let mut blocks = scan_rows(kv, &from, &end, limit.saturating_add(1), |key, row: BlockRow| {
        let id = tables::block_id_of(key).filter(|_| row.references > 0)?;
        Some(BlockEntry { id, length: row.length, crc: row.crc })
    })?;
    let more = blocks.len() > limit;
    blocks.truncate(limit);
    Ok((blocks, more))
}

/// The single missing copies of a disk in a PG after an id, in id order.
pub fn missing(
    kv: &dyn KvRead,
    pg: PgId,
    disk: DiskId,
    after: Option<BlockId>,
    limit: usize,
) -> KvResult<Vec<(BlockEntry, Missing)>> {
    let prefix = tables::missing_of(pg, disk);
    let end = prefix_end(&prefix);
    let Some(from) = page_start(prefix, after) else {
        return Ok(Vec::new());
    };
    let records = scan_rows(kv, &from, &end, limit, |key, record: Missing| {
        Some((tables::block_id_of(key)?, record))
    })?;
    let mut found = Vec::with_capacity(records.len());
    for (id, record) in records {
        if let Some(row) = row(kv, pg, id)? {
            found.push((BlockEntry { id, length: row.length, crc: row.crc }, record));
        }
    }
    Ok(found)
}

/// What a disk has to do, the riskiest PG first. Nothing for a session that has ended.
pub fn work(kv: &dyn KvRead, disk: DiskId, session: DiskSession) -> KvResult<Vec<PgWork>> {
    if state::disk(kv, disk)?.is_none_or(|disk| disk.session != session) {
        return Ok(Vec::new());
    }
    Ok(work_of(&load_map(kv)?, disk))
}

/// The same from a map: which PGs of a disk are not full there, the riskiest first.
pub fn work_of(map: &ClusterMap, disk: DiskId) -> Vec<PgWork> {
    let of_pg = |pg: &Pg| {
        let member = pg.member(disk).filter(|member| !member.is_full())?;
        Some(PgWork {
            pg: pg.id,
            generation: pg.generation,
            joined: member.joined,
            compare: !member.complete,
            missing_blocks: member.missing_blocks,
            full_members: reachable_full(map, pg),
            blocks: pg.blocks,
            live_bytes: pg.live_bytes,
        })
    };
    let mut work: Vec<PgWork> = map.pgs.values().filter_map(of_pg).collect();
    work.sort_by_key(|work| (work.full_members, work.pg));
    work
}

fn reachable_full(map: &ClusterMap, pg: &Pg) -> u8 {
    pg.members.iter().filter(|m| m.is_full() && map.is_reachable(m.disk)).count() as u8
}

/// Permission to delete, at one point: see [`may_delete`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletable {
    /// Not in the table and below the floor; final.
    pub dead: Vec<BlockId>,
    /// The disk is neither member nor former, and the PG has its full number of full members.
    pub moved: Vec<BlockId>,
}

/// Which of `blocks` the disk may delete, by the one rule of deletion (`docs/protocol.md`).
/// The answer is a permission only if the point is linearizable: not older than the question.
pub fn may_delete(
    kv: &dyn KvRead,
    disk: DiskId,
    session: DiskSession,
    pg: PgId,
    blocks: &[BlockId],
) -> KvResult<Deletable> {
    let mut deletable = Deletable::default();
    if state::disk(kv, disk)?.is_none_or(|disk| disk.session != session) {
        return Ok(deletable);
    }
    let moved = match state::pg(kv, pg)? {
        Some(group) => is_full_without(kv, &group, disk)?,
        None => false,
    };
    for id in blocks {
        let ended = is_below_floor(kv, *id)? || planted::has(Bug::DeleteWithoutFloor);
        if row(kv, pg, *id)?.is_none() && ended {
            deletable.dead.push(*id);
        } else if moved {
            deletable.moved.push(*id);
        }
    }
    Ok(deletable)
}

fn is_full_without(kv: &dyn KvRead, pg: &Pg, disk: DiskId) -> KvResult<bool> {
    let outside = pg.holders().all(|holder| holder != disk);
    let copies = state::policy(kv, pg.policy)?.map(|policy| usize::from(policy.copies));
    let is_full = copies.is_some_and(|copies| pg.full_members() >= copies);
    Ok(outside && (is_full || planted::has(Bug::DeleteBeforeVerified)))
}

/// Redundancy of every PG and what is queued, from the rows (a map may be older); the rate and the time
/// left are the caller's to add. A disk that joins a PG that is full without it is no lack: it is a move.
pub fn repair_status(kv: &dyn KvRead, map: &ClusterMap) -> KvResult<RepairStatus> {
    let mut status = RepairStatus { blocks_lost: count_lost(kv)?, ..RepairStatus::default() };
    for pg in &state::all::<Pg>(kv, Table::Pg)? {
        if let Some(item) = lack(map, pg) {
            status.pgs_degraded += 1;
            status.pgs_at_risk += u64::from(item.full_members <= 1);
            status.copies_missing += item.copies_missing;
            status.bytes_missing += item.copies_missing * (pg.live_bytes / pg.blocks.max(1));
            status.queue.push(item);
        }
    }
    status.redundant = status.queue.is_empty() && status.blocks_lost == 0;
    status.queue.sort_by_key(|item| (item.full_members, item.pg));
    status.queue.truncate(QUEUE_MAX);
    Ok(status)
}

/// What a PG lacks, if it has fewer full members in reach than its policy wants.
fn lack(map: &ClusterMap, pg: &Pg) -> Option<RepairItem> {
    let copies = map.policies.get(&pg.policy).map_or(1, |policy| policy.copies);
    let full_members = reachable_full(map, pg);
    let wanted = usize::from(copies.checked_sub(full_members).filter(|wanted| *wanted > 0)?);
    let lacking: Vec<&Member> =
        pg.members.iter().filter(|m| !m.is_full() || !map.is_reachable(m.disk)).collect();
    // Whoever lacks least is full first, and then the PG is.
    let mut lacks: Vec<u64> = lacking.iter().map(|m| copies_lacking(map, pg, m)).collect();
    lacks.resize(lacks.len().max(wanted), pg.blocks);
    lacks.sort_unstable();
    Some(RepairItem {
        pg: pg.id,
        full_members,
        copies,
        targets: lacking.iter().map(|member| member.disk).collect(),
        copies_missing: lacks[..wanted].iter().sum(),
    })
}

/// Copies known or feared missing at a member. One that cannot be reached serves none of its copies.
fn copies_lacking(map: &ClusterMap, pg: &Pg, member: &Member) -> u64 {
    if member.complete && map.is_reachable(member.disk) { member.missing_blocks } else { pg.blocks }
}

fn count_lost(kv: &dyn KvRead) -> KvResult<u64> {
    let from = Key::new(Table::Lost).done();
    let lost: Vec<(PgId, BlockId)> =
        scan_rows(kv, &from, &prefix_end(&from), usize::MAX, |key, _: LogIndex| {
            let pg = key.get(1..5)?.try_into().ok()?;
            Some((PgId(u32::from_be_bytes(pg)), tables::block_id_of(key)?))
        })?;
    let mut count = 0;
    for (pg, id) in lost {
        count += u64::from(is_live(kv, pg, id)?);
    }
    Ok(count)
}
