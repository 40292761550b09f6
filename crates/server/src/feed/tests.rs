//! Answers that wait, on a clock that the test moves.

use super::*;
use std::sync::Arc;

const LEASE: Duration = rules::LEASE;
const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);

fn feed() -> Arc<Feed> {
    let feed = Arc::new(Feed::new(Instant::now()));
    feed.begin(1, Instant::now(), BTreeSet::new());
    feed
}

/// An answer to session A.
fn shows(position: u64) -> Shows {
    Shows { position, own: Some(A), made_from: None }
}

/// An answer at position 9 to session A, that waits in a task.
fn answer(feed: &Arc<Feed>, deadline: Duration) -> tokio::task::JoinHandle<(bool, Instant)> {
    let (feed, deadline) = (feed.clone(), Instant::now() + deadline);
    tokio::spawn(async move {
        let settled = feed.settled(&Clock::real(), shows(9), deadline).await;
        (settled, Instant::now())
    })
}

/// An acknowledgement wakes the answer at once: no time passes.
#[tokio::test(start_paused = true)]
async fn an_acknowledgement_wakes_the_answer() {
    let (feed, begun) = (feed(), Instant::now());
    feed.register(A, 8, 8, begun).unwrap();
    feed.register(B, 8, 8, begun).unwrap();
    let mut noticed = feed.noticed();
    let waiting = answer(&feed, Duration::from_secs(10));
    noticed.changed().await.expect("followers are told of the change");
    assert_eq!(*noticed.borrow(), 9);
    assert!(!waiting.is_finished());
    feed.register(B, 9, 9, Instant::now()).unwrap();
    assert_eq!(waiting.await.unwrap(), (true, begun));
}

/// A follower that has stopped delays the answer until its lease has ended, and no longer.
#[tokio::test(start_paused = true)]
async fn a_stopped_follower_delays_an_answer_by_its_lease() {
    let (feed, begun) = (feed(), Instant::now());
    feed.register(B, 8, 8, begun).unwrap();
    let waiting = answer(&feed, Duration::from_secs(10));
    let (settled, at) = waiting.await.unwrap();
    assert!(settled);
    assert!(at >= begun + LEASE && at < begun + LEASE + Duration::from_millis(5));
    let (settled, later) = answer(&feed, Duration::from_secs(10)).await.unwrap();
    assert_eq!((settled, later), (true, at), "it is not waited for again");
}

#[tokio::test(start_paused = true)]
async fn a_wait_ends_at_its_deadline() {
    let (feed, begun) = (feed(), Instant::now());
    feed.register(B, 8, 8, begun).unwrap();
    let limit = Duration::from_millis(100);
    let (settled, at) = answer(&feed, limit).await.unwrap();
    assert!(!settled);
    assert!(at >= begun + limit && at < begun + LEASE);
}

/// A new term begins while an answer waits: it goes by the new rules, which know of older leases.
#[tokio::test(start_paused = true)]
async fn answers_that_wait_go_by_the_newest_term() {
    let (feed, begun) = (feed(), Instant::now());
    feed.register(B, 8, 8, begun).unwrap();
    let waiting = answer(&feed, Duration::from_secs(10));
    tokio::time::advance(Duration::from_millis(300)).await;
    let second = Instant::now();
    feed.begin(2, second, BTreeSet::from([B]));
    let (settled, at) = waiting.await.unwrap();
    assert!(settled && at >= second + LEASE);
}

/// Who made a change and knows all of it is not told at once, unless others are.
#[tokio::test(start_paused = true)]
async fn a_session_is_not_woken_for_what_it_made() {
    let (feed, begun) = (feed(), Instant::now());
    feed.register(A, 8, 8, begun).unwrap();
    let noticed = feed.noticed();
    let clock = Clock::real();
    let made = |position| Shows { made_from: Some(position - 1), ..shows(position) };
    for position in 9..20 {
        assert!(feed.settled(&clock, made(position), begun).await);
    }
    assert!(!noticed.has_changed().unwrap());
    assert!(feed.settled(&clock, shows(20), begun).await);
    assert!(noticed.has_changed().unwrap(), "it does not know all that this changed");

    feed.register(A, 20, 20, begun).unwrap();
    feed.register(B, 20, 20, begun).unwrap();
    let mut noticed = feed.noticed();
    assert!(!feed.settled(&clock, made(21), begun).await, "another cache shows what was before");
    assert!(noticed.has_changed().unwrap());
    noticed.mark_unchanged();
    feed.register(B, 21, 21, begun).unwrap();
    let another = Shows { own: Some(B), ..shows(21) };
    assert!(!feed.settled(&clock, another, begun).await, "others wait for what it made");
}
