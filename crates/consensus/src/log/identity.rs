//! Who this replica is, kept beside its log. **No log, no id:** an identity without the log that holds
//! its votes could vote twice, so the two are created together and are refused apart.
//!
//! The file also records how far the log is known to be synced. A bad checksum below that point is
//! damage; without the record, losing the very last frame could not be told from a torn write.

use super::record::INDEX_MAX;
use crate::ConsensusError;
use everhold_env::Env;
use everhold_proto::{ClusterId, NodeId, RaftId, checksum::crc32c, codec};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::Path;

/// Who a replica is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogIdentity {
    /// The cluster it belongs to.
    pub cluster: ClusterId,
    /// The node that runs it.
    pub node: NodeId,
    /// Its number in Raft, never reused.
    pub raft_id: RaftId,
    /// How often it was opened. A node that shows a lower count than before runs on restored files.
    pub boot_counter: u64,
}

/// A place in the log up to which everything is durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Mark {
    /// Number of the segment.
    pub segment: u64,
    /// End of the frames that are durable in it.
    pub end: u64,
}

/// The content of the identity file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IdentityFile {
    pub identity: LogIdentity,
    pub synced: Mark,
}

pub(crate) const FILE_NAME: &str = "IDENTITY";
const MAGIC: &[u8; 8] = b"EHRAFTID";
const FILE_BYTES_MAX: usize = 4096;

impl IdentityFile {
    /// Reads the file; `None` when there is none.
    pub(crate) async fn read(
        env: &Env,
        dir: &Path,
    ) -> Result<Option<IdentityFile>, ConsensusError> {
        let path = dir.join(FILE_NAME);
        match env.disk.read_small(&path, FILE_BYTES_MAX).await {
            Ok(bytes) => match Self::decode(&bytes) {
                Some(file) => Ok(Some(file)),
                None => Err(ConsensusError::Corrupt {
                    path,
                    reason: "the identity does not decode".into(),
                }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => {
                Err(ConsensusError::Io { what: format!("read {}", path.display()), source })
            }
        }
    }

    /// Writes the file, atomically and durably.
    pub(crate) async fn write(&self, env: &Env, dir: &Path) -> io::Result<()> {
        env.disk.write_atomic(&dir.join(FILE_NAME), &self.encode()).await
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&codec::encode_row(self));
        let crc = crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<IdentityFile> {
        let (body, crc) = bytes.split_last_chunk::<4>()?;
        if crc32c(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let file: IdentityFile = codec::decode_row(body.strip_prefix(MAGIC)?).ok()?;
        // The next opening counts on from it.
        (file.identity.boot_counter <= INDEX_MAX).then_some(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_notices_damage() {
        let identity = LogIdentity {
            cluster: ClusterId([7; 16]),
            node: NodeId(3),
            raft_id: RaftId(9),
            boot_counter: 4,
        };
        let file = IdentityFile { identity, synced: Mark { segment: 2, end: 8192 } };
        let bytes = file.encode();
        assert_eq!(IdentityFile::decode(&bytes), Some(file));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x10;
            assert_eq!(IdentityFile::decode(&bad), None, "flipped bit in byte {at}");
            assert_eq!(IdentityFile::decode(&bytes[..at]), None, "cut at {at}");
        }
    }
}
