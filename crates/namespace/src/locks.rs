//! Locks that sessions hold on inodes: what stands in the way of one, and what becomes of an owner's
//! ranges when one is taken or given up. Pure; `ops::locks` keeps the rows.
//!
//! **Invariant:** the ranges of one owner in one space do not overlap, and neighbours differ in kind:
//! as `fcntl` has it. A `flock` is a range that covers everything.

use everhold_proto::fs::{LockInfo, LockKind, LockOwner, LockSpace};
use everhold_proto::ids::SessionId;

/// Who holds a lock, and in which space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Holder {
    pub(crate) session: SessionId,
    pub(crate) space: LockSpace,
    pub(crate) owner: LockOwner,
}

/// A range of bytes; both ends belong to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

impl Range {
    const ALL: Range = Range { start: 0, end: u64::MAX };

    /// The range that a request means; `None` for one that ends before it starts.
    pub(crate) fn of(space: LockSpace, start: u64, end: u64) -> Option<Range> {
        match space {
            LockSpace::Flock => Some(Range::ALL),
            LockSpace::Posix => (start <= end).then_some(Range { start, end }),
        }
    }

    fn overlaps(self, other: Range) -> bool {
        self.start <= other.end && other.start <= self.end
    }

    /// Whether one begins right after the other's end.
    fn touches(self, other: Range) -> bool {
        self.end.checked_add(1) == Some(other.start) || other.end.checked_add(1) == Some(self.start)
    }
}

/// A lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) holder: Holder,
    pub(crate) range: Range,
    pub(crate) kind: LockKind,
    pub(crate) pid: u32,
}

impl Held {
    /// As others see it.
    pub(crate) fn info(&self) -> LockInfo {
        LockInfo {
            session: self.holder.session,
            owner: self.holder.owner,
            kind: self.kind,
            start: self.range.start,
            end: self.range.end,
            pid: self.pid,
        }
    }
}

/// The lock that stands in the way of `holder`, the one that begins first.
pub(crate) fn conflict(
    held: &[Held],
    holder: Holder,
    range: Range,
    kind: LockKind,
) -> Option<&Held> {
    let in_the_way = |lock: &&Held| {
        lock.holder != holder
            && lock.holder.space == holder.space
            && lock.range.overlaps(range)
            && (kind == LockKind::Write || lock.kind == LockKind::Write)
    };
    held.iter().filter(in_the_way).min_by_key(|lock| (lock.range, lock.holder))
}

/// What becomes of the rows of one holder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// Locks that are held no more.
    pub(crate) removed: Vec<Held>,
    /// Locks that are held instead.
    pub(crate) added: Vec<Held>,
}

/// Takes `lock`, which nothing is in the way of: what its holder had in the range is replaced, and
/// neighbours of the same kind become one with it.
pub(crate) fn take(held: &[Held], mut lock: Held) -> Change {
    let mut change = release(held, lock.holder, lock.range);
    let kept: Vec<Held> = change.added.drain(..).collect();
    let untouched =
        held.iter().filter(|h| h.holder == lock.holder && !h.range.overlaps(lock.range));
    let neighbours: Vec<Held> = untouched.copied().collect();
    let joins = |other: &Held| other.kind == lock.kind && other.range.touches(lock.range);
    let mut range = lock.range;
    for other in kept.iter().chain(&neighbours).filter(|other| joins(other)) {
        range.start = range.start.min(other.range.start);
        range.end = range.end.max(other.range.end);
    }
    change.added.extend(kept.iter().filter(|other| !joins(other)));
    change.removed.extend(neighbours.iter().filter(|other| joins(other)));
    lock.range = range;
    change.added.push(lock);
    change
}

/// Gives up what `holder` has in the range; what lies before and after it stays.
pub(crate) fn release(held: &[Held], holder: Holder, range: Range) -> Change {
    let mut change = Change::default();
    for lock in held.iter().filter(|h| h.holder == holder && h.range.overlaps(range)) {
        change.removed.push(*lock);
        if lock.range.start < range.start {
            let before = Range { start: lock.range.start, end: range.start - 1 };
            change.added.push(Held { range: before, ..*lock });
        }
        if lock.range.end > range.end {
            let after = Range { start: range.end + 1, end: lock.range.end };
            change.added.push(Held { range: after, ..*lock });
        }
    }
    change
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const LENGTH: u64 = 12;

    fn holder(owner: u64) -> Holder {
        let space = if owner.is_multiple_of(2) { LockSpace::Posix } else { LockSpace::Flock };
        Holder { session: SessionId(owner / 4), space, owner: LockOwner(owner / 2) }
    }

    fn apply(held: &mut Vec<Held>, change: Change) {
        for gone in change.removed {
            let before = held.len();
            held.retain(|lock| *lock != gone);
            assert_eq!(held.len(), before - 1, "{gone:?} was held");
        }
        held.extend(change.added);
    }

    /// Who holds each byte how.
    type Bytes = BTreeMap<(Holder, u64), LockKind>;

    fn bytes(held: &[Held]) -> Bytes {
        let mut bytes = Bytes::new();
        for lock in held {
            for at in lock.range.start..=lock.range.end.min(LENGTH) {
                assert_eq!(bytes.insert((lock.holder, at), lock.kind), None, "held twice");
            }
        }
        bytes
    }

    proptest! {
        /// Ranges come and go as single bytes would; they are as few as can be.
        #[test]
        fn ranges_are_sets_of_bytes(
            requests in prop::collection::vec(
                (0u64..6, 0..LENGTH, 0..LENGTH, any::<Option<bool>>()), 1..60,
            ),
        ) {
            let (mut held, mut model) = (Vec::new(), Bytes::new());
            for (owner, a, b, write) in requests {
                let (holder, end) = (holder(owner), if a.max(b) == LENGTH - 1 { u64::MAX } else { a.max(b) });
                let range = Range::of(LockSpace::Posix, a.min(b), end).unwrap();
                let all = range.start..=range.end.min(LENGTH);
                let Some(write) = write else {
                    model.retain(|(other, at), _| *other != holder || !all.contains(at));
                    let change = release(&held, holder, range);
                    apply(&mut held, change);
                    prop_assert_eq!(bytes(&held), model.clone());
                    continue;
                };
                let kind = if write { LockKind::Write } else { LockKind::Read };
                let blocked = model.iter().any(|((other, at), held)| {
                    *other != holder && other.space == holder.space && all.contains(at)
                        && (write || *held == LockKind::Write)
                });
                prop_assert_eq!(conflict(&held, holder, range, kind).is_some(), blocked);
                if !blocked {
                    model.extend(all.map(|at| ((holder, at), kind)));
                    let change = take(&held, Held { holder, range, kind, pid: 1 });
                    apply(&mut held, change);
                }
                prop_assert_eq!(bytes(&held), model.clone());
                for lock in &held {
                    let joined = held.iter().any(|other| {
                        other.holder == lock.holder
                            && other.kind == lock.kind
                            && other.range.touches(lock.range)
                    });
                    prop_assert!(!joined, "{:?} has a neighbour of its kind", lock);
                }
            }
        }
    }

    #[test]
    fn flocks_cover_everything_and_ranges_do_not_end_before_they_start() {
        assert_eq!(Range::of(LockSpace::Flock, 7, 3), Some(Range::ALL));
        assert_eq!(Range::of(LockSpace::Posix, 7, 3), None);
        assert_eq!(Range::of(LockSpace::Posix, 7, 7), Some(Range { start: 7, end: 7 }));
    }

    /// The first lock in the way is the one that is told of.
    #[test]
    fn the_first_conflict_is_told() {
        let lock = |owner, start, kind| Held {
            holder: holder(owner),
            range: Range { start, end: start },
            kind,
            pid: 9,
        };
        let held =
            [lock(4, 8, LockKind::Write), lock(2, 5, LockKind::Read), lock(2, 2, LockKind::Read)];
        let all = Range::ALL;
        assert_eq!(conflict(&held, holder(0), all, LockKind::Write), Some(&held[2]));
        assert_eq!(conflict(&held, holder(0), all, LockKind::Read), Some(&held[0]));
        assert_eq!(conflict(&held, holder(4), all, LockKind::Read), None);
        assert_eq!(conflict(&held, holder(1), all, LockKind::Write), None, "another space");
    }
}
