//! What the cluster says of itself while faults come, a few times a second.

use crate::real::hosts::address;
use anyhow::Result;
use everhold_client::Client;
use everhold_env::{Clock, Task};
use everhold_proto::map::{DiskState, NodeState};
use everhold_proto::rpc::{ClusterStatus, GetStatus, Severity};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const POLL: Duration = Duration::from_millis(50);

/// One look.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    /// Seconds since the start, when the answer was there.
    pub(super) at_s: f64,
    pub(super) epoch: u64,
    /// By the number of the host.
    pub(super) states: BTreeMap<u32, NodeState>,
    pub(super) brake: bool,
    pub(super) redundant: bool,
    pub(super) bytes_per_second: f64,
    /// Hosts with a disk that is called slow.
    pub(super) slow: Vec<u32>,
    /// What `health` would print, but for mere information.
    pub(super) findings: Vec<String>,
}

/// All looks so far.
pub(super) struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    _task: Task<()>,
}

impl Watch {
    /// Looks from now on, until this is dropped.
    pub(super) fn start(client: Arc<Client>, hosts: u32, start: Instant) -> Self {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (clock, into) = (client.env().clock, samples.clone());
        let looking = async move {
            loop {
                // While nobody leads there is nothing to see.
                if let Ok(status) = client.call_leader(&GetStatus {}).await {
                    let at_s = (clock.now() - start).as_secs_f64();
                    into.lock().push(sample(&status, hosts, at_s));
                }
                clock.sleep(POLL).await;
            }
        };
        let spawner = everhold_env::Env::real().tasks;
        Watch { samples, _task: spawner.spawn(looking) }
    }

    /// The looks between two times.
    pub(super) fn between(&self, from: f64, to: f64) -> Vec<Sample> {
        let within = |sample: &&Sample| (from..=to).contains(&sample.at_s);
        self.samples.lock().iter().filter(within).cloned().collect()
    }

    /// Waits for the first look from `from` on that is as wanted; the seconds from `from` to it.
    pub(super) async fn until(
        &self,
        clock: &Clock,
        from: f64,
        limit: Duration,
        wanted: impl Fn(&Sample) -> bool,
    ) -> Option<f64> {
        let deadline = clock.now() + limit;
        loop {
            let found = {
                let samples = self.samples.lock();
                let first = samples.partition_point(|sample| sample.at_s < from);
                samples[first..].iter().find(|sample| wanted(sample)).map(|sample| sample.at_s)
            };
            if found.is_some() || clock.now() >= deadline {
                return found.map(|at| at - from);
            }
            clock.sleep(POLL / 2).await;
        }
    }

    /// Changes of the state of any node between two times.
    pub(super) fn transitions(&self, from: f64, to: f64) -> usize {
        let samples = self.between(from, to);
        let changes = |pair: &[Sample]| {
            let before = &pair[0].states;
            pair[1].states.iter().filter(|(n, state)| before.get(n) != Some(state)).count()
        };
        samples.windows(2).map(changes).sum()
    }
}

fn sample(status: &ClusterStatus, hosts: u32, at_s: f64) -> Sample {
    let number = |at: &str| (1..=hosts).find(|number| address(*number) == at);
    // Of two nodes at one address the newest counts: the other one lost its disk.
    let states = status.map.nodes.values().filter_map(|n| Some((number(&n.address)?, n.state)));
    let slow = status.map.disks.values().filter(|disk| disk.state == DiskState::Slow);
    let slow = slow.filter_map(|disk| number(&status.map.nodes.get(&disk.node)?.address));
    let bad = status.health.iter().filter(|finding| finding.severity > Severity::Info);
    Sample {
        at_s,
        epoch: status.map.epoch.0,
        states: states.collect(),
        brake: status.brake.is_some(),
        redundant: status.repair.redundant,
        bytes_per_second: status.repair.bytes_per_second,
        slow: slow.collect(),
        findings: bad.map(|finding| finding.text.clone()).collect(),
    }
}

/// Connects the client that looks.
pub(super) async fn observer(addresses: &[String]) -> Result<Arc<Client>> {
    let options = everhold_client::ClientOptions {
        name: "reliability: watch".into(),
        operation_deadline: Some(Duration::from_secs(2)),
        ..everhold_client::ClientOptions::default()
    };
    Ok(Client::connect(everhold_env::Env::real(), addresses, options).await?)
}
