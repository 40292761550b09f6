//! Every identifier is its own type: mixing up a disk and a node must not compile.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty), $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            /// Takes the number with or without the prefix that `Display` writes.
            fn from_str(s: &str) -> Result<Self, BadId> {
                let digits = s.strip_prefix($prefix).unwrap_or(s);
                digits.parse().map($name).map_err(|_| BadId { what: stringify!($name), text: s.into() })
            }
        }
    };
}

/// A text that is not an identifier of the wanted kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}")]
pub struct BadId {
    /// The type that was wanted.
    pub what: &'static str,
    /// What was given.
    pub text: String,
}

id!(/// One server process with its data directory; allocated by the cluster, kept for its life.
    NodeId(u32), "n");
id!(/// One data directory or device of a node; allocated by the cluster, never reused.
    DiskId(u32), "d");
id!(/// One registration of a disk: the log index of the entry that registered it, so it only grows.
    DiskSession(u64), "ds");
id!(/// A placement group: the disks that hold the same set of blocks.
    PgId(u32), "pg");
id!(/// Version of a placement group's membership; each change of its members makes the next one.
    Generation(u64), "g");
id!(/// Version of the cluster map.
    Epoch(u64), "e");
id!(/// A file, directory or other object of the tree. Never reused. 1 is the root directory.
    InodeId(u64), "i");
id!(/// A client's lease: 32 bits that were drawn, so that nobody guesses it, and 32 of the log index of the
    /// entry that opened it, so that it is never reused.
    SessionId(u64), "s");
id!(/// Index of an entry of the Raft log.
    LogIndex(u64), "x");
id!(/// A voter's or learner's identity in Raft. Allocated from the log, stored with the log, never reused.
    RaftId(u64), "r");
id!(/// A replication policy.
    PolicyId(u16), "p");
id!(/// A metadata shard: one Raft group. Version 1 runs shard 0 only.
    ShardId(u16), "shard");

impl InodeId {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(1);
    /// No inode.
    pub const NONE: InodeId = InodeId(0);
}

/// Identity of a cluster, drawn once when it is created; nodes of different clusters refuse each other.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl FromStr for ClusterId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId { what: "ClusterId", text: s.into() };
        if s.len() != 32 || !s.is_ascii() {
            return Err(bad());
        }
        let mut id = [0; 16];
        for (i, byte) in id.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&s[2 * i..2 * i + 2], 16).map_err(|_| bad())?;
        }
        Ok(ClusterId(id))
    }
}

/// A block: (session that wrote it, counter within the session). Never used twice, so a copy is
/// either these bytes or it is not a copy.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct BlockId {
    /// The session whose client wrote the block.
    pub session: SessionId,
    /// Counts up within the session; compared with the session's floor.
    pub counter: u64,
}

impl BlockId {
    /// The smallest id.
    pub const MIN: BlockId = BlockId { session: SessionId(0), counter: 0 };
    /// The largest id.
    pub const MAX: BlockId = BlockId { session: SessionId(u64::MAX), counter: u64::MAX };

    /// 16 bytes, big-endian, so that byte order is id order.
    pub fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.session.0.to_be_bytes());
        bytes[8..].copy_from_slice(&self.counter.to_be_bytes());
        bytes
    }

    /// The inverse of [`BlockId::to_bytes`].
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        let n = u128::from_be_bytes(bytes);
        BlockId { session: SessionId((n >> 64) as u64), counter: n as u64 }
    }

    /// The id right after this one, if there is one.
    pub fn next(self) -> Option<BlockId> {
        let n = u128::from_be_bytes(self.to_bytes()).checked_add(1)?;
        Some(BlockId::from_bytes(n.to_be_bytes()))
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "b{}-{}", self.session.0, self.counter)
    }
}

impl FromStr for BlockId {
    type Err = BadId;
    fn from_str(s: &str) -> Result<Self, BadId> {
        let bad = || BadId { what: "BlockId", text: s.into() };
        let (session, counter) =
            s.strip_prefix('b').unwrap_or(s).split_once('-').ok_or_else(bad)?;
        Ok(BlockId {
            session: SessionId(session.parse().map_err(|_| bad())?),
            counter: counter.parse().map_err(|_| bad())?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_bytes_round_trip() {
        let id = BlockId { session: SessionId(7), counter: u64::MAX };
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(BlockId::from_bytes(id.to_bytes()), id);
        assert_eq!(id.next(), Some(BlockId { session: SessionId(8), counter: 0 }));
        assert_eq!(BlockId::MAX.next(), None);
        assert_eq!("n3".parse(), Ok(NodeId(3)));
        assert!("b7".parse::<BlockId>().is_err());
        let cluster = ClusterId([0xab; 16]);
        assert_eq!(cluster.to_string().parse(), Ok(cluster));
        assert!("zz".parse::<ClusterId>().is_err());
    }
}
