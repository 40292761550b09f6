//! What a file is made of.

use crate::ids::*;
use crate::table::NewBlock;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Where the bytes of an extent are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Here.
    Inline(Bytes),
    /// In a block, from `offset` on.
    Block {
        /// The block.
        id: BlockId,
        /// Its PG.
        pg: PgId,
        /// Where in the block the extent begins.
        offset: u32,
        /// Length of the whole block.
        block_length: u32,
        /// CRC32C of the whole block.
        crc: u32,
    },
}

/// A range of a file and where its bytes are. Ranges without an extent are holes and read as zeroes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extent {
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes, > 0.
    pub length: u64,
    /// Where the bytes are.
    pub source: Source,
}

impl Extent {
    /// First offset after it.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// New content: extents, and the blocks that they refer to and that are not in the table yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Content {
    /// Extents, ascending and not overlapping. They replace what was in their ranges.
    pub extents: Vec<Extent>,
    /// Each new block once.
    pub blocks: Vec<NewBlock>,
}
