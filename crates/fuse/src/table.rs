//! Handles: numbers that the kernel gives back.

use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Things by number. A number is never used twice.
pub(crate) struct Table<T> {
    inner: Mutex<(u64, HashMap<u64, Arc<T>>)>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Table { inner: Mutex::new((1, HashMap::new())) }
    }
}

impl<T> Table<T> {
    /// Keeps a thing under a fresh number.
    pub(crate) fn insert(&self, thing: T) -> u64 {
        let mut inner = self.inner.lock();
        let number = inner.0;
        inner.0 += 1;
        inner.1.insert(number, Arc::new(thing));
        number
    }

    /// The thing with a number.
    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.inner.lock().1.get(&number).cloned()
    }

    /// Takes it out.
    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.inner.lock().1.remove(&number)
    }
}
