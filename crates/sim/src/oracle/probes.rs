//! Questions that a run asks hardly ever, put to a copy of the oracle's own state machine whenever the
//! state is such that the answer matters: a plan that comes late, a report of an old record, a request that
//! was answered long ago. A right state machine refuses them all, whenever they come.

use super::Inner;
use super::rules::Before;
use crate::trace;
use everhold_cluster::{reads, table};
use everhold_consensus::StateMachine;
use everhold_proto::codec;
use everhold_proto::command::{Answer, Command, MapCommand, PgChange, Stamped, TableCommand};
use everhold_proto::fs::{FsError, SessionBatch, SessionRequest};
use everhold_proto::kv::MemKv;
use everhold_proto::map::Pg;
use everhold_proto::table::{Ack, NewBlock, Repaired};
use everhold_proto::{BlockId, DiskId, DiskSession, Generation, LogIndex, PgId, SessionId};
use everhold_server::ClusterState;

/// Copying the state costs about as much as fifty entries, so it is not done for each.
const COPY_EVERY_MS: u64 = 500;

/// Probes that many entries make worth asking; each has a pace of its own, so that none starves another.
#[derive(Clone, Copy, Debug)]
enum Probe {
    Settled,
    LateRepair,
    Delegated,
}

impl Inner {
    /// Asks what the entry that was just applied makes worth asking.
    pub(super) fn probe(&mut self, before: &Before, index: LogIndex, answer: &Answer) {
        if let (Command::Fs(batch), Answer::Fs { .. }) = (before.command(), answer)
            && self.may_copy(Probe::Delegated)
        {
            self.probe_delegated(index, batch);
        }
        match (before.command(), answer) {
            (Command::Fs(batch), Answer::Fs { .. })
                if batch.acked_below > 1 && self.may_copy(Probe::Settled) =>
            {
                self.probe_settled_request(index, batch);
            }
            (Command::Map(MapCommand::ChangePg { pg, generation, .. }), Answer::Done) => {
                self.probe_old_generation(index, *pg, *generation);
                self.probe_moved(index, *pg);
            }
            (Command::Map(MapCommand::RegisterDisk { .. }), Answer::Disk { disk, .. }) => {
                let session = before.session_of(*disk);
                if let Some(session) = session {
                    self.probe_old_session(index, *disk, session);
                }
            }
            _ => {}
        }
    }

    fn may_copy(&mut self, probe: Probe) -> bool {
        let now = trace::now_ms();
        let copied = &mut self.rules.copied_ms[probe as usize];
        let may = now >= *copied + COPY_EVERY_MS;
        if may {
            *copied = now;
        }
        may
    }

    /// The answer to a command at the next index, on a copy of the state.
    pub(super) fn ask(&self, state: &mut MemKv, command: Command) -> Option<Answer> {
        let next = LogIndex(self.replica.last().0 + 1);
        let stamped = codec::encode(&Stamped { stamp: self.rules.stamp, command });
        codec::decode(&ClusterState.apply(state, next, &stamped).ok()?).ok()
    }

    /// A request whose answer the client has is never carried out again.
    fn probe_settled_request(&mut self, index: LogIndex, batch: &SessionBatch) {
        let Some(first) = batch.requests.first() else { return };
        let request = SessionRequest::new(batch.acked_below - 1, first.op.clone());
        let late = SessionBatch { requests: vec![request], ..batch.clone() };
        let answer = self.ask(&mut self.replica.kv.clone(), Command::Fs(late));
        let Some(Answer::Fs { results, .. }) = answer else { return };
        if !matches!(results[..], [Err(FsError::MaybeApplied | FsError::NoSession)]) {
            let detail = format!(
                "after {}, request {} of {} would be carried out: {:?}",
                index,
                batch.acked_below - 1,
                batch.session,
                results
            );
            self.violate("invariant_3_at_most_once", detail, None);
        }
    }

    /// Nothing that was planned before the last change of a PG applies after it.
    fn probe_old_generation(&mut self, index: LogIndex, id: PgId, old: Generation) {
        let map = self.replica.map();
        let Some(pg) = map.pgs.get(&id) else { return };
        let mut changes = Vec::new();
        for disk in map.disks.keys().copied() {
            changes.extend([PgChange::Join(disk), PgChange::Leave(disk), PgChange::GoneOut(disk)]);
            changes.extend([PgChange::TakeBack(disk), PgChange::EndFormer(disk)]);
        }
        let mut state = self.replica.kv.clone();
        for change in changes {
            let late = MapCommand::ChangePg { pg: id, generation: old, change };
            if self.ask(&mut state, Command::Map(late)) == Some(Answer::Done) {
                let detail = format!(
                    "after {}, {id} is at {}, and {change:?} planned at {old} would apply",
                    index, pg.generation
                );
                return self.violate("rule_a_change_names_the_generation", detail, None);
            }
        }
    }

    /// As long as a PG is not full, nobody outside of it may delete what it holds.
    fn probe_moved(&mut self, index: LogIndex, id: PgId) {
        let map = self.replica.map();
        let Some(pg) = map.pgs.get(&id) else { return };
        let copies = map.policies.get(&pg.policy).map_or(1, |policy| usize::from(policy.copies));
        let Some(block) = self.live(id).first().copied() else { return };
        if pg.full_members() >= copies && pg.members.len() >= copies {
            return;
        }
        let is_outside = |disk: DiskId| pg.holders().all(|holder| holder != disk);
        for disk in map.disks.values().filter(|disk| is_outside(disk.id)) {
            let kv = &self.replica.kv;
            let may = reads::may_delete(kv, disk.id, disk.session, id, &[block]);
            if may.is_ok_and(|may| !may.moved.is_empty() || !may.dead.is_empty()) {
                let full = pg.full_members();
                let detail = format!(
                    "after {}, {} could delete {block} of {id}, which has {full} full members",
                    index, disk.id
                );
                return self.violate("rule_a_permission_needs_a_full_group", detail, Some(block));
            }
        }
    }

    /// An acknowledgement of the session that a registration ended does not count.
    fn probe_old_session(&mut self, index: LogIndex, disk: DiskId, session: DiskSession) {
        let map = self.replica.map();
        let of = |pg: &Pg, disk: DiskId, session| {
            pg.member(disk).map(|member| Ack { disk, session, joined: member.joined })
        };
        for pg in map.pgs.values() {
            let Some(old) = of(pg, disk, session) else { continue };
            for other in pg.members.iter().map(|m| m.disk).filter(|other| *other != disk) {
                let current = map.disks.get(&other).and_then(|row| of(pg, other, row.session));
                let acks = [old].into_iter().chain(current).collect();
                let id = BlockId { session: SessionId(u64::MAX), counter: 1 };
                let block = NewBlock { id, pg: pg.id, length: 1, crc: 0, acks };
                let refused = table::judge(&self.replica.kv, id.session, 0, &[block]);
                if refused.is_ok_and(|refused| refused.is_empty()) {
                    let detail = format!(
                        "after {}, a block of {} on {disk} in {session} and on {other} would count",
                        index, pg.id
                    );
                    return self.violate("invariant_7_acknowledgements_count", detail, None);
                }
            }
        }
    }

    /// A block was committed: what is known of its neighbours must hold too.
    pub(super) fn probe_commit(&mut self, index: LogIndex, block: &NewBlock) {
        let map = self.replica.map();
        let Some(pg) = map.pgs.get(&block.pg) else { return };
        // An id of the same session that is not in the table yet: a commit of it may be under way.
        let open = BlockId { session: block.id.session, counter: u64::MAX - 1 };
        let members = pg.members.iter().filter_map(|m| map.disks.get(&m.disk));
        for disk in members {
            let kv = &self.replica.kv;
            let may = reads::may_delete(kv, disk.id, disk.session, pg.id, &[open]);
            if may.is_ok_and(|may| !may.dead.is_empty()) {
                let detail = format!(
                    "after {}, {} could delete {open} of {}, which may still be committed",
                    index, disk.id, pg.id
                );
                return self.violate("rule_no_deletion_above_the_floor", detail, Some(block.id));
            }
        }
        for disk in pg.members.iter().map(|member| member.disk) {
            if self.is_recorded_missing(pg.id, disk, block.id) && self.may_copy(Probe::LateRepair) {
                self.probe_late_repair(index, pg.id, disk, block.id);
            }
        }
    }

    /// A repair of an older record leaves the newer one where it is.
    fn probe_late_repair(&mut self, index: LogIndex, pg: PgId, disk: DiskId, id: BlockId) {
        let Some(session) = self.replica.map().disks.get(&disk).map(|disk| disk.session) else {
            return;
        };
        let blocks = vec![Repaired { id, recorded: LogIndex(index.0.saturating_sub(1)) }];
        let late = TableCommand::Repaired { disk, session, pg, blocks };
        let mut state = self.replica.kv.clone();
        if self.ask(&mut state, Command::Table(late)) == Some(Answer::Done)
            && !state.0.contains_key(&everhold_proto::tables::missing(pg, disk, id))
        {
            let detail = format!(
                "after {}, a repair of an older record would clear that of {id} on {disk}",
                index
            );
            self.violate("rule_a_late_repair_clears_nothing", detail, Some(id));
        }
    }
}
