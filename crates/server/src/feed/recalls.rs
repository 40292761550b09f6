//! Delegations that are called back: who is to be told, how long anybody waits, and when a delegation ends
//! without its holder. Pure.
//!
//! A holder does nothing more behind a delegation once its lease has ended, and a lease never lasts longer than
//! [`LEASE`] after the call. So from then on the delegation of a holder that is *idle* may end without it: by its own
//! word it has nothing to tell. One that may have changes which it has not told is waited for, until it is known to be
//! gone or its session has ended.
//!
//! **Invariant:** a holder is taken for active unless it said in this term that it is idle.

use super::rules::{LEASE, TooMany};
use everhold_proto::limits::{FOLLOWERS_MAX, RECALL_MS, SESSION_SILENCE_MS};
use everhold_proto::planted::{self, Bug};
use everhold_proto::{InodeId, SessionId};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::time::Instant;

/// Directories of one holder that are called back one by one.
const RECALLS_MAX: usize = 1024;
/// Between looks whether a silent holder is gone.
const PROBE: Duration = Duration::from_millis(500);
/// A silent holder keeps others waiting for so long at most.
const SILENCE: Duration = Duration::from_millis(SESSION_SILENCE_MS);
/// Whoever keeps others waiting for so long is named.
const LONG: Duration = Duration::from_secs(1);

/// What is called back, by holder.
#[derive(Debug)]
pub(super) struct Recalls {
    holders: BTreeMap<SessionId, Holder>,
    sessions: BTreeMap<SessionId, Session>,
    /// When the term began.
    begun: Instant,
}

/// What a session said of itself in this term.
#[derive(Clone, Copy, Debug, Default)]
struct Session {
    /// Odd: it may have changes to tell. The newest that was heard; `None`: nothing was.
    activity: Option<u64>,
    /// Where its process can be connected to, and whether it once could be.
    presence: Option<(SocketAddr, bool)>,
}

#[derive(Debug)]
struct Holder {
    directories: BTreeMap<InodeId, Recall>,
    /// When it asked for records last.
    followed: Option<Instant>,
    /// Something was called back then, and it has not followed since.
    silent_since: Instant,
    /// When it was looked last whether it is gone.
    probed: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Recall {
    since: Instant,
    told: bool,
    /// Somebody was told that it takes long.
    named: bool,
}

/// What to do about a directory that is called back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It was given back: try again.
    Try,
    /// Wait until it is given back, or this time has come.
    Wait(Instant),
    /// End it without its holder.
    Revoke,
    /// Its holder is silent: look whether its process is gone, and if there is none to be reached at an address that
    /// could be reached before, end its session.
    Look(SocketAddr),
    /// Its holder was silent for so long that its session ends.
    End,
}

/// A holder that keeps others waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// Its session.
    pub(crate) session: SessionId,
    /// A directory that it has not given back, the one that is waited for longest.
    pub(crate) inode: InodeId,
    /// For how long.
    pub(crate) waits: Duration,
    /// Where its process is.
    pub(crate) address: Option<SocketAddr>,
}

impl Recalls {
    /// Nothing is known of anybody: a term begins.
    pub(super) fn new(now: Instant) -> Self {
        Recalls { holders: BTreeMap::new(), sessions: BTreeMap::new(), begun: now }
    }

    /// Calls a directory back; `true`: its holder is to be told.
    pub(super) fn call(
        &mut self,
        holder: SessionId,
        inode: InodeId,
        now: Instant,
    ) -> Result<bool, TooMany> {
        if !self.holders.contains_key(&holder) && self.holders.len() >= FOLLOWERS_MAX {
            self.forget_old(now);
            if self.holders.len() >= FOLLOWERS_MAX {
                return Err(TooMany);
            }
        }
        let new = || Holder {
            directories: BTreeMap::new(),
            followed: None,
            silent_since: now,
            probed: None,
        };
        let holder = self.holders.entry(holder).or_insert_with(new);
        if holder.directories.contains_key(&inode) {
            return Ok(false);
        }
        if holder.directories.len() >= RECALLS_MAX {
            return Err(TooMany);
        }
        holder.directories.insert(inode, Recall { since: now, told: false, named: false });
        Ok(true)
    }

    /// What is next for somebody who waits for a directory.
    pub(super) fn next(&mut self, session: SessionId, inode: InodeId, now: Instant) -> Next {
        let is_active = self.is_active(session);
        let reachable = self.sessions.get(&session).and_then(|session| session.presence);
        let Some(holder) = self.holders.get_mut(&session) else { return Next::Try };
        let Some(recall) = holder.directories.get(&inode) else { return Next::Try };
        // Who has been silent since an earlier call has no lease any more.
        let lease_end = recall.since.min(holder.silent_since) + LEASE;
        if now < lease_end {
            return Next::Wait(lease_end);
        }
        let alive_until = holder.followed.map(|followed| followed + LEASE);
        let alive_until = alive_until.filter(|alive_until| now < *alive_until);
        let patience = recall.since + Duration::from_millis(RECALL_MS);
        match alive_until {
            Some(until) if is_active => Next::Wait(until),
            Some(until) if now < patience => Next::Wait(until.min(patience)),
            _ if !is_active => Next::Revoke,
            _ if now >= holder.silent_since + SILENCE => Next::End,
            _ => holder.look(reachable, now),
        }
    }

    /// Whether a session may have changes that it has not told.
    fn is_active(&self, session: SessionId) -> bool {
        let said = self.sessions.get(&session).and_then(|said| said.activity);
        said.is_none_or(|activity| activity % 2 == 1) && !planted::has(Bug::DirtyRevoked)
    }

    /// A session says, in a call that came at `received`, whether it may have changes to tell. What came late and is
    /// older than what is known is not taken, and no word that was given to another leader.
    pub(super) fn activity(&mut self, session: SessionId, activity: u64, received: Instant) {
        let was_for_us = received >= self.begun;
        if let Some(said) = self.session(session).filter(|_| was_for_us) {
            said.activity = said.activity.max(Some(activity));
        }
    }

    /// Where a session's process says that it can be connected to; `true`: nobody has tried that yet.
    pub(super) fn presence(&mut self, session: SessionId, address: SocketAddr) -> bool {
        let Some(said) = self.session(session) else { return false };
        let is_new = said.presence.is_none_or(|(known, _)| known != address);
        if is_new {
            said.presence = Some((address, false));
        }
        is_new
    }

    /// It could be connected to.
    pub(super) fn was_reached(&mut self, session: SessionId, address: SocketAddr) {
        if let Some(said) = self.sessions.get_mut(&session)
            && let Some((known, reached)) = &mut said.presence
            && *known == address
        {
            *reached = true;
        }
    }

    fn session(&mut self, session: SessionId) -> Option<&mut Session> {
        if self.sessions.len() >= FOLLOWERS_MAX && !self.sessions.contains_key(&session) {
            return None; // it is taken for active
        }
        Some(self.sessions.entry(session).or_default())
    }

    /// A holder follows: it lives.
    pub(super) fn followed(&mut self, holder: SessionId, now: Instant) {
        if let Some(holder) = self.holders.get_mut(&holder) {
            holder.followed = holder.followed.max(Some(now));
            holder.silent_since = holder.silent_since.max(now);
        }
    }

    /// Whether a holder has not been told of some directory yet.
    pub(super) fn has_news(&self, holder: SessionId) -> bool {
        let untold = |holder: &Holder| holder.directories.values().any(|recall| !recall.told);
        self.holders.get(&holder).is_some_and(untold)
    }

    /// All that a holder is to give back; it counts as told.
    pub(super) fn tell(&mut self, holder: SessionId) -> Vec<InodeId> {
        let Some(holder) = self.holders.get_mut(&holder) else { return Vec::new() };
        holder.directories.values_mut().for_each(|recall| recall.told = true);
        holder.directories.keys().copied().collect()
    }

    /// When a holder's lease ends at the latest, as long as it owes something.
    pub(super) fn lease_end(&self, holder: SessionId) -> Option<Instant> {
        let holder = self.holders.get(&holder)?;
        holder.directories.values().map(|recall| recall.since + LEASE).min()
    }

    /// A directory was given back, or taken.
    pub(super) fn ended(&mut self, holder: SessionId, inode: InodeId) {
        if let Some(entry) = self.holders.get_mut(&holder) {
            entry.directories.remove(&inode);
        }
    }

    /// A session has ended, and all that it held with it.
    pub(super) fn forget(&mut self, holder: SessionId) {
        self.holders.remove(&holder);
        self.sessions.remove(&holder);
    }

    /// Whether a directory is waited for so long that somebody should be told, and nobody was.
    pub(super) fn is_long(&mut self, holder: SessionId, inode: InodeId, now: Instant) -> bool {
        let holder = self.holders.get_mut(&holder);
        let Some(recall) = holder.and_then(|holder| holder.directories.get_mut(&inode)) else {
            return false;
        };
        let is_long = recall.since + LONG <= now && !recall.named;
        recall.named |= is_long;
        is_long
    }

    /// Who keeps others waiting for long.
    pub(super) fn overdue(&self, now: Instant) -> Vec<Overdue> {
        let oldest = |(session, holder): (&SessionId, &Holder)| {
            let (inode, recall) =
                holder.directories.iter().min_by_key(|(_, recall)| recall.since)?;
            let waits = now.saturating_duration_since(recall.since);
            let said = self.sessions.get(session);
            let address = said.and_then(|said| said.presence).map(|(address, _)| address);
            (waits >= LONG).then_some(Overdue { session: *session, inode: *inode, waits, address })
        };
        self.holders.iter().filter_map(oldest).collect()
    }

    /// Nobody waits for what was called back so long ago; who meets it again calls it back again.
    fn forget_old(&mut self, now: Instant) {
        let old = Duration::from_millis(2 * RECALL_MS);
        self.holders.retain(|_, holder| {
            holder.directories.retain(|_, recall| recall.since + old > now);
            !holder.directories.is_empty() || holder.silent_since + old > now
        });
    }
}

impl Holder {
    /// It is silent and may have changes to tell.
    fn look(&mut self, presence: Option<(SocketAddr, bool)>, now: Instant) -> Next {
        match (presence, self.probed.map(|at| at + PROBE)) {
            (Some((address, true)), next) if next.is_none_or(|next| next <= now) => {
                self.probed = Some(now);
                Next::Look(address)
            }
            (Some((_, true)), Some(next)) => Next::Wait(next),
            _ => Next::Wait(now + PROBE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: SessionId = SessionId(7);
    const DIR: InodeId = InodeId(9);
    const IDLE: u64 = 2;
    const ACTIVE: u64 = 3;

    fn recalled() -> (Recalls, Instant) {
        let (mut recalls, now) = (Recalls::new(Instant::now()), Instant::now());
        assert_eq!(recalls.call(HOLDER, DIR, now), Ok(true));
        assert_eq!(recalls.call(HOLDER, DIR, now + LEASE), Ok(false), "once is enough");
        (recalls, now)
    }

    #[test]
    fn a_holder_is_told_once_and_then_with_each_answer() {
        let (mut recalls, now) = recalled();
        assert!(recalls.has_news(HOLDER) && !recalls.has_news(SessionId(8)));
        assert_eq!(recalls.lease_end(HOLDER), Some(now + LEASE));
        assert_eq!(recalls.tell(HOLDER), [DIR]);
        assert!(!recalls.has_news(HOLDER));
        assert_eq!(recalls.tell(HOLDER), [DIR]);
        recalls.ended(HOLDER, DIR);
        assert_eq!(recalls.lease_end(HOLDER), None);
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Try);
    }

    #[test]
    fn a_silent_holder_that_is_idle_loses_it_with_its_lease() {
        let (mut recalls, now) = recalled();
        recalls.activity(HOLDER, IDLE, now);
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Wait(now + LEASE));
        assert_eq!(recalls.next(HOLDER, DIR, now + LEASE), Next::Revoke);
        recalls.ended(HOLDER, DIR);
        let (other, later) = (InodeId(10), now + LEASE * 3 / 2);
        assert_eq!(recalls.call(HOLDER, other, later), Ok(true));
        assert_eq!(recalls.next(HOLDER, other, later), Next::Revoke, "it is still silent");
        recalls.followed(HOLDER, later);
        assert!(matches!(recalls.next(HOLDER, other, later), Next::Wait(_)), "it was not dead");
    }

    #[test]
    fn what_is_called_back_is_bounded() {
        let (mut recalls, now) = recalled();
        for inode in 1..RECALLS_MAX as u64 {
            assert_eq!(recalls.call(HOLDER, InodeId(1000 + inode), now), Ok(true));
        }
        assert_eq!(recalls.call(HOLDER, InodeId(1), now), Err(TooMany));
        assert_eq!(recalls.call(HOLDER, DIR, now), Ok(false));
        for holder in 1..FOLLOWERS_MAX as u64 {
            assert_eq!(recalls.call(SessionId(1000 + holder), DIR, now), Ok(true));
        }
        assert_eq!(recalls.call(SessionId(1), DIR, now), Err(TooMany));
        let later = now + Duration::from_millis(2 * RECALL_MS);
        assert_eq!(recalls.call(SessionId(1), DIR, later), Ok(true), "the old ones are forgotten");
    }

    /// What its owner may not have told is not taken, however long it is silent or busy.
    #[test]
    fn one_that_may_have_changes_keeps_it() {
        let (mut recalls, start) = recalled();
        let waits = |recalls: &mut Recalls, now| matches!(recalls.next(HOLDER, DIR, now), Next::Wait(until) if until > now);
        let late = start + SILENCE - LEASE;
        assert!(waits(&mut recalls, late), "it said nothing in this term");
        recalls.activity(HOLDER, IDLE, start - LEASE);
        assert!(waits(&mut recalls, late), "that was said to somebody else");
        recalls.activity(HOLDER, ACTIVE, start);
        recalls.activity(HOLDER, IDLE, start);
        assert!(waits(&mut recalls, late), "an older word came late");
        recalls.followed(HOLDER, late);
        assert!(waits(&mut recalls, late), "it lives, and is slow");
        assert_eq!(recalls.next(HOLDER, DIR, late + SILENCE), Next::End, "silent for too long");
        recalls.activity(HOLDER, ACTIVE + 1, start);
        assert_eq!(recalls.next(HOLDER, DIR, late + LEASE), Next::Revoke);
    }

    #[test]
    fn whether_a_silent_one_is_gone_is_looked_at_now_and_then() {
        let (mut recalls, start) = recalled();
        let address = SocketAddr::from(([127, 0, 0, 1], 7));
        let now = start + LEASE;
        assert!(recalls.presence(HOLDER, address) && !recalls.presence(HOLDER, address));
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Wait(now + PROBE), "it never could be");
        recalls.was_reached(HOLDER, address);
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Look(address));
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Wait(now + PROBE));
        assert_eq!(recalls.next(HOLDER, DIR, now + PROBE), Next::Look(address));
        recalls.forget(HOLDER);
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Try);
    }

    #[test]
    fn who_keeps_others_waiting_is_named_once() {
        let (mut recalls, now) = recalled();
        assert!(!recalls.is_long(HOLDER, DIR, now) && recalls.overdue(now).is_empty());
        assert!(recalls.is_long(HOLDER, DIR, now + LONG));
        assert!(!recalls.is_long(HOLDER, DIR, now + LONG), "once in the log");
        let overdue = Overdue { session: HOLDER, inode: DIR, waits: LONG, address: None };
        assert_eq!(recalls.overdue(now + LONG), [overdue]);
        recalls.ended(HOLDER, DIR);
        assert!(recalls.overdue(now + LONG).is_empty());
    }

    #[test]
    fn an_idle_one_that_lives_is_given_time() {
        let (mut recalls, start) = recalled();
        recalls.activity(HOLDER, IDLE, start);
        let step = LEASE / 2;
        let mut now = start;
        while now < start + Duration::from_millis(RECALL_MS) {
            recalls.followed(HOLDER, now);
            assert!(matches!(recalls.next(HOLDER, DIR, now), Next::Wait(until) if until > now));
            now += step;
        }
        recalls.followed(HOLDER, now);
        assert_eq!(recalls.next(HOLDER, DIR, now), Next::Revoke);
    }
}
