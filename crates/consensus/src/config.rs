//! Parameters of one replica, and the openraft configuration made of them.

use crate::ConsensusError;
use everhold_proto::limits;
use everhold_proto::planted::{self, Bug};
use openraft::SnapshotPolicy;
use std::sync::Arc;
use std::time::Duration;

/// Raft's clocks. `heartbeat * 2 < election_min` must hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftTiming {
    /// How often a leader says that it is there.
    pub heartbeat: Duration,
    /// Shortest silence after which a follower asks for votes.
    pub election_min: Duration,
    /// Longest such silence; each follower draws its own between the two.
    pub election_max: Duration,
}

impl Default for RaftTiming {
    fn default() -> Self {
        RaftTiming {
            heartbeat: Duration::from_millis(100),
            election_min: Duration::from_millis(220),
            election_max: Duration::from_millis(360),
        }
    }
}

/// Parameters of one replica. The default is for production.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsensusConfig {
    /// Raft's clocks.
    pub timing: RaftTiming,
    /// Size of one log segment file. Zero-filled once, then recycled.
    pub segment_bytes: u64,
    /// Memory for recent log entries; older ones are read from the files.
    pub log_cache_bytes: usize,
    /// A snapshot is taken, so that the log may be purged, after this many bytes of entries.
    pub snapshot_log_bytes: u64,
    /// Bytes of entries kept behind a snapshot for members that lag; beyond them they get a snapshot.
    pub keep_log_bytes: u64,
    /// Longest time between two durable commits of the state machine.
    pub flush_interval: Duration,
    /// Entries applied after which it is made durable without waiting for the interval: a durable
    /// commit of a few thousand entries takes milliseconds, one of 32,000 stalls for 43 ms or more.
    pub flush_entries: u64,
    /// Page cache of the state machine's store.
    pub store_cache_bytes: usize,
    /// Proposals in flight; more are answered `Busy`.
    pub proposals_max: usize,
    /// Bytes of proposals in flight; more are answered `Busy`.
    pub proposal_bytes_max: usize,
    /// Entries in one message to a follower; its bytes are bounded to a MiB besides.
    pub payload_entries_max: u64,
}

impl Default for ConsensusConfig {
    fn default() -> Self {
        ConsensusConfig {
            timing: RaftTiming::default(),
            segment_bytes: 16 << 20,
            log_cache_bytes: 32 << 20,
            snapshot_log_bytes: 64 << 20,
            keep_log_bytes: 32 << 20,
            flush_interval: Duration::from_secs(2),
            flush_entries: 4096,
            store_cache_bytes: 256 << 20,
            proposals_max: 4096,
            proposal_bytes_max: 64 << 20,
            payload_entries_max: 512,
        }
    }
}

/// Limit of one snapshot chunk's round trip. Chunks are a MiB, and the receiver writes them to disk.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);

impl ConsensusConfig {
    /// The largest command that fits into a segment; `COMMAND_BYTES_MAX` with production segments.
    pub fn command_bytes_max(&self) -> usize {
        let frame = crate::log::frame_payload_max(self.segment_bytes);
        limits::COMMAND_BYTES_MAX.min(frame.saturating_sub(crate::log::ENTRY_OVERHEAD))
    }

    /// openraft's view of these parameters.
    pub(crate) fn raft(&self) -> Result<Arc<openraft::Config>, ConsensusError> {
        if self.segment_bytes < 64 << 10
            || !self.segment_bytes.is_multiple_of(everhold_env::ALIGNMENT as u64)
        {
            return Err(ConsensusError::Config(
                "segment_bytes must be a multiple of 4 KiB and at least 64 KiB".into(),
            ));
        }
        let millis = |d: Duration| d.as_millis() as u64;
        let config = openraft::Config {
            cluster_name: "everhold".into(),
            heartbeat_interval: millis(self.timing.heartbeat),
            election_timeout_min: millis(self.timing.election_min),
            election_timeout_max: millis(self.timing.election_max),
            install_snapshot_timeout: millis(SNAPSHOT_CHUNK_TIMEOUT),
            max_payload_entries: self.payload_entries_max,
            snapshot_policy: SnapshotPolicy::Never,
            // Purging follows bytes, in `upkeep`; openraft's own count must never trigger it.
            max_in_snapshot_log_to_keep: u64::MAX / 2,
            backoff: "50ms 100ms 200ms ..500ms".into(),
            enable_pre_vote: Some(true),
            // With an asynchronous log flush the default loses safety: a leader that crashed before
            // its own flush would lead the same term again and reuse a log id for another command.
            enable_leader_restore: Some(planted::has(Bug::LeaderRestore)),
            ..Default::default()
        };
        config.validate().map(Arc::new).map_err(|e| ConsensusError::Config(e.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Guards the setting that openraft's default would break safety with (ADR 0005).
    #[test]
    fn a_restarted_leader_must_be_elected_again() {
        let config = ConsensusConfig::default().raft().unwrap();
        assert_eq!(config.enable_leader_restore, Some(false));
        assert_eq!(config.enable_pre_vote, Some(true));
        assert_eq!(config.snapshot_policy, SnapshotPolicy::Never);
        assert_eq!(
            openraft::Config::default().enable_leader_restore,
            None,
            "the default changed: think again"
        );
    }

    #[test]
    fn unusable_parameters_are_refused() {
        let config = ConsensusConfig { segment_bytes: 4096, ..Default::default() };
        assert!(config.raft().is_err());
        let timing = RaftTiming { heartbeat: Duration::from_secs(1), ..Default::default() };
        assert!(ConsensusConfig { timing, ..Default::default() }.raft().is_err());
        assert_eq!(ConsensusConfig::default().command_bytes_max(), limits::COMMAND_BYTES_MAX);
    }
}
