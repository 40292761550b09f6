//! A small cluster over an in-memory store, for the tests of this crate.

use crate::{map, reads, table};
use everhold_proto::apply::Apply;
use everhold_proto::command::{Answer, MapCommand, PgChange, TableCommand};
use everhold_proto::kv::{KvTxn, MemKv, put_row};
use everhold_proto::map::{ClusterMap, Labels, NodeState, Pg, Policy};
use everhold_proto::table::{Ack, NewBlock, Refusal, SessionRow};
use everhold_proto::*;

/// Space of each test disk.
pub(crate) const CAPACITY: u64 = 1 << 30;
/// Length of each test block.
pub(crate) const LENGTH: u32 = 4096;

pub(crate) struct World {
    pub(crate) kv: MemKv,
    pub(crate) index: u64,
    pub(crate) log_ms: u64,
}

impl World {
    /// A cluster with one node and one disk for each of `zones` ("" for none).
    pub(crate) fn new(copies: u8, zones: &[&str]) -> Self {
        let mut world = World { kv: MemKv::default(), index: 0, log_ms: 1 };
        let policy = Policy::replicated(PolicyId(0), "default", copies);
        let answer = world.apply(|ctx| crate::create(ctx, ClusterId([7; 16]), &policy).unwrap());
        assert_eq!(answer, Answer::Done);
        for (place, zone) in zones.iter().enumerate() {
            world.add_node(place as u8 + 1, zone);
        }
        world
    }

    pub(crate) fn apply<T>(&mut self, change: impl FnOnce(&mut Apply<'_>) -> T) -> T {
        self.index += 1;
        let stamp = Stamp { log_ms: self.log_ms, wall: Timestamp(0) };
        let mut ctx = Apply::begin(&mut self.kv, LogIndex(self.index), stamp).unwrap();
        let result = change(&mut ctx);
        ctx.finish().unwrap();
        result
    }

    pub(crate) fn map_command(&mut self, command: MapCommand) -> Answer {
        let before = self.kv.clone();
        let answer = self.apply(|ctx| map::apply(ctx, &command).unwrap());
        if matches!(answer, Answer::Refused(_)) {
            let header = tables::header();
            let rows = |kv: &MemKv| {
                let mut rows = kv.0.clone();
                rows.remove(&header);
                rows
            };
            assert_eq!(rows(&before), rows(&self.kv), "a refused command changed something");
        }
        answer
    }

    pub(crate) fn table_command(&mut self, command: TableCommand) -> Answer {
        self.apply(|ctx| table::apply(ctx, &command).unwrap())
    }

    pub(crate) fn add_node(&mut self, number: u8, zone: &str) {
        let (node, _) = self.register_node(number, zone);
        assert_eq!(node, NodeId(u32::from(number)));
        self.register_disk(number, None);
    }

    pub(crate) fn register_node(&mut self, number: u8, zone: &str) -> (NodeId, u64) {
        let answer = self.map_command(MapCommand::RegisterNode {
            uuid: [number; 16],
            address: format!("127.0.0.1:{number}"),
            labels: Labels { zone: zone.into(), ..Labels::default() },
            marks: Vec::new(),
        });
        let Answer::Node { node, boot } = answer else { panic!("{answer:?}") };
        (node, boot)
    }

    pub(crate) fn register_disk(&mut self, number: u8, disk: Option<DiskId>) -> DiskSession {
        let answer = self.map_command(MapCommand::RegisterDisk {
            uuid: [number; 16],
            disk,
            node: NodeId(u32::from(number)),
            capacity_bytes: CAPACITY,
            used_bytes: 0,
        });
        let Answer::Disk { session, .. } = answer else { panic!("{answer:?}") };
        session
    }

    pub(crate) fn create_pg(&mut self, disks: &[u32]) -> PgId {
        let existing = self.map().pgs.len() as u64;
        let members = vec![disks.iter().map(|disk| DiskId(*disk)).collect()];
        let command = MapCommand::CreatePgs { policy: PolicyId(0), members, existing };
        assert_eq!(self.map_command(command), Answer::Done);
        PgId(existing as u32 + 1)
    }

    pub(crate) fn set_node(&mut self, node: u32, state: NodeState) -> Answer {
        let node = NodeId(node);
        let boot = self.map().nodes[&node].boot;
        let reason = "test".into();
        self.map_command(MapCommand::SetNodeState { node, boot, state, reason })
    }

    pub(crate) fn node_out(&mut self, node: u32) {
        assert_eq!(self.set_node(node, NodeState::Down), Answer::Done);
        assert_eq!(self.set_node(node, NodeState::Out), Answer::Done);
    }

    pub(crate) fn change(&mut self, pg: PgId, change: PgChange) -> Answer {
        let generation = self.pg(pg).generation;
        self.map_command(MapCommand::ChangePg { pg, generation, change })
    }

    pub(crate) fn map(&self) -> ClusterMap {
        reads::load_map(&self.kv).unwrap()
    }

    pub(crate) fn pg(&self, pg: PgId) -> Pg {
        self.map().pgs[&pg].clone()
    }

    pub(crate) fn session_of(&self, disk: u32) -> DiskSession {
        self.map().disks[&DiskId(disk)].session
    }

    /// An acknowledgement as the disk would give it now.
    pub(crate) fn ack(&self, pg: PgId, disk: u32) -> Ack {
        let disk = DiskId(disk);
        let joined = self.pg(pg).member(disk).map_or(LogIndex(0), |member| member.joined);
        Ack { disk, session: self.session_of(disk.0), joined }
    }

    pub(crate) fn block(&self, pg: PgId, counter: u64, acks: &[u32]) -> NewBlock {
        NewBlock {
            id: id(counter),
            pg,
            length: LENGTH,
            crc: counter as u32,
            acks: acks.iter().map(|disk| self.ack(pg, *disk)).collect(),
        }
    }

    pub(crate) fn open_session(&mut self, floor: u64) {
        let row = SessionRow { floor, ..SessionRow::default() };
        put_row(&mut self.kv, &tables::session(SESSION), &row).unwrap();
    }

    pub(crate) fn end_session(&mut self) {
        self.kv.delete(&tables::session(SESSION)).unwrap();
    }

    pub(crate) fn judge(&self, block: &NewBlock) -> Option<Refusal> {
        let refused = table::judge(&self.kv, SESSION, 0, std::slice::from_ref(block)).unwrap();
        refused.first().map(|(_, refusal)| *refusal)
    }

    /// Commits a block with one reference if it is not refused.
    pub(crate) fn commit(&mut self, block: &NewBlock) -> Option<Refusal> {
        let refusal = self.judge(block);
        if refusal.is_none() {
            self.apply(|ctx| {
                table::admit(ctx, block).unwrap();
                let bytes = i64::from(block.length);
                table::reference(ctx, block.pg, block.id, 1, bytes).unwrap();
            });
        }
        refusal
    }

    pub(crate) fn remove(&mut self, pg: PgId, counter: u64) {
        self.apply(|ctx| {
            table::reference(ctx, pg, id(counter), -1, -i64::from(LENGTH)).unwrap();
        });
    }

    /// Missing copies recorded for a disk.
    pub(crate) fn missing(&self, pg: PgId, disk: u32) -> Vec<(u64, LogIndex)> {
        let missing = reads::missing(&self.kv, pg, DiskId(disk), None, usize::MAX).unwrap();
        missing.into_iter().map(|(entry, record)| (entry.id.counter, record.recorded)).collect()
    }

    /// A comparison as the disk would report it now.
    pub(crate) fn comparison(&self, pg: PgId, disk: u32, missing: &[u64]) -> TableCommand {
        TableCommand::Compared {
            disk: DiskId(disk),
            session: self.session_of(disk),
            pg,
            joined: self.ack(pg, disk).joined,
            table_read: LogIndex(self.index),
            missing: missing.iter().map(|counter| id(*counter)).collect(),
        }
    }

    pub(crate) fn compare(&mut self, pg: PgId, disk: u32, missing: &[u64]) -> Answer {
        self.table_command(self.comparison(pg, disk, missing))
    }

    pub(crate) fn bad(&mut self, pg: PgId, disk: u32, counter: u64) -> Answer {
        let (session, disk) = (self.session_of(disk), DiskId(disk));
        self.table_command(TableCommand::Bad { disk, session, pg, blocks: vec![id(counter)] })
    }

    pub(crate) fn repaired(&mut self, pg: PgId, disk: u32, counter: u64, at: LogIndex) -> Answer {
        let (session, disk) = (self.session_of(disk), DiskId(disk));
        let blocks = vec![table_repaired(counter, at)];
        self.table_command(TableCommand::Repaired { disk, session, pg, blocks })
    }

    pub(crate) fn may_delete(&self, pg: PgId, disk: u32, counter: u64) -> (bool, bool) {
        let session = self.session_of(disk);
        let deletable =
            reads::may_delete(&self.kv, DiskId(disk), session, pg, &[id(counter)]).unwrap();
        (!deletable.dead.is_empty(), !deletable.moved.is_empty())
    }
}

fn table_repaired(counter: u64, recorded: LogIndex) -> everhold_proto::table::Repaired {
    everhold_proto::table::Repaired { id: id(counter), recorded }
}

/// The session that commits in tests.
pub(crate) const SESSION: SessionId = SessionId(1);

pub(crate) fn id(counter: u64) -> BlockId {
    BlockId { session: SESSION, counter }
}

/// The kind of a refusal.
pub(crate) fn refusal(answer: &Answer) -> Option<Kind> {
    match answer {
        Answer::Refused(error) => Some(error.kind),
        _ => None,
    }
}
