//! Work that goes on beside Raft: making the state durable, trimming the log, publishing the status.

use crate::ConsensusConfig;
use crate::fatal::Fatal;
use crate::log::Log;
use crate::network::Directory;
use crate::state::Host;
use crate::status::RaftStatus;
use crate::types::Raft;
use everhold_env::Env;
use openraft::async_runtime::WatchReceiver;
use std::time::Duration;
use tokio::sync::watch;

/// How often counters in the published status follow; changes of role and leader are published at once.
const STATUS_INTERVAL: Duration = Duration::from_millis(100);
/// How often it is checked whether the log has grown enough for a snapshot or a purge.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);

/// Makes the state durable when the interval has passed or enough was applied.
pub(crate) async fn flush(env: Env, host: Host, log: Log, interval: Duration) {
    loop {
        tokio::select! {
            () = env.clock.sleep(interval) => {}
            () = host.flush_wanted() => {}
        }
        // A failure has been announced, and it is final.
        if host.is_dirty() && (host.flush().await.is_err() || log.save_mark().await.is_err()) {
            return;
        }
    }
}

/// Takes snapshots and purges the log, both by bytes.
pub(crate) async fn trim(env: Env, raft: Raft, log: Log, config: ConsensusConfig) {
    let interval = TRIM_INTERVAL.min(config.flush_interval);
    loop {
        env.clock.sleep(interval).await;
        let snapshot = raft.metrics().borrow_watched().snapshot.map(|id| id.index);
        let mut ended = false;
        if log.bytes_after(snapshot.unwrap_or(0)) > config.snapshot_log_bytes {
            ended |= raft.trigger().snapshot().await.is_err();
        }
        if let Some(upto) =
            snapshot.and_then(|limit| log.purge_candidate(limit, config.keep_log_bytes))
        {
            ended |= raft.trigger().purge_log(upto).await.is_err();
        }
        if ended {
            return;
        }
    }
}

/// Publishes the status and the members' addresses, and notices when openraft has stopped by itself.
pub(crate) struct Publisher {
    pub env: Env,
    pub raft: Raft,
    pub host: Host,
    pub directory: Directory,
    pub status: watch::Sender<RaftStatus>,
    pub fatal: Fatal,
}

impl Publisher {
    pub(crate) async fn run(self) {
        let mut servers = self.raft.server_metrics();
        loop {
            self.publish();
            tokio::select! {
                changed = servers.changed() => if changed.is_err() { return self.ended() },
                () = self.env.clock.sleep(STATUS_INTERVAL) => {}
            }
        }
    }

    /// openraft has ended. A replica that is shut down ends this task first; a panic leaves no word.
    fn ended(&self) {
        self.publish();
        if self.raft.metrics().borrow_watched().running_state.is_ok() {
            self.fatal.trip("raft: it ended without a word, see the log for a panic");
        }
    }

    fn publish(&self) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow_watched();
        match &metrics.running_state {
            Ok(()) | Err(openraft::error::Fatal::Stopped) => {}
            Err(e) => self.fatal.trip(format!("raft: {e}")),
        }
        self.directory.update(metrics.membership_config.membership().nodes());
        let now = current(&metrics, &self.host);
        self.status.send_if_modified(|old| {
            let changed = *old != now;
            *old = now;
            changed
        });
    }
}

/// The status at this moment.
pub(crate) fn current(
    metrics: &openraft::RaftMetrics<crate::types::Types>,
    host: &Host,
) -> RaftStatus {
    RaftStatus::new(metrics, *host.applied_next().borrow(), *host.durable_next().borrow())
}
