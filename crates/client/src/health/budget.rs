//! The budget for extra work: hedges spend what ordinary reads earn, at most a tenth of them.

use std::sync::atomic::{AtomicI64, Ordering};

/// Earned by each ordinary read, in thousandths of a hedge.
const EARNED: i64 = 100;
/// Price of a hedge.
const PRICE: i64 = 1000;
/// Most that is saved up: a burst of so many hedges, as when a node dies.
const SAVED_MAX: i64 = 20 * PRICE;

/// Thousandths of a hedge that may be spent.
pub(crate) struct Budget(AtomicI64);

impl Default for Budget {
    fn default() -> Self {
        Budget(AtomicI64::new(SAVED_MAX / 2))
    }
}

impl Budget {
    /// An ordinary read begins.
    pub(crate) fn earn(&self) {
        let add = |saved: i64| (saved < SAVED_MAX).then(|| (saved + EARNED).min(SAVED_MAX));
        let _full = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Whether a hedge may be sent; then it is paid for.
    pub(crate) fn spend(&self) -> bool {
        let pay = |saved: i64| (saved >= PRICE).then_some(saved - PRICE);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pay).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_of_the_reads_may_be_hedged() {
        let budget = Budget::default();
        while budget.spend() {}
        for _ in 0..1000 {
            budget.earn();
        }
        let mut hedges = 0;
        while budget.spend() {
            hedges += 1;
        }
        assert_eq!(hedges, SAVED_MAX / PRICE, "savings are bounded");
        for _ in 0..100 {
            budget.earn();
        }
        assert_eq!((0..100).filter(|_| budget.spend()).count(), 10);
    }
}
