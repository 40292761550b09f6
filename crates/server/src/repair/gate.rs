//! Permissions to delete *moved* blocks, and what ends them.
//!
//! The leader permits a disk that is neither member nor former of a PG to delete its copies. The disk
//! may become a member again right after that answer. `docs/protocol.md`: "A disk that learns that it is a
//! member again drops such permissions before its first acknowledgement, repair or comparison."
//!
//! **Invariant:** [`Gate::enter`] returns only when no deletion under an older permission runs or can
//! start any more; each acknowledgement, repair and comparison of a PG enters first.

use everhold_proto::map::ClusterMap;
use everhold_proto::planted::{self, Bug};
use everhold_proto::{DiskId, LogIndex, PgId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::Notify;

/// The gate of one disk. One small entry per PG that the disk ever was a member of in this process.
#[derive(Default)]
pub struct Gate {
    pgs: Mutex<BTreeMap<PgId, PgGate>>,
    deleted: Notify,
}

#[derive(Clone, Copy, Default)]
struct PgGate {
    joined: LogIndex,
    epoch: u64,
    deleting: u32,
}

/// Taken before a permission is asked for; the permission is worth something while it is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    pg: PgId,
    epoch: u64,
}

/// A deletion under way; it ends when this is dropped.
pub struct Deleting<'a> {
    gate: &'a Gate,
    pg: PgId,
}

impl Gate {
    /// The disk is a member of `pg` since `joined`: drops older permissions and waits for the
    /// deletions under way (each is one bounded call to the store). Costs a lock when nothing is new.
    pub async fn enter(&self, pg: PgId, joined: LogIndex) {
        loop {
            let deleted = self.deleted.notified();
            tokio::pin!(deleted);
            // Registered before the state is read, so that a deletion that ends in between is seen.
            deleted.as_mut().enable();
            if self.drop_permissions(pg, joined) {
                return;
            }
            deleted.await;
        }
    }

    /// The node has a new map: drops the permissions of PGs that `disk` has joined.
    pub fn map_changed(&self, map: &ClusterMap, disk: DiskId) {
        for pg in map.pgs.values() {
            if let Some(member) = pg.member(disk) {
                self.drop_permissions(pg.id, member.joined);
            }
        }
    }

    /// Taken before `MayDelete` is sent.
    pub fn ticket(&self, pg: PgId) -> Ticket {
        let epoch = self.pgs.lock().get(&pg).map_or(0, |entry| entry.epoch);
        Ticket { pg, epoch }
    }

    /// Starts to delete under the permission; `None` when the disk joined since the ticket was taken.
    pub fn begin(&self, ticket: Ticket) -> Option<Deleting<'_>> {
        let mut pgs = self.pgs.lock();
        let entry = pgs.entry(ticket.pg).or_default();
        if entry.epoch != ticket.epoch && !planted::has(Bug::DeleteAfterRejoin) {
            return None;
        }
        entry.deleting += 1;
        Some(Deleting { gate: self, pg: ticket.pg })
    }

    /// Whether nothing is being deleted in `pg` any more, after older permissions were dropped.
    fn drop_permissions(&self, pg: PgId, joined: LogIndex) -> bool {
        let mut pgs = self.pgs.lock();
        let entry = pgs.entry(pg).or_default();
        if joined > entry.joined {
            entry.joined = joined;
            entry.epoch += 1;
        }
        entry.deleting == 0
    }
}

impl Drop for Deleting<'_> {
    fn drop(&mut self) {
        if let Some(entry) = self.gate.pgs.lock().get_mut(&self.pg) {
            entry.deleting -= 1;
        }
        self.gate.deleted.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    const PG: PgId = PgId(7);

    /// A permission asked for before a join is void after it; one asked for afterwards is good.
    #[tokio::test]
    async fn a_join_ends_older_permissions() {
        let gate = Gate::default();
        let before = gate.ticket(PG);
        gate.enter(PG, LogIndex(10)).await;
        assert!(gate.begin(before).is_none());
        assert!(gate.begin(gate.ticket(PG)).is_some());
        gate.enter(PG, LogIndex(10)).await;
        assert!(gate.begin(gate.ticket(PgId(8))).is_some(), "other PGs are not concerned");
    }

    /// Entering waits until a deletion under way has ended, however often it is tried.
    #[tokio::test]
    async fn entering_waits_for_deletions_under_way() {
        let gate = Gate::default();
        let deleting = gate.begin(gate.ticket(PG)).expect("the permission is fresh");
        let mut first = Box::pin(gate.enter(PG, LogIndex(10)));
        let mut second = Box::pin(gate.enter(PG, LogIndex(10)));
        assert!(first.as_mut().now_or_never().is_none());
        assert!(
            second.as_mut().now_or_never().is_none(),
            "the join is known, the deletion still runs"
        );
        drop(deleting);
        first.await;
        second.await;
    }
}
