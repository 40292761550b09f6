//! A small world for the workers: the real state machine over a `BTreeMap`, stores in memory whose
//! copies can be damaged, and peers that can be unreachable.

use crate::repair::LocalDisk;
use crate::repair::ports::{Cluster, Compacted, Store};
use async_trait::async_trait;
use bytes::Bytes;
use everhold_cluster::{create, map, reads, table};
use everhold_proto::apply::Apply;
use everhold_proto::checksum::crc32c;
use everhold_proto::command::{Answer, MapCommand, PgChange, TableCommand};
use everhold_proto::kv::{MemKv, put_row};
use everhold_proto::map::{ClusterMap, Fullness, Labels, Policy};
use everhold_proto::rpc::{
    Compared, GetWork, ListMissing, MayDelete, MayDeleteReply, ReportBad, ReportLost,
    ReportRepaired, TablePage, TablePageReply,
};
use everhold_proto::table::{Ack, BlockEntry, Missing, NewBlock, PgWork, SessionRow};
use everhold_proto::{
    BlockId, ClusterId, DiskId, DiskSession, Error, Kind, LogIndex, NodeId, PgId, PolicyId,
    SessionId, Stamp, Timestamp, tables,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) const PG: PgId = PgId(1);
/// The session of the one writer.
pub(super) const WRITER: SessionId = SessionId(1000);

/// What one entry does.
pub(super) enum Entry {
    Map(MapCommand),
    Table(TableCommand),
    Commit(NewBlock),
    /// Drops the only reference of a block.
    Remove(PgId, BlockId),
}

pub(super) struct World {
    state: Mutex<State>,
    stores: Mutex<BTreeMap<DiskId, Arc<MemStore>>>,
    pub(super) unreachable: Mutex<BTreeSet<DiskId>>,
}

#[derive(Default)]
struct State {
    kv: MemKv,
    index: u64,
    log_ms: u64,
}

impl World {
    /// A cluster with `disks` nodes of one disk each; one PG on the first `copies` of them.
    pub(super) fn new(disks: u32, copies: u8) -> Arc<Self> {
        let world = Arc::new(World {
            state: Mutex::default(),
            stores: Mutex::default(),
            unreachable: Mutex::default(),
        });
        let policy = Policy::replicated(PolicyId(0), "default", copies);
        world.entry(|ctx| create(ctx, ClusterId([1; 16]), &policy).expect("memory works"));
        for number in 1..=disks {
            world.register_node(number);
            world.register_disk(DiskId(number));
            world.stores.lock().insert(DiskId(number), Arc::default());
        }
        let members = vec![(1..=u32::from(copies)).map(DiskId).collect()];
        world.apply(Entry::Map(MapCommand::CreatePgs {
            policy: PolicyId(0),
            members,
            existing: 0,
        }));
        world.set_floor(0);
        world
    }

    /// Applies one entry; a refusal is an error.
    pub(super) fn apply(&self, entry: Entry) -> Answer {
        match self.try_apply(entry) {
            Ok(answer) => answer,
            Err(e) => panic!("refused: {e}"),
        }
    }

    fn try_apply(&self, entry: Entry) -> Result<Answer, Error> {
        let answer = self.entry(|ctx| match entry {
            Entry::Map(command) => map::apply(ctx, &command).expect("memory works"),
            Entry::Table(command) => table::apply(ctx, &command).expect("memory works"),
            Entry::Commit(block) => {
                let session = block.id.session;
                let refused = table::judge(&*ctx.kv, session, 0, std::slice::from_ref(&block));
                assert_eq!(refused.expect("memory works"), []);
                table::admit(ctx, &block).expect("memory works");
                table::reference(ctx, block.pg, block.id, 1, block.length.into())
                    .expect("memory works");
                Answer::Done
            }
            Entry::Remove(pg, id) => {
                table::reference(ctx, pg, id, -1, 0).expect("memory works");
                Answer::Done
            }
        });
        match answer {
            Answer::Refused(error) => Err(error),
            answer => Ok(answer),
        }
    }

    fn entry(&self, apply: impl FnOnce(&mut Apply<'_>) -> Answer) -> Answer {
        let mut state = self.state.lock();
        state.index += 1;
        let (index, stamp) =
            (LogIndex(state.index), Stamp { log_ms: state.log_ms, wall: Timestamp(0) });
        let mut ctx = Apply::begin(&mut state.kv, index, stamp).expect("memory works");
        let answer = apply(&mut ctx);
        ctx.finish().expect("memory works");
        answer
    }

    fn register_node(&self, number: u32) {
        let (uuid, address) = ([number as u8; 16], format!("host{number}:1"));
        let labels = Labels::default();
        self.apply(Entry::Map(MapCommand::RegisterNode {
            uuid,
            address,
            labels,
            marks: Vec::new(),
        }));
    }

    /// The disk's process starts (again): a new session.
    pub(super) fn register_disk(&self, disk: DiskId) -> DiskSession {
        let answer = self.apply(Entry::Map(MapCommand::RegisterDisk {
            uuid: [disk.0 as u8; 16],
            disk: self.map().disks.contains_key(&disk).then_some(disk),
            node: NodeId(disk.0),
            capacity_bytes: 1 << 40,
            used_bytes: 0,
        }));
        match answer {
            Answer::Disk { disk: id, session } if id == disk => session,
            other => panic!("unexpected {other:?}"),
        }
    }

    /// The writer may commit counters from `floor` on.
    pub(super) fn set_floor(&self, floor: u64) {
        let row = SessionRow { floor, ..Default::default() };
        put_row(&mut self.state.lock().kv, &tables::session(WRITER), &row).expect("memory works");
    }

    /// Lets log time pass and takes dead blocks out of the table.
    pub(super) fn sweep(&self) {
        self.state.lock().log_ms += 60_000;
        self.apply(Entry::Table(TableCommand::Sweep { limit: 1000 }));
    }

    /// Writes and commits a block of the writer that only `to` have.
    pub(super) fn write(&self, counter: u64, to: &[u32]) -> BlockEntry {
        let (block, data) = content(counter);
        let mut acks = Vec::new();
        for disk in to.iter().copied().map(DiskId) {
            self.store(disk).insert(PG, block, data.clone());
            let map = self.map();
            let joined = map.pgs[&PG].member(disk).expect("a member").joined;
            acks.push(Ack { disk, session: map.disks[&disk].session, joined });
        }
        let BlockEntry { id, length, crc } = block;
        self.apply(Entry::Commit(NewBlock { id, pg: PG, length, crc, acks }));
        block
    }

    pub(super) fn change(&self, change: PgChange) {
        let generation = self.map().pgs[&PG].generation;
        self.apply(Entry::Map(MapCommand::ChangePg { pg: PG, generation, change }));
    }

    pub(super) fn store(&self, disk: DiskId) -> Arc<MemStore> {
        self.stores.lock()[&disk].clone()
    }

    /// The disk as its workers see it.
    pub(super) fn local(&self, number: u32) -> Arc<LocalDisk> {
        let disk = DiskId(number);
        let session = self.map().disks[&disk].session;
        LocalDisk::new(NodeId(number), disk, session, self.store(disk))
    }

    pub(super) fn is_full(&self, disk: u32) -> bool {
        self.map().pgs[&PG].member(DiskId(disk)).is_some_and(|member| member.is_full())
    }

    pub(super) fn lost(&self) -> u64 {
        let map = self.map();
        reads::repair_status(&self.state.lock().kv, &map).expect("memory works").blocks_lost
    }

    fn read<R>(&self, read: impl FnOnce(&MemKv, LogIndex) -> R) -> Result<R, Error> {
        let state = self.state.lock();
        Ok(read(&state.kv, LogIndex(state.index)))
    }

    fn report(&self, command: TableCommand) -> Result<Answer, Error> {
        self.try_apply(Entry::Table(command))
    }
}

/// Block `counter` of the writer and its bytes.
pub(super) fn content(counter: u64) -> (BlockEntry, Bytes) {
    let data = Bytes::from(counter.to_string().repeat(10));
    let id = BlockId { session: WRITER, counter };
    (BlockEntry { id, length: data.len() as u32, crc: crc32c(&data) }, data)
}

#[async_trait]
impl Cluster for World {
    fn map(&self) -> Arc<ClusterMap> {
        Arc::new(reads::load_map(&self.state.lock().kv).expect("memory works"))
    }

    async fn work(&self, ask: GetWork) -> Result<Vec<PgWork>, Error> {
        self.read(|kv, _| reads::work(kv, ask.disk, ask.session).expect("memory works"))
    }

    async fn table_page(&self, ask: TablePage) -> Result<TablePageReply, Error> {
        self.read(|kv, at| {
            let page = reads::page(kv, ask.pg, ask.after, ask.limit as usize);
            let (blocks, more) = page.expect("memory works");
            TablePageReply { at, blocks, more }
        })
    }

    async fn missing(&self, ask: ListMissing) -> Result<Vec<(BlockEntry, Missing)>, Error> {
        self.read(|kv, _| {
            reads::missing(kv, ask.pg, ask.disk, ask.after, ask.limit as usize)
                .expect("memory works")
        })
    }

    async fn compared(&self, report: Compared) -> Result<(), Error> {
        let Compared { disk, session, pg, joined, table_read, missing } = report;
        self.report(TableCommand::Compared { disk, session, pg, joined, table_read, missing })?;
        Ok(())
    }

    async fn repaired(&self, report: ReportRepaired) -> Result<(), Error> {
        let ReportRepaired { disk, session, pg, blocks } = report;
        self.report(TableCommand::Repaired { disk, session, pg, blocks })?;
        Ok(())
    }

    async fn bad(&self, report: ReportBad) -> Result<bool, Error> {
        let ReportBad { disk, session, pg, blocks } = report;
        match self.report(TableCommand::Bad { disk, session, pg, blocks })? {
            Answer::Bad { session_ended } => Ok(session_ended),
            other => panic!("unexpected {other:?}"),
        }
    }

    async fn lost(&self, report: ReportLost) -> Result<(), Error> {
        let ReportLost { pg, generation, blocks } = report;
        self.report(TableCommand::Lost { pg, generation, blocks })?;
        Ok(())
    }

    async fn may_delete(&self, ask: MayDelete) -> Result<MayDeleteReply, Error> {
        self.read(|kv, at| {
            let found = reads::may_delete(kv, ask.disk, ask.session, ask.pg, &ask.blocks)
                .expect("memory works");
            MayDeleteReply { at, dead: found.dead, moved: found.moved }
        })
    }

    async fn count(&self, pgs: Vec<PgId>) -> Result<Vec<(PgId, u64)>, Error> {
        let map = self.map();
        Ok(pgs.into_iter().filter_map(|pg| Some((pg, map.pgs.get(&pg)?.blocks))).collect())
    }

    async fn fetch(&self, from: DiskId, _pg: PgId, block: BlockEntry) -> Result<Bytes, Error> {
        if self.unreachable.lock().contains(&from) {
            return Err(Error::new(Kind::Retry, "unreachable"));
        }
        self.store(from).read(block.id)
    }
}

/// A store in memory.
#[derive(Default)]
pub(super) struct MemStore {
    blocks: Mutex<BTreeMap<BlockId, Held>>,
}

#[derive(Clone)]
struct Held {
    pg: PgId,
    entry: BlockEntry,
    data: Bytes,
}

impl MemStore {
    pub(super) fn insert(&self, pg: PgId, entry: BlockEntry, data: Bytes) {
        self.blocks.lock().insert(entry.id, Held { pg, entry, data });
    }

    /// Flips a bit of the stored copy; the index does not know.
    pub(super) fn damage(&self, id: BlockId) {
        let mut blocks = self.blocks.lock();
        let held = blocks.get_mut(&id).expect("held");
        let mut data = held.data.to_vec();
        data[0] ^= 1;
        held.data = data.into();
    }

    pub(super) fn lose(&self, id: BlockId) {
        self.blocks.lock().remove(&id);
    }

    pub(super) fn ids(&self) -> Vec<BlockId> {
        self.blocks.lock().keys().copied().collect()
    }

    pub(super) fn read(&self, id: BlockId) -> Result<Bytes, Error> {
        let held = self.blocks.lock().get(&id).cloned();
        let held = held.ok_or_else(|| Error::new(Kind::NotFound, "not here"))?;
        if crc32c(&held.data) == held.entry.crc {
            Ok(held.data)
        } else {
            Err(Error::new(Kind::Corrupt, "damaged"))
        }
    }
}

#[async_trait]
impl Store for MemStore {
    async fn stat(&self, id: BlockId) -> Result<Option<BlockEntry>, Error> {
        Ok(self.blocks.lock().get(&id).map(|held| held.entry))
    }

    async fn verify(&self, id: BlockId) -> Result<BlockEntry, Error> {
        self.read(id)?;
        self.stat(id).await?.ok_or_else(|| Error::new(Kind::NotFound, "not here"))
    }

    async fn restore(&self, pg: PgId, block: BlockEntry, data: Bytes) -> Result<(), Error> {
        self.insert(pg, block, data);
        Ok(())
    }

    async fn list(
        &self,
        pg: PgId,
        after: Option<BlockId>,
        limit: usize,
    ) -> Result<Vec<BlockEntry>, Error> {
        let blocks = self.blocks.lock();
        let of_pg = blocks.values().filter(|held| held.pg == pg).map(|held| held.entry);
        Ok(of_pg.filter(|entry| after.is_none_or(|id| entry.id > id)).take(limit).collect())
    }

    async fn pgs(&self) -> Result<Vec<(PgId, u64)>, Error> {
        let mut counts = BTreeMap::new();
        for held in self.blocks.lock().values() {
            *counts.entry(held.pg).or_default() += 1;
        }
        Ok(counts.into_iter().collect())
    }

    async fn delete(&self, ids: &[BlockId]) -> Result<(), Error> {
        ids.iter().for_each(|id| self.lose(*id));
        Ok(())
    }

    fn fullness(&self) -> Fullness {
        Fullness::Normal
    }

    async fn compact(&self) -> Result<Compacted, Error> {
        Ok(Compacted::Idle)
    }

    async fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
