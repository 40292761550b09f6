//! Calls to the metadata leader, whoever it is at the moment: this node itself, the one that Raft or
//! the last answer named, or whoever of the known nodes turns out to be it.

use crate::node::Node;
use crate::services::{CallContext, Serve};
use everhold_consensus::Role;
use everhold_proto::{Error, Kind};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One attempt at one address; a leader that is there answers far sooner.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// Pause after a round without success, with as much again as jitter.
const PAUSE_MS: u64 = 100;

/// Whom this node believes to be the leader.
#[derive(Default)]
pub(crate) struct LeaderHint {
    address: Mutex<Option<String>>,
    /// Addresses to ask when the hint is wrong: from the configuration and from `node.json`.
    known: Mutex<Vec<String>>,
}

impl LeaderHint {
    /// A hint that knows these addresses.
    pub(crate) fn knowing(addresses: Vec<String>) -> Self {
        LeaderHint { address: Mutex::default(), known: Mutex::new(addresses) }
    }

    /// The last answer, if any.
    pub(crate) fn get(&self) -> Option<String> {
        self.address.lock().clone()
    }

    /// `address` leads.
    pub(crate) fn set(&self, address: Option<String>) {
        *self.address.lock() = address;
    }

    fn known(&self) -> Vec<String> {
        self.known.lock().clone()
    }
}

impl Node {
    /// Whether this node leads, as far as it knows.
    pub(crate) fn is_leader(&self) -> bool {
        self.raft.current().is_some_and(|c| c.status().role == Role::Leader)
    }

    /// The leader's address as this node knows it.
    pub(crate) fn leader_address(&self) -> Option<String> {
        let of_raft = self.raft.current().and_then(|c| {
            let leader = c.status().leader?;
            let map = self.map.current();
            Some(map.nodes.get(&leader.node).map_or(leader.address, |n| n.address.clone()))
        });
        of_raft.or_else(|| self.leader.get())
    }

    /// "Ask the leader", with its address when it is known and is not this node's.
    pub(crate) fn not_leader(&self) -> Error {
        Error::not_leader(self.leader_address().filter(|address| *address != self.address))
    }

    /// Calls the leader until it answers or the deadline is reached. What may have been applied is
    /// not repeated here: the caller knows whether it may be.
    pub(crate) async fn call_leader<R: Serve + Clone>(
        self: &Arc<Self>,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, Error> {
        let mut last = Error::new(Kind::Retry, "no metadata leader is known");
        loop {
            for address in self.candidates() {
                match self.attempt(&address, request, deadline).await {
                    Err(e) if e.is_retryable() => last = e,
                    other => return other,
                }
                // A redirection is followed at once, ahead of the other candidates.
                if let Some(leader) = last.leader.take().filter(|leader| *leader != address) {
                    match self.attempt(&leader, request, deadline).await {
                        Err(e) if e.is_retryable() => last = e,
                        other => return other,
                    }
                }
            }
            let pause = Duration::from_millis(PAUSE_MS + self.env.entropy.below(PAUSE_MS));
            if self.env.clock.now() + pause >= deadline {
                return Err(last);
            }
            self.env.clock.sleep(pause).await;
        }
    }

    async fn attempt<R: Serve + Clone>(
        self: &Arc<Self>,
        address: &str,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, Error> {
        let limit = deadline.min(self.env.clock.now() + ATTEMPT_LIMIT);
        let result = if address == self.address {
            request.clone().serve(self, &CallContext::local(limit)).await
        } else {
            self.wire.call(address, request, limit).await
        };
        match &result {
            Ok(_) => self.leader.set(Some(address.into())),
            Err(e) if e.kind == Kind::NotLeader => self.leader.set(e.leader.clone()),
            Err(e) if matches!(e.kind, Kind::Retry | Kind::MaybeApplied) => self.leader.set(None),
            Err(_) => {}
        }
        result
    }

    /// Whom to ask, the likeliest first, each once.
    fn candidates(&self) -> Vec<String> {
        let map = self.map.current();
        let mut all: Vec<String> = self.leader.get().into_iter().collect();
        all.extend(self.leader_address());
        if self.is_leader() {
            all.insert(0, self.address.clone());
        }
        all.extend(map.nodes.values().map(|n| n.address.clone()));
        all.extend(self.leader.known());
        let mut seen = std::collections::BTreeSet::new();
        all.retain(|address| seen.insert(address.clone()));
        all
    }
}
