//! What the client knows of the cluster: the map, and where the metadata leader is.

use arc_swap::ArcSwap;
use everhold_proto::Epoch;
use everhold_proto::map::{ClusterMap, NodeState};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A leader that did not answer is not asked again for this long because of hearsay: the others
/// still name it until they have elected the next one.
const SHUN: Duration = Duration::from_millis(500);

/// Whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// `HOST:PORT`.
    pub(crate) address: String,
    /// It is believed to lead; else it is just the next one.
    pub(crate) named: bool,
}

/// The newest map seen, and the leader.
pub(crate) struct View {
    map: ArcSwap<ClusterMap>,
    seeds: Vec<String>,
    leader: Mutex<Leader>,
    /// Held while the map is fetched, with the time of the last success.
    pub(crate) fetching: tokio::sync::Mutex<Option<Instant>>,
}

#[derive(Default)]
struct Leader {
    address: Option<String>,
    shunned: Option<(String, Instant)>,
    cursor: usize,
}

impl View {
    pub(crate) fn new(seeds: Vec<String>) -> Self {
        View {
            map: ArcSwap::default(),
            seeds,
            leader: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// The newest map seen.
    pub(crate) fn map(&self) -> Arc<ClusterMap> {
        self.map.load_full()
    }

    /// Its epoch.
    pub(crate) fn epoch(&self) -> Epoch {
        self.map.load().epoch
    }

    /// Takes a map if it is newer than the one here.
    pub(crate) fn offer(&self, map: ClusterMap) {
        let map = Arc::new(map);
        self.map.rcu(|old| if map.epoch > old.epoch { map.clone() } else { old.clone() });
    }

    /// Whom to ask: the leader if it is known, else one address after the other, but nobody who just did not answer
    /// as long as there is somebody else.
    pub(crate) fn whom_to_ask(&self, now: Instant) -> Asked {
        let mut leader = self.leader.lock();
        if let Some(address) = &leader.address {
            return Asked { address: address.clone(), named: true };
        }
        let mut all = self.addresses();
        if let Some((shunned, until)) = &leader.shunned
            && now < *until
            && all.len() > 1
        {
            all.retain(|address| address != shunned);
        }
        leader.cursor = (leader.cursor + 1) % all.len();
        Asked { address: all[leader.cursor].clone(), named: false }
    }

    /// Nodes believed to answer, then the seeds that are not among them, then the rest.
    fn addresses(&self) -> Vec<String> {
        let map = self.map.load();
        let (live, dead): (Vec<_>, Vec<_>) =
            map.nodes.values().partition(|node| node.state <= NodeState::Suspect);
        let mut all: Vec<String> = live.iter().map(|node| node.address.clone()).collect();
        all.extend(self.seeds.iter().cloned());
        all.extend(dead.iter().map(|node| node.address.clone()));
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|address| seen.insert(address.clone()));
        all
    }

    /// `address` answered as the leader.
    pub(crate) fn leads(&self, address: &str) {
        let mut leader = self.leader.lock();
        if leader.address.as_deref() != Some(address) {
            leader.address = Some(address.to_string());
        }
        leader.shunned = None;
    }

    /// `address` did not answer (well): ask others.
    pub(crate) fn failed(&self, address: &str, now: Instant) {
        let mut leader = self.leader.lock();
        if leader.address.as_deref() == Some(address) {
            leader.address = None;
        }
        leader.shunned = Some((address.to_string(), now + SHUN));
    }

    /// `from` says who leads. Says whether that is worth following at once.
    pub(crate) fn redirected(&self, from: &str, to: Option<String>, now: Instant) -> bool {
        let mut leader = self.leader.lock();
        if leader.address.as_deref() == Some(from) {
            leader.address = None;
        }
        let Some(to) = to else { return false };
        let shunned =
            leader.shunned.as_ref().is_some_and(|(address, until)| *address == to && now < *until);
        if shunned || to == from {
            return false;
        }
        leader.address = Some(to);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view() -> View {
        View::new(vec!["a:1".into(), "b:1".into(), "c:1".into()])
    }

    #[test]
    fn asks_one_after_the_other_until_one_leads() {
        let (view, now) = (view(), Instant::now());
        let mut asked: Vec<String> = (0..3).map(|_| view.whom_to_ask(now).address).collect();
        asked.sort();
        assert_eq!(asked, ["a:1", "b:1", "c:1"]);
        view.leads("b:1");
        assert_eq!(view.whom_to_ask(now), Asked { address: "b:1".into(), named: true });
    }

    /// Whoever just kept silent is not asked again by turns, unless nobody else is there.
    #[test]
    fn the_silent_are_skipped() {
        let (view, now) = (view(), Instant::now());
        view.leads("b:1");
        view.failed("b:1", now);
        assert!((0..9).all(|_| view.whom_to_ask(now).address != "b:1"));
        assert!((0..3).any(|_| view.whom_to_ask(now + SHUN).address == "b:1"));
        let alone = View::new(vec!["b:1".into()]);
        alone.failed("b:1", now);
        assert_eq!(alone.whom_to_ask(now), Asked { address: "b:1".into(), named: false });
    }

    #[test]
    fn hearsay_about_a_silent_leader_is_ignored_for_a_while() {
        let (view, now) = (view(), Instant::now());
        view.leads("b:1");
        view.failed("b:1", now);
        assert!(!view.redirected("a:1", Some("b:1".into()), now));
        assert_ne!(view.leader.lock().address.as_deref(), Some("b:1"));
        assert!(view.redirected("a:1", Some("c:1".into()), now));
        assert_eq!(view.whom_to_ask(now).address, "c:1");
        assert!(view.redirected("c:1", Some("b:1".into()), now + SHUN));
        assert!(!view.redirected("b:1", None, now));
    }

    #[test]
    fn only_newer_maps_are_taken() {
        let view = view();
        view.offer(ClusterMap { epoch: Epoch(5), ..ClusterMap::default() });
        view.offer(ClusterMap { epoch: Epoch(4), ..ClusterMap::default() });
        assert_eq!(view.epoch(), Epoch(5));
    }
}
