//! Sessions of clients that are gone end, however often the leader changes: with them their locks, open files and
//! delegations.

use super::Inner;
use everhold_namespace::sessions;
use everhold_proto::tables::Header;
use everhold_proto::{kv, tables};

/// A session lives for half a minute without a sign of life. A leader that has just begun gives it a few seconds more,
/// and clocks are off by a tenth.
const AGE_MAX_MS: u64 = 100_000;

impl Inner {
    /// To be called about once a second.
    pub(super) fn check_sessions(&mut self) {
        let header = kv::get_row::<Header>(&self.replica.kv, &tables::header());
        let log_ms = header.ok().flatten().unwrap_or_default().log_ms;
        let Ok(open) = sessions::list(&self.replica.kv, None, usize::MAX) else { return };
        let is_old = |seen_ms: u64| seen_ms > 0 && log_ms > seen_ms + AGE_MAX_MS;
        if let Some((session, row)) = open.into_iter().find(|(_, row)| is_old(row.seen_ms)) {
            let detail = format!(
                "{session} of {} is open, and was not heard of for {} s in which there was a leader",
                row.client,
                (log_ms - row.seen_ms) / 1000
            );
            self.violate("rule_sessions_end", detail, None);
        }
    }
}
