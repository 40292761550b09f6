//! Each rule, and that it holds back what it should.

use super::*;

const A: SessionId = SessionId(1);
const B: SessionId = SessionId(2);
const C: SessionId = SessionId(3);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Rules of a term without inherited leases, and the time at which it began.
fn quiet() -> (Rules, Instant) {
    let (mut rules, now) = (Rules::default(), Instant::now());
    rules.begin(7, now, BTreeSet::new());
    (rules, now)
}

fn held(verdict: Verdict) -> bool {
    verdict != Verdict::Now
}

#[test]
fn without_followers_nothing_waits() {
    let (mut rules, now) = quiet();
    assert!(rules.is_quiet());
    assert_eq!(rules.may_answer(9, Some(A), now), Verdict::Now);
    assert_eq!(rules.may_answer(9, None, now), Verdict::Now);
}

/// An answer waits for every follower but its own session, and for what it shows only.
#[test]
fn an_answer_waits_for_the_acknowledgements_of_others() {
    let (mut rules, now) = quiet();
    for session in [A, B] {
        rules.register(session, 5, 5, now).unwrap();
    }
    assert_eq!(rules.may_answer(5, None, now), Verdict::Now);
    rules.notice(6, now);
    assert_eq!(rules.may_answer(6, Some(A), now), Verdict::NotBefore(now + LEASE));
    assert_eq!(rules.may_answer(5, Some(A), now), Verdict::Now);
    rules.register(A, 6, 6, now).unwrap();
    assert!(held(rules.may_answer(6, Some(A), now)), "its own word is not what is missing");
    rules.register(B, 6, 6, now).unwrap();
    assert_eq!(rules.may_answer(6, Some(A), now), Verdict::Now);
    assert_eq!(rules.may_answer(6, None, now), Verdict::Now);
}

/// Whoever made a change need not be told of it soon, if it knows all that was before.
#[test]
fn own_changes_are_known() {
    let (mut rules, now) = quiet();
    assert!(rules.made(A, 5, 6), "it does not follow");
    rules.register(A, 5, 5, now).unwrap();
    assert!(rules.made(A, 5, 7));
    assert!(rules.made(A, 7, 8));
    assert!(!rules.made(A, 9, 10), "another one made record 8");
    assert!(!rules.made(A, 10, 11));
    rules.register(A, 8, 11, now).unwrap();
    assert!(!rules.made(A, 11, 12), "it has not acknowledged record 8");
    rules.register(A, 12, 12, now).unwrap();
    let many = 12 + OWN_UNTOLD_MAX;
    assert!(rules.made(A, 12, many - 1));
    assert!(!rules.made(A, many - 1, many), "they are many");
    rules.register(A, many, many, now).unwrap();
    assert!(rules.made(A, many, many + 1));
    assert!(
        held(rules.may_answer(many + 1, Some(B), now)),
        "others wait for its word all the same"
    );
}

#[test]
fn an_acknowledgement_is_never_taken_back() {
    let (mut rules, now) = quiet();
    rules.register(B, 5, 8, now).unwrap();
    rules.register(B, 8, 8, now).unwrap();
    rules.register(B, 5, 8, now).unwrap();
    assert_eq!(rules.may_answer(8, None, now), Verdict::Now);
    rules.register(B, u64::MAX, 8, now).unwrap();
    assert!(held(rules.may_answer(9, None, now)), "what is not there cannot be acknowledged");
}

/// A follower that falls silent is waited for until its lease has ended, and then forgotten.
#[test]
fn a_silent_follower_costs_no_more_than_its_lease() {
    let (mut rules, now) = quiet();
    rules.register(B, 5, 5, now).unwrap();
    assert_eq!(rules.grant(B, now), LEASE);
    rules.notice(6, now + ms(100));
    let last = now + LEASE - ms(1);
    assert_eq!(rules.may_answer(6, None, last), Verdict::NotBefore(now + LEASE));
    assert_eq!(rules.may_answer(6, None, now + LEASE), Verdict::Now);
    assert!(rules.is_quiet());
    assert_eq!(rules.grant(B, now + ms(400)), Duration::ZERO, "it must register again");
}

/// One that goes on asking and does not acknowledge gets no lease beyond the one that it owes for.
#[test]
fn who_owes_an_acknowledgement_gets_no_longer_lease() {
    let (mut rules, now) = quiet();
    rules.register(B, 5, 5, now).unwrap();
    let noticed = now + ms(50);
    rules.notice(6, noticed);
    for late in [100, 200, 300, 400, 500] {
        let at = now + ms(late);
        rules.register(B, 5, 6, at).unwrap();
        assert_eq!(rules.grant(B, at), (noticed + LEASE) - at);
        assert!(held(rules.may_answer(6, None, at)));
    }
    assert_eq!(rules.may_answer(6, None, noticed + LEASE), Verdict::Now);
}

/// Changes that go on all the time do not shorten the leases of who keeps up with them.
#[test]
fn who_keeps_up_keeps_its_lease() {
    let (mut rules, now) = quiet();
    rules.register(B, 1, 1, now).unwrap();
    for step in 1..2000 {
        let at = now + ms(step);
        rules.notice(1 + step, at);
        rules.register(B, step.saturating_sub(5).max(1), 1 + step, at).unwrap();
        assert!(rules.grant(B, at) >= LEASE - ms(20), "at {step} ms");
        assert!(rules.marks.len() < 10);
    }
}

/// Who comes back after its lease owes nothing for what it will be told with the next one: an answer that
/// waits is not held back a second time.
#[test]
fn who_returns_without_a_lease_owes_nothing_old() {
    let (mut rules, now) = quiet();
    rules.register(B, 5, 5, now).unwrap();
    rules.notice(6, now);
    let later = now + LEASE;
    rules.register(B, 5, 6, later).unwrap();
    assert_eq!(rules.may_answer(6, None, later), Verdict::Now);
    rules.notice(7, later);
    assert_eq!(rules.may_answer(7, None, later), Verdict::NotBefore(later + LEASE));
}

/// A new leader knows no leases: it waits for all who may have one, or until they have ended.
#[test]
fn a_new_term_waits_for_inherited_leases() {
    let now = Instant::now();
    let mut rules = Rules::default();
    rules.begin(8, now, BTreeSet::from([A, B]));
    assert!(!rules.is_quiet());
    assert_eq!(rules.may_answer(1, None, now), Verdict::NotBefore(now + LEASE));
    rules.register(A, 4, 6, now + ms(10)).unwrap();
    assert!(held(rules.may_answer(1, None, now + ms(10))));
    assert_eq!(rules.may_answer(1, Some(B), now + ms(10)), Verdict::Now, "only its own is missing");
    assert!(held(rules.may_answer(1, None, now + ms(10))), "but not for others");
    rules.register(B, 6, 6, now + ms(20)).unwrap();
    assert_eq!(rules.may_answer(4, None, now + ms(20)), Verdict::Now);
    let verdict = rules.may_answer(6, None, now + ms(20));
    assert_eq!(verdict, Verdict::NotBefore(now + ms(10) + LEASE), "a lease of before may run");
    rules.register(A, 6, 6, now + ms(30)).unwrap();
    assert_eq!(rules.may_answer(6, None, now + ms(30)), Verdict::Now);

    rules.begin(9, now, BTreeSet::from([C]));
    assert_eq!(rules.may_answer(1, None, now + LEASE), Verdict::Now);
    assert!(rules.is_quiet());
}

#[test]
fn a_session_that_ends_is_not_waited_for() {
    let now = Instant::now();
    let mut rules = Rules::default();
    rules.begin(8, now, BTreeSet::from([A, B]));
    rules.register(A, 1, 1, now).unwrap();
    rules.forget(A);
    rules.forget(B);
    assert_eq!(rules.may_answer(9, None, now), Verdict::Now);
    assert!(rules.is_quiet());
}

#[test]
fn followers_are_bounded() {
    let (mut rules, now) = quiet();
    for session in 0..FOLLOWERS_MAX as u64 {
        rules.register(SessionId(session), 1, 1, now).unwrap();
    }
    let one_more = SessionId(FOLLOWERS_MAX as u64);
    assert_eq!(rules.register(one_more, 1, 1, now + ms(10)), Err(TooMany));
    rules.register(SessionId(5), 1, 1, now + ms(10)).expect("is one of them");
    rules.register(one_more, 1, 1, now + LEASE).expect("the others have ended");
    assert_eq!(rules.followers.len(), 2);
    assert_eq!(rules.order.len(), 2);
}
