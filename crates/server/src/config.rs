//! What one server process is told at its start. Parameters of the whole cluster (policies) live in
//! the replicated state, not here.

use everhold_consensus::{ConsensusConfig, RaftTiming};
use everhold_proto::map::Labels;
use everhold_proto::{ByteSize, limits};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// Parameters of one server process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerConfig {
    /// The data directory: everything that the node keeps is in it.
    pub data_dir: PathBuf,
    /// `HOST:PORT` to listen on; port 0 takes a free one.
    pub listen: String,
    /// `HOST:PORT` under which others reach the node; by default what it listens on.
    #[serde(default)]
    pub advertise: Option<String>,
    /// Where the node stands.
    #[serde(default)]
    pub labels: Labels,
    /// Which cluster a fresh data directory becomes part of. A directory that already belongs to a
    /// cluster stays there; then the addresses of `Join` only help to find the others.
    pub origin: Origin,
    /// Bytes of blocks that the disk may hold; by default what the file system has.
    #[serde(default)]
    pub capacity: Option<ByteSize>,
    /// Size of the segment files of the block store. Fixed once the store is formatted.
    #[serde(default = "default_segment")]
    pub segment_bytes: ByteSize,
    /// Pace of Raft.
    #[serde(default)]
    pub raft: RaftPace,
    /// What the metadata takes on disk and in memory.
    #[serde(default)]
    pub metadata: MetadataStorage,
    /// How much the node takes on at once.
    #[serde(default)]
    pub load: LoadLimits,
    /// How long a node with a fresh data directory looks for the cluster that it shall join.
    #[serde(default = "default_join_seconds")]
    pub join_seconds: u64,
}

/// Which cluster a fresh data directory becomes part of.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// A new one, of which this node is the first.
    Bootstrap {
        /// Copies of each block under the default policy.
        copies: u8,
    },
    /// The one that these nodes (`HOST:PORT`) are in; one that answers is enough.
    Join(Vec<String>),
    /// None: the directory must belong to one already.
    Existing,
}

/// Pace of Raft, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RaftPace {
    /// The leader is heard at least this often.
    pub heartbeat_ms: u64,
    /// Shortest silence after which a voter stands for election.
    pub election_min_ms: u64,
    /// Longest silence after which a voter stands for election.
    pub election_max_ms: u64,
}

impl Default for RaftPace {
    fn default() -> Self {
        // A follower waits for the longest silence, which is the leader's lease, and then for its own: a leader that
        // is gone is replaced after 580 to 720 ms.
        RaftPace { heartbeat_ms: 100, election_min_ms: 220, election_max_ms: 360 }
    }
}

/// What the metadata takes on the disk and in the memory of a voter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetadataStorage {
    /// Size of one segment file of the Raft log.
    pub log_segment_bytes: ByteSize,
    /// A snapshot is taken after so much log.
    pub snapshot_log_bytes: ByteSize,
    /// So much log is kept behind a snapshot, for voters that lag.
    pub keep_log_bytes: ByteSize,
    /// Page cache of the replicated state.
    pub cache_bytes: ByteSize,
}

impl Default for MetadataStorage {
    fn default() -> Self {
        let consensus = ConsensusConfig::default();
        MetadataStorage {
            log_segment_bytes: ByteSize(consensus.segment_bytes),
            snapshot_log_bytes: ByteSize(consensus.snapshot_log_bytes),
            keep_log_bytes: ByteSize(consensus.keep_log_bytes),
            // It holds the hot part of a few million files, and leaves room in small machines.
            cache_bytes: ByteSize(64 << 20),
        }
    }
}

/// How much the node takes on at once. Beyond it callers are told `Busy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadLimits {
    /// Open connections.
    pub connections_max: usize,
    /// Metadata calls under way.
    pub metadata_calls_max: usize,
    /// Calls of nodes and operators under way.
    pub control_calls_max: usize,
    /// Bytes of blocks in memory for reads and writes.
    pub block_bytes_max: ByteSize,
}

impl Default for LoadLimits {
    fn default() -> Self {
        // 4096 connections cost about 100 MiB at worst; 64 blocks of 4 MiB keep any disk busy.
        LoadLimits {
            connections_max: 4096,
            metadata_calls_max: 1024,
            control_calls_max: 1024,
            block_bytes_max: ByteSize(256 << 20),
        }
    }
}

fn default_segment() -> ByteSize {
    ByteSize(256 << 20)
}

fn default_join_seconds() -> u64 {
    60
}

/// A configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {why}")]
pub struct BadConfig {
    /// The parameter.
    pub what: &'static str,
    /// What is wrong with it, and what would be right.
    pub why: String,
}

impl ServerConfig {
    /// Defaults for everything but the three things that have none.
    pub fn new(data_dir: impl Into<PathBuf>, listen: impl Into<String>, origin: Origin) -> Self {
        ServerConfig {
            data_dir: data_dir.into(),
            listen: listen.into(),
            advertise: None,
            labels: Labels::default(),
            origin,
            capacity: None,
            segment_bytes: default_segment(),
            raft: RaftPace::default(),
            metadata: MetadataStorage::default(),
            load: LoadLimits::default(),
            join_seconds: default_join_seconds(),
        }
    }

    /// Checks everything that can be checked without the world.
    pub fn validate(&self) -> Result<(), BadConfig> {
        let bad = |what, why: String| Err(BadConfig { what, why });
        check_address("listen", &self.listen, true)?;
        if let Some(address) = &self.advertise {
            check_address("advertise", address, false)?;
        }
        match &self.origin {
            Origin::Bootstrap { copies } if !(1..=8).contains(copies) => {
                return bad("copies", format!("{copies} is not in 1 to 8"));
            }
            Origin::Join(addresses) if addresses.is_empty() => {
                return bad("join", "names no address".into());
            }
            Origin::Join(addresses) => {
                addresses.iter().try_for_each(|a| check_address("join", a, false))?;
            }
            Origin::Bootstrap { .. } | Origin::Existing => {}
        }
        // A segment holds its header and at least four of the largest blocks with theirs.
        let segment_min = 4 * (limits::BLOCK_BYTES_MAX as u64 + (8 << 10)) + 4096;
        if self.segment_bytes.0 < segment_min || !self.segment_bytes.0.is_multiple_of(4096) {
            let why = format!("{} is not a multiple of 4 KiB above 16 MiB", self.segment_bytes);
            return bad("segment_bytes", why);
        }
        if self.capacity.is_some_and(|c| c.0 < 2 * self.segment_bytes.0) {
            return bad("capacity", format!("less than two segments of {}", self.segment_bytes));
        }
        let pace = self.raft;
        if pace.heartbeat_ms == 0
            || pace.election_min_ms < 2 * pace.heartbeat_ms
            || pace.election_max_ms <= pace.election_min_ms
        {
            return bad("raft", "needs 0 < 2 × heartbeat <= election_min < election_max".into());
        }
        // A segment holds the largest command with its frame.
        let log_segment_min = 2 * limits::COMMAND_BYTES_MAX as u64;
        let storage = self.metadata;
        if storage.log_segment_bytes.0 < log_segment_min
            || !storage.log_segment_bytes.0.is_multiple_of(4096)
            || storage.snapshot_log_bytes.0 == 0
            || storage.cache_bytes.0 < 1 << 20
        {
            let why = "needs log segments of a multiple of 4 KiB from 2 MiB on, a snapshot size and \
                       a cache of at least 1 MiB";
            return bad("metadata", why.into());
        }
        let load = self.load;
        if load.connections_max == 0
            || load.metadata_calls_max == 0
            || load.control_calls_max == 0
            || load.block_bytes_max.0 < 2 * limits::BLOCK_BYTES_MAX as u64
        {
            return bad("load", "no limit may be 0, and two blocks must fit into memory".into());
        }
        Ok(())
    }

    /// What of it is about consensus.
    pub(crate) fn consensus(&self) -> ConsensusConfig {
        let (pace, storage) = (self.raft, self.metadata);
        ConsensusConfig {
            timing: RaftTiming {
                heartbeat: Duration::from_millis(pace.heartbeat_ms),
                election_min: Duration::from_millis(pace.election_min_ms),
                election_max: Duration::from_millis(pace.election_max_ms),
            },
            segment_bytes: storage.log_segment_bytes.0,
            snapshot_log_bytes: storage.snapshot_log_bytes.0,
            keep_log_bytes: storage.keep_log_bytes.0,
            store_cache_bytes: usize::try_from(storage.cache_bytes.0).unwrap_or(usize::MAX),
            ..ConsensusConfig::default()
        }
    }

    /// How long a fresh node looks for its cluster.
    pub(crate) fn join_limit(&self) -> Duration {
        Duration::from_secs(self.join_seconds)
    }
}

fn check_address(what: &'static str, address: &str, zero_port: bool) -> Result<(), BadConfig> {
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port);
    match port.and_then(|p| p.parse::<u16>().ok()) {
        Some(0) if !zero_port => {
            Err(BadConfig { what, why: format!("{address:?} has port 0, which nobody can reach") })
        }
        Some(_) => Ok(()),
        None => Err(BadConfig { what, why: format!("{address:?} is not HOST:PORT") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_work_is_named() {
        let good = ServerConfig::new("/d", "127.0.0.1:0", Origin::Bootstrap { copies: 3 });
        assert_eq!(good.validate(), Ok(()));
        let named = |change: &dyn Fn(&mut ServerConfig)| {
            let mut config = good.clone();
            change(&mut config);
            config.validate().expect_err("is refused").what
        };
        assert_eq!(named(&|c| c.listen = "7000".into()), "listen");
        assert_eq!(named(&|c| c.advertise = Some("host:0".into())), "advertise");
        assert_eq!(named(&|c| c.origin = Origin::Bootstrap { copies: 0 }), "copies");
        assert_eq!(named(&|c| c.origin = Origin::Join(vec![])), "join");
        assert_eq!(named(&|c| c.segment_bytes = ByteSize(4096)), "segment_bytes");
        assert_eq!(named(&|c| c.capacity = Some(ByteSize(1))), "capacity");
        assert_eq!(named(&|c| c.raft.election_min_ms = 100), "raft");
        assert_eq!(named(&|c| c.metadata.log_segment_bytes = ByteSize(4096)), "metadata");
        assert_eq!(named(&|c| c.load.connections_max = 0), "load");
    }
}
