//! Each rule of the block table, and that it refuses what it should.

use crate::reads;
use crate::testing::{LENGTH, World, id, refusal};
use everhold_proto::command::{Answer, PgChange, TableCommand};
use everhold_proto::limits::{DEAD_GRACE_MS, MISSING_PER_MEMBER_MAX};
use everhold_proto::map::NodeState;
use everhold_proto::table::Refusal;
use everhold_proto::{DiskId, Generation, Kind, LogIndex, PgId};

fn world() -> (World, PgId) {
    let mut world = World::new(3, &["a", "b", "c", "d"]);
    world.open_session(0);
    let pg = world.create_pg(&[1, 2, 3]);
    (world, pg)
}

/// A commit is judged against the newest map: who left or went out does not count.
#[test]
fn a_commit_is_judged_against_the_map() {
    let (mut world, pg) = world();
    let block = world.block(pg, 1, &[2, 3]);
    assert_eq!(world.judge(&block), None);
    world.node_out(3);
    world.change(pg, PgChange::GoneOut(DiskId(3)));
    assert_eq!(world.judge(&block), Some(Refusal::TooFewAcks));
}

/// An acknowledgement of an older disk session never counts, nor one from before the disk's join.
#[test]
fn old_acknowledgements_do_not_count() {
    let (mut world, pg) = world();
    let block = world.block(pg, 1, &[1, 2]);
    world.register_disk(2, Some(DiskId(2)));
    assert_eq!(world.judge(&block), Some(Refusal::TooFewAcks));
    let block = world.block(pg, 1, &[1, 3]);
    world.node_out(3);
    world.change(pg, PgChange::GoneOut(DiskId(3)));
    world.set_node(3, NodeState::Up);
    world.change(pg, PgChange::TakeBack(DiskId(3)));
    assert_eq!(world.judge(&block), Some(Refusal::TooFewAcks));
    assert_eq!(world.judge(&world.block(pg, 1, &[1, 3])), None);
}

/// One disk that acknowledges twice is one disk.
#[test]
fn acknowledgements_are_counted_by_disk() {
    let (world, pg) = world();
    assert_eq!(world.judge(&world.block(pg, 1, &[1, 1, 1])), Some(Refusal::TooFewAcks));
}

/// Two zones where two are in service; one zone when the others are gone.
#[test]
fn two_zones_where_two_are_in_service() {
    let mut world = World::new(3, &["a", "a", "b"]);
    let pg = world.create_pg(&[1, 2, 3]);
    let block = world.block(pg, 1, &[1, 2]);
    assert_eq!(world.judge(&block), Some(Refusal::OneZone));
    world.set_node(3, NodeState::Suspect);
    assert_eq!(world.judge(&block), Some(Refusal::OneZone));
    world.set_node(3, NodeState::Down);
    assert_eq!(world.judge(&block), None);
}

/// Ids below the floor, of another session, in the table (also dead), or named twice are refused.
#[test]
fn ids_are_committed_once_and_above_the_floor() {
    let (mut world, pg) = world();
    let block = world.block(pg, 5, &[1, 2, 3]);
    let judge = |world: &World, session: u64, floor, blocks: &[_]| {
        crate::table::judge(&world.kv, everhold_proto::SessionId(session), floor, blocks).unwrap()
    };
    let both = [block.clone(), block.clone()];
    assert_eq!(judge(&world, 1, 6, &both[..1]), vec![(id(5), Refusal::BelowFloor)]);
    assert_eq!(judge(&world, 2, 0, &both[..1]), vec![(id(5), Refusal::BelowFloor)]);
    assert_eq!(judge(&world, 1, 5, &both), vec![(id(5), Refusal::InTable)]);
    assert_eq!(world.commit(&block), None);
    assert_eq!(world.judge(&block), Some(Refusal::InTable));
    world.remove(pg, 5);
    assert_eq!(world.judge(&block), Some(Refusal::InTable));
}

/// Impossible blocks and unknown PGs are refused by name.
#[test]
fn impossible_blocks_are_refused() {
    let (world, pg) = world();
    let block = world.block(pg, 1, &[1, 2]);
    for length in [0, (4 << 20) + 1] {
        let bad = everhold_proto::table::NewBlock { length, ..block.clone() };
        assert_eq!(world.judge(&bad), Some(Refusal::Malformed));
    }
    let nowhere = everhold_proto::table::NewBlock { pg: PgId(77), ..block };
    assert_eq!(world.judge(&nowhere), Some(Refusal::NoPg));
}

/// A commit without a member's copy records it as missing in the same entry, also for a joiner.
#[test]
fn a_commit_records_what_is_missing() {
    let (mut world, pg) = world();
    world.change(pg, PgChange::Join(DiskId(4)));
    assert_eq!(world.commit(&world.block(pg, 1, &[1, 2])), None);
    let recorded = LogIndex(world.index);
    assert_eq!(world.missing(pg, 1), vec![]);
    assert_eq!(world.missing(pg, 3), vec![(1, recorded)]);
    assert_eq!(world.missing(pg, 4), vec![(1, recorded)]);
    let work = reads::work(&world.kv, DiskId(3), world.session_of(3)).unwrap();
    assert_eq!((work.len(), work[0].missing_blocks, work[0].compare), (1, 1, false));
}

/// A commit with all acknowledgements writes the block's row and its PG's, and nothing else.
#[test]
fn a_whole_commit_touches_two_rows() {
    let (mut world, pg) = world();
    let before = world.kv.clone();
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    let header = everhold_proto::tables::header();
    let changed: Vec<u8> = world
        .kv
        .0
        .iter()
        .filter(|(key, value)| **key != header && before.0.get(*key) != Some(*value))
        .map(|(key, _)| key[0])
        .collect();
    assert_eq!(changed, b"BP");
}

/// Beyond the bound single records become "compare everything", and completeness ends.
#[test]
fn too_many_records_become_a_range() {
    let (mut world, pg) = world();
    for counter in 0..=MISSING_PER_MEMBER_MAX {
        world.commit(&world.block(pg, counter, &[1, 2]));
    }
    let index = LogIndex(world.index);
    let member = world.pg(pg).member(DiskId(3)).unwrap().clone();
    assert_eq!((member.missing_blocks, member.range_recorded), (0, index));
    assert!(!member.complete);
    assert!(world.missing(pg, 3).is_empty());
}

/// A range that is recorded while a comparison runs voids it.
#[test]
fn a_new_range_voids_a_running_comparison() {
    let (mut world, pg) = world();
    let mut running = world.comparison(pg, 3, &[]);
    for counter in 0..=MISSING_PER_MEMBER_MAX {
        world.commit(&world.block(pg, counter, &[1, 2]));
    }
    assert_eq!(refusal(&world.table_command(running.clone())), Some(Kind::Fenced));
    assert!(!world.pg(pg).member(DiskId(3)).unwrap().complete);
    let TableCommand::Compared { table_read, missing, .. } = &mut running else { unreachable!() };
    *table_read = LogIndex(world.index);
    *missing = (0..MISSING_PER_MEMBER_MAX).map(id).collect();
    assert_eq!(world.table_command(running), Answer::Done);
    assert_eq!(world.missing(pg, 3).len() as u64, MISSING_PER_MEMBER_MAX);
}

/// A comparison counts only if the table was read after the join and in the current disk session.
#[test]
fn a_comparison_before_the_join_or_registration_is_refused() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    let read_before = LogIndex(world.index);
    world.change(pg, PgChange::Join(DiskId(4)));
    let mut early = world.comparison(pg, 4, &[]);
    let TableCommand::Compared { table_read, .. } = &mut early else { unreachable!() };
    *table_read = read_before;
    assert_eq!(refusal(&world.table_command(early)), Some(Kind::Fenced));
    let old_session = world.comparison(pg, 4, &[]);
    world.register_disk(4, Some(DiskId(4)));
    assert_eq!(refusal(&world.table_command(old_session)), Some(Kind::Fenced));
    assert!(!world.pg(pg).member(DiskId(4)).unwrap().complete);
}

/// A joiner of an empty PG has nothing to compare.
#[test]
fn an_empty_group_needs_no_comparison() {
    let (mut world, pg) = world();
    world.change(pg, PgChange::Join(DiskId(4)));
    assert_eq!(world.pg(pg).full_members(), 4);
}

/// A repair-done clears the record it names and no renewed one, and only in the current session.
#[test]
fn a_repair_clears_only_what_it_names() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2]));
    let (_, first) = world.missing(pg, 3)[0];
    world.bad(pg, 3, 1);
    let (_, renewed) = world.missing(pg, 3)[0];
    assert!(renewed > first);
    world.repaired(pg, 3, 1, first);
    assert_eq!(world.missing(pg, 3), vec![(1, renewed)]);
    let session = world.session_of(3);
    world.register_disk(3, Some(DiskId(3)));
    let late = TableCommand::Repaired {
        disk: DiskId(3),
        session,
        pg,
        blocks: vec![everhold_proto::table::Repaired { id: id(1), recorded: renewed }],
    };
    assert_eq!(refusal(&world.table_command(late)), Some(Kind::Fenced));
    world.repaired(pg, 3, 1, renewed);
    assert!(world.missing(pg, 3).is_empty());
}

/// A bad copy of a block that is not in the table yet ends the disk session: its acknowledgement must
/// not count. Below the floor nothing can be committed any more, and nothing ends.
#[test]
fn a_bad_uncommitted_copy_ends_the_session() {
    let (mut world, pg) = world();
    world.open_session(5);
    let block = world.block(pg, 7, &[1, 2]);
    assert_eq!(world.bad(pg, 1, 3), Answer::Bad { session_ended: false });
    let old = world.session_of(1);
    assert_eq!(world.bad(pg, 1, 7), Answer::Bad { session_ended: true });
    assert_eq!(world.judge(&block), Some(Refusal::TooFewAcks));
    assert!(!world.pg(pg).member(DiskId(1)).unwrap().complete);
    let again = TableCommand::Bad { disk: DiskId(1), session: old, pg, blocks: vec![id(7)] };
    assert_eq!(world.table_command(again), Answer::Bad { session_ended: true });
}

/// What a disk may delete: (a) not in the table and below the floor. Not what is live, not what a commit
/// may still name, however old, and not what is dead but still in the table.
#[test]
fn only_what_can_never_be_committed_is_deleted() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    assert_eq!(world.may_delete(pg, 1, 1), (false, false));
    world.log_ms += 1_000_000_000;
    assert_eq!(world.may_delete(pg, 1, 2), (false, false), "age alone deletes nothing");
    world.open_session(3);
    assert_eq!(world.may_delete(pg, 1, 2), (true, false));
    world.end_session();
    assert_eq!(world.may_delete(pg, 1, 9), (true, false));
    assert_eq!(world.may_delete(pg, 1, 1), (false, false), "live, whatever the floor");
    world.remove(pg, 1);
    assert_eq!(world.may_delete(pg, 1, 1), (false, false), "dead, but in the table");
}

/// (b) a disk outside the PG deletes only while the PG has its full number of full members, and in its
/// current session.
#[test]
fn outside_a_full_group_blocks_may_go() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2, 3]));
    assert_eq!(world.may_delete(pg, 4, 1), (false, true));
    let old = world.session_of(4);
    world.register_disk(4, Some(DiskId(4)));
    let stale = reads::may_delete(&world.kv, DiskId(4), old, pg, &[id(1)]).unwrap();
    assert_eq!(stale, reads::Deletable::default());
    world.commit(&world.block(pg, 2, &[1, 2]));
    assert_eq!(world.may_delete(pg, 4, 1), (false, false));
}

/// Dead blocks leave the table after the grace period and below the floor, and not sooner.
#[test]
fn dead_blocks_leave_after_grace_below_the_floor() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2]));
    world.commit(&world.block(pg, 2, &[1, 2]));
    assert_eq!(world.pg(pg).live_bytes, 2 * u64::from(LENGTH));
    world.remove(pg, 1);
    world.remove(pg, 2);
    assert!(world.missing(pg, 3).is_empty(), "what is dead is wanted nowhere");
    assert_eq!(world.pg(pg).live_bytes, 0);
    let sweep = |world: &mut World| world.table_command(TableCommand::Sweep { limit: 100 });
    world.open_session(2);
    assert_eq!(sweep(&mut world), Answer::Swept(0));
    world.log_ms += DEAD_GRACE_MS;
    assert_eq!(sweep(&mut world), Answer::Swept(1));
    assert_eq!(world.pg(pg).blocks, 1);
    world.end_session();
    world.log_ms += DEAD_GRACE_MS;
    assert_eq!(sweep(&mut world), Answer::Swept(1));
    assert_eq!(world.pg(pg).blocks, 0);
    assert!(!world.kv.0.keys().any(|key| b"BMGL".contains(&key[0])));
}

/// A reference made in the entry in which the last one went keeps the block, and every copy is asked for.
#[test]
fn a_block_may_revive_in_the_entry_of_its_death() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2]));
    world.apply(|ctx| {
        crate::table::reference(ctx, pg, id(1), -1, -4096).unwrap();
        crate::table::reference(ctx, pg, id(1), 2, 4096).unwrap();
    });
    assert_eq!(world.missing(pg, 3).len() + world.missing(pg, 1).len(), 2);
    world.log_ms += DEAD_GRACE_MS;
    world.end_session();
    assert_eq!(world.table_command(TableCommand::Sweep { limit: 9 }), Answer::Swept(0));
    assert_eq!(reads::page(&world.kv, pg, None, 10).unwrap().0.len(), 1);
}

/// A lost block blocks no `leave`, is counted, and is whole again when any disk brings a copy.
#[test]
fn a_lost_block_becomes_whole_again() {
    let (mut world, pg) = world();
    world.commit(&world.block(pg, 1, &[1, 2]));
    let lost = |world: &World, generation| TableCommand::Lost {
        pg,
        generation,
        blocks: vec![if world.index > 0 { id(1) } else { id(2) }],
    };
    let generation = world.pg(pg).generation;
    assert_eq!(world.table_command(lost(&world, generation)), Answer::Done);
    let status = |world: &World| reads::repair_status(&world.kv, &world.map()).unwrap();
    assert_eq!(status(&world).blocks_lost, 0, "two complete members have it");
    world.bad(pg, 1, 1);
    world.bad(pg, 2, 1);
    let old = lost(&world, Generation(generation.0 + 1));
    assert_eq!(refusal(&world.table_command(old)), Some(Kind::Conflict));
    world.table_command(lost(&world, generation));
    assert_eq!(status(&world).blocks_lost, 1);
    assert!(!status(&world).redundant);
    assert_eq!(world.pg(pg).full_members(), 3);
    assert_eq!(world.compare(pg, 2, &[1]), Answer::Done);
    assert_eq!(status(&world).blocks_lost, 1);
    world.compare(pg, 3, &[]);
    assert_eq!(status(&world).blocks_lost, 0);
    assert_eq!(world.missing(pg, 1).len() + world.missing(pg, 2).len(), 2);
    assert_eq!(world.missing(pg, 3).len(), 0);
}

/// Pages of the table come in id order, without the dead, and say whether there is more.
#[test]
fn pages_list_live_blocks_in_order() {
    let (mut world, pg) = world();
    for counter in [3, 1, 2, 4] {
        world.commit(&world.block(pg, counter, &[1, 2, 3]));
    }
    world.remove(pg, 2);
    let counters = |after, limit| {
        let (blocks, more) = reads::page(&world.kv, pg, after, limit).unwrap();
        (blocks.iter().map(|entry| entry.id.counter).collect::<Vec<_>>(), more)
    };
    assert_eq!(counters(None, 2), (vec![1, 3], true));
    assert_eq!(counters(Some(id(3)), 2), (vec![4], false));
    assert_eq!(counters(Some(everhold_proto::BlockId::MAX), 2), (vec![], false));
}
