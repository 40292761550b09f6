//! Carries out what the controller concluded: proposals, probes of nodes, changes of the voters. Every
//! one has a deadline, runs beside the loop, and is planned again if it fails.

use super::controller::{Action, Task as Kind};
use super::seats;
use crate::node::Node;
use everhold_consensus::Consensus;
use everhold_env::Task;
use everhold_proto::command::{Answer, Command, TableCommand};
use everhold_proto::map::ClusterMap;
use everhold_proto::{Error, NodeId};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// One proposal; in a working cluster it takes milliseconds.
const PROPOSE_LIMIT: Duration = Duration::from_secs(5);
/// A process that is there accepts sooner than this; a missing one refuses at once.
const PROBE_LIMIT: Duration = Duration::from_millis(500);

/// Sweeps in a row: what thousands of removals each second leave behind must go as fast as it comes.
const SWEEPS_MAX: usize = 16;

/// The work under way for one term of leadership; it ends when this is dropped.
pub(super) struct Hands {
    node: Arc<Node>,
    consensus: Arc<Consensus>,
    refused: mpsc::Sender<NodeId>,
    proposals: BTreeMap<Kind, Task<()>>,
    probes: BTreeMap<NodeId, Task<()>>,
    seats: Option<Task<()>>,
}

impl Hands {
    /// Nothing is under way. Nodes that refuse a probe are told to `refused`.
    pub(super) fn new(
        node: Arc<Node>,
        consensus: Arc<Consensus>,
        refused: mpsc::Sender<NodeId>,
    ) -> Self {
        let (proposals, probes) = (BTreeMap::new(), BTreeMap::new());
        Hands { node, consensus, refused, proposals, probes, seats: None }
    }

    /// Starts the action, unless one of its kind is still under way.
    pub(super) fn act(&mut self, action: Action, map: &Arc<ClusterMap>) {
        self.probes.retain(|_, probe| !probe.is_finished());
        match action {
            Action::Propose(kind, commands) => self.propose(kind, commands),
            Action::Probe(node) => self.probe(node, map),
            Action::Voters(step) => {
                let (node, consensus, map) =
                    (self.node.clone(), self.consensus.clone(), map.clone());
                self.change_seats(async move {
                    let text = format!("{step:?}");
                    if let Err(e) = seats::take_step(&node, &consensus, &map, step).await {
                        tracing::info!(step = text, error = %e, "the voters stay as they are");
                    }
                });
            }
            Action::Retire(of) => {
                let (node, consensus, map) =
                    (self.node.clone(), self.consensus.clone(), map.clone());
                self.change_seats(async move {
                    if let Err(e) = seats::retire(&node, &consensus, &map, of).await {
                        tracing::debug!(node = %of, error = %e, "not retired from raft yet");
                    }
                });
            }
        }
    }

    fn propose(&mut self, kind: Kind, commands: Vec<Command>) {
        if self.proposals.get(&kind).is_some_and(|task| !task.is_finished()) {
            return;
        }
        let node = self.node.clone();
        let task = self.node.env.tasks.spawn(async move {
            for command in commands {
                if let Err(e) = carry_out(&node, command).await {
                    // A refusal means that the state has moved on; the next plan goes by the new one.
                    tracing::debug!(?kind, error = %e, "a proposal of the leader was not applied");
                    if e.is_retryable() {
                        return;
                    }
                }
            }
        });
        self.proposals.insert(kind, task);
    }

    fn probe(&mut self, node: NodeId, map: &ClusterMap) {
        let Some(address) = map.nodes.get(&node).map(|row| row.address.clone()) else { return };
        if self.probes.contains_key(&node) {
            return;
        }
        let (net, refused, observations) =
            (self.node.env.net.clone(), self.refused.clone(), self.node.observations.clone());
        let task = self.node.env.tasks.spawn(async move {
            let Err(e) = net.connect(&address, PROBE_LIMIT).await else { return };
            let gone = matches!(
                e.kind(),
                io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset
            );
            // When the queue is full the silence of the node tells the same, a little later.
            if gone && refused.try_send(node).is_ok() {
                tracing::info!(%node, "its connection closed and a new one is refused");
                observations.ring();
            }
        });
        self.probes.insert(node, task);
    }

    fn change_seats(&mut self, change: impl Future<Output = ()> + Send + 'static) {
        if self.seats.as_ref().is_none_or(Task::is_finished) {
            self.seats = Some(self.node.env.tasks.spawn(change));
        }
    }
}

/// Proposes a command; a sweep again as long as it leaves more to do.
async fn carry_out(node: &Node, command: Command) -> Result<(), Error> {
    for _ in 0..SWEEPS_MAX {
        let deadline = node.env.clock.now() + PROPOSE_LIMIT;
        let (_, answer) = node.propose(command.clone(), deadline).await?;
        match (&command, answer) {
            (Command::Table(TableCommand::Sweep { limit }), Answer::Swept(swept))
                if swept >= *limit => {}
            _ => break,
        }
    }
    Ok(())
}
