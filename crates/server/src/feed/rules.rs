//! When an answer may be given, and how long a cache may answer: the rules, without tasks and clocks.
//!
//! **Invariant:** an answer that shows change records below a number is given only when every cache that may
//! still answer (its lease may run) has acknowledged all records below that number. **Invariant:** no answer
//! is held back for longer than a lease: a follower that owes an acknowledgement gets no lease that ends later
//! than [`LEASE`] after the record that it owes was noticed.
//!
//! Positions are numbers of change records: position `n` stands for "all records below `n`". Instants are the
//! leader's own; the holder of a lease counts it from before it asked, so that it ends there no later.

use everhold_proto::SessionId;
use everhold_proto::limits::{FEED_LEASE_MS, FOLLOWERS_MAX};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use tokio::time::Instant;

/// The longest lease.
pub(crate) const LEASE: Duration = Duration::from_millis(FEED_LEASE_MS);
/// Positions that were noticed within so long count as noticed at once: marks stay few.
const MARK: Duration = Duration::from_millis(10);

/// Records of its own that a follower need not be told of at once: a page of the feed has room for more.
const OWN_UNTOLD_MAX: u64 = 256;

/// What a leader knows of the caches of its term.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    term: u64,
    /// Leases of earlier leaders that may run.
    hold: Option<Hold>,
    /// When the last of them has ended.
    inherited_until: Option<Instant>,
    followers: BTreeMap<SessionId, Follower>,
    /// The followers by what they have acknowledged.
    order: BTreeSet<(u64, SessionId)>,
    /// When positions were noticed first, the oldest first; none is older than a lease.
    marks: VecDeque<Mark>,
}

#[derive(Debug)]
struct Hold {
    until: Instant,
    /// Sessions that follow and have not registered in this term.
    missing: BTreeSet<SessionId>,
}

#[derive(Clone, Copy, Debug)]
struct Follower {
    acked: u64,
    /// It knows all below: it has acknowledged that, or made it.
    known: u64,
    /// When its lease ends at the latest.
    until: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    position: u64,
    at: Instant,
}

/// Whether an answer may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Now.
    Now,
    /// Not before something is acknowledged, or this time has come and is judged anew.
    NotBefore(Instant),
}

/// There are too many followers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Rules {
    /// A term begins, in which nothing is known of leases yet. `now` is not before the election;
    /// `following` are the sessions that an earlier leader may have given a lease.
    pub(crate) fn begin(&mut self, term: u64, now: Instant, following: BTreeSet<SessionId>) {
        let until = now + LEASE;
        let inherited_until = (!following.is_empty()).then_some(until);
        let hold = inherited_until.map(|until| Hold { until, missing: following });
        *self = Rules { term, hold, inherited_until, ..Rules::default() };
    }

    /// The term that the rules are for.
    pub(crate) fn term(&self) -> u64 {
        self.term
    }

    /// Whether there is nobody to wait for.
    pub(crate) fn is_quiet(&self) -> bool {
        self.hold.is_none() && self.followers.is_empty()
    }

    /// A session asks for records, at `received`, when the feed has come to `end`. It has acknowledged what
    /// is below `acked_below`.
    pub(crate) fn register(
        &mut self,
        session: SessionId,
        acked_below: u64,
        end: u64,
        received: Instant,
    ) -> Result<(), TooMany> {
        let running =
            self.followers.get(&session).copied().filter(|follower| follower.until > received);
        let acked = acked_below.min(end);
        let acked = match running {
            Some(follower) => acked.max(follower.acked),
            None if self.inherited_until.is_some_and(|until| received < until) => acked,
            // It holds no lease, and gets one only together with all records below `end`.
            None => end,
        };
        if !self.followers.contains_key(&session) && self.followers.len() >= FOLLOWERS_MAX {
            self.expire(received);
            if self.followers.len() >= FOLLOWERS_MAX {
                return Err(TooMany);
            }
        }
        if let Some(hold) = &mut self.hold {
            hold.missing.remove(&session);
        }
        let known = running.map_or(acked, |follower| follower.known.max(acked));
        let earlier = self.remove(session).map_or(received, |follower| follower.until);
        let until = self.lease_end(acked, received).max(earlier);
        self.followers.insert(session, Follower { acked, known, until });
        self.order.insert((acked, session));
        Ok(())
    }

    /// The length of the lease, from `received` on, that an answer with all records as of a later read may
    /// give. Zero: none.
    pub(crate) fn grant(&mut self, session: SessionId, received: Instant) -> Duration {
        let Some(follower) = self.followers.get(&session).copied() else { return Duration::ZERO };
        let end = self.lease_end(follower.acked, received);
        let until = follower.until.max(end);
        self.followers.insert(session, Follower { until, ..follower });
        end.saturating_duration_since(received)
    }

    /// An answer is about to show this position.
    pub(crate) fn notice(&mut self, position: u64, now: Instant) {
        let lowest = self.order.first().map(|(acked, _)| *acked);
        let is_over = |mark: &Mark| {
            mark.at + LEASE <= now || lowest.is_none_or(|acked| acked >= mark.position)
        };
        while self.marks.front().is_some_and(is_over) {
            self.marks.pop_front();
        }
        if lowest.is_none() || self.marks.back().is_some_and(|last| last.position >= position) {
            return;
        }
        match self.marks.back_mut() {
            Some(last) if now.saturating_duration_since(last.at) < MARK => last.position = position,
            _ => self.marks.push_back(Mark { position, at: now }),
        }
    }

    /// The session has made the records from `first` on below `next`, and its answer tells it all that it did. Whether
    /// its own follower may be told of them later: it knows all that came before, too, and they are not many.
    pub(crate) fn made(&mut self, session: SessionId, first: u64, next: u64) -> bool {
        let Some(follower) = self.followers.get_mut(&session) else { return true };
        if first <= follower.known {
            follower.known = follower.known.max(next);
        }
        follower.known >= next && next.saturating_sub(follower.acked) < OWN_UNTOLD_MAX
    }

    /// Whether an answer that shows this position may be given to `own`, whose own cache is its own affair.
    /// Followers whose lease has ended are forgotten.
    pub(crate) fn may_answer(
        &mut self,
        position: u64,
        own: Option<SessionId>,
        now: Instant,
    ) -> Verdict {
        if let Some(hold) = &self.hold {
            let is_other = |session: &SessionId| Some(*session) != own;
            if now < hold.until && hold.missing.iter().any(is_other) {
                return Verdict::NotBefore(hold.until);
            }
            if now >= hold.until || hold.missing.is_empty() {
                self.hold = None;
            }
        }
        loop {
            let slowest = self.order.iter().find(|(_, session)| Some(*session) != own).copied();
            let Some((acked, session)) = slowest.filter(|(acked, _)| *acked < position) else {
                return Verdict::Now;
            };
            debug_assert!(acked < position);
            match self.followers.get(&session) {
                Some(follower) if follower.until > now => {
                    return Verdict::NotBefore(follower.until);
                }
                _ => drop(self.remove(session)),
            }
        }
    }

    /// The session has no cache any more, by its own word.
    pub(crate) fn forget(&mut self, session: SessionId) {
        self.remove(session);
        if let Some(hold) = &mut self.hold {
            hold.missing.remove(&session);
        }
    }

    /// When a lease that is asked for at `received` must end.
    fn lease_end(&self, acked: u64, received: Instant) -> Instant {
        let owed = self.marks.iter().find(|mark| mark.position > acked).map(|mark| mark.at);
        owed.map_or(received, |at| at.min(received)) + LEASE
    }

    fn remove(&mut self, session: SessionId) -> Option<Follower> {
        let follower = self.followers.remove(&session)?;
        self.order.remove(&(follower.acked, session));
        Some(follower)
    }

    fn expire(&mut self, now: Instant) {
        let ended = self.followers.iter().filter(|(_, follower)| follower.until <= now);
        let ended: Vec<SessionId> = ended.map(|(session, _)| *session).collect();
        for session in ended {
            self.remove(session);
        }
    }
}

#[cfg(test)]
mod tests;
