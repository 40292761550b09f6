//! The cluster map as this node knows it. It only ever gets newer.
//!
//! **Invariant:** whoever must act *before* the node works with a newer map (a disk that learns that
//! it is a member again drops its permissions to delete) is called before the map can be seen.

use arc_swap::ArcSwap;
use everhold_proto::Epoch;
use everhold_proto::map::ClusterMap;
use parking_lot::Mutex;
use std::sync::Arc;

/// Called with the map that is about to be installed.
type Hook = Box<dyn Fn(&ClusterMap) + Send + Sync>;

/// A shared, replaceable map.
pub(crate) struct MapCache {
    current: ArcSwap<ClusterMap>,
    /// Serialises installations; holds the hooks.
    hooks: Mutex<Vec<Hook>>,
}

impl MapCache {
    /// The empty map of epoch 0.
    pub(crate) fn new() -> Self {
        MapCache { current: ArcSwap::default(), hooks: Mutex::default() }
    }

    /// The map.
    pub(crate) fn current(&self) -> Arc<ClusterMap> {
        self.current.load_full()
    }

    /// Its epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.current.load().epoch
    }

    /// Adds a hook, which must be quick and must not install maps.
    pub(crate) fn before_install(&self, hook: impl Fn(&ClusterMap) + Send + Sync + 'static) {
        self.hooks.lock().push(Box::new(hook));
    }

    /// Installs `map` if it is newer than what is there; tells whether it was.
    pub(crate) fn install(&self, map: Arc<ClusterMap>) -> bool {
        let hooks = self.hooks.lock();
        if map.epoch <= self.epoch() {
            return false;
        }
        hooks.iter().for_each(|hook| hook(&map));
        self.current.store(map);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// An older map never replaces a newer one, and hooks run for exactly those that are installed.
    #[test]
    fn only_gets_newer() {
        let cache = MapCache::new();
        let seen = Arc::new(AtomicU64::new(0));
        let hook = seen.clone();
        cache.before_install(move |map| {
            hook.store(map.epoch.0, Ordering::SeqCst);
        });
        let map = |epoch| Arc::new(ClusterMap { epoch: Epoch(epoch), ..Default::default() });
        assert!(cache.install(map(5)));
        assert!(!cache.install(map(4)));
        assert!(!cache.install(map(5)));
        assert_eq!((cache.epoch(), seen.load(Ordering::SeqCst)), (Epoch(5), 5));
    }
}
