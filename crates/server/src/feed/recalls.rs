//! Delegations that are called back: who is to be told, how long anybody waits, and when a delegation ends
//! without its holder. Pure.
//!
//! A holder does nothing more behind a delegation once its lease has ended, and a lease never lasts longer than
//! [`LEASE`] after the call: so from then on the delegation may end without it. One that still follows is given
//! [`RECALL_MS`] to tell what it did.

use super::rules::{LEASE, TooMany};
use everhold_proto::limits::{FOLLOWERS_MAX, RECALL_MS};
use everhold_proto::{InodeId, SessionId};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// Directories of one holder that are called back one by one.
const RECALLS_MAX: usize = 1024;

/// What is called back, by holder.
#[derive(Debug, Default)]
pub(super) struct Recalls {
    holders: BTreeMap<SessionId, Holder>,
}

#[derive(Debug)]
struct Holder {
    directories: BTreeMap<InodeId, Recall>,
    /// When it asked for records last.
    followed: Option<Instant>,
    /// Something was called back then, and it has not followed since.
    silent_since: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Recall {
    since: Instant,
    told: bool,
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
}

impl Recalls {
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
        let new = || Holder { directories: BTreeMap::new(), followed: None, silent_since: now };
        let holder = self.holders.entry(holder).or_insert_with(new);
        if holder.directories.contains_key(&inode) {
            return Ok(false);
        }
        if holder.directories.len() >= RECALLS_MAX {
            return Err(TooMany);
        }
        holder.directories.insert(inode, Recall { since: now, told: false });
        Ok(true)
    }

    /// What is next for somebody who waits for a directory.
    pub(super) fn next(&self, holder: SessionId, inode: InodeId, now: Instant) -> Next {
        let Some(holder) = self.holders.get(&holder) else { return Next::Try };
        let Some(recall) = holder.directories.get(&inode) else { return Next::Try };
        // Who has been silent since an earlier call has no lease any more.
        let lease_end = recall.since.min(holder.silent_since) + LEASE;
        if now < lease_end {
            return Next::Wait(lease_end);
        }
        let patience = recall.since + Duration::from_millis(RECALL_MS);
        match holder.followed.map(|followed| followed + LEASE) {
            Some(alive_until) if now < alive_until && now < patience => {
                Next::Wait(alive_until.min(patience))
            }
            _ => Next::Revoke,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOLDER: SessionId = SessionId(7);
    const DIR: InodeId = InodeId(9);

    fn recalled() -> (Recalls, Instant) {
        let (mut recalls, now) = (Recalls::default(), Instant::now());
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
    fn a_silent_holder_loses_it_with_its_lease() {
        let (mut recalls, now) = recalled();
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

    #[test]
    fn one_that_lives_is_given_time() {
        let (mut recalls, start) = recalled();
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
