//! A cluster of one disk and the namespace on it, driven entry by entry.

use crate::{apply, create_root, query, reap, sessions};
use bytes::Bytes;
use everhold_proto::apply::Apply;
use everhold_proto::checksum::crc32c;
use everhold_proto::command::{Answer, MapCommand};
use everhold_proto::fs::*;
use everhold_proto::ids::*;
use everhold_proto::kv::{MemKv, get_row};
use everhold_proto::map::{Labels, Pg, Policy};
use everhold_proto::table::{Ack, NewBlock};
use everhold_proto::tables;
use everhold_proto::units::{Stamp, Timestamp};
use std::collections::BTreeMap;

pub(super) const ROOT: InodeId = InodeId::ROOT;
pub(super) const PG: PgId = PgId(1);
pub(super) const OWNER: Owner = Owner { uid: 7, gid: 8, mode: 0o644, umask: 0 };

pub(super) fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

pub(super) fn inline(offset: u64, bytes: &[u8]) -> Extent {
    let source = Source::Inline(Bytes::copy_from_slice(bytes));
    Extent { offset, length: bytes.len() as u64, source }
}

pub(super) fn only(extents: Vec<Extent>) -> Content {
    Content { extents, blocks: Vec::new() }
}

/// The state, and what the storage nodes would hold.
pub(super) struct World {
    pub(super) kv: MemKv,
    pub(super) index: u64,
    pub(super) wall: i64,
    /// Log time that passed without entries.
    pub(super) waited_ms: u64,
    pub(super) session: SessionId,
    next_request: BTreeMap<SessionId, u64>,
    next_block: u64,
    pub(super) blocks: BTreeMap<BlockId, Vec<u8>>,
    ack: Ack,
}

impl World {
    pub(super) fn new() -> Self {
        let ack = Ack { disk: DiskId(1), session: DiskSession(0), joined: LogIndex(0) };
        let mut world = World {
            kv: MemKv::default(),
            index: 0,
            wall: 1000,
            waited_ms: 0,
            session: SessionId(0),
            next_request: BTreeMap::new(),
            next_block: 1,
            blocks: BTreeMap::new(),
            ack,
        };
        let policy = Policy::replicated(PolicyId(0), "test", 1);
        world.entry(|ctx| {
            everhold_cluster::create(ctx, ClusterId([1; 16]), &policy).unwrap();
            create_root(ctx).unwrap();
        });
        let labels = Labels::default();
        world.map(MapCommand::RegisterNode {
            uuid: [2; 16],
            address: "a:1".into(),
            labels,
            marks: Vec::new(),
        });
        let disk = world.map(MapCommand::RegisterDisk {
            uuid: [3; 16],
            disk: None,
            node: NodeId(1),
            capacity_bytes: 1 << 40,
            used_bytes: 0,
        });
        let Answer::Disk { disk, session } = disk else { panic!("{disk:?}") };
        world.map(MapCommand::CreatePgs {
            policy: PolicyId(0),
            members: vec![vec![disk]],
            existing: 0,
        });
        let pg: Pg = get_row(&world.kv, &tables::pg(PG)).unwrap().unwrap();
        world.ack = Ack { disk, session, joined: pg.members[0].joined };
        world.session = world.open_session();
        world
    }

    /// Log time of the newest entry.
    pub(super) fn log_ms(&self) -> u64 {
        self.index + self.waited_ms
    }

    /// Applies one entry.
    pub(super) fn entry<T>(&mut self, work: impl FnOnce(&mut Apply<'_>) -> T) -> T {
        self.index += 1;
        self.wall += 1;
        let stamp = Stamp { log_ms: self.log_ms(), wall: Timestamp(self.wall) };
        let mut ctx = Apply::begin(&mut self.kv, LogIndex(self.index), stamp).unwrap();
        let answer = work(&mut ctx);
        ctx.finish().unwrap();
        answer
    }

    fn map(&mut self, command: MapCommand) -> Answer {
        let answer = self.entry(|ctx| everhold_cluster::map::apply(ctx, &command).unwrap());
        assert!(!matches!(answer, Answer::Refused(_)), "{command:?}: {answer:?}");
        answer
    }

    pub(super) fn open_session(&mut self) -> SessionId {
        self.entry(|ctx| sessions::open(ctx, "test", false, 0).unwrap())
    }

    pub(super) fn end_session(&mut self, session: SessionId) {
        self.entry(|ctx| sessions::end(ctx, session).unwrap());
    }

    pub(super) fn batch(&mut self, batch: &SessionBatch) -> Vec<Result<FsReply, FsError>> {
        self.entry(|ctx| apply(ctx, batch).unwrap().results)
    }

    /// Carries out one operation of the current session. A failed one must leave no trace, and the same
    /// request again must give the same answer and change nothing.
    pub(super) fn perform(&mut self, op: FsOp) -> Result<FsReply, FsError> {
        self.perform_with(op, None)
    }

    /// The same for what may have been done already.
    pub(super) fn perform_with(
        &mut self,
        op: FsOp,
        behind: Option<Behind>,
    ) -> Result<FsReply, FsError> {
        let number = self.next_request.entry(self.session).or_insert(1);
        let request = SessionRequest { behind, ..SessionRequest::new(*number, op) };
        let batch = SessionBatch {
            session: self.session,
            acked_below: *number,
            floor: 0,
            requests: vec![request],
        };
        *number += 1;
        let before = self.rows();
        let answer = self.batch(&batch).remove(0);
        let after = self.rows();
        assert!(answer.is_ok() || before == after, "{answer:?} left a trace of {batch:?}");
        assert_eq!(self.batch(&batch), std::slice::from_ref(&answer), "{batch:?}");
        assert_eq!(self.rows(), after, "repeating it changed something: {batch:?}");
        answer
    }

    /// All rows but the header's times and the sessions' own bookkeeping.
    fn rows(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let mut rows = self.kv.0.clone();
        rows.retain(|key, _| !matches!(key[0], b'A' | b'S' | b'!'));
        let mut header: tables::Header =
            get_row(&self.kv, &tables::header()).unwrap().unwrap_or_default();
        header.log_ms = 0;
        rows.insert(tables::header(), everhold_proto::codec::encode_row(&header));
        rows
    }

    pub(super) fn attr_of(&mut self, op: FsOp) -> Attr {
        match self.perform(op.clone()) {
            Ok(FsReply::Attr(attr)) => attr,
            other => panic!("{op:?}: {other:?}"),
        }
    }

    pub(super) fn done(&mut self, op: FsOp) {
        assert_eq!(self.perform(op.clone()), Ok(FsReply::Done), "{op:?}");
    }

    pub(super) fn create(&mut self, parent: InodeId, text: &str, kind: NewKind) -> InodeId {
        let (name, owner) = (name(text), OWNER);
        self.attr_of(FsOp::Create { parent, name, kind, owner, open: false }).inode
    }

    pub(super) fn put(&mut self, parent: InodeId, text: &str, bytes: &[u8]) -> Attr {
        self.attr_of(FsOp::PutFile {
            parent,
            name: name(text),
            owner: OWNER,
            size: bytes.len() as u64,
            content: only(if bytes.is_empty() { vec![] } else { vec![inline(0, bytes)] }),
            replace: true,
            mtime: TimeOrNow::Now,
        })
    }

    pub(super) fn commit(&mut self, inode: InodeId, content: Content) -> Result<FsReply, FsError> {
        self.perform(FsOp::Commit {
            inode,
            expected_version: None,
            content,
            size_at_least: 0,
            append: false,
        })
    }

    /// A block on the disk, of the current session.
    pub(super) fn store(&mut self, bytes: Vec<u8>) -> NewBlock {
        let id = BlockId { session: self.session, counter: self.next_block };
        self.next_block += 1;
        let (length, crc) = (bytes.len() as u32, crc32c(&bytes));
        self.blocks.insert(id, bytes);
        NewBlock { id, pg: PG, length, crc, acks: vec![self.ack] }
    }

    pub(super) fn ask(&self, question: FsQuery) -> Result<FsAnswer, FsError> {
        query(&self.kv, &question).unwrap()
    }

    pub(super) fn attr(&self, inode: InodeId) -> Result<Attr, FsError> {
        match self.ask(FsQuery::Attr { inode })? {
            FsAnswer::Attr(attr) => Ok(attr),
            other => panic!("{other:?}"),
        }
    }

    /// All extents of a file, fetched in small pages.
    pub(super) fn extents(&self, inode: InodeId) -> Vec<Extent> {
        let (mut all, mut from, to) = (Vec::new(), 0, u64::MAX);
        loop {
            match self.ask(FsQuery::Extents { inode, from, to, limit: 3 }) {
                Ok(FsAnswer::Extents { extents, more, .. }) => {
                    all.extend(extents);
                    if !more {
                        return all;
                    }
                    from = all.last().unwrap().end();
                }
                other => panic!("{other:?}"),
            }
        }
    }

    /// The bytes that a reader sees.
    pub(super) fn read(&self, inode: InodeId) -> Vec<u8> {
        let mut bytes = vec![0; self.attr(inode).unwrap().size as usize];
        for extent in self.extents(inode) {
            let range = extent.offset as usize..extent.end() as usize;
            match &extent.source {
                Source::Inline(inline) => bytes[range].copy_from_slice(inline),
                Source::Block { id, offset, .. } => {
                    let at = *offset as usize;
                    bytes[range].copy_from_slice(&self.blocks[id][at..at + extent.length as usize]);
                }
            }
        }
        bytes
    }

    pub(super) fn reap(&mut self, limit: u32) -> u32 {
        self.entry(|ctx| reap(ctx, limit).unwrap())
    }
}

/// The extent that shows `range` of a block at `offset` of a file.
pub(super) fn block_extent(offset: u64, block: &NewBlock, at: u32, length: u32) -> Extent {
    let source = Source::Block {
        id: block.id,
        pg: block.pg,
        offset: at,
        block_length: block.length,
        crc: block.crc,
    };
    Extent { offset, length: length.into(), source }
}
