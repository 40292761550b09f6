//! The rules of the protocol, each held against the entry that has to keep it.
//!
//! A state machine that breaks a rule breaks it on every replica and on the oracle's alike, and often long
//! before a copy is lost by it. So each rule is judged here anew, from the state before the entry, the
//! state after it, and the book of the copies. `None` in the book, what cannot be known, counts as held.

use super::{Inner, Oracle};
use crate::trace;
use everhold_proto::codec;
use everhold_proto::command::{Answer, Command, MapCommand, PgChange, Stamped, TableCommand};
use everhold_proto::fs::{FsError, FsReply, SessionBatch};
use everhold_proto::kv::{get_row, prefix_end, scan_rows};
use everhold_proto::map::{ClusterMap, DiskState, Pg};
use everhold_proto::table::{BlockRow, Missing, NewBlock, Repaired};
use everhold_proto::tables;
use everhold_proto::{BlockId, DiskId, DiskSession, Generation, LogIndex, PgId, SessionId, Stamp};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What the rules remember of the run so far.
#[derive(Default)]
pub(super) struct Book {
    /// The placement group that each block was first seen in.
    homes: BTreeMap<BlockId, PgId>,
    /// Answers to the requests that were carried out.
    answers: BTreeMap<(SessionId, u64), Result<FsReply, FsError>>,
    /// Each session's word that it has all answers below.
    acked_below: BTreeMap<SessionId, u64>,
    /// Since when a PG has had fewer full members than it wants, in ms.
    unfull_since: BTreeMap<PgId, u64>,
    /// The stamp of the newest entry.
    pub(super) stamp: Stamp,
    /// When the state was copied last for a probe, in ms.
    pub(super) copied_ms: [u64; 3],
}

/// The state before an entry, as far as its rules need it.
pub(super) struct Before {
    command: Command,
    map: Arc<ClusterMap>,
    /// The blocks of a commit that were in the table already.
    in_table: Vec<BlockId>,
    /// The records that a report is about.
    missing: Vec<(Repaired, Option<Missing>)>,
    /// Blocks of a report that were recorded as lost already.
    lost: Vec<BlockId>,
}

impl Before {
    pub(super) fn command(&self) -> &Command {
        &self.command
    }

    /// The session that a disk had.
    pub(super) fn session_of(&self, disk: DiskId) -> Option<DiskSession> {
        self.map.disks.get(&disk).map(|disk| disk.session)
    }
}

/// A permission is used at once: the longest call to the leader, and the longest stall of a disk after it.
const PERMISSION_LASTS_MS: u64 = 20_000;

impl Oracle {
    /// A server ended by itself. Whatever happened to it, what its log and its state have on stable storage
    /// must join: only what the state has durably is purged from the log.
    pub fn ended(&self, host: &str, reason: &str) {
        if reason.contains("the state ends before") {
            let detail = format!("{host} {reason}");
            self.0.lock().violate("rule_the_log_reaches_back_to_the_state", detail, None);
        }
    }
}

impl Inner {
    /// To be asked before an entry is applied.
    pub(super) fn before(&mut self, command: &[u8]) -> Option<Before> {
        let Stamped { stamp, command } = codec::decode::<Stamped>(command).ok()?;
        self.rules.stamp = stamp;
        let (mut in_table, mut missing, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        match &command {
            Command::Fs(batch) => {
                let blocks = new_blocks(batch).map(|(_, block)| block);
                let known = blocks.filter(|block| self.row(block.pg, block.id).is_some());
                in_table.extend(known.map(|block| block.id));
            }
            Command::Table(TableCommand::Repaired { disk, pg, blocks, .. }) => {
                let record = |id| {
                    get_row(&self.replica.kv, &tables::missing(*pg, *disk, id))
                        .expect("the rows of the oracle decode")
                };
                missing.extend(blocks.iter().map(|block| (*block, record(block.id))));
            }
            Command::Table(TableCommand::Lost { pg, blocks, .. }) => {
                lost.extend(blocks.iter().copied().filter(|id| self.is_lost(*pg, *id)));
            }
            Command::Table(TableCommand::Sweep { .. }) => return None,
            _ => {}
        }
        Some(Before { command, map: self.replica.map(), in_table, missing, lost })
    }

    /// To be asked after it.
    pub(super) fn check_rules(&mut self, before: Option<Before>, index: LogIndex, answer: &[u8]) {
        let Some(before) = before else { return };
        let Ok(answer) = codec::decode::<Answer>(answer) else { return };
        self.note_fullness();
        self.probe(&before, index, &answer);
        match (&before.command, &answer) {
            (Command::Fs(batch), Answer::Fs { results, .. }) => {
                self.check_requests(index, batch, results);
                for (at, block) in new_blocks(batch) {
                    if results.get(at).is_some_and(Result::is_ok) {
                        self.check_commit(index, &before, block);
                    }
                }
            }
            (Command::RenewSession { session, acked_below, .. }, Answer::Done) => {
                self.has_acked(*session, *acked_below);
            }
            (Command::Map(MapCommand::ChangePg { pg, generation, change }), Answer::Done) => {
                self.check_change(index, &before.map, *pg, *generation, *change);
            }
            (Command::Map(MapCommand::RegisterDisk { .. }), Answer::Disk { disk, .. }) => {
                self.check_registration(index, *disk);
            }
            (Command::Table(command), Answer::Done) => {
                self.check_report(index, &before, command);
            }
            _ => {}
        }
    }

    fn row(&self, pg: PgId, id: BlockId) -> Option<BlockRow> {
        get_row(&self.replica.kv, &tables::block(pg, id)).expect("the rows of the oracle decode")
    }

    /// **Invariant 3**: a request is carried out at most once, and its answer never changes. One whose
    /// answer the client has is not carried out at all.
    fn check_requests(
        &mut self,
        index: LogIndex,
        batch: &SessionBatch,
        results: &[Result<FsReply, FsError>],
    ) {
        if results.contains(&Err(FsError::NoSession)) {
            return;
        }
        let settled = self.has_acked(batch.session, batch.acked_below);
        for (request, result) in batch.requests.iter().zip(results) {
            // These say that it was not carried out now, and keep no answer.
            let not_done = |e: &FsError| {
                matches!(
                    e,
                    FsError::WindowExceeded
                        | FsError::MaybeApplied
                        | FsError::Delegated { .. }
                        | FsError::Fenced
                        | FsError::Skipped
                )
            };
            if result.as_ref().is_err_and(not_done) {
                continue;
            }
            let (session, number) = (batch.session, request.request);
            let first = self.rules.answers.entry((session, number)).or_insert(result.clone());
            let broken = match () {
                () if number < settled => "although its answer had arrived",
                () if first != result => "and not as the first time",
                () => continue,
            };
            let detail =
                format!("{index} carries out request {number} of {session} {broken}: {result:?}");
            self.violate("invariant_3_at_most_once", detail, None);
        }
    }

    fn has_acked(&mut self, session: SessionId, below: u64) -> u64 {
        let settled = self.rules.acked_below.entry(session).or_default();
        *settled = below.max(*settled);
        *settled
    }

    /// What a commit must have had, by the map that it was judged against.
    fn check_commit(&mut self, index: LogIndex, before: &Before, block: &NewBlock) {
        let (pg, id) = (block.pg, block.id);
        if before.in_table.contains(&id) || self.row(pg, id).is_none() {
            return; // a repeated request
        }
        self.is_at_home(pg, id);
        let Some(group) = before.map.pgs.get(&pg) else { return };
        // A majority, whatever the policy says: it is what makes a quorum one.
        let quorum = copies(&before.map, group) / 2 + 1;
        let mut counted: Vec<DiskId> = Vec::new();
        for ack in &block.acks {
            let joined = group.member(ack.disk).is_some_and(|m| m.joined == ack.joined);
            let disk = before.map.disks.get(&ack.disk);
            let current =
                disk.is_some_and(|d| d.session == ack.session && d.state != DiskState::Failed);
            if joined && current && !counted.contains(&ack.disk) {
                counted.push(ack.disk);
            }
        }
        if counted.len() < quorum {
            let detail = format!(
                "{index} commits {id} to {pg}: only those of {counted:?} count as acknowledged"
            );
            self.violate("invariant_7_acknowledgements_count", detail, Some(id));
        }
        let held = self.held_by(&before.map, group.members.iter().map(|m| m.disk), id);
        if held < quorum {
            let detail = format!("{index} commits {id} to {pg}, which is on {held} of its disks");
            self.violate("invariant_1_acknowledged_is_durable", detail, Some(id));
        }
        self.probe_commit(index, block);
        let map = self.replica.map();
        let uncounted = map.pgs.get(&pg).into_iter().flat_map(|pg| &pg.members);
        for member in uncounted.filter(|m| m.complete && !counted.contains(&m.disk)) {
            if !self.is_recorded_missing(pg, member.disk, id) {
                let disk = member.disk;
                let detail =
                    format!("{index} commits {id} to {pg} and records no missing copy of {disk}");
                self.violate("invariant_6_missing_copies_are_recorded", detail, Some(id));
            }
        }
    }

    /// **Invariant 2**: a block id belongs to one placement group for ever.
    pub(super) fn is_at_home(&mut self, pg: PgId, id: BlockId) {
        let home = *self.rules.homes.entry(id).or_insert(pg);
        if home != pg {
            let detail = format!("block {id} is of {home} and of {pg}");
            self.violate("invariant_2_an_id_is_used_once", detail, Some(id));
        }
    }

    fn check_change(
        &mut self,
        index: LogIndex,
        before: &ClusterMap,
        id: PgId,
        generation: Generation,
        change: PgChange,
    ) {
        let was = before.pgs.get(&id).map(|pg| pg.generation);
        if was != Some(generation) {
            let detail =
                format!("{index} {change:?} of {id} (at {was:?}) was planned at {generation}");
            self.violate("rule_a_change_names_the_generation", detail, None);
        }
        let map = self.replica.map();
        let Some(pg) = map.pgs.get(&id) else { return };
        match change {
            PgChange::GoneOut(disk) if !pg.formers.contains(&disk) => {
                let detail = format!("{index} {disk} goes out of {id} and is no former of it");
                self.violate("rule_who_goes_out_stays_as_former", detail, None);
            }
            PgChange::Leave(disk) | PgChange::EndFormer(disk) => {
                self.check_others_are_full(index, &map, pg, disk);
            }
            _ => {}
        }
    }

    /// Once a disk may delete its copies, a full number of others have all of them.
    fn check_others_are_full(&mut self, index: LogIndex, map: &ClusterMap, pg: &Pg, gone: DiskId) {
        let wanted = copies(map, pg);
        let others = || pg.members.iter().map(|m| m.disk);
        let full = pg.members.iter().filter(|m| m.complete && !self.lacks_any(pg.id, m.disk));
        let full = full.count();
        if full < wanted {
            let detail = format!("{index} {} lets {gone} go with {full} full members", pg.id);
            self.violate("rule_others_are_full", detail, None);
        }
        for id in self.live(pg.id) {
            let held = self.held_by(map, others(), id);
            if held < wanted && !self.is_lost(pg.id, id) {
                let detail =
                    format!("{index} {} lets {gone} go; {id} is on {held} others only", pg.id);
                self.violate("rule_others_are_full", detail, Some(id));
            }
        }
    }

    fn lacks_any(&self, pg: PgId, disk: DiskId) -> bool {
        let from = tables::missing_of(pg, disk);
        let record = |_: &[u8], record: Missing| Some(record);
        scan_rows(&self.replica.kv, &from, &prefix_end(&from), 1, record)
            .is_ok_and(|records| !records.is_empty())
    }

    /// What a disk lost before it registered is not known.
    fn check_registration(&mut self, index: LogIndex, disk: DiskId) {
        let map = self.replica.map();
        let complete = |pg: &&Pg| pg.member(disk).is_some_and(|member| member.complete);
        if let Some(pg) = map.pgs.values().find(complete) {
            let detail = format!("{index} {disk} registers and is still complete in {}", pg.id);
            self.violate("rule_a_registration_ends_completeness", detail, None);
        }
    }

    fn check_report(&mut self, index: LogIndex, before: &Before, command: &TableCommand) {
        match command {
            TableCommand::Compared { disk, session, pg, joined, table_read, .. } => {
                let place = (*disk, *session, *pg, *joined);
                self.check_comparison(index, &before.map, place, *table_read);
            }
            TableCommand::Repaired { disk, pg, .. } => {
                for (report, record) in &before.missing {
                    let other = record.is_some_and(|record| record.recorded != report.recorded);
                    if other && !self.is_recorded_missing(*pg, *disk, report.id) {
                        let (id, recorded) = (report.id, report.recorded);
                        let detail = format!(
                            "{index} {disk} reports {id} repaired as of {recorded}: a newer \
                             record is gone"
                        );
                        self.violate("rule_a_late_repair_clears_nothing", detail, Some(id));
                    }
                }
            }
            TableCommand::Lost { pg, blocks, .. } => {
                let fresh = blocks.iter().filter(|id| !before.lost.contains(id));
                for id in fresh.filter(|id| self.is_lost(*pg, **id)).copied().collect::<Vec<_>>() {
                    self.check_loss(index, &before.map, *pg, id);
                }
            }
            _ => {}
        }
    }

    fn check_comparison(
        &mut self,
        index: LogIndex,
        before: &ClusterMap,
        (disk, session, pg, joined): (DiskId, DiskSession, PgId, LogIndex),
        table_read: LogIndex,
    ) {
        let member = before.pgs.get(&pg).and_then(|pg| pg.member(disk));
        let current = before.disks.get(&disk).is_some_and(|disk| disk.session == session);
        let since = member.map(|m| m.joined.0.max(m.range_recorded.0).max(session.0));
        let joined = member.is_some_and(|member| member.joined == joined);
        if !current || !joined || since.is_none_or(|since| table_read.0 < since) {
            let detail =
                format!("{index} {disk} is complete in {pg} by a table as of {table_read}");
            self.violate("rule_a_comparison_is_recent", detail, None);
        }
    }

    /// A block counts as lost only when nobody has it who ought to.
    fn check_loss(&mut self, index: LogIndex, map: &ClusterMap, pg: PgId, id: BlockId) {
        let holders: Vec<DiskId> =
            map.pgs.get(&pg).map(|pg| pg.holders().collect()).unwrap_or_default();
        if let Some(disk) =
            holders.into_iter().find(|disk| self.holds(map, *disk, id) == Some(true))
        {
            let detail = format!("{index} records {id} of {pg} as lost; {disk} has it");
            self.violate("rule_lost_is_on_no_disk", detail, Some(id));
        }
    }

    /// Whether a disk was emptied and has not registered since, and so is not what the map takes it for.
    pub(super) fn was_emptied(&self, map: &ClusterMap, disk: DiskId) -> bool {
        let row = map.disks.get(&disk);
        let host = row.and_then(|row| Some(super::host_of(&map.nodes.get(&row.node)?.address)));
        let since = host.and_then(|host| self.hosts.get(host)?.emptied_in);
        since.zip(row).is_some_and(|(since, row)| row.session <= since)
    }

    /// How many of `disks` have a block, or may have it.
    fn held_by(&self, map: &ClusterMap, disks: impl Iterator<Item = DiskId>, id: BlockId) -> usize {
        disks.filter(|disk| self.holds(map, *disk, id) != Some(false)).count()
    }

    fn note_fullness(&mut self) {
        let (map, now) = (self.replica.map(), trace::now_ms());
        for pg in map.pgs.values() {
            if pg.full_members() >= copies(&map, pg) {
                self.rules.unfull_since.remove(&pg.id);
            } else {
                self.rules.unfull_since.entry(pg.id).or_insert(now);
            }
        }
    }

    /// **Invariant 5**: a copy that moved elsewhere is deleted on a permission that its PG, being full,
    /// gave a moment ago.
    pub(super) fn check_permission(&mut self, host: &str, pg: PgId, id: BlockId) {
        let outside = self.disk_of(host).is_none_or(|(disk, _)| {
            let map = self.replica.map();
            map.pgs.get(&pg).is_some_and(|pg| pg.holders().all(|holder| holder != disk))
        });
        let unfull = self.rules.unfull_since.get(&pg).copied();
        let stale = unfull.is_some_and(|since| trace::now_ms() > since + PERMISSION_LASTS_MS);
        if outside && stale && self.is_live(pg, id) {
            let detail =
                format!("{host} deletes its copy of {id}; {pg} has not been full for long");
            self.violate("rule_a_permission_is_fresh", detail, Some(id));
        }
    }
}

/// The blocks of a batch with the places of their requests.
fn new_blocks(batch: &SessionBatch) -> impl Iterator<Item = (usize, &NewBlock)> {
    let requests = batch.requests.iter().enumerate();
    requests.flat_map(|(at, request)| {
        let content = super::replica::content_of(&request.op);
        content.into_iter().flat_map(move |content| content.blocks.iter().map(move |b| (at, b)))
    })
}

fn copies(map: &ClusterMap, pg: &Pg) -> usize {
    map.policies.get(&pg.policy).map_or(1, |policy| usize::from(policy.copies))
}
