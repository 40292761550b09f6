//! The workers against the real state machine and stores in memory.

mod world;

use super::restore::Pass;
use super::{Deletion, LocalDisk, Repair, Scrub, ScrubPace};
use everhold_env::Clock;
use everhold_proto::command::{MapCommand, PgChange};
use everhold_proto::map::NodeState;
use everhold_proto::{DiskId, NodeId};
use std::sync::Arc;
use tokio::sync::Semaphore;
use world::{Entry, PG, World, content};

const BYTES: usize = 8 << 20;

fn repair(world: &Arc<World>, disk: &Arc<LocalDisk>) -> Repair {
    let bytes = Arc::new(Semaphore::new(BYTES));
    Repair::new(Clock::real(), disk.clone(), world.clone(), bytes)
}

fn deletion(world: &Arc<World>, disk: &Arc<LocalDisk>) -> Deletion {
    Deletion::new(Clock::real(), disk.clone(), world.clone())
}

fn scrub(world: &Arc<World>, disk: &Arc<LocalDisk>) -> Scrub {
    Scrub::new(Clock::real(), disk.clone(), world.clone(), ScrubPace::default())
}

/// Repairs until there is nothing to do.
async fn settle(world: &Arc<World>, disk: &Arc<LocalDisk>) {
    let worker = repair(world, disk);
    for _ in 0..10 {
        if worker.pass().await == Ok(Pass::Idle) {
            return;
        }
    }
    panic!("{} does not settle: {:?}", disk.disk, worker.pass().await);
}

/// The move of a node to a state, as a detector proposes it.
fn set_node(world: &World, number: u32, state: NodeState) {
    let node = NodeId(number);
    let boot = super::ports::Cluster::map(world).nodes[&node].boot;
    let reason = "test".into();
    world.apply(Entry::Map(MapCommand::SetNodeState { node, boot, state, reason }));
}

/// A disk that comes back fetches exactly the blocks that were written without it.
#[tokio::test]
async fn a_return_costs_only_what_was_missed() {
    let world = World::new(3, 3);
    for counter in 0..20 {
        world.write(counter, &[1, 2, 3]);
    }
    for counter in 20..25 {
        world.write(counter, &[1, 2]);
    }
    world.register_disk(DiskId(3));
    assert!(!world.is_full(3));
    let disk = world.local(3);
    settle(&world, &disk).await;
    assert!(world.is_full(3));
    assert_eq!(world.store(DiskId(3)).ids(), world.store(DiskId(1)).ids());
    let progress = disk.progress.snapshot();
    assert_eq!((progress.fetched_blocks, progress.comparing_blocks), (5, 0));
}

/// A new member gets everything, over several pages, and only then is full.
#[tokio::test]
async fn a_joiner_is_synchronised_with_the_table() {
    let world = World::new(4, 3);
    for counter in 0..1500 {
        world.write(counter, &[1, 2, 3]);
    }
    world.change(PgChange::Join(DiskId(4)));
    let disk = world.local(4);
    settle(&world, &disk).await;
    assert!(world.is_full(4));
    assert_eq!(world.store(DiskId(4)).ids().len(), 1500);
}

/// A bit flip that a scrub or a reader finds is reported, fetched again, and right afterwards.
#[tokio::test]
async fn a_bad_copy_is_fetched_again() {
    let world = World::new(3, 3);
    let block = world.write(1, &[1, 2, 3]);
    world.store(DiskId(2)).damage(block.id);
    let disk = world.local(2);
    disk.suspect(PG, block.id);
    scrub(&world, &disk).check_suspects().await;
    assert!(!world.is_full(2));
    assert_eq!(disk.progress.bad_blocks(), 1);
    settle(&world, &disk).await;
    assert!(world.is_full(2));
    assert_eq!(world.store(DiskId(2)).read(block.id), Ok(content(1).1));
}

/// A bad copy of a block that may still be committed ends the disk session: its acknowledgement must
/// not count. One that can never be committed is just deleted.
#[tokio::test]
async fn bad_copies_of_uncommitted_blocks() {
    let world = World::new(3, 3);
    let (block, data) = content(7);
    world.store(DiskId(1)).insert(PG, block, data);
    world.store(DiskId(1)).damage(block.id);
    let disk = world.local(1);
    scrub(&world, &disk).check(PG, block.id).await.expect("reported");
    tokio::time::timeout(std::time::Duration::from_secs(10), disk.session_ended())
        .await
        .expect("the session has ended");
    disk.set_session(world.register_disk(DiskId(1)));
    world.set_floor(8);
    scrub(&world, &disk).check(PG, block.id).await.expect("deleted");
    assert_eq!(world.store(DiskId(1)).ids(), []);
    settle(&world, &disk).await;
    assert!(world.is_full(1));
}

/// A block that every holder lacks is lost; one that an unreachable holder may have is not.
#[tokio::test]
async fn lost_only_when_everybody_was_asked() {
    let world = World::new(3, 3);
    let block = world.write(1, &[1, 2]);
    world.store(DiskId(1)).damage(block.id);
    world.store(DiskId(2)).lose(block.id);
    for number in [1, 2] {
        let disk = world.local(number);
        disk.set_session(world.register_disk(DiskId(number)));
    }
    let bad = world.local(1);
    world.unreachable.lock().insert(DiskId(2));
    let third = world.local(3);
    assert_eq!(repair(&world, &third).pass().await, Ok(Pass::Blocked));
    assert_eq!(world.lost(), 0);
    world.unreachable.lock().clear();
    // The comparison of the second disk records that it lacks the block, the scrub that the first does.
    let second = world.local(2);
    assert_eq!(repair(&world, &second).pass().await, Ok(Pass::Progress));
    assert_eq!(repair(&world, &bad).pass().await, Ok(Pass::Progress));
    scrub(&world, &bad).check(PG, block.id).await.expect("reported");
    repair(&world, &third).pass().await.expect("the leader answers");
    assert_eq!(world.lost(), 1);
    // Any verified copy makes it whole again.
    let (entry, data) = content(1);
    world.store(DiskId(3)).insert(PG, entry, data);
    third.set_session(world.register_disk(DiskId(3)));
    settle(&world, &third).await;
    assert_eq!(world.lost(), 0);
    settle(&world, &second).await;
    settle(&world, &bad).await;
    assert!([1, 2, 3].iter().all(|disk| world.is_full(*disk)));
}

/// Blocks of removed files and orphans leave the disks; what may still be committed stays.
#[tokio::test(start_paused = true)]
async fn deletion_follows_the_one_rule() {
    let world = World::new(3, 3);
    let kept = world.write(1, &[1, 2, 3]);
    let removed = world.write(2, &[1, 2, 3]);
    let (orphan, data) = content(3);
    world.store(DiskId(1)).insert(PG, orphan, data);
    let (uncommitted, data) = content(50);
    world.store(DiskId(1)).insert(PG, uncommitted, data);
    let disk = world.local(1);
    let worker = deletion(&world, &disk);
    assert_eq!(worker.pass().await, Ok(0), "all of them may still be committed");
    world.set_floor(50);
    world.apply(Entry::Remove(PG, removed.id));
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    assert_eq!(worker.pass().await, Ok(1), "the orphan; the dead block is in its grace period");
    world.sweep();
    tokio::time::advance(std::time::Duration::from_secs(60)).await;
    disk.heartbeat_answered(false, true);
    assert_eq!(worker.pass().await, Ok(0), "the brake is on");
    disk.heartbeat_answered(false, false);
    assert_eq!(worker.pass().await, Ok(1));
    assert_eq!(world.store(DiskId(1)).ids(), [kept.id, uncommitted.id]);
}

/// Copies that moved are deleted when the PG is full without them, and not before.
#[tokio::test(start_paused = true)]
async fn moved_blocks_are_deleted_at_last() {
    let world = World::new(4, 3);
    world.write(1, &[1, 2, 3]);
    world.change(PgChange::Join(DiskId(4)));
    let left = world.local(1);
    settle(&world, &world.local(4)).await;
    world.change(PgChange::Leave(DiskId(1)));
    // Another member turns out not to be full: the leader does not permit it.
    world.register_disk(DiskId(2));
    let worker = deletion(&world, &left);
    assert_eq!(worker.pass().await, Ok(0));
    settle(&world, &world.local(2)).await;
    tokio::time::advance(std::time::Duration::from_secs(600)).await;
    assert_eq!(worker.pass().await, Ok(1));
    assert_eq!(world.store(DiskId(1)).ids(), []);
}

/// After a node went Out, its replacement restores the full number of copies.
#[tokio::test]
async fn redundancy_is_restored_elsewhere() {
    let world = World::new(4, 3);
    for counter in 0..10 {
        world.write(counter, &[1, 2, 3]);
    }
    set_node(&world, 3, NodeState::Down);
    set_node(&world, 3, NodeState::Out);
    world.unreachable.lock().insert(DiskId(3));
    world.change(PgChange::GoneOut(DiskId(3)));
    world.change(PgChange::Join(DiskId(4)));
    settle(&world, &world.local(4)).await;
    assert!(world.is_full(4));
    world.change(PgChange::EndFormer(DiskId(3)));
}
