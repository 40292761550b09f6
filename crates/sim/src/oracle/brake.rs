//! The brake spares last copies: under it, a group with one full member in reach is still copied.

use super::Inner;
use crate::trace;
use everhold_cluster::brake;
use everhold_proto::map::{ClusterMap, Pg};

/// A member that is in reach has compared itself, and fetched the few blocks of a run, by then.
const PATIENCE_MS: u64 = 25_000;

impl Inner {
    /// To be called about once a second.
    pub(super) fn check_brake(&mut self) {
        let map = self.replica.map();
        let now = trace::now_ms();
        if brake::reason(&map).is_none() {
            return self.waiting.clear();
        }
        self.waiting.retain(|pg, _| map.pgs.get(pg).is_some_and(|pg| is_at_risk(&map, pg)));
        for pg in map.pgs.values().filter(|pg| is_at_risk(&map, pg)) {
            let since = *self.waiting.entry(pg.id).or_insert(now);
            if now > since + PATIENCE_MS {
                let detail = format!(
                    "{} has one full member in reach for {} s under the brake, and another member in \
                     reach does not become full",
                    pg.id,
                    PATIENCE_MS / 1000
                );
                return self.violate("rule_the_brake_spares_last_copies", detail, None);
            }
        }
    }
}

/// One full member in reach, and another member in reach that could be the second.
fn is_at_risk(map: &ClusterMap, pg: &Pg) -> bool {
    let in_reach = |full| {
        let of_kind = pg.members.iter().filter(move |member| member.is_full() == full);
        of_kind.filter(|member| map.is_reachable(member.disk)).count()
    };
    pg.blocks > 0 && in_reach(true) == 1 && in_reach(false) > 0
}
