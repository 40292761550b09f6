//! A run from its beginning to its verdict: faults one after another while clients work, then quiet,
//! then convergence, then everything that was acknowledged is read back.

use crate::real::cluster::Cluster;
use crate::real::faults::{Fault, FaultKind, Schedule};
use crate::real::hosts::Hosts;
use crate::real::inject::Wound;
use crate::real::load::Load;
use crate::real::options::Options;
use crate::real::probe::Probe;
use crate::real::report::Report;
use crate::real::timeline::{Injected, Timeline};
use crate::real::vanish::Vanishing;
use anyhow::{Context, Result};
use everhold_client::Client;
use everhold_env::{Clock, Env};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The whole run in `dir`.
pub(crate) async fn drive(
    options: &Options,
    seed: u64,
    hosts: Hosts,
    dir: &Path,
) -> Result<Report> {
    let clock = Env::real().clock;
    let begun = clock.now();
    say(&clock, begun, &format!("starting {} nodes in {}", options.nodes, dir.display()));
    let mut cluster = Cluster::start(&options.setup()?, hosts, dir).await?;
    say(&clock, begun, "the cluster is ready");
    let work = Work::start(&cluster, options, seed, clock.now()).await?;
    let mut run =
        Run { options, clock, work, injected: Vec::new(), broken: Vec::new(), notes: Vec::new() };
    let faults = run.inject(&mut cluster, seed).await;
    if let Err(e) = faults {
        run.say(&format!("the faults ended early: {e:#}"));
        run.broken.push(format!("the faults ended early: {e:#}"));
    }
    run.work.stop().await;
    run.say("faults and work ended; waiting until the cluster has converged");
    let limit = Duration::from_secs(options.recovery_seconds);
    let converged = match cluster.converge(limit).await {
        Ok(took) => Some(took.as_secs_f64()),
        Err(e) => {
            run.broken.push(format!("{e:#}"));
            None
        }
    };
    run.say("reading everything back");
    let report = run.check(&mut cluster).await?;
    Ok(report.finish(options, seed, converged))
}

fn say(clock: &Clock, since: Instant, text: &str) {
    eprintln!("{:8.2} s  {text}", (clock.now() - since).as_secs_f64());
}

/// Everything that works while faults come.
struct Work {
    timeline: Arc<Timeline>,
    checker: Arc<Client>,
    probe: Probe,
    load: Load,
}

impl Work {
    async fn start(
        cluster: &Cluster,
        options: &Options,
        seed: u64,
        start: Instant,
    ) -> Result<Self> {
        let timeline = Arc::new(Timeline::new(start));
        let mut clients = Vec::new();
        for number in 1..=options.clients {
            clients.push(cluster.client(&format!("faults: client {number}")).await?);
        }
        let load = Load::start(clients, seed, options.minutes).await;
        let load = load.context("start the clients")?;
        let writer = cluster.client("faults: probe writer").await?;
        let reader = cluster.client("faults: probe reader").await?;
        let probe = Probe::start(writer, reader, timeline.clone(), seed).await?;
        let checker = cluster.client("faults: check").await?;
        Ok(Work { timeline, checker, probe, load })
    }

    async fn stop(&mut self) {
        self.probe.stop().await;
        self.load.stop().await;
    }
}

struct Run<'a> {
    options: &'a Options,
    clock: Clock,
    work: Work,
    injected: Vec<Injected>,
    /// What breaks the run.
    broken: Vec<String>,
    /// What is worth a look and breaks nothing.
    notes: Vec<String>,
}

impl Run<'_> {
    fn say(&self, text: &str) {
        say(&self.clock, self.work.timeline.start, text);
    }

    fn seconds(&self) -> f64 {
        (self.clock.now() - self.work.timeline.start).as_secs_f64()
    }

    /// Faults until their time is over, or until the cluster does not converge after one.
    async fn inject(&mut self, cluster: &mut Cluster, seed: u64) -> Result<()> {
        let mut schedule = Schedule::new(seed, self.options.kinds(), self.options.nodes);
        while self.seconds() < self.options.minutes * 60.0 {
            let fault = schedule.next();
            self.clock.sleep(fault.pause).await;
            self.one(cluster, fault).await?;
        }
        Ok(())
    }

    async fn one(&mut self, cluster: &mut Cluster, fault: Fault) -> Result<()> {
        let (number, started_s) = (self.injected.len() + 1, self.seconds());
        let mut wound = Wound::inflict(cluster, &mut self.work.load, fault).await?;
        let lasts = fault.lasts.as_secs_f64();
        self.say(&format!("{number:3} {}: {}, {lasts:.1} s", fault.kind, wound.detail));
        self.clock.sleep(fault.lasts).await;
        cluster.notice_deaths();
        self.judge_deaths(cluster, &wound);
        wound.heal(cluster).with_context(|| format!("heal {}", fault.kind))?;
        let healed_s = self.seconds();
        let limit = Duration::from_secs(self.options.recovery_seconds);
        let converged = cluster.converge(limit).await;
        self.judge_deaths(cluster, &wound);
        let converged_s = converged.is_ok().then(|| self.seconds());
        let (kind, node, detail) = (fault.kind, wound.node(), wound.detail);
        let injected = Injected { number, kind, node, detail, started_s, healed_s, converged_s };
        self.injected.push(injected);
        if fault.kind == FaultKind::LoseClient {
            self.look_for_the_vanished(fault.salt).await;
        }
        let took = converged.with_context(|| format!("after fault {number}, {}", fault.kind))?;
        self.say(&format!("{number:3} converged {:.1} s after it was healed", took.as_secs_f64()));
        Ok(())
    }

    /// A server ends by itself only where its disk gives it no choice.
    fn judge_deaths(&mut self, cluster: &mut Cluster, wound: &Wound) {
        for (node, how) in cluster.deaths.drain(..) {
            let text = format!("node {node} ended by itself, {how}");
            self.say(&text);
            if wound.excuses(node) { self.notes.push(text) } else { self.broken.push(text) }
        }
    }

    async fn look_for_the_vanished(&mut self, salt: u64) {
        let path = Vanishing::path(salt);
        match self.work.checker.stat(&path).await {
            Err(e) if e.is_not_found() => {}
            Ok(attr) => {
                let text = format!("{path} was never finished, and shows {} bytes", attr.size);
                self.broken.push(text);
            }
            Err(e) => self.notes.push(format!("{path} could not be looked for: {e}")),
        }
    }

    /// Reads back what was acknowledged and gathers the report.
    async fn check(mut self, cluster: &mut Cluster) -> Result<Report> {
        let probe = self.work.probe.check(&self.work.checker).await;
        let load = self.work.load.check(&self.work.checker).await;
        let checksum_errors = cluster.checksum_errors().await;
        cluster.notice_deaths();
        let late = cluster.deaths.drain(..);
        self.broken.extend(late.map(|(node, how)| format!("node {node} ended by itself, {how}")));
        self.broken.extend(cluster.nodes.panics());
        let findings = load.findings.merge(probe);
        Ok(Report {
            findings,
            checksum_errors,
            recorded: load.judgement,
            broken: self.broken,
            notes: self.notes,
            ..Report::of(&self.work.timeline, self.injected)
        })
    }
}
