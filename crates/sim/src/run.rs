//! One run: the cluster starts, clients work while faults strike (the safety phase), faults stop, and
//! then everything must become whole again in bounded time (the liveness phase).

use crate::faults::{Faults, Kind};
use crate::load::Load;
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::trace;
use crate::world::World;
use crate::world::admin::Admin;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

/// How a run ended.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// What was broken; empty when all is well.
    pub violations: Vec<Violation>,
    /// Faults by kind.
    pub faults: BTreeMap<Kind, u64>,
    /// Operations of clients, by kind and result.
    pub operations: BTreeMap<String, u64>,
    /// Simulated seconds.
    pub simulated_seconds: f64,
    /// Of these, until everything was whole again after the faults had stopped.
    pub converged_seconds: f64,
    /// Processor time of it.
    pub cpu_seconds: f64,
    /// Hash of the trace.
    pub hash: u64,
    /// Events in the trace.
    pub events: u64,
}

/// The cluster is in service by then.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Everything is whole again by then. Sessions of dead clients, the grace of dead blocks and the longest
/// pause of a disk's deletion worker come one after the other.
const CONVERGE_LIMIT: Duration = Duration::from_secs(420);
/// Clients have read everything once more by then.
const CHECK_LIMIT: Duration = Duration::from_secs(120);
/// How often everything is audited.
const AUDIT_EVERY: Duration = Duration::from_millis(1000);

/// Runs a plan on this thread. A process simulates one run: what an earlier one left behind in counters of
/// the runtime would change the order of events.
pub fn run(plan: &Plan) -> Outcome {
    let mut outcome = Outcome { seed: plan.seed, ..Outcome::default() };
    let mut world = World::new(plan.shape.clone());
    let mut phases = Phases::new(plan, &mut world);
    let panicked = std::panic::catch_unwind(AssertUnwindSafe(|| phases.all(plan, &mut world)));
    let ended = match panicked {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation),
        Err(panic) => Some(panic_of(&*panic)),
    };
    outcome.violations = world.oracle().violations();
    outcome.violations.extend(ended);
    if outcome.violations.is_empty() {
        outcome.violations = phases.load.verdict();
    }
    outcome.faults = phases.faults.counts().clone();
    outcome.operations = phases.load.operations();
    outcome.simulated_seconds = world.elapsed().as_secs_f64();
    outcome.converged_seconds = phases.converged.as_secs_f64();
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    outcome.cpu_seconds = time.tv_sec as f64 + time.tv_nsec as f64 / 1e9;
    (outcome.hash, outcome.events) = trace::summary();
    // A world that panicked cannot always be taken down in order; the process ends anyway.
    if !outcome.violations.is_empty() {
        std::mem::forget(world);
    }
    outcome
}

struct Phases {
    admin: Admin,
    faults: Faults,
    load: Load,
    audit_at: Duration,
    converged: Duration,
}

impl Phases {
    fn new(plan: &Plan, world: &mut World) -> Self {
        let admin = Admin::new(world);
        let load = Load::new(plan, world);
        let faults = Faults::new(plan.seed, plan.budget.clone(), Duration::ZERO);
        Phases { admin, faults, load, audit_at: Duration::ZERO, converged: Duration::ZERO }
    }

    fn all(&mut self, plan: &Plan, world: &mut World) -> Result<(), Violation> {
        let nodes = plan.shape.nodes;
        self.until(world, BOOT_LIMIT, "the cluster comes into service", |world, this| {
            left(world.oracle().convergence(nodes).0, this.load.is_ready(), "clients are not ready")
        })?;
        crate::event!("the cluster is in service; faults begin");
        self.load.begin();
        let (begin, mut now) = (world.elapsed(), world.elapsed());
        self.faults = Faults::new(plan.seed, plan.budget.clone(), begin);
        while now < begin + plan.faults_for {
            self.faults.between_steps(world, &self.admin, true);
            self.step(world)?;
            now = world.elapsed();
        }
        self.faults.stop(world, &self.admin);
        self.load.end();
        let stopped = world.elapsed();
        self.until(world, CONVERGE_LIMIT, "the cluster becomes whole again", |world, this| {
            let mut lacks = world.oracle().convergence(world.nodes.len()).0;
            if this.admin.has_orders() {
                lacks.push("the operator's orders are not carried out".into());
            }
            left(lacks, this.load.has_ended(), "clients have not ended")
        })?;
        self.converged = world.elapsed() - stopped;
        self.load.check(world);
        self.until(world, CHECK_LIMIT, "clients read everything once more", |_, this| {
            left(Vec::new(), this.load.has_checked(), "reads are missing")
        })
    }

    /// Steps until nothing is left, or the simulated time is up.
    fn until(
        &mut self,
        world: &mut World,
        limit: Duration,
        what: &str,
        lacks: impl Fn(&World, &Phases) -> Vec<String>,
    ) -> Result<(), Violation> {
        let deadline = world.elapsed() + limit;
        let mut look_at = world.elapsed();
        loop {
            self.faults.between_steps(world, &self.admin, false);
            self.step(world)?;
            if world.elapsed() < look_at {
                continue;
            }
            look_at = world.elapsed() + Duration::from_millis(250);
            let left = lacks(world, self);
            if left.is_empty() {
                return Ok(());
            }
            if world.elapsed() >= deadline {
                let mut history = left.clone();
                history.extend(self.admin.status().map(|status| format!("{:?}", status.health)));
                history.extend(trace::last_lines());
                return Err(Violation {
                    invariant: "invariant_10_the_cluster_converges".into(),
                    detail: format!(
                        "{what}: not within {} s: {}",
                        limit.as_secs(),
                        left.join("; ")
                    ),
                    history,
                });
            }
        }
    }

    fn step(&mut self, world: &mut World) -> Result<(), Violation> {
        world.step().map_err(|e| Violation {
            invariant: "no_host_fails".into(),
            detail: e.to_string(),
            history: trace::last_lines(),
        })?;
        if world.elapsed() >= self.audit_at {
            self.audit_at = world.elapsed() + AUDIT_EVERY;
            world.oracle().audit();
        }
        match world.oracle().violations().into_iter().next() {
            Some(violation) => Err(violation),
            None => Ok(()),
        }
    }
}

fn left(mut lacks: Vec<String>, done: bool, what: &str) -> Vec<String> {
    if !done {
        lacks.push(what.into());
    }
    lacks
}

fn panic_of(panic: &(dyn std::any::Any + Send)) -> Violation {
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    Violation {
        invariant: "nothing_panics".into(),
        detail: text.unwrap_or_else(|| "a panic without words".into()),
        history: trace::last_lines(),
    }
}
