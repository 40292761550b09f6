//! Keys of the replicated state: one ordered key space, the first byte names the table. Written
//! down in `docs/format.md`; the order of the fields is the order in which they are listed.

use crate::ids::*;

/// Appends big-endian fields to a key.
#[derive(Clone, Debug)]
pub struct Key(Vec<u8>);

impl Key {
    /// A key of `table`.
    pub fn new(table: Table) -> Self {
        Key(vec![table as u8])
    }
    /// Adds 8 bits.
    pub fn u8(mut self, n: u8) -> Self {
        self.0.push(n);
        self
    }
    /// Adds 16 bits.
    pub fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }
    /// Adds 32 bits.
    pub fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }
    /// Adds 64 bits.
    pub fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_be_bytes());
        self
    }
    /// Adds bytes; only as the last field, because they have no length of their own.
    pub fn bytes(mut self, bytes: &[u8]) -> Vec<u8> {
        self.0.extend(bytes);
        self.0
    }
    /// The key.
    pub fn done(self) -> Vec<u8> {
        self.0
    }
}

/// The tables, by their first byte. Values are rows of `codec::encode_row`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Table {
    /// () → the header of the state: cluster, epoch, next ids, log time.
    Header = b'!',
    /// node id (u32) → `map::Node`.
    Node = b'N',
    /// disk id (u32) → `map::Disk`.
    Disk = b'K',
    /// PG id (u32) → `map::Pg`.
    Pg = b'P',
    /// policy id (u16) → `map::Policy`.
    Policy = b'Y',
    /// PG (u32), block id (16) → `table::BlockRow`.
    Block = b'B',
    /// PG (u32), disk (u32), block id (16) → `table::Missing`.
    Missing = b'M',
    /// PG (u32), block id (16) → `LogIndex` of the entry that recorded that no copy is left.
    Lost = b'L',
    /// log time of death in ms (u64), PG (u32), block id (16) → (): dead blocks in the order of their death.
    Dead = b'G',
    /// sequence (u64) → `map::Event`: the last transitions of nodes, disks and PGs.
    Event = b'V',
    /// inode (u64) → inode row.
    Inode = b'I',
    /// directory (u64), name → dentry row.
    Dentry = b'D',
    /// fork (u64), **end** offset (u64) → extent row; keyed by the end so that "the extent that
    /// covers this offset" is the first key after it. A fork is a set of extents; a file's first one
    /// has the inode's number.
    Extent = b'E',
    /// fork (u64), from offset (u64) → doomed row: a range of a fork that no file shows any more and
    /// whose extents are dropped in bounded steps (see `TableCommand::Sweep`).
    Doomed = b'U',
    /// session (u64) → (): an ended session whose open handles are not all forgotten yet.
    EndedSession = b'Z',
    /// inode (u64), attribute name → value.
    Xattr = b'X',
    /// session (u64) → session row.
    Session = b'S',
    /// session (u64), request (u64) → kept answer.
    KeptAnswer = b'A',
    /// inode (u64), session (u64) → number of open handles.
    OpenHandle = b'O',
    /// session (u64), inode (u64) → (): the same by session.
    SessionHandle = b'H',
    /// log time in ms (u64), inode (u64) → (): inodes without a name that may still be opened, in the
    /// order in which they lost the last one.
    Unlinked = b'T',
    /// inode (u64), session (u64), space (u8), owner (u64), first byte (u64) → lock row.
    Lock = b'C',
    /// session (u64), inode (u64) → (): which inodes a session has locks on.
    SessionLock = b'J',
    /// sequence (u64) → `fs::ChangeRecord`.
    Change = b'F',
    /// node uuid (16) → node id: nodes that were removed; they never come back under this mark.
    Removed = b'R',
}

/// Key of the header row.
pub fn header() -> Vec<u8> {
    Key::new(Table::Header).done()
}
/// Key of a node.
pub fn node(id: NodeId) -> Vec<u8> {
    Key::new(Table::Node).u32(id.0).done()
}
/// Key of a node that was removed.
pub fn removed(uuid: [u8; 16]) -> Vec<u8> {
    Key::new(Table::Removed).bytes(&uuid)
}
/// Key of a disk.
pub fn disk(id: DiskId) -> Vec<u8> {
    Key::new(Table::Disk).u32(id.0).done()
}
/// Key of a PG.
pub fn pg(id: PgId) -> Vec<u8> {
    Key::new(Table::Pg).u32(id.0).done()
}
/// Key of a policy.
pub fn policy(id: PolicyId) -> Vec<u8> {
    Key::new(Table::Policy).u16(id.0).done()
}
/// Key of a block in the table of its PG.
pub fn block(pg: PgId, id: BlockId) -> Vec<u8> {
    Key::new(Table::Block).u32(pg.0).bytes(&id.to_bytes())
}
/// Key of a missing copy.
pub fn missing(pg: PgId, disk: DiskId, id: BlockId) -> Vec<u8> {
    Key::new(Table::Missing).u32(pg.0).u32(disk.0).bytes(&id.to_bytes())
}
/// Prefix of all missing copies of a disk in a PG.
pub fn missing_of(pg: PgId, disk: DiskId) -> Vec<u8> {
    Key::new(Table::Missing).u32(pg.0).u32(disk.0).done()
}
/// Key of a lost block.
pub fn lost(pg: PgId, id: BlockId) -> Vec<u8> {
    Key::new(Table::Lost).u32(pg.0).bytes(&id.to_bytes())
}
/// Key of a dead block.
pub fn dead(died_ms: u64, pg: PgId, id: BlockId) -> Vec<u8> {
    Key::new(Table::Dead).u64(died_ms).u32(pg.0).bytes(&id.to_bytes())
}
/// The block id in the last 16 bytes of a key of `Block`, `Missing`, `Lost` or `Dead`.
pub fn block_id_of(key: &[u8]) -> Option<BlockId> {
    let start = key.len().checked_sub(16)?;
    Some(BlockId::from_bytes(key[start..].try_into().ok()?))
}
/// The header of the replicated state.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Header {
    /// The cluster.
    pub cluster: ClusterId,
    /// Version of the map.
    pub epoch: Epoch,
    /// Log time: the highest stamp seen.
    pub log_ms: u64,
    /// Next node id.
    pub next_node: u32,
    /// Next disk id.
    pub next_disk: u32,
    /// Next PG id.
    pub next_pg: u32,
    /// Next Raft id (1 is the first node's).
    pub next_raft: u64,
    /// Next inode.
    pub next_inode: u64,
    /// Next sequence number of the change feed.
    pub next_change: u64,
    /// Next sequence number of the event log.
    pub next_event: u64,
    /// Totals of the tree.
    pub inodes: u64,
    /// Live bytes of files.
    pub bytes: u64,
}

/// Key of a session.
pub fn session(id: SessionId) -> Vec<u8> {
    Key::new(Table::Session).u64(id.0).done()
}
/// Key of an event.
pub fn event(sequence: u64) -> Vec<u8> {
    Key::new(Table::Event).u64(sequence).done()
}
