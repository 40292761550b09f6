//! The cluster under test with everything that measures it, and what the rows have in common.

use super::figures::{ms, p99_ms, percentile};
use super::options::{Options, Row};
use super::probes::{Clients, Probes};
use super::report::{Check, Healthy, Report, Verdict};
use super::watch::{Sample, Watch, observer};
use crate::real::cluster::{Cluster, Setup};
use crate::real::hosts::Hosts;
use crate::real::timeline::{Direction, Stalls, Timeline};
use anyhow::{Context, Result};
use everhold_client::Client;
use everhold_env::{Clock, Env};
use everhold_proto::rpc::GetNodeStatus;
use rustix::process::Signal;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// A cluster may take so long to be whole again; the machine is small, and its disks are shared.
const CONVERGE_LIMIT: Duration = Duration::from_secs(300);

/// See the module's words.
pub(super) struct Bench<'a> {
    pub(super) options: &'a Options,
    pub(super) cluster: Cluster,
    pub(super) clock: Clock,
    pub(super) watch: Watch,
    pub(super) healthy: Healthy,
    timeline: Arc<Timeline>,
    probes: Probes,
    checker: Arc<Client>,
    checks: Vec<Check>,
    broken: Vec<String>,
}

/// What the probes felt in a period.
pub(super) struct Felt {
    pub(super) write: Stalls,
    pub(super) read: Stalls,
    pub(super) metadata: Stalls,
}

impl Felt {
    /// Operations of all kinds that were refused, given up, or left in doubt.
    pub(super) fn failed(&self) -> u64 {
        self.write.failed + self.read.failed + self.metadata.failed
    }

    /// Operations of all kinds.
    pub(super) fn operations(&self) -> u64 {
        self.write.operations + self.read.operations + self.metadata.operations
    }
}

impl<'a> Bench<'a> {
    /// Starts the cluster, stores the data, and measures the cluster without a fault.
    pub(super) async fn start(
        options: &'a Options,
        setup: &Setup,
        hosts: Hosts,
        dir: &Path,
    ) -> Result<Self> {
        let clock = Env::real().clock;
        let mut cluster = Cluster::start(setup, hosts, dir).await?;
        let clients = Clients {
            writer: cluster.client("reliability: writer").await?,
            reader: cluster.client("reliability: reader").await?,
            namer: cluster.client("reliability: namer").await?,
        };
        let checker = cluster.client("reliability: check").await?;
        let timeline = Arc::new(Timeline::new(clock.now()));
        eprintln!("storing {} MiB", options.data_bytes() >> 20);
        let bytes = options.data_bytes();
        let probes = Probes::start(clients, timeline.clone(), bytes, options.seed).await?;
        cluster.converge(CONVERGE_LIMIT).await.context("after the data was stored")?;
        let observer = observer(&cluster.addresses()).await?;
        let watch = Watch::start(observer, options.hosts(), timeline.start);
        let (healthy, checks, broken) = (Healthy::default(), Vec::new(), Vec::new());
        let mut bench = Bench {
            options,
            cluster,
            clock,
            watch,
            healthy,
            timeline,
            probes,
            checker,
            checks,
            broken,
        };
        bench.measure_healthy().await;
        Ok(bench)
    }

    async fn measure_healthy(&mut self) {
        let from = self.seconds();
        self.sleep(self.options.either(30.0, 8.0)).await;
        let to = self.seconds();
        let felt = self.felt(from, to);
        let of = |direction| self.timeline.latencies(direction, from, to);
        let (writes, reads) = (of(Direction::Write), of(Direction::Read));
        let share = |times: &[Duration], per_mille| percentile(times, per_mille).map_or(0.0, ms);
        self.healthy = Healthy {
            seconds: to - from,
            writes: felt.write.operations,
            reads: felt.read.operations,
            write_p50_ms: share(&writes, 500),
            write_p99_ms: share(&writes, 990),
            read_p50_ms: share(&reads, 500),
            read_p99_ms: share(&reads, 990),
            write_longest_ms: felt.write.longest_ms,
            read_longest_ms: felt.read.longest_ms,
            metadata_longest_ms: felt.metadata.longest_ms,
        };
        self.say(&format!("without a fault: {:?}", self.healthy));
    }

    /// Seconds since the start.
    pub(super) fn seconds(&self) -> f64 {
        (self.clock.now() - self.timeline.start).as_secs_f64()
    }

    pub(super) async fn sleep(&self, seconds: f64) {
        self.clock.sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// Tells whoever waits.
    pub(super) fn say(&self, text: &str) {
        eprintln!("{:8.2} s  {text}", self.seconds());
    }

    /// Notes what came of a promise.
    pub(super) fn check(
        &mut self,
        row: Row,
        fault: &str,
        promised: &str,
        measured: String,
        verdict: Verdict,
    ) {
        let word = verdict.word();
        self.say(&format!("{word}: {fault}: {promised}: {measured}"));
        let (fault, promised) = (fault.into(), promised.into());
        self.checks.push(Check { row, fault, promised, measured, verdict });
    }

    /// Notes that a row broke off.
    pub(super) fn broke(&mut self, what: String) {
        self.say(&what);
        self.broken.push(what);
    }

    /// What the probes felt between two times.
    pub(super) fn felt(&self, from: f64, to: f64) -> Felt {
        let of = |direction| self.timeline.stalls(direction, &[(from, to)]);
        Felt {
            write: of(Direction::Write),
            read: of(Direction::Read),
            metadata: of(Direction::Metadata),
        }
    }

    /// The 99th percentiles of writes and reads between two times, in milliseconds.
    pub(super) fn p99(&self, from: f64, to: f64) -> (Option<f64>, Option<f64>) {
        let of = |direction| p99_ms(&self.timeline.latencies(direction, from, to));
        (of(Direction::Write), of(Direction::Read))
    }

    /// A node that does not lead: the last one, or the one before it.
    pub(super) async fn victim(&self) -> Result<u32> {
        let leader = self.cluster.leader().await?;
        Ok(if leader == self.cluster.count { leader - 1 } else { self.cluster.count })
    }

    /// Bytes that the nodes which answer have fetched for repair since their start.
    pub(super) async fn fetched(&self, except: Option<u32>) -> u64 {
        let mut sum = 0;
        for number in (1..=self.cluster.count).filter(|number| Some(*number) != except) {
            if let Ok(status) = self.cluster.ask_node(number, &GetNodeStatus {}).await {
                sum += status.repair.fetched_bytes;
            }
        }
        sum
    }

    /// Lets the applications rest, or go on.
    pub(super) fn rest(&self, rest: bool) {
        self.probes.rest(rest);
    }

    /// Lets every process go on and every packet through again.
    pub(super) fn undo_all(&self) -> Result<()> {
        for number in 1..=self.cluster.count {
            self.cluster.nodes.signal(number, Signal::CONT);
            self.cluster.hosts.mend(number)?;
        }
        Ok(())
    }

    /// Starts what does not run and waits until the cluster is whole; servers that ended by themselves are noted.
    pub(super) async fn converge(&mut self) -> Result<f64> {
        self.cluster.notice_deaths();
        self.cluster.start_missing()?;
        let took = self.whole().await;
        for (node, how) in std::mem::take(&mut self.cluster.deaths) {
            self.broke(format!("node {node} ended by itself, {how}"));
        }
        // Caches, breakers and flap memories settle before the next fault is measured.
        self.sleep(2.0).await;
        took
    }

    /// Waits until every copy is where it belongs and `health` finds nothing: a node that is gone round already would
    /// make the next fault look harmless. The seconds until the copies were there.
    async fn whole(&mut self) -> Result<f64> {
        let took = self.cluster.converge(CONVERGE_LIMIT).await?.as_secs_f64();
        let from = self.seconds();
        let well = |sample: &Sample| sample.findings.is_empty();
        let healthy = self.watch.until(&self.clock, from, CONVERGE_LIMIT, well).await;
        healthy.context("`health` still finds something")?;
        Ok(took)
    }

    /// Ends the applications, reads everything back, and reports.
    pub(super) async fn finish(mut self) -> Report {
        self.probes.stop().await;
        if let Err(e) = self.converge().await {
            self.broke(format!("the cluster is not whole at the end: {e:#}"));
        }
        self.say("reading everything back");
        let findings = self.probes.check(&self.checker).await;
        let panics = self.cluster.nodes.panics();
        panics.into_iter().for_each(|panic| self.broke(panic));
        Report {
            machine: machine(),
            nodes: self.options.nodes,
            zones: self.options.zones,
            data_bytes: self.options.data_bytes(),
            short: self.options.short,
            healthy: self.healthy,
            checks: self.checks,
            acknowledged_writes: findings.acknowledged,
            lost: findings.lost,
            altered: findings.altered,
            broken: self.broken,
        }
    }
}

/// What it ran on, as far as the kernel tells.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let (cpus, memory) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get());
    let model = field(&cpus, "model name").unwrap_or_else(|| "unknown processor".into());
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    format!(
        "{cores} × {model}, {} of memory, Linux {}, load {} at the end; all nodes and clients on it",
        field(&memory, "MemTotal").unwrap_or_default(),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}
