//! Calls to the metadata leader, whoever it is at the moment: this node itself, the one that Raft or
//! the last answer named, or whoever of the known nodes turns out to be it.

use crate::node::Node;
use crate::services::{CallContext, Serve};
use everhold_consensus::Role;
use everhold_proto::rpc::Hello;
use everhold_proto::{Error, Kind};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One attempt at one address; a leader that is there answers far sooner.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(2);
/// A node that is there says at once whom it believes to lead.
const HELLO_LIMIT: Duration = Duration::from_millis(300);
/// Redirections followed without a pause.
const REDIRECTIONS_MAX: u32 = 3;
/// Pause after a round without success, with as much again as jitter.
const PAUSE_MS: u64 = 100;

/// Whom this node believes to be the leader.
#[derive(Default)]
pub(crate) struct LeaderHint {
    address: Mutex<Option<String>>,
    /// Who was asked last and said that it does not lead. Raft here may go on naming it: a seat that was
    /// taken away while the node was down hears of no later leader.
    refused: Mutex<Option<String>>,
    /// Addresses to ask when the hint is wrong: from the configuration and from `node.json`.
    known: Mutex<Vec<String>>,
}

impl LeaderHint {
    /// A hint that knows these addresses.
    pub(crate) fn knowing(addresses: Vec<String>) -> Self {
        LeaderHint { known: Mutex::new(addresses), ..LeaderHint::default() }
    }

    /// The last answer, if any.
    pub(crate) fn get(&self) -> Option<String> {
        self.address.lock().clone()
    }

    /// `address` leads.
    pub(crate) fn set(&self, address: Option<String>) {
        *self.address.lock() = address;
    }

    /// `address` answered as the leader does.
    fn led(&self, address: &str) {
        self.set(Some(address.into()));
        *self.refused.lock() = None;
    }

    /// `address` does not lead; perhaps `other` does.
    fn does_not_lead(&self, address: &str, other: Option<String>) {
        *self.refused.lock() = Some(address.into());
        self.set(other);
    }

    fn has_refused(&self, address: &str) -> bool {
        self.refused.lock().as_deref() == Some(address)
    }

    fn known(&self) -> Vec<String> {
        self.known.lock().clone()
    }
}

impl Node {
    /// Whether this node leads, as far as it knows.
    pub(crate) fn is_leader(&self) -> bool {
        self.raft.current().is_some_and(|c| c.watch().borrow().role == Role::Leader)
    }

    /// The leader's address as this node knows it.
    pub(crate) fn leader_address(&self) -> Option<String> {
        let of_raft = self.raft.current().and_then(|c| {
            let leader = c.watch().borrow().leader.clone()?;
            let map = self.map.current();
            Some(map.nodes.get(&leader.node).map_or(leader.address, |n| n.address.clone()))
        });
        of_raft.filter(|address| !self.leader.has_refused(address)).or_else(|| self.leader.get())
    }

    /// The leader's address for others. Nobody is sent to a leader that this node's replica has not heard for so
    /// long that it may stand for election: whoever asks had better ask around.
    pub(crate) fn leader_hint(&self) -> Option<String> {
        let silent_max = Duration::from_millis(self.config.raft.election_max_ms);
        let follows = self.raft.current().is_some() && !self.is_leader();
        let silence = self.signals.leader_silence(self.env.clock.now());
        if follows && silence.is_none_or(|silence| silence > silent_max) {
            return None;
        }
        self.leader_address()
    }

    /// "Ask the leader", with its address when it is known and is not this node's.
    pub(crate) fn not_leader(&self) -> Error {
        Error::not_leader(self.leader_hint().filter(|address| *address != self.address))
    }

    /// Calls the leader until it answers or the deadline is reached. What may have been applied is
    /// not repeated here: the caller knows whether it may be.
    pub(crate) async fn call_leader<R: Serve + Clone>(
        self: &Arc<Self>,
        request: &R,
        deadline: Instant,
    ) -> Result<R::Reply, Error> {
        let mut last = Error::new(Kind::Retry, "no metadata leader is known");
        let mut redirections = 0;
        loop {
            if let Some(leader) = self.find_leader(deadline).await {
                match self.attempt(&leader, request, deadline).await {
                    Err(e) if e.is_retryable() => last = e,
                    other => return other,
                }
            }
            // A redirection is followed at once, but two nodes must not send it to and fro.
            if last.leader.take().is_some() && redirections < REDIRECTIONS_MAX {
                redirections += 1;
                continue;
            }
            redirections = 0;
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
        // A part of the time is kept for another leader: this one may hang.
        let now = self.env.clock.now();
        let most = deadline.saturating_duration_since(now).mul_f64(0.6);
        let limit = now + most.min(ATTEMPT_LIMIT);
        let result = if address == self.address {
            request.clone().serve(self, &CallContext::local(limit)).await
        } else {
            self.wire.call(address, request, limit).await
        };
        match &result {
            Ok(_) => self.leader.led(address),
            Err(e) if e.kind == Kind::NotLeader => {
                self.leader.does_not_lead(address, e.leader.clone());
            }
            Err(e) if matches!(e.kind, Kind::Retry | Kind::MaybeApplied) => self.leader.set(None),
            Err(_) => {}
        }
        result
    }

    /// The leader as this node knows it, or as another node does. Hung nodes cost a short wait each,
    /// and the order is drawn anew each time so that none of them is in the way for ever.
    async fn find_leader(&self, deadline: Instant) -> Option<String> {
        if self.is_leader() {
            return Some(self.address.clone());
        }
        if let Some(known) = self.leader_address() {
            return Some(known);
        }
        let mut others = self.others();
        if !others.is_empty() {
            let start = self.env.entropy.below(others.len() as u64) as usize;
            others.rotate_left(start);
        }
        for address in others {
            let limit = deadline.min(self.env.clock.now() + HELLO_LIMIT);
            let answer = self.wire.call_idempotent(&address, &Hello {}, limit).await;
            let leader = answer.ok().filter(|hello| hello.cluster == Some(self.cluster));
            if let Some(leader) = leader.and_then(|hello| hello.leader) {
                self.leader.set(Some(leader.clone()));
                return Some(leader);
            }
        }
        None
    }

    /// Addresses of all other nodes that this one knows of.
    fn others(&self) -> Vec<String> {
        let map = self.map.current();
        let mut all: BTreeSet<String> = map.nodes.values().map(|n| n.address.clone()).collect();
        all.extend(self.leader.known());
        all.remove(&self.address);
        all.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever said that it does not lead is not believed to, until it answers as a leader does.
    #[test]
    fn a_refusal_outweighs_what_raft_says() {
        let hint = LeaderHint::knowing(vec!["a:1".into(), "b:1".into()]);
        hint.does_not_lead("a:1", Some("b:1".into()));
        assert!(hint.has_refused("a:1") && !hint.has_refused("b:1"));
        assert_eq!(hint.get().as_deref(), Some("b:1"));
        hint.led("b:1");
        assert!(!hint.has_refused("a:1"));
    }
}
