//! Whole clusters lose nodes, copies and files, and become as they should be again by themselves.

mod common;

use common::{TestCluster, TestNode, call, pattern};
use everhold_client::{Client, CreateOptions, Wire};
use everhold_proto::command::MapCommand;
use everhold_proto::map::NodeState;
use everhold_proto::rpc::{self, GetNodeStatus, NodeStatus, StartScrub, TablePage};
use everhold_proto::table::BlockEntry;
use everhold_proto::{DiskId, Kind, PgId};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of a file of these tests: one block, too big to live in the inode.
const FILE_BYTES: usize = 100_000;

async fn write(client: &Arc<Client>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let data = pattern(number, FILE_BYTES);
        let put = client.put(format!("/f{number}"), data.into(), CreateOptions::default()).await;
        put.unwrap_or_else(|e| panic!("file {number} is not written: {e}"));
    }
}

async fn check(client: &Arc<Client>, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let got = client.get(format!("/f{number}"), FILE_BYTES * 2).await;
        let got = got.unwrap_or_else(|e| panic!("file {number} is not read: {e}"));
        assert!(got == pattern(number, FILE_BYTES), "file {number} has other bytes");
    }
}

async fn status_of(cluster: &TestCluster, node: &TestNode) -> NodeStatus {
    let asked = call(&cluster.env, &node.address(), cluster.cluster_id(), &GetNodeStatus {}).await;
    asked.unwrap_or_else(|e| panic!("no status: {e}"))
}

/// All live blocks, with their PGs.
async fn table(cluster: &TestCluster) -> Vec<(PgId, BlockEntry)> {
    let map = cluster.status().await.expect("a leader answers").map;
    let mut all = Vec::new();
    for pg in map.pgs.into_keys() {
        let page = cluster.ask(&TablePage { pg, after: None, limit: 1000 }).await;
        let page = page.unwrap_or_else(|e| panic!("no page of {pg}: {e}"));
        assert!(!page.more, "these tests write few blocks");
        all.extend(page.blocks.into_iter().map(|block| (pg, block)));
    }
    all
}

/// A node that was stopped fetches the blocks written meanwhile and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_returning_node_fetches_only_what_it_missed() {
    let mut cluster = TestCluster::start(3, 3).await;
    let client = cluster.client().await;
    write(&client, 0..20).await;
    cluster.nodes[2].stop().await;
    write(&client, 20..25).await;
    cluster.nodes[2].start().await;
    cluster.is_whole().await;
    assert_eq!(table(&cluster).await.len(), 25);
    let status = status_of(&cluster, &cluster.nodes[2]).await;
    assert_eq!(status.repair.fetched_blocks, 5);
    assert_eq!(status.disks[0].blocks, 25);
    check(&client, 0..25).await;
}

/// A flipped bit on a disk is never served, is found by the reader, and is repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_is_repaired() {
    let mut cluster = TestCluster::start(3, 3).await;
    let client = cluster.client().await;
    write(&client, 0..3).await;
    let blocks = table(&cluster).await;
    let victim = pattern(1, FILE_BYTES);
    let crc = everhold_proto::checksum::crc32c(&victim);
    let (pg, block) = *blocks.iter().find(|(_, b)| b.crc == crc).expect("it is in the table");
    cluster.nodes[1].stop().await;
    flip_a_bit_of(&victim, &cluster.nodes[1].config.data_dir);
    cluster.nodes[1].start().await;
    cluster.is_whole().await;
    let disk = status_of(&cluster, &cluster.nodes[1]).await.disks[0].disk;
    let refused = get(&cluster, 1, disk, pg, block).await;
    assert_eq!(refused.map_err(|e| e.kind), Err(Kind::Corrupt));
    let repaired = cluster.until("the copy is good again", || get_ok(&cluster, 1, disk, pg, block));
    assert!(repaired.await == victim);
    cluster.is_whole().await;
    check(&client, 0..3).await;
}

/// A bit that nobody reads is found by a scrub that was asked for, and repaired.
#[tokio::test(flavor = "multi_thread")]
async fn a_scrub_finds_what_nobody_reads() {
    let cluster = TestCluster::start(3, 3).await;
    let client = cluster.client().await;
    write(&client, 0..10).await;
    let victim = pattern(1, FILE_BYTES);
    // Under the running node: a start would compare the disk with the table, and find it.
    rot_a_bit_of(&victim, &cluster.nodes[1].config.data_dir);
    assert_eq!(status_of(&cluster, &cluster.nodes[1]).await.disks[0].scrub.bad_blocks, 0);
    for node in &cluster.nodes {
        let (address, id) = (node.address(), cluster.cluster_id());
        call(&cluster.env, &address, id, &StartScrub {}).await.expect("is begun");
    }
    cluster
        .until("every node has read everything back", || async {
            for node in &cluster.nodes {
                let scrub = status_of(&cluster, node).await.disks[0].scrub.clone();
                if scrub.urgent_passes == 0 {
                    return None;
                }
                assert!(scrub.blocks >= 10, "{scrub:?}");
            }
            Some(())
        })
        .await;
    assert_eq!(status_of(&cluster, &cluster.nodes[1]).await.disks[0].scrub.bad_blocks, 1);
    assert_eq!(status_of(&cluster, &cluster.nodes[0]).await.disks[0].scrub.bad_blocks, 0);
    cluster.is_whole().await;
    check(&client, 0..10).await;
}

/// A node that is drained gives away its blocks and its vote, and may then be removed; before that the order is
/// refused, and afterwards its process must end.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_and_removed() {
    let mut cluster = TestCluster::start(4, 3).await;
    let client = cluster.client().await;
    write(&client, 0..10).await;
    let node = cluster.status().await.expect("a leader").leader.expect("it knows itself");
    let order = |command| rpc::ChangeMap(command);
    let remove = order(MapCommand::RemoveNode { node });
    let early = cluster.ask(&remove).await.expect_err("it is not drained");
    assert_eq!(early.kind, Kind::Conflict, "{early}");
    cluster.ask(&order(MapCommand::DrainNode { node, on: true })).await.expect("drains");
    let other = everhold_proto::NodeId(node.0 % 4 + 1);
    let two = cluster.ask(&order(MapCommand::DrainNode { node: other, on: true })).await;
    assert_eq!(two.map_err(|e| e.kind), Err(Kind::Conflict), "two nodes cannot hold three copies");
    cluster
        .until("the node is removed", || async {
            match cluster.ask(&remove).await {
                Ok(()) => Some(()),
                Err(e) => {
                    assert!(e.kind == Kind::Conflict || e.is_retryable(), "{e}");
                    None
                }
            }
        })
        .await;
    let status = cluster.status().await.expect("a leader");
    assert!(!status.map.nodes.contains_key(&node) && !status.voters.contains(&node));
    assert_eq!(status.voters.len(), 3);
    let place = node.0 as usize - 1;
    let gone = cluster.nodes[place].server.take().expect("it runs");
    let ended = tokio::time::timeout(
        std::time::Duration::from_secs(30),
        gone.run_until(std::future::pending()),
    );
    let reason = ended.await.expect("it ends by itself").expect_err("it is refused");
    assert!(reason.to_string().contains("was removed"), "{reason}");
    check(&client, 0..10).await;
}

/// A node that is lost for good is given up, and its copies are made anew on the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_node_is_replaced() {
    let mut cluster = TestCluster::start(4, 3).await;
    let client = cluster.client().await;
    write(&client, 0..20).await;
    let lost = status_of(&cluster, &cluster.nodes[3]).await.node.expect("it has registered");
    drop(cluster.nodes[3].server.take());
    cluster
        .until("redundancy without the lost node", || async {
            let status = cluster.status().await.ok()?;
            let given_up = status.map.nodes[&lost].state == NodeState::Out;
            (given_up && status.repair.redundant).then_some(())
        })
        .await;
    let mut copies = 0;
    for node in &cluster.nodes[..3] {
        copies += status_of(&cluster, node).await.disks[0].blocks;
    }
    assert_eq!(copies, 3 * 20);
    check(&client, 0..20).await;
}

/// The blocks of removed files vanish from all disks.
#[tokio::test(flavor = "multi_thread")]
async fn removed_files_leave_the_disks() {
    let cluster = TestCluster::start(3, 3).await;
    let client = cluster.client().await;
    write(&client, 0..10).await;
    for number in 1..10 {
        client.remove(format!("/f{number}")).await.expect("removed");
    }
    cluster
        .until("only the last file's blocks are left", || async {
            for node in &cluster.nodes {
                if status_of(&cluster, node).await.disks[0].blocks != 1 {
                    return None;
                }
            }
            Some(())
        })
        .await;
    check(&client, 0..1).await;
}

async fn get(
    cluster: &TestCluster,
    node: usize,
    disk: DiskId,
    pg: PgId,
    block: BlockEntry,
) -> Result<bytes::Bytes, everhold_proto::Error> {
    let identity = Arc::new(everhold_client::Identity::of(cluster.cluster_id()));
    let wire = Wire::new(cluster.env.clone(), identity);
    let address = cluster.nodes[node].address();
    let deadline = Instant::now() + Duration::from_secs(10);
    wire.get_block(&address, disk, pg, block.id, None, deadline).await
}

async fn get_ok(
    cluster: &TestCluster,
    node: usize,
    disk: DiskId,
    pg: PgId,
    block: BlockEntry,
) -> Option<bytes::Bytes> {
    get(cluster, node, disk, pg, block).await.ok()
}

/// Flips a bit in the middle of `content` where it lies in a segment below `dir`.
fn flip_a_bit_of(content: &[u8], dir: &Path) {
    for path in files_below(dir) {
        let mut bytes = std::fs::read(&path).expect("readable");
        let needle = &content[..64];
        let Some(at) = bytes.windows(64).position(|window| window == needle) else { continue };
        bytes[at + content.len() / 2] ^= 1;
        std::fs::write(&path, bytes).expect("writable");
        return;
    }
    panic!("the content is in no file below {}", dir.display());
}

/// The same in place, on the medium, while the node may be reading.
fn rot_a_bit_of(content: &[u8], dir: &Path) {
    use std::os::unix::fs::FileExt;
    for path in files_below(dir) {
        let bytes = std::fs::read(&path).expect("readable");
        let Some(at) = bytes.windows(64).position(|window| window == &content[..64]) else {
            continue;
        };
        let at = at + content.len() / 2;
        let file = std::fs::OpenOptions::new().write(true).open(&path).expect("opens");
        file.write_all_at(&[bytes[at] ^ 1], at as u64).expect("writable");
        file.sync_data().expect("syncs");
        return;
    }
    panic!("the content is in no file below {}", dir.display());
}

fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path);
        }
    }
    found
}
