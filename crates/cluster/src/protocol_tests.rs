//! The block protocol of one placement group, the real rules against a model of disks and messages.
//!
//! Messages may be late, lost, or come twice: an acknowledgement counts whenever the commit names it, a
//! report is delivered whenever the events say. After each event the named invariants are checked; at the
//! end faults stop, and the planner and the workers must bring everything to full redundancy.

use crate::repair;
use crate::testing::{SESSION, World, id};
use crate::{reads, table};
use everhold_proto::command::{MapCommand, PgChange, TableCommand};
use everhold_proto::kv::get_row;
use everhold_proto::limits::DEAD_GRACE_MS;
use everhold_proto::map::{Member, NodeState};
use everhold_proto::table::{Ack, NewBlock, Repaired};
use everhold_proto::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const DISKS: u8 = 4;
const BLOCKS: u8 = 2;
const PG: PgId = PgId(1);
/// Messages under way; further ones are lost.
const FLIGHT_MAX: usize = 12;

#[derive(Clone, Copy, Debug)]
enum Event {
    /// The writer's PUT arrives; the acknowledgement may be lost.
    Put {
        block: u8,
        disk: u8,
        acknowledged: bool,
    },
    /// The commit arrives, with the acknowledgements that the writer has.
    Commit {
        block: u8,
    },
    /// The file that has the block is deleted.
    Delete {
        block: u8,
    },
    /// The session's floor rises to the block's counter + 1, or the session ends.
    RaiseFloor {
        block: u8,
    },
    EndSession,
    /// The dead leave the table.
    Sweep,
    /// The disk's process restarts or is cut off; it keeps what it has.
    Crash {
        disk: u8,
    },
    /// The disk loses everything.
    Wipe {
        disk: u8,
    },
    /// One copy rots; scrub finds it and reports it.
    Rot {
        disk: u8,
        block: u8,
    },
    Register {
        disk: u8,
    },
    /// The node fetches the newest map.
    Refresh {
        disk: u8,
    },
    Out {
        disk: u8,
    },
    Join {
        disk: u8,
    },
    Leave {
        disk: u8,
    },
    GoneOut {
        disk: u8,
    },
    TakeBack {
        disk: u8,
    },
    EndFormer {
        disk: u8,
    },
    ReadTable {
        disk: u8,
    },
    SendComparison {
        disk: u8,
    },
    Repair {
        disk: u8,
        block: u8,
    },
    /// A report under way arrives; it may stay under way, to arrive twice.
    Deliver {
        place: u8,
        again: bool,
    },
    AskMayDelete {
        disk: u8,
    },
    ExecuteDeletes {
        disk: u8,
    },
    ReportLost {
        block: u8,
    },
    /// A return without a hitch: registers, compares, and the report arrives at once.
    Return {
        disk: u8,
    },
    /// A member is synchronised without a hitch.
    Synchronise {
        disk: u8,
    },
    /// A member is given up, in the map and in the PG.
    GiveUp {
        disk: u8,
    },
    /// The disk asks what it may delete, and does.
    Purge {
        disk: u8,
    },
}

/// A disk with its process.
#[derive(Clone, Debug, Default)]
struct Disk {
    holds: BTreeSet<u64>,
    registered: bool,
    session: DiskSession,
    /// Its join index by the map that its node has.
    joined: Option<LogIndex>,
    comparison: Option<(LogIndex, LogIndex, Vec<u64>)>,
    /// Permissions to delete: final ones, and ones that end with membership.
    dead: BTreeSet<u64>,
    moved: BTreeSet<u64>,
}

impl Disk {
    /// The node learns that the disk is a member: such permissions are dropped.
    fn becomes_member(&mut self) {
        self.moved.clear();
    }
}

/// What the writer knows of a block.
#[derive(Clone, Debug, Default)]
struct Writer {
    acks: Vec<Ack>,
    /// Disks whose acknowledged copy was destroyed since.
    destroyed: BTreeSet<u8>,
}

struct Model {
    world: World,
    copies: usize,
    disks: Vec<Disk>,
    writers: Vec<Writer>,
    /// Copies that each live block must have: those promised minus those that failed since.
    promised: BTreeMap<u64, usize>,
    flight: Vec<TableCommand>,
    failures_left: usize,
    trace: Vec<Event>,
}

impl Model {
    fn new(copies: u8, failures: usize) -> Self {
        let mut world = World::new(copies, &[""; DISKS as usize]);
        world.open_session(0);
        let members: Vec<u32> = (1..=u32::from(copies)).collect();
        world.create_pg(&members);
        let mut model = Model {
            world,
            copies: usize::from(copies),
            disks: vec![Disk::default(); usize::from(DISKS)],
            writers: vec![Writer::default(); usize::from(BLOCKS)],
            promised: BTreeMap::new(),
            flight: Vec::new(),
            failures_left: failures,
            trace: Vec::new(),
        };
        for disk in 0..DISKS {
            model.register(disk);
        }
        for number in 1..=u32::from(copies) {
            model.world.compare(PG, number, &[]);
        }
        model
    }

    fn step(&mut self, event: Event) {
        self.trace.push(event);
        match event {
            Event::Put { block, disk, acknowledged } => self.put(block, disk, acknowledged),
            Event::Commit { block } => self.commit(block),
            Event::Delete { block } => self.delete(block),
            Event::RaiseFloor { block } => self.raise_floor(block),
            Event::EndSession => self.world.end_session(),
            Event::Sweep => {
                self.world.log_ms += DEAD_GRACE_MS;
                self.world.table_command(TableCommand::Sweep { limit: 10 });
            }
            Event::Crash { disk } => self.crash(disk),
            Event::Wipe { disk } => self.wipe(disk),
            Event::Rot { disk, block } => self.rot(disk, block),
            Event::Register { disk } => self.register(disk),
            Event::Refresh { disk } => self.refresh(disk),
            Event::Out { disk } => self.out(disk),
            Event::Join { disk } => self.change(PgChange::Join(disk_id(self.stranger(disk)))),
            Event::Leave { disk } => self.change(PgChange::Leave(disk_id(self.member(disk)))),
            Event::GoneOut { disk } => self.change(PgChange::GoneOut(disk_id(disk))),
            Event::TakeBack { disk } => self.change(PgChange::TakeBack(disk_id(self.former(disk)))),
            Event::EndFormer { disk } => {
                self.change(PgChange::EndFormer(disk_id(self.former(disk))))
            }
            Event::ReadTable { disk } => self.read_table(disk),
            Event::SendComparison { disk } => self.send_comparison(disk),
            Event::Repair { disk, block } => self.repair(disk, u64::from(block)),
            Event::Deliver { place, again } => self.deliver(place, again),
            Event::AskMayDelete { disk } => self.ask_may_delete(disk),
            Event::ExecuteDeletes { disk } => self.execute_deletes(disk),
            Event::ReportLost { block } => self.report_lost(u64::from(block)),
            Event::Return { disk } => self.come_back(disk),
            Event::Synchronise { disk } => self.synchronise(self.member(disk)),
            Event::GiveUp { disk } => self.give_up(self.member(disk)),
            Event::Purge { disk } => {
                self.ask_may_delete(disk);
                self.execute_deletes(disk);
            }
        }
        self.note_full_redundancy();
        self.check();
    }

    fn put(&mut self, block: u8, disk: u8, acknowledged: bool) {
        let state = &mut self.disks[usize::from(disk)];
        let Some(joined) = state.joined.filter(|_| state.registered) else { return };
        state.becomes_member();
        state.holds.insert(u64::from(block));
        if acknowledged {
            let ack = Ack { disk: disk_id(disk), session: state.session, joined };
            let writer = &mut self.writers[usize::from(block)];
            writer.acks.retain(|known| known.disk != ack.disk);
            writer.acks.push(ack);
            writer.destroyed.remove(&disk);
        }
    }

    fn commit(&mut self, block: u8) {
        let Some(floor) = self.floor() else { return };
        let acks = self.writers[usize::from(block)].acks.clone();
        let new = NewBlock { acks, ..self.world.block(PG, u64::from(block), &[]) };
        let refused =
            table::judge(&self.world.kv, SESSION, floor, std::slice::from_ref(&new)).unwrap();
        if !refused.is_empty() {
            return;
        }
        let pg = self.world.pg(PG);
        let map = self.world.map();
        let counts = |ack: &&Ack| {
            let current = pg.member(ack.disk).is_some_and(|m| m.joined == ack.joined);
            current && map.disks[&ack.disk].session == ack.session
        };
        let counted: Vec<Ack> = new.acks.iter().filter(counts).copied().collect();
        assert!(counted.len() > self.copies / 2, "a quorum of copies");
        assert_eq!(self.world.commit(&new), None);
        let destroyed = &self.writers[usize::from(block)].destroyed;
        let gone = counted.iter().filter(|a| destroyed.contains(&(a.disk.0 as u8 - 1))).count();
        // More than the policy's copies are not promised: a surplus member may leave.
        let promised = counted.len().min(self.copies).saturating_sub(gone);
        self.promised.insert(u64::from(block), promised);
    }

    fn delete(&mut self, block: u8) {
        if self.live().contains(&u64::from(block)) {
            self.world.remove(PG, u64::from(block));
            self.promised.remove(&u64::from(block));
        }
    }

    fn floor(&self) -> Option<u64> {
        let row: Option<everhold_proto::table::SessionRow> =
            get_row(&self.world.kv, &tables::session(SESSION)).unwrap();
        row.map(|row| row.floor)
    }

    fn raise_floor(&mut self, block: u8) {
        if let Some(floor) = self.floor() {
            self.world.open_session(floor.max(u64::from(block) + 1));
        }
    }

    fn crash(&mut self, disk: u8) {
        let state = &mut self.disks[usize::from(disk)];
        *state = Disk { holds: std::mem::take(&mut state.holds), ..Disk::default() };
    }

    fn wipe(&mut self, disk: u8) {
        if self.failures_left == 0 {
            return;
        }
        self.failures_left -= 1;
        for block in self.disks[usize::from(disk)].holds.clone() {
            self.destroy(disk, block);
        }
        // Copies that were acknowledged and dropped before the commit are gone as well.
        self.writers.iter_mut().for_each(|writer| {
            writer.destroyed.insert(disk);
        });
        self.disks[usize::from(disk)] = Disk::default();
    }

    fn destroy(&mut self, disk: u8, block: u64) {
        self.disks[usize::from(disk)].holds.remove(&block);
        self.writers[block as usize].destroyed.insert(disk);
        if let Some(promised) = self.promised.get_mut(&block) {
            *promised = promised.saturating_sub(1);
        }
    }

    fn rot(&mut self, disk: u8, block: u8) {
        let state = &self.disks[usize::from(disk)];
        if self.failures_left == 0 || !state.registered || !state.holds.contains(&u64::from(block))
        {
            return;
        }
        self.failures_left -= 1;
        self.destroy(disk, u64::from(block));
        let session = self.disks[usize::from(disk)].session;
        let (disk, blocks) = (disk_id(disk), vec![id(u64::from(block))]);
        self.world.table_command(TableCommand::Bad { disk, session, pg: PG, blocks });
    }

    fn register(&mut self, disk: u8) {
        self.world.register_node(disk + 1, "");
        let session = self.world.register_disk(disk + 1, None);
        let joined = self.joined(disk);
        let state = &mut self.disks[usize::from(disk)];
        let holds = std::mem::take(&mut state.holds);
        *state = Disk { holds, registered: true, session, joined, ..Disk::default() };
    }

    fn joined(&self, disk: u8) -> Option<LogIndex> {
        self.world.pg(PG).member(disk_id(disk)).map(|member| member.joined)
    }

    fn refresh(&mut self, disk: u8) {
        let joined = self.joined(disk);
        let state = &mut self.disks[usize::from(disk)];
        state.joined = joined;
        if joined.is_some() {
            state.becomes_member();
        }
    }

    fn change(&mut self, change: PgChange) {
        self.world.change(PG, change);
    }

    fn live(&self) -> BTreeSet<u64> {
        let (blocks, more) = reads::page(&self.world.kv, PG, None, 1000).unwrap();
        assert!(!more);
        blocks.into_iter().map(|entry| entry.id.counter).collect()
    }

    fn read_table(&mut self, disk: u8) {
        let listing = self.live().into_iter().collect();
        let at = LogIndex(self.world.index);
        let state = &mut self.disks[usize::from(disk)];
        if let Some(joined) = state.joined.filter(|_| state.registered) {
            state.becomes_member();
            state.comparison = Some((at, joined, listing));
        }
    }

    fn send_comparison(&mut self, disk: u8) {
        let state = &mut self.disks[usize::from(disk)];
        let Some((table_read, joined, listing)) = state.comparison.take() else { return };
        let missing = listing.into_iter().filter(|block| !state.holds.contains(block)).map(id);
        let report = TableCommand::Compared {
            disk: disk_id(disk),
            session: state.session,
            pg: PG,
            joined,
            table_read,
            missing: missing.collect(),
        };
        self.send(report);
    }

    fn send(&mut self, report: TableCommand) {
        if self.flight.len() < FLIGHT_MAX {
            self.flight.push(report);
        }
    }

    fn repair(&mut self, disk: u8, block: u64) {
        let record = self.world.missing(PG, u32::from(disk) + 1);
        let Some((_, recorded)) = record.into_iter().find(|(missing, _)| *missing == block) else {
            return;
        };
        let state = &self.disks[usize::from(disk)];
        if !state.registered || state.joined.is_none() {
            return;
        }
        let pg = self.world.pg(PG);
        let has_it = |holder: DiskId| {
            let state = &self.disks[holder.0 as usize - 1];
            state.registered && state.holds.contains(&block)
        };
        if !pg.holders().any(has_it) {
            return;
        }
        let state = &mut self.disks[usize::from(disk)];
        state.becomes_member();
        state.holds.insert(block);
        let (session, blocks) = (state.session, vec![Repaired { id: id(block), recorded }]);
        self.send(TableCommand::Repaired { disk: disk_id(disk), session, pg: PG, blocks });
    }

    fn come_back(&mut self, disk: u8) {
        self.register(disk);
        self.read_table(disk);
        self.send_comparison(disk);
        self.deliver_last();
    }

    fn synchronise(&mut self, disk: u8) {
        self.refresh(disk);
        self.read_table(disk);
        self.send_comparison(disk);
        self.deliver_last();
        for block in 0..BLOCKS {
            self.repair(disk, u64::from(block));
            self.deliver_last();
        }
    }

    fn out(&mut self, disk: u8) {
        self.world.set_node(number(disk), NodeState::Down);
        self.world.set_node(number(disk), NodeState::Out);
    }

    fn give_up(&mut self, disk: u8) {
        self.out(disk);
        self.change(PgChange::GoneOut(disk_id(disk)));
    }

    /// Picks one of the members; so most events mean something.
    fn member(&self, nth: u8) -> u8 {
        let members: Vec<DiskId> = self.world.pg(PG).members.iter().map(|m| m.disk).collect();
        pick(&members, nth)
    }

    fn former(&self, nth: u8) -> u8 {
        pick(&self.world.pg(PG).formers, nth)
    }

    fn stranger(&self, nth: u8) -> u8 {
        let pg = self.world.pg(PG);
        let all = (0..DISKS).map(disk_id);
        let strangers: Vec<DiskId> = all.filter(|disk| pg.holders().all(|h| h != *disk)).collect();
        pick(&strangers, nth)
    }

    fn deliver_last(&mut self) {
        if let Some(report) = self.flight.pop() {
            self.world.table_command(report);
        }
    }

    fn deliver(&mut self, place: u8, again: bool) {
        if self.flight.is_empty() {
            return;
        }
        let place = usize::from(place) % self.flight.len();
        let report =
            if again { self.flight[place].clone() } else { self.flight.swap_remove(place) };
        self.world.table_command(report);
    }

    fn ask_may_delete(&mut self, disk: u8) {
        let state = &self.disks[usize::from(disk)];
        if !state.registered {
            return;
        }
        let held: Vec<BlockId> = state.holds.iter().map(|block| id(*block)).collect();
        let session = state.session;
        let answer = reads::may_delete(&self.world.kv, disk_id(disk), session, PG, &held).unwrap();
        let state = &mut self.disks[usize::from(disk)];
        state.dead.extend(answer.dead.iter().map(|id| id.counter));
        state.moved.extend(answer.moved.iter().map(|id| id.counter));
    }

    fn execute_deletes(&mut self, disk: u8) {
        let state = &mut self.disks[usize::from(disk)];
        for block in state.dead.iter().chain(&state.moved) {
            state.holds.remove(block);
        }
        state.dead.clear();
        state.moved.clear();
    }

    /// All members and formers were asked, on this generation, and none has it.
    fn report_lost(&mut self, block: u64) {
        let pg = self.world.pg(PG);
        let asked = |disk: DiskId| {
            let state = &self.disks[disk.0 as usize - 1];
            state.registered && !state.holds.contains(&block)
        };
        if pg.holders().all(asked) {
            let (generation, blocks) = (pg.generation, vec![id(block)]);
            self.world.table_command(TableCommand::Lost { pg: PG, generation, blocks });
        }
    }

    /// A repair that brought a block to its full number of copies makes the promise whole again.
    fn note_full_redundancy(&mut self) {
        let pg = self.world.pg(PG);
        let full = pg.members.iter().filter(|m| m.is_full());
        let holding = |block: u64| {
            full.clone()
                .filter(|m| self.disks[m.disk.0 as usize - 1].holds.contains(&block))
                .count()
        };
        for block in self.live() {
            let everywhere = pg.members.iter().all(|m| self.has(m, block));
            if everywhere && holding(block) >= self.copies {
                self.promised.insert(block, self.copies);
            }
        }
    }

    fn has(&self, member: &Member, block: u64) -> bool {
        self.disks[member.disk.0 as usize - 1].holds.contains(&block)
    }

    fn check(&self) {
        let broken = self.broken_invariant();
        assert!(broken.is_none(), "{}\nafter {:#?}", broken.unwrap(), self.trace);
    }

    fn broken_invariant(&self) -> Option<String> {
        self.invariant_promised_copies_exist()
            .or_else(|| self.invariant_complete_members_know_what_they_lack())
            .or_else(|| self.invariant_counters_match_rows())
    }

    /// I1 and I5: a live block has the copies it was promised, but for those that failed.
    fn invariant_promised_copies_exist(&self) -> Option<String> {
        self.live().into_iter().find_map(|block| {
            let copies = self.disks.iter().filter(|disk| disk.holds.contains(&block)).count();
            let promised = self.promised[&block];
            (copies < promised).then(|| format!("b{block} has {copies} copies of {promised}"))
        })
    }

    /// I6: a member that counts as compared and lacks a live block has a record of it, or the block is
    /// recorded as lost, or the disk still owes a registration.
    fn invariant_complete_members_know_what_they_lack(&self) -> Option<String> {
        let pg = self.world.pg(PG);
        for member in pg.members.iter().filter(|member| member.complete) {
            let missing = self.world.missing(PG, member.disk.0);
            for block in self.live() {
                let lost = self.world.kv.0.contains_key(&tables::lost(PG, id(block)));
                let recorded = missing.iter().any(|(counter, _)| *counter == block);
                let registered = self.disks[member.disk.0 as usize - 1].registered;
                if !self.has(member, block) && !recorded && !lost && registered {
                    return Some(format!("{} lacks b{block} and nobody knows", member.disk));
                }
            }
        }
        None
    }

    fn invariant_counters_match_rows(&self) -> Option<String> {
        let pg = self.world.pg(PG);
        let rows = |table: u8| self.world.kv.0.keys().filter(move |key| key[0] == table).count();
        if rows(b'B') as u64 != pg.blocks {
            return Some(format!("{} blocks are counted, {} are there", pg.blocks, rows(b'B')));
        }
        let live = self.live().len() as u64 * u64::from(crate::testing::LENGTH);
        if live != pg.live_bytes {
            return Some(format!("{} live bytes are counted, {live} are there", pg.live_bytes));
        }
        let counted: u64 = pg.members.iter().map(|member| member.missing_blocks).sum();
        if rows(b'M') as u64 != counted {
            return Some(format!("{counted} missing copies are counted, {} are there", rows(b'M')));
        }
        let of_live = pg.members.iter().all(|member| {
            let missing = self.world.missing(PG, member.disk.0);
            missing.len() as u64 == member.missing_blocks
                && missing.iter().all(|(counter, _)| self.live().contains(counter))
        });
        (!of_live).then(|| "a dead block is recorded as missing".into())
    }

    /// Faults stop: every disk registers, messages are lost, the session ends. The planner and the workers
    /// run until nothing changes; then everything is redundant and no orphan is left.
    fn converge(&mut self) {
        self.flight.clear();
        self.world.end_session();
        (0..DISKS).for_each(|disk| self.register(disk));
        for _ in 0..40 {
            let before = self.world.kv.clone();
            let held: Vec<_> = self.disks.iter().map(|disk| disk.holds.clone()).collect();
            for command in repair::plan(&self.world.map(), &repair::Limits::default()) {
                if matches!(command, MapCommand::ChangePg { pg: PG, .. }) {
                    self.world.map_command(command);
                }
            }
            for disk in 0..DISKS {
                self.converge_disk(disk);
            }
            for block in self.live() {
                self.report_lost(block);
            }
            self.world.log_ms += DEAD_GRACE_MS;
            self.world.table_command(TableCommand::Sweep { limit: 100 });
            self.check();
            let same_rows = self.map_rows(&before) == self.map_rows(&self.world.kv);
            if same_rows && self.disks.iter().map(|disk| disk.holds.clone()).eq(held) {
                return self.check_converged();
            }
        }
        panic!("does not settle\nafter {:#?}", self.trace);
    }

    fn map_rows(&self, kv: &everhold_proto::kv::MemKv) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = kv.0.iter().filter(|(key, _)| b"PBML".contains(&key[0]));
        rows.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn converge_disk(&mut self, disk: u8) {
        self.refresh(disk);
        let complete = self.world.pg(PG).member(disk_id(disk)).is_some_and(|m| m.complete);
        if !complete {
            self.read_table(disk);
            self.send_comparison(disk);
        }
        for block in 0..BLOCKS {
            self.repair(disk, u64::from(block));
        }
        while !self.flight.is_empty() {
            self.deliver(0, false);
        }
        self.ask_may_delete(disk);
        self.execute_deletes(disk);
    }

    fn check_converged(&self) {
        let pg = self.world.pg(PG);
        let trace = &self.trace;
        assert_eq!(pg.full_members(), self.copies, "{pg:?}\nafter {trace:#?}");
        assert!(
            pg.formers.is_empty() && pg.members.len() == self.copies,
            "{pg:?}\nafter {trace:#?}"
        );
        let live = self.live();
        for (number, disk) in self.disks.iter().enumerate() {
            let orphans: Vec<_> = disk.holds.difference(&live).collect();
            assert!(orphans.is_empty(), "d{} keeps {orphans:?}\nafter {trace:#?}", number + 1);
        }
        for block in live.iter().filter(|block| self.promised[*block] > 0) {
            for member in &pg.members {
                assert!(
                    self.has(member, *block),
                    "{} has no b{block}\nafter {trace:#?}",
                    member.disk
                );
            }
        }
    }
}

fn pick(disks: &[DiskId], nth: u8) -> u8 {
    let nth = usize::from(nth) % disks.len().max(1);
    disks.get(nth).map_or(0, |disk| disk.0 as u8 - 1)
}

fn number(disk: u8) -> u32 {
    u32::from(disk) + 1
}

fn disk_id(disk: u8) -> DiskId {
    DiskId(number(disk))
}

fn event() -> impl Strategy<Value = Event> {
    let (disk, block) = (0..DISKS, 0..BLOCKS);
    let both = (block.clone(), disk.clone());
    prop_oneof![
        8 => (both.clone(), prop::bool::weighted(0.8))
            .prop_map(|((block, disk), acknowledged)| Event::Put { block, disk, acknowledged }),
        5 => block.clone().prop_map(|block| Event::Commit { block }),
        1 => block.clone().prop_map(|block| Event::Delete { block }),
        1 => block.clone().prop_map(|block| Event::RaiseFloor { block }),
        1 => Just(Event::EndSession),
        1 => Just(Event::Sweep),
        2 => disk.clone().prop_map(|disk| Event::Crash { disk }),
        2 => disk.clone().prop_map(|disk| Event::Wipe { disk }),
        1 => both.clone().prop_map(|(block, disk)| Event::Rot { disk, block }),
        4 => disk.clone().prop_map(|disk| Event::Register { disk }),
        4 => disk.clone().prop_map(|disk| Event::Refresh { disk }),
        2 => disk.clone().prop_map(|disk| Event::Out { disk }),
        4 => disk.clone().prop_map(|disk| Event::Join { disk }),
        4 => disk.clone().prop_map(|disk| Event::Leave { disk }),
        2 => disk.clone().prop_map(|disk| Event::GoneOut { disk }),
        2 => disk.clone().prop_map(|disk| Event::TakeBack { disk }),
        2 => disk.clone().prop_map(|disk| Event::EndFormer { disk }),
        4 => disk.clone().prop_map(|disk| Event::ReadTable { disk }),
        4 => disk.clone().prop_map(|disk| Event::SendComparison { disk }),
        6 => both.prop_map(|(block, disk)| Event::Repair { disk, block }),
        8 => (any::<u8>(), prop::bool::weighted(0.2))
            .prop_map(|(place, again)| Event::Deliver { place, again }),
        2 => disk.clone().prop_map(|disk| Event::AskMayDelete { disk }),
        2 => disk.clone().prop_map(|disk| Event::ExecuteDeletes { disk }),
        4 => disk.clone().prop_map(|disk| Event::Return { disk }),
        8 => disk.clone().prop_map(|disk| Event::Synchronise { disk }),
        3 => disk.clone().prop_map(|disk| Event::GiveUp { disk }),
        3 => disk.prop_map(|disk| Event::Purge { disk }),
        1 => block.prop_map(|block| Event::ReportLost { block }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: no promised copy goes, nothing is missing unnoticed, and
    /// when faults stop everything comes right.
    #[test]
    fn no_promised_copy_is_lost(
        copies in 2u8..=3,
        failures in 0usize..=2,
        events in prop::collection::vec(event(), 0..150),
    ) {
        let mut model = Model::new(copies, failures);
        events.into_iter().for_each(|event| model.step(event));
        model.converge();
    }
}
