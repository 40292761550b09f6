//! Nodes that die, fall silent, lie and lose answers; leaders that change; sessions that end.

use crate::world::{Mood, World, content};
use everhold_client::{Client, CreateOptions};
use everhold_proto::DiskId;
use everhold_proto::map::NodeState;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;

const MIB: usize = 1 << 20;

async fn write_some(client: &Arc<Client>, from: u64, count: u64) {
    let writes = (from..from + count).map(|n| async move {
        let data = content(n, MIB + n as usize);
        client.put(format!("/f{n}"), data, CreateOptions::default()).await.unwrap()
    });
    join_all(writes).await;
}

async fn check_all(client: &Arc<Client>, count: u64) {
    for n in 0..count {
        let found = client.get(format!("/f{n}"), 1 << 30).await.unwrap();
        assert!(found == content(n, MIB + n as usize), "f{n}");
    }
}

/// A node is silent or dead: writes and reads go on, and it is used again when it is back.
async fn survives(nodes: usize, mood: Mood) {
    let world = World::new(nodes).await;
    let client = world.client().await;
    write_some(&client, 0, 10).await;
    world.set_mood(1, mood);
    write_some(&client, 10, 10).await;
    check_all(&client, 20).await;
    write_some(&client, 20, 10).await;
    world.set_mood(1, Mood::Well);
    let puts = || world.state.lock().disks[&DiskId(2)].len();
    let before = puts();
    for n in 30.. {
        write_some(&client, n, 1).await;
        if puts() > before {
            check_all(&client, n).await;
            return;
        }
        assert!(n < 300, "the node is never used again");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_gone_round_with_three_nodes() {
    survives(3, Mood::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_is_gone_round_with_five_nodes() {
    survives(5, Mood::Silent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_node_is_gone_round() {
    survives(4, Mood::Dead).await;
}

/// A node that the map calls down gets no writes at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_gets_nothing() {
    let world = World::new(3).await;
    world.state.lock().set_node(2, NodeState::Down);
    let client = world.client().await;
    write_some(&client, 0, 5).await;
    assert!(world.state.lock().disks[&DiskId(3)].is_empty());
    assert_eq!(client.stats().degraded, 5);
    check_all(&client, 5).await;
}

/// Wrong bytes with a matching checksum of the transfer are found by the checksum of the block.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_bytes_are_never_returned() {
    let world = World::new(3).await;
    let client = world.client().await;
    write_some(&client, 0, 20).await;
    world.set_mood(0, Mood::Lying);
    world.set_mood(1, Mood::Lying);
    check_all(&client, 20).await;
}

/// Every second answer of the leader is lost: each change still happens once, and is known to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_happen_once_although_answers_are_lost() {
    let world = World::new(3).await;
    let client = world.client().await;
    world.state.lock().lose_answers = Some(2);
    let made = (0..300).map(|n| {
        let client = client.clone();
        async move { client.mkdir(format!("/d{n}"), 0o755).await }
    });
    for result in join_all(made).await {
        result.unwrap(); // `Exists` would mean that it happened twice
    }
    assert_eq!(client.list("/").await.unwrap().len(), 300);
}

/// A reply has room for three answers only: whoever asks at the same time gets an answer all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_without_room_in_a_reply_are_asked_again() {
    let world = World::new(3).await;
    let client = world.client().await;
    for n in 0..100 {
        client.mkdir(format!("/d{n}"), 0o755).await.unwrap();
    }
    world.state.lock().answers_max = 3;
    let asked = (0..200).map(|n| {
        let client = client.clone();
        async move { (n, client.stat(format!("/d{n}")).await) }
    });
    for (n, answer) in join_all(asked).await {
        match answer {
            Ok(_) => assert!(n < 100),
            Err(e) => assert!(n >= 100 && e.is_not_found(), "{n}: {e}"),
        }
    }
}

/// The leader falls silent and another node leads: changes wait, and go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_follow_the_leader() {
    let world = World::new(3).await;
    let client = world.client().await;
    client.mkdir("/a", 0o755).await.unwrap();
    world.set_mood(0, Mood::Silent);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.mkdir("/b", 0o755).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    world.state.lock().leader = 2;
    waiting.await.unwrap().unwrap();
    client.stat("/b").await.unwrap();
}

/// The session ends under a client: blocks it has written are refused and written again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_session_takes_over_unfinished_writes() {
    let world = World::new(3).await;
    let client = world.client().await;
    let data = content(7, 20 * MIB);
    let mut writer = client.create("/f", CreateOptions::default()).await.unwrap();
    writer.write(&data).await.unwrap();
    world.state.lock().end_sessions();
    writer.finish().await.unwrap();
    assert!(client.get("/f", 1 << 30).await.unwrap() == data);
    assert_eq!(client.stats().sessions, 2);
}

/// Disks register anew between the write of a block and its commit: their words no longer count.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_blocks_are_written_again() {
    let world = World::new(3).await;
    let client = world.client().await;
    let data = content(7, 10 * MIB);
    let mut writer = client.create("/f", CreateOptions::default()).await.unwrap();
    writer.write(&data).await.unwrap();
    for _ in 0..500 {
        if world.state.lock().puts >= 6 {
            break; // the first two blocks are on all their disks
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    for node in 0..2 {
        world.state.lock().register_disk(node, Some(DiskId(node as u32 + 1)));
    }
    writer.finish().await.unwrap();
    assert!(client.get("/f", 1 << 30).await.unwrap() == data);
    assert!(client.stats().rewrites >= 2);
}

/// A file that another one replaces while it is read is read anew by its path: that it was never missing is
/// what the reader must see. Found by the workloads of the simulator.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_replaced_while_it_is_read_is_not_missing() {
    let world = World::new(3).await;
    let client = world.client().await;
    client.put("/f", content(1, MIB), CreateOptions::default()).await.unwrap();
    world.state.lock().disks.values_mut().for_each(std::collections::BTreeMap::clear);
    let reader = client.clone();
    let reading = tokio::spawn(async move { reader.get("/f", 1 << 30).await });
    while client.stats().get.errors == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.put("/f", content(2, MIB), CreateOptions::default()).await.unwrap();
    world.state.lock().end_lingering();
    let found = reading.await.unwrap().expect("the path was never without a file");
    assert!(found == content(2, MIB));
}
