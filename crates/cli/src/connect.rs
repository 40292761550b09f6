//! Questions to the leader and to single nodes, for commands that administer: any seed will do, and
//! redirections are followed until the leader answers.

use crate::exit::{CliError, CliResult, Exit};
use everhold_client::{Identity, Wire};
use everhold_env::Env;
use everhold_proto::rpc::{self, ClusterStatus, HelloReply, NodeStatus, Rpc};
use everhold_proto::{ClusterId, Error, Kind};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a command looks for a leader before it gives up: longer than an election takes.
pub(crate) const LEADER_LIMIT: Duration = Duration::from_secs(10);
/// How long one node may take for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Calls to the nodes of one cluster.
#[derive(Clone)]
pub(crate) struct Admin {
    wire: Wire,
    seeds: Vec<String>,
}

impl Admin {
    /// Calls to the cluster of `seeds` (`HOST:PORT`).
    pub(crate) fn new(seeds: &[String]) -> Self {
        let wire = Wire::new(Env::real(), Arc::new(Identity::unknown()));
        Admin { wire, seeds: seeds.to_vec() }
    }

    /// Calls that name `cluster`, so that nodes of another one refuse them.
    pub(crate) fn of_cluster(seeds: &[String], cluster: ClusterId) -> Self {
        let wire = Wire::new(Env::real(), Arc::new(Identity::of(cluster)));
        Admin { wire, seeds: seeds.to_vec() }
    }

    /// One answer of one node.
    pub(crate) async fn node<R: Rpc>(&self, address: &str, request: &R) -> Result<R::Reply, Error> {
        self.wire.call_idempotent(address, request, Instant::now() + ANSWER_LIMIT).await
    }

    /// The same, of something that takes longer.
    pub(crate) async fn node_within<R: Rpc>(
        &self,
        address: &str,
        request: &R,
        limit: Duration,
    ) -> Result<R::Reply, Error> {
        self.wire.call_idempotent(address, request, Instant::now() + limit).await
    }

    /// Who a node is.
    pub(crate) async fn hello(&self, address: &str) -> Result<HelloReply, Error> {
        self.node(address, &rpc::Hello {}).await
    }

    /// What a node knows of itself.
    pub(crate) async fn node_status(&self, address: &str) -> Result<NodeStatus, Error> {
        self.node(address, &rpc::GetNodeStatus {}).await
    }

    /// The state of the cluster as its leader sees it.
    pub(crate) async fn status(&self, limit: Duration) -> CliResult<ClusterStatus> {
        self.leader(&rpc::GetStatus {}, limit).await
    }

    /// The leader's answer to an idempotent request, found through any seed within `limit`.
    pub(crate) async fn leader<R: Rpc>(&self, request: &R, limit: Duration) -> CliResult<R::Reply> {
        let deadline = Instant::now() + limit;
        self.ensure_cluster(deadline).await?;
        let mut target: Option<String> = None;
        let mut last = Error::new(Kind::Retry, "no address of a node is known");
        let mut seeds = self.seeds.iter().cycle();
        for attempt in 0.. {
            if Instant::now() >= deadline {
                break;
            }
            let Some(address) = target.take().or_else(|| seeds.next().cloned()) else { break };
            let call_deadline = deadline.min(Instant::now() + ANSWER_LIMIT);
            match self.wire.call_idempotent(&address, request, call_deadline).await {
                Ok(reply) => return Ok(reply),
                Err(e) if !(e.is_retryable() || e.kind == Kind::MaybeApplied) => {
                    return Err(e.into());
                }
                Err(e) => {
                    target = e.leader.clone().filter(|leader| *leader != address);
                    last = e;
                }
            }
            if target.is_none() || attempt % 4 == 3 {
                sleep(Duration::from_millis(40)).await;
            }
        }
        Err(self.unreachable(&last))
    }

    /// Learns the cluster's id from the first seed that answers.
    async fn ensure_cluster(&self, deadline: Instant) -> CliResult {
        let mut last = Error::new(Kind::Retry, "no address of a node is known");
        while self.wire.identity().get().is_none() {
            for seed in &self.seeds {
                match self.hello(seed).await {
                    Ok(HelloReply { cluster: Some(cluster), .. }) => {
                        self.wire.identity().set(cluster);
                        return Ok(());
                    }
                    Ok(_) => last = Error::new(Kind::Retry, format!("{seed} is still joining")),
                    Err(e) if e.kind == Kind::Foreign => return Err(e.into()),
                    Err(e) => last = e,
                }
            }
            if Instant::now() >= deadline {
                return Err(self.unreachable(&last));
            }
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    fn unreachable(&self, last: &Error) -> CliError {
        CliError::new(
            Exit::Unreachable,
            format!("no leader answers at {}: {last}", self.seeds.join(",")),
            "check that a majority of the nodes runs (`everhold up`), or name others with --cluster HOST:PORT",
        )
    }
}
