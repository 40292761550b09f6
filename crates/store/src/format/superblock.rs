//! Whose disk it is and how it is laid out: 64 bytes in a file of their own, replaced atomically.

use super::bytes::{array, is_sealed, put, seal, u32_at, u64_at};
use super::{FORMAT_VERSION, Reason, StoreId};
use crate::StoreError;
use everhold_proto::{ClusterId, DiskId};

const MAGIC: &[u8; 8] = b"EHSUPER\0";

/// The superblock: magic 0..8, version 8..12, checksum 12..16, cluster 16..32, store 32..48, disk
/// 48..52 and whether it is set 52..56, bytes of a segment 56..64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) cluster: ClusterId,
    pub(crate) store: StoreId,
    pub(crate) disk: Option<DiskId>,
    pub(crate) segment_bytes: u64,
}

impl Superblock {
    pub(crate) const BYTES: usize = 64;

    pub(crate) fn encode(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        put(&mut out, 0, MAGIC);
        put(&mut out, 8, &FORMAT_VERSION.to_le_bytes());
        put(&mut out, 16, &self.cluster.0);
        put(&mut out, 32, &self.store);
        put(&mut out, 48, &self.disk.unwrap_or_default().0.to_le_bytes());
        put(&mut out, 52, &u32::from(self.disk.is_some()).to_le_bytes());
        put(&mut out, 56, &self.segment_bytes.to_le_bytes());
        seal(&mut out, 12);
        out
    }

    /// The version is looked at before the checksum: a newer format may place it elsewhere.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let bad = |reason: Reason| Err(StoreError::BadSuperblock(reason));
        if bytes.len() < 16 || &bytes[..8] != MAGIC {
            return bad("it is not a superblock");
        }
        let found = u32_at(bytes, 8);
        if found != FORMAT_VERSION {
            return Err(StoreError::Version { found, supported: FORMAT_VERSION });
        }
        if bytes.len() != Self::BYTES || !is_sealed(bytes, 12) {
            return bad("its checksum does not hold");
        }
        let segment_bytes = u64_at(bytes, 56);
        if !segment_bytes.is_multiple_of(4096) || !(8 * 4096..=1 << 34).contains(&segment_bytes) {
            return bad("its segment size is impossible");
        }
        Ok(Superblock {
            cluster: ClusterId(array(bytes, 16)),
            store: array(bytes, 32),
            disk: (u32_at(bytes, 52) == 1).then(|| DiskId(u32_at(bytes, 48))),
            segment_bytes,
        })
    }
}
