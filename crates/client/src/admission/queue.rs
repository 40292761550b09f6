//! Who waits for a place, and who gets the next one.
//!
//! The most important class first. Within a class the longest waiting first, as long as the queue is emptied now and
//! then; once it stands, the newest first: whoever waited long has probably given up, or will before it is served,
//! and work for those is lost to everybody (adaptive LIFO: Ben Maurer, "Fail at Scale", ACM Queue 2015; that a
//! *standing* queue is what tells overload from a burst is CoDel's: Nichols and Jacobson, "Controlling Queue Delay",
//! ACM Queue 2012). Every so often the longest waiting gets its turn all the same, so that nobody waits for ever.

use super::standing::Standing;
use everhold_proto::Priority;
use std::collections::VecDeque;
use tokio::time::Instant;

/// One who waits; `T` is how to tell it.
#[derive(Debug)]
pub(super) struct Waiter<T> {
    pub(super) priority: Priority,
    pub(super) deadline: Instant,
    pub(super) tell: T,
}

/// See the module's words. Pure: times come from the caller.
#[derive(Debug)]
pub(super) struct Queue<T> {
    classes: [Class<T>; Priority::ALL.len()],
    length: usize,
    length_max: usize,
}

#[derive(Debug)]
struct Class<T> {
    waiting: VecDeque<Waiter<T>>,
    standing: Standing,
}

impl<T> Queue<T> {
    /// A queue for at most `length_max`.
    pub(super) fn new(length_max: usize) -> Self {
        let class = |_| Class { waiting: VecDeque::new(), standing: Standing::default() };
        Queue { classes: std::array::from_fn(class), length: 0, length_max }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Whether somebody of this class waits.
    pub(super) fn has(&self, priority: Priority) -> bool {
        !self.classes[priority as usize].waiting.is_empty()
    }

    /// Adds one. When the queue is full, whoever is least important goes, the longest waiting of these first. Among
    /// equals that is the new one, or, once the queue stands, the one that waited longest.
    pub(super) fn push(&mut self, waiter: Waiter<T>, now: Instant) -> Option<Waiter<T>> {
        let mut gone = None;
        if self.length >= self.length_max {
            let least = self.classes.iter().position(|class| !class.waiting.is_empty());
            let own = waiter.priority as usize;
            match least {
                Some(least)
                    if least < own || least == own && self.classes[own].standing.stands(now) =>
                {
                    gone = self.take(least, |class| class.waiting.pop_front());
                }
                _ => return Some(waiter),
            }
        }
        let class = &mut self.classes[waiter.priority as usize];
        class.standing.filled(now);
        class.waiting.push_back(waiter);
        self.length += 1;
        gone
    }

    /// The next one of a class. Those whose deadline is over are dropped unserved; they know it themselves.
    pub(super) fn pop(&mut self, priority: Priority, now: Instant) -> Option<Waiter<T>> {
        loop {
            let next = self.take(priority as usize, |class| class.next(now))?;
            if next.deadline > now {
                return Some(next);
            }
        }
    }

    fn take(
        &mut self,
        class: usize,
        from: impl FnOnce(&mut Class<T>) -> Option<Waiter<T>>,
    ) -> Option<Waiter<T>> {
        let class = &mut self.classes[class];
        let taken = from(class)?;
        self.length -= 1;
        if class.waiting.is_empty() {
            class.standing.emptied();
        }
        Some(taken)
    }
}

impl<T> Class<T> {
    fn next(&mut self, now: Instant) -> Option<Waiter<T>> {
        let newest = self.standing.is_for_newest(now);
        if newest { self.waiting.pop_back() } else { self.waiting.pop_front() }
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::STANDING;
    use super::*;
    use std::time::Duration;

    fn waiter(priority: Priority, number: u32, deadline: Instant) -> Waiter<u32> {
        Waiter { priority, deadline, tell: number }
    }

    struct Case {
        queue: Queue<u32>,
        now: Instant,
    }

    impl Case {
        fn new(length_max: usize) -> Self {
            Case { queue: Queue::new(length_max), now: Instant::now() }
        }

        fn push(&mut self, priority: Priority, number: u32) -> Option<u32> {
            let deadline = self.now + Duration::from_secs(3);
            self.queue.push(waiter(priority, number, deadline), self.now).map(|gone| gone.tell)
        }

        fn pop(&mut self, priority: Priority) -> Option<u32> {
            self.queue.pop(priority, self.now).map(|next| next.tell)
        }
    }

    /// A burst is served in order; a queue that stands is served from its end, and its head now and then.
    #[test]
    fn the_newest_first_once_the_queue_stands() {
        let mut case = Case::new(1000);
        (0..100).for_each(|n| assert_eq!(case.push(Priority::Foreground, n), None));
        assert_eq!(case.pop(Priority::Foreground), Some(0));
        case.now += STANDING;
        assert_eq!(case.pop(Priority::Foreground), Some(99));
        let served: Vec<u32> = (0..48).filter_map(|_| case.pop(Priority::Foreground)).collect();
        assert_eq!(served.iter().filter(|n| **n < 10).collect::<Vec<_>>(), [&1, &2, &3]);
        while case.pop(Priority::Foreground).is_some() {}
        (0..3).for_each(|n| assert_eq!(case.push(Priority::Foreground, n), None));
        assert_eq!(case.pop(Priority::Foreground), Some(0), "it was empty: the overload is over");
    }

    /// Whoever is past its deadline is not served.
    #[test]
    fn those_who_gave_up_are_skipped() {
        let mut case = Case::new(10);
        case.push(Priority::Repair, 1);
        case.now += Duration::from_secs(3);
        case.push(Priority::Repair, 2);
        assert_eq!(case.pop(Priority::Repair), Some(2));
        assert_eq!((case.pop(Priority::Repair), case.queue.len()), (None, 0));
    }

    /// A full queue sends the least important away, and never somebody for the sake of an equal.
    #[test]
    fn the_least_important_go_first() {
        let mut case = Case::new(3);
        case.push(Priority::Repair, 1);
        case.push(Priority::Scrub, 2);
        case.push(Priority::Scrub, 3);
        assert_eq!(case.push(Priority::Scrub, 4), Some(4));
        assert_eq!(case.push(Priority::Foreground, 5), Some(2));
        assert_eq!(case.push(Priority::Rebalance, 6), Some(3));
        assert_eq!(case.push(Priority::Repair, 7), Some(6));
        assert_eq!(case.push(Priority::Repair, 8), Some(8));
        assert_eq!(case.push(Priority::Foreground, 9), Some(1));
        case.now += STANDING;
        assert_eq!(case.push(Priority::Repair, 10), Some(7), "the queue stands: the oldest goes");
        assert_eq!(case.queue.len(), 3);
    }
}
