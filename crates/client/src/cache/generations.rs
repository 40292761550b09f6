//! A map of bounded size that forgets what was not asked for lately. Pure.

use std::collections::BTreeMap;

/// Two generations: what is put in or found goes into the young one; when that is half of the bound, it becomes
/// the old one, and the old one goes. So whatever was used within the last half of the bound is kept.
#[derive(Debug)]
pub(super) struct Generations<K, V> {
    young: BTreeMap<K, V>,
    old: BTreeMap<K, V>,
    /// What the young ones weigh together.
    weight: usize,
    half: usize,
    weigh: fn(&V) -> usize,
}

impl<K: Ord + Clone, V> Generations<K, V> {
    /// At most `most` entries, of which there must be at least two.
    pub(super) fn new(most: usize) -> Self {
        Self::weighed(most, |_| 1)
    }

    /// Entries that weigh `most` together at most. What an entry weighs must not change, and be no more than half
    /// of it.
    pub(super) fn weighed(most: usize, weigh: fn(&V) -> usize) -> Self {
        let (young, old) = (BTreeMap::new(), BTreeMap::new());
        Generations { young, old, weight: 0, half: (most / 2).max(1), weigh }
    }

    pub(super) fn get(&mut self, key: &K) -> Option<&mut V> {
        if let Some(value) = self.old.remove(key) {
            self.insert(key.clone(), value);
        }
        self.young.get_mut(key)
    }

    pub(super) fn insert(&mut self, key: K, value: V) {
        self.remove(&key);
        let weight = (self.weigh)(&value);
        if self.weight + weight > self.half {
            self.old = std::mem::take(&mut self.young);
            self.weight = 0;
        }
        self.weight += weight;
        self.young.insert(key, value);
    }

    pub(super) fn remove(&mut self, key: &K) {
        match self.young.remove(key) {
            Some(value) => self.weight -= (self.weigh)(&value),
            None => drop(self.old.remove(key)),
        }
    }

    /// Removes all from `from` on for which `is_in` holds, up to the first for which it does not.
    pub(super) fn remove_while(&mut self, from: &K, is_in: impl Fn(&K) -> bool) -> Vec<V> {
        let mut removed = Vec::new();
        for map in [&mut self.young, &mut self.old] {
            let keys: Vec<K> =
                map.range(from..).map(|(key, _)| key).take_while(|k| is_in(k)).cloned().collect();
            removed.extend(keys.iter().filter_map(|key| map.remove(key)));
        }
        self.weigh_again();
        removed
    }

    /// Removes all values that `is_meant`; says whether there were any. Takes time for each that is held.
    pub(super) fn remove_if(&mut self, is_meant: impl Fn(&V) -> bool) -> bool {
        let before = self.len();
        self.young.retain(|_, value| !is_meant(value));
        self.old.retain(|_, value| !is_meant(value));
        self.weigh_again();
        self.len() < before
    }

    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }

    pub(super) fn clear(&mut self) {
        self.young.clear();
        self.old.clear();
        self.weight = 0;
    }

    fn weigh_again(&mut self) {
        self.weight = self.young.values().map(self.weigh).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let mut map = Generations::new(10);
        for n in 0..1000 {
            map.insert(n, n);
            assert_eq!(map.get(&0), Some(&mut 0));
            assert_eq!(map.get(&n), Some(&mut n.clone()));
            assert!(map.young.len() + map.old.len() <= 10);
        }
        assert!(map.get(&500).is_none());
        map.insert(999, 7);
        map.remove(&999);
        assert!(map.get(&999).is_none(), "neither generation has it");
        map.clear();
        assert!(map.get(&0).is_none());
        for n in 0..8 {
            map.insert(n, n);
        }
        let mut removed = map.remove_while(&2, |n| *n < 6);
        removed.sort_unstable();
        assert_eq!(removed, [2, 3, 4, 5]);
        assert!(map.get(&1).is_some() && map.get(&6).is_some() && map.get(&4).is_none());
        assert!(map.remove_if(|n| *n == 1) && !map.remove_if(|n| *n == 1));
        assert_eq!(map.len(), 3);
    }
}
