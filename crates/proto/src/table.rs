//! The block table: which blocks each placement group must hold, and what is known to be missing.

use crate::ids::*;
use serde::{Deserialize, Serialize};

/// A disk's word that it holds a block on stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The disk.
    pub disk: DiskId,
    /// The disk session in which it was stored (or found and verified).
    pub session: DiskSession,
    /// The join index of the disk's membership as the node knew it when it stored the block. It
    /// counts only if it is the current one: "made after that disk's join".
    pub joined: LogIndex,
}

/// A block that a commit wants to make part of a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewBlock {
    /// Its id, of the committing session.
    pub id: BlockId,
    /// The PG it was written to, for ever.
    pub pg: PgId,
    /// Length in bytes.
    pub length: u32,
    /// CRC32C of the whole block.
    pub crc: u32,
    /// Who has it.
    pub acks: Vec<Ack>,
}

/// A row of the block table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRow {
    /// Length in bytes.
    pub length: u32,
    /// CRC32C of the whole block.
    pub crc: u32,
    /// Extents that refer to it. 0: dead; it leaves the table after the grace period, below its
    /// session's floor.
    pub references: u32,
    /// Bytes that extents refer to (a bound on what a rewrite would keep).
    pub live_bytes: u64,
}

/// One entry of a listing of a PG's table, or of a disk. Two that are equal are the same block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockEntry {
    /// Its id.
    pub id: BlockId,
    /// Length in bytes.
    pub length: u32,
    /// CRC32C of the whole block.
    pub crc: u32,
}

/// A missing copy, recorded in the state machine: this is the durable repair queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The log index that made or renewed the record; a repair-done names it and clears nothing else.
    pub recorded: LogIndex,
}

/// Why an offered block was refused by a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Refusal {
    /// Fewer acknowledgements count than the policy's write quorum.
    TooFewAcks,
    /// Enough acknowledge, but all in one zone although two are in service.
    OneZone,
    /// The id is below its session's floor, or of another session.
    BelowFloor,
    /// The id is in the table already.
    InTable,
    /// There is no such PG.
    NoPg,
    /// Length 0, too long, or otherwise impossible.
    Malformed,
}

/// A verified repair of one block on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repaired {
    /// The block.
    pub id: BlockId,
    /// The record that it answers.
    pub recorded: LogIndex,
}

/// What a disk has to do for one PG to become full there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PgWork {
    /// The PG.
    pub pg: PgId,
    /// The generation that the work was planned on; reports name it.
    pub generation: Generation,
    /// The disk's join index.
    pub joined: LogIndex,
    /// Compare everything with the table (first synchronisation, return, range record).
    pub compare: bool,
    /// Number of single missing copies recorded.
    pub missing_blocks: u64,
    /// Full members that are reachable now: the fewer, the sooner.
    pub full_members: u8,
    /// Blocks in the PG's table.
    pub blocks: u64,
    /// Live bytes of the PG.
    pub live_bytes: u64,
}

/// The row of an open session. A session without a row has ended: its floor is infinite.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRow {
    /// The lowest block counter that it may still commit.
    pub floor: u64,
    /// Answers to requests below this number arrived; they are never executed again.
    pub acked_below: u64,
    /// What the client calls itself.
    pub client: String,
    /// It may follow the change feed and keep a cache by it.
    pub follows: bool,
    /// Inode numbers that were set aside for it: ranges, ascending.
    pub numbers: Vec<(u64, u64)>,
    /// Log time at which it was opened, renewed or used last, to within a second; 0: not known, as in rows that were
    /// written before there was this field.
    #[serde(deserialize_with = "u64_or_zero")]
    pub seen_ms: u64,
}

/// The last field of a row, or 0 where the row ends before it.
fn u64_or_zero<'de, D: serde::Deserializer<'de>>(rest: D) -> Result<u64, D::Error> {
    Ok(u64::deserialize(rest).unwrap_or(0))
}
