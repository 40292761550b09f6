//! Clients with caches: what one was told is done, no other one denies.

mod common;

use common::{TestCluster, call};
use everhold_client::{Client, CreateOptions, Invalidate};
use everhold_proto::fs::{FsOp, FsReply, Name, RenameMode, SessionBatch, SessionRequest, SetAttr};
use everhold_proto::rpc::{EndSession, Execute, Follow, Followed, OpenSession};
use everhold_proto::{Error, InodeId, Kind, SessionId};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const ROOT: InodeId = InodeId::ROOT;

fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).expect("a name")
}

/// Asks until the cache answers: the call makes no question to the leader.
async fn until_cached(cluster: &TestCluster, client: &Arc<Client>, inode: InodeId) {
    cluster
        .until("the cache answers", || async {
            let before = client.stats().query.count;
            client.cached_attr(inode).await.expect("is there");
            (client.stats().query.count == before).then_some(())
        })
        .await;
}

/// One change after the other by one client; the other one knows each as soon as the first was told.
async fn agree(writer: &Arc<Client>, reader: &Arc<Client>, rounds: u32, tag: &str) {
    let sizes = |n: u32| vec![7; 1 + n as usize];
    for n in 0..rounds {
        let (file, moved) = (name(&format!("{tag}-{n}")), name(&format!("{tag}-{n}-moved")));
        assert!(reader.cached_lookup(ROOT, &file).await.expect("answers").is_none());
        let options = CreateOptions::default();
        let path = format!("/{file}");
        let made = writer.put(&path, sizes(n).into(), options.clone()).await.expect("is written");
        let seen = reader.cached_lookup(ROOT, &file).await.expect("answers").expect("is there");
        assert_eq!((seen.inode, seen.size), (made.inode, made.size));

        let set = SetAttr { mode: Some(n & 0o777), ..SetAttr::default() };
        writer.execute(FsOp::SetAttr { inode: made.inode, set }).await.expect("is set");
        assert_eq!(reader.cached_attr(made.inode).await.expect("answers").mode, n & 0o777);
        assert_eq!(writer.cached_attr(made.inode).await.expect("answers").mode, n & 0o777);

        let root = reader.cached_attr(ROOT).await.expect("answers");
        let again = writer.put(&path, sizes(n + 1).into(), options).await.expect("is replaced");
        let seen = reader.cached_lookup(ROOT, &file).await.expect("answers").expect("is there");
        assert_eq!((seen.inode, seen.size), (again.inode, again.size));
        let newer = reader.cached_attr(ROOT).await.expect("answers");
        assert!(newer.version > root.version, "the directory changed too");

        let to = format!("/{moved}");
        writer.rename(&path, &to, RenameMode::Replace).await.expect("is moved");
        assert!(reader.cached_lookup(ROOT, &file).await.expect("answers").is_none());
        assert!(reader.cached_lookup(ROOT, &moved).await.expect("answers").is_some());
        assert!(writer.cached_lookup(ROOT, &file).await.expect("answers").is_none());
        writer.remove(&to).await.expect("is removed");
        assert!(reader.cached_lookup(ROOT, &moved).await.expect("answers").is_none());
        assert!(writer.cached_lookup(ROOT, &moved).await.expect("answers").is_none());
    }
}

/// Both change and both read, at the same time in files of their own.
#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_did_the_other_one_knows() {
    let cluster = TestCluster::start(1, 1).await;
    let (a, b) = (cluster.follower().await, cluster.follower().await);
    until_cached(&cluster, &b, ROOT).await;
    until_cached(&cluster, &a, ROOT).await;
    tokio::join!(agree(&a, &b, 60, "a"), agree(&b, &a, 60, "b"));
    until_cached(&cluster, &b, ROOT).await;
    // A client without a cache is heard as well, and questions of it show only what all know.
    let plain = cluster.client().await;
    agree(&plain, &b, 20, "c").await;
    assert!(plain.cache_lease_left().is_zero());
    for client in [a, b] {
        client.close().await.expect("closes");
        assert!(client.cache_lease_left().is_zero());
    }
}

/// What a client without a cache was shown, no cache denies afterwards, also while the change that it saw
/// has not been acknowledged yet.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_shown_no_cache_denies() {
    let cluster = TestCluster::start(1, 1).await;
    let (writer, plain) = (cluster.client().await, cluster.client().await);
    let reader = cluster.follower().await;
    let file =
        writer.put("/f", vec![1].into(), CreateOptions::default()).await.expect("is written");
    let inode = file.inode;
    until_cached(&cluster, &reader, inode).await;
    let writing = tokio::spawn(async move {
        for mode in 1..300 {
            let set = SetAttr { mode: Some(mode), ..SetAttr::default() };
            writer.execute(FsOp::SetAttr { inode, set }).await.expect("is set");
        }
    });
    while !writing.is_finished() {
        let shown = plain.attr(inode).await.expect("answers").mode;
        let cached = reader.cached_attr(inode).await.expect("answers").mode;
        let fresh = reader.attr(inode).await.expect("answers").mode;
        let again = reader.cached_attr(inode).await.expect("answers").mode;
        if shown < 0o644 && cached < 0o644 {
            assert!(shown <= cached && cached <= fresh && fresh <= again);
        }
    }
    writing.await.expect("all were set");
    assert_eq!(reader.cached_attr(inode).await.expect("answers").mode, 299);
}

/// The leader dies without a word: its leases run on, and nothing that the next one says is done is denied.
#[tokio::test(flavor = "multi_thread")]
async fn caches_agree_after_the_leader_died() {
    let mut cluster = TestCluster::start(3, 3).await;
    let voters = || async { (cluster.status().await.ok()?.voters.len() == 3).then_some(()) };
    cluster.until("three voters", voters).await;
    let (a, b) = (cluster.follower().await, cluster.follower().await);
    agree(&a, &b, 5, "before").await;
    until_cached(&cluster, &b, ROOT).await;
    let status = cluster.status().await.expect("a status");
    let address = &status.map.nodes[&status.leader.expect("a leader")].address;
    let index = cluster.nodes.iter().position(|n| n.address() == *address).expect("is ours");
    drop(cluster.nodes[index].server.take());
    agree(&a, &b, 20, "after").await;
    until_cached(&cluster, &b, ROOT).await;
    agree(&b, &a, 5, "later").await;
}

/// Records inodes; `everything` is none.
#[derive(Default)]
struct Log(parking_lot::Mutex<Vec<InodeId>>);

impl Invalidate for Log {
    fn inode(&self, inode: InodeId, _content: bool) {
        self.0.lock().push(inode);
    }
    fn directory(&self, _inode: InodeId, _known: bool) {}
    fn entry(&self, _parent: InodeId, _name: &Name) {}
    fn everything(&self) {}
}

/// Whoever copies answers has heard of a change before its maker has; unless the lease has ended.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_told_before_a_change_is_acknowledged() {
    let cluster = TestCluster::start(1, 1).await;
    let (writer, reader) = (cluster.follower().await, cluster.follower().await);
    let log = Arc::new(Log::default());
    reader.on_invalidate(log.clone()).expect("nobody is told yet");
    assert_eq!(reader.on_invalidate(log.clone()).expect_err("twice").kind(), Kind::Invalid);
    let plain = cluster.client().await;
    assert_eq!(plain.on_invalidate(log.clone()).expect_err("no cache").kind(), Kind::Invalid);
    until_cached(&cluster, &reader, ROOT).await;
    for n in 0..50 {
        let path = format!("/f{n}");
        let made =
            writer.put(&path, vec![1].into(), CreateOptions::default()).await.expect("is put");
        let told = log.0.lock().contains(&made.inode);
        assert!(told || reader.cache_lease_left().is_zero());
        log.0.lock().clear();
        let own = reader.mkdir(format!("/d{n}"), 0o755).await.expect("is made").inode;
        assert!(!log.0.lock().contains(&own), "its own changes it knows");
    }
}

/// A follower by hand, so that a test can let it fall silent.
struct Hand<'a> {
    cluster: &'a TestCluster,
    session: SessionId,
}

impl Hand<'_> {
    async fn follow(&self, from: u64, acked_below: u64) -> Result<Followed, Error> {
        let request = Follow {
            session: self.session,
            from,
            acked_below,
            limit: 1000,
            wait_ms: 10_000,
            activity: 0,
            presence: None,
        };
        self.cluster.ask(&request).await
    }
}

async fn by_hand(cluster: &TestCluster, follows: bool) -> Hand<'_> {
    let open = OpenSession { client: "hand".into(), follows };
    let session = cluster.ask(&open).await.expect("opens").session;
    Hand { cluster, session }
}

/// A change waits for the word of a follower, and while it waits it is made: others follow it. What the
/// state of things was is told by the clock of the lease, because a slow machine lets it end.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_waits_for_an_acknowledgement() {
    let cluster = TestCluster::start(1, 1).await;
    let client = cluster.client().await;
    let hand = by_hand(&cluster, true).await;
    let first = hand.follow(0, 0).await.expect("answers");
    assert!(first.reset && first.records.is_empty() && first.lease_ms > 0 && first.lease_ms <= 500);
    let mut cursor = first.next;
    for n in 0..10 {
        let sent = Instant::now();
        let renewed = hand.follow(cursor, cursor);
        let writer = client.clone();
        let change = tokio::spawn(async move { writer.mkdir(format!("/d{n}"), 0o755).await });
        let mut told = renewed.await.expect("answers");
        while told.records.is_empty() {
            told = hand.follow(cursor, cursor).await.expect("answers");
        }
        assert!(!told.reset);
        assert_eq!(told.records.first().map(|(number, _)| *number), Some(cursor));
        cursor = told.next;
        let finished = change.is_finished();
        assert!(!finished || sent.elapsed() > Duration::from_millis(450), "not acknowledged yet");
        // This one acknowledges the record, and need not wait for another one.
        let acknowledged = hand.follow(cursor, cursor);
        let (made, _) = tokio::join!(change, acknowledged);
        made.expect("runs").expect("is made");
    }
}

/// A follower that fell silent does not stop the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_silent_follower_is_given_up() {
    let cluster = TestCluster::start(1, 1).await;
    let client = cluster.follower().await;
    let hand = by_hand(&cluster, true).await;
    let first = hand.follow(0, 0).await.expect("answers");
    for n in 0..20 {
        client.mkdir(format!("/d{n}"), 0o755).await.expect("is made");
    }
    let back = hand.follow(first.next, first.next).await.expect("answers");
    assert_eq!((back.records.len(), back.reset), (20, false), "it has missed nothing");
}

/// Who may follow, and what a cursor may be.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused() {
    let cluster = TestCluster::start(1, 1).await;
    let plain = by_hand(&cluster, false).await;
    assert_eq!(plain.follow(0, 0).await.expect_err("does not follow").kind, Kind::Invalid);
    let hand = by_hand(&cluster, true).await;
    assert_eq!(hand.follow(3, 4).await.expect_err("too early").kind, Kind::Invalid);
    let strange = hand.follow(1 << 40, 0).await.expect("answers");
    assert!(strange.reset && strange.next < 1 << 40, "such records are not known");
    let end = EndSession { session: hand.session };
    cluster.ask(&end).await.expect("ends");
    assert_eq!(hand.follow(0, 0).await.expect_err("has ended").kind, Kind::NotFound);
}

/// A request that is repeated gets its kept answer, and shows no records as its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_names_no_records() {
    let cluster = TestCluster::start(1, 1).await;
    let hand = by_hand(&cluster, false).await;
    let set = SetAttr { mode: Some(0o700), ..SetAttr::default() };
    let requests = vec![SessionRequest::new(1, FsOp::SetAttr { inode: ROOT, set })];
    let batch = SessionBatch { session: hand.session, acked_below: 1, floor: 0, requests };
    let (address, id) = (cluster.nodes[0].address(), cluster.cluster_id());
    let first = call(&cluster.env, &address, id, &Execute(batch.clone())).await.expect("answers");
    assert!(matches!(first.results[..], [Ok(FsReply::Attr(_))]));
    assert_eq!(first.next, first.first + 1);
    let again = call(&cluster.env, &address, id, &Execute(batch)).await.expect("answers");
    assert_eq!((again.results, again.first, again.next), (first.results, first.next, first.next));
}
