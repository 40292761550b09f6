//! Many seeds, each in a process of its own, and what is told of them.

use crate::faults::Kind;
use crate::oracle::Violation;
use crate::plan::Plan;
use crate::run::{Outcome, run};
use crate::trace;
use anyhow::{Context, bail};
use clap::Parser;
use everhold_proto::planted::Bug;
use futures_util::stream::{self, StreamExt};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

/// Simulates whole clusters under faults, one for each seed, and checks every invariant.
#[derive(Clone, Debug, Parser)]
pub struct Arguments {
    /// Seeds: one, or a range such as 1..500, both ends included.
    #[arg(default_value = "1..20")]
    seeds: String,
    /// So many seeds that nobody has tried before, instead.
    #[arg(long, value_name = "COUNT")]
    fresh: Option<u64>,
    /// With --fresh: the seeds follow from this text, such as the id of a commit, so that they can be tried again.
    #[arg(long, value_name = "TEXT", requires = "fresh")]
    of: Option<String>,
    /// Processes at once; by default one for each processor.
    #[arg(short, long)]
    jobs: Option<usize>,
    /// Only faults of these kinds, such as kill,wipe-disk; "none" for none.
    #[arg(long, value_delimiter = ',')]
    kinds: Vec<String>,
    /// Plant this bug (or each of several, with commas between), and try seeds until it is found; "all"
    /// for all. Needs the feature `planted`.
    #[arg(long, value_name = "BUG")]
    plant: Option<String>,
    /// Write everything that happens into this file; for one seed.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Give the summary as JSON.
    #[arg(long)]
    json: bool,
    /// Run the one seed in this process and print its outcome as JSON.
    #[arg(long, hide = true)]
    child: bool,
}

/// A seed that takes longer in real time hangs: the slowest take half a minute on a busy machine.
const REAL_LIMIT: Duration = Duration::from_secs(300);
/// Lines of a history in a report.
const HISTORY_LINES_MAX: usize = 60;
/// A planted bug is given up after so many seeds.
const PLANTED_SEEDS_MAX: u64 = 500;

/// The program.
pub fn main(arguments: &Arguments) -> ExitCode {
    if arguments.child {
        return child(arguments);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let ran = runtime.map_err(anyhow::Error::from).and_then(|rt| rt.block_on(parent(arguments)));
    match ran {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("everhold-sim: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn child(arguments: &Arguments) -> ExitCode {
    match simulate(arguments) {
        Ok(outcome) => {
            println!("{}", serde_json::to_string(&outcome).expect("an outcome is plain data"));
            ExitCode::from(u8::from(!outcome.violations.is_empty()))
        }
        Err(e) => {
            eprintln!("everhold-sim: {e:#}");
            ExitCode::from(2)
        }
    }
}

fn simulate(arguments: &Arguments) -> anyhow::Result<Outcome> {
    let seed = arguments.seeds.parse().context("--child takes one seed")?;
    let file = arguments.trace.as_ref().map(std::fs::File::create).transpose()?;
    trace::begin(file);
    if let Some(name) = &arguments.plant {
        everhold_proto::planted::plant(bug_of(name)?);
    }
    let mut plan = Plan::of(seed);
    if !arguments.kinds.is_empty() {
        plan = plan.with_kinds(kinds_of(&arguments.kinds)?);
    }
    Ok(run(&plan))
}

fn bug_of(name: &str) -> anyhow::Result<Bug> {
    if !cfg!(feature = "planted") {
        bail!("bugs can be planted only into a build with --features planted");
    }
    let all = || Bug::ALL.map(Bug::name).join(", ");
    Bug::ALL
        .into_iter()
        .find(|bug| bug.name() == name)
        .with_context(|| format!("{name:?} is no bug; there are {}", all()))
}

fn kinds_of(names: &[String]) -> anyhow::Result<Vec<Kind>> {
    if names == ["none"] {
        return Ok(Vec::new());
    }
    let all = || Kind::ALL.map(|kind| kind.to_string()).join(", ");
    let find = |name: &String| Kind::ALL.into_iter().find(|kind| kind.to_string() == *name);
    let one =
        |name| find(name).with_context(|| format!("{name:?} is no fault; there are {}", all()));
    names.iter().map(one).collect()
}

fn seeds_of(arguments: &Arguments) -> anyhow::Result<std::ops::RangeInclusive<u64>> {
    if let Some(count) = arguments.fresh {
        // Far above the seeds that people type.
        let drawn = match &arguments.of {
            Some(text) => u64::from(everhold_proto::checksum::crc32c(text.as_bytes())) << 12,
            None => everhold_env::Env::real().entropy.u64() >> 20,
        };
        let base = drawn.max(1 << 20);
        return Ok(base..=base + count.max(1) - 1);
    }
    let wrong = || format!("{:?} is no seed and no range such as 1..500", arguments.seeds);
    let (first, last) =
        arguments.seeds.split_once("..").unwrap_or((&arguments.seeds, &arguments.seeds));
    let first: u64 = first.parse().with_context(wrong)?;
    let last: u64 = last.trim_start_matches('=').parse().with_context(wrong)?;
    if first > last {
        bail!(wrong());
    }
    Ok(first..=last)
}

async fn parent(arguments: &Arguments) -> anyhow::Result<bool> {
    match arguments.plant.as_deref() {
        Some("all") => planted(arguments, &Bug::ALL).await,
        Some(names) => {
            let bugs: anyhow::Result<Vec<Bug>> = names.split(',').map(bug_of).collect();
            planted(arguments, &bugs?).await
        }
        None => sweep(arguments).await,
    }
}

fn jobs(arguments: &Arguments) -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    arguments.jobs.unwrap_or(processors).max(1)
}

async fn sweep(arguments: &Arguments) -> anyhow::Result<bool> {
    let seeds = seeds_of(arguments)?;
    println!("seeds {}..{}", seeds.start(), seeds.end());
    let mut summary = Summary::default();
    let mut running = stream::iter(seeds)
        .map(|seed| one(arguments, seed, arguments.plant.as_deref()))
        .buffer_unordered(jobs(arguments));
    while let Some(outcome) = running.next().await {
        let outcome = outcome?;
        if !outcome.violations.is_empty() {
            report(arguments, &outcome);
        }
        summary.add(&outcome);
    }
    summary.print(arguments.json);
    Ok(summary.failed == 0)
}

/// Runs one seed in a process of its own.
async fn one(arguments: &Arguments, seed: u64, plant: Option<&str>) -> anyhow::Result<Outcome> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.arg(seed.to_string()).arg("--child");
    if !arguments.kinds.is_empty() {
        command.arg("--kinds").arg(arguments.kinds.join(","));
    }
    if let Some(file) = &arguments.trace {
        command.arg("--trace").arg(file);
    }
    if let Some(bug) = plant {
        command.arg("--plant").arg(bug);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended = match tokio::time::timeout(REAL_LIMIT, command.output()).await {
        Ok(ended) => ended?,
        Err(_) => {
            let detail = format!("it did not end within {} s of real time", REAL_LIMIT.as_secs());
            return Ok(broken(seed, "nothing_hangs", detail, String::new()));
        }
    };
    let errors = String::from_utf8_lossy(&ended.stderr).into_owned();
    match serde_json::from_slice(&ended.stdout) {
        Ok(outcome) => Ok(outcome),
        Err(_) if ended.status.code() == Some(2) => bail!("seed {seed}: {errors}"),
        Err(_) => Ok(broken(seed, "nothing_panics", format!("{}", ended.status), errors)),
    }
}

/// The outcome of a process that could not tell it.
fn broken(seed: u64, invariant: &str, detail: String, errors: String) -> Outcome {
    let history = errors.lines().take(HISTORY_LINES_MAX).map(str::to_owned).collect();
    let violations = vec![Violation { invariant: invariant.into(), detail, history }];
    Outcome { seed, violations, ..Outcome::default() }
}

fn report(arguments: &Arguments, outcome: &Outcome) {
    let seed = outcome.seed;
    for violation in &outcome.violations {
        println!("\nseed {seed}: {}: {}", violation.invariant, violation.detail);
        for line in violation.history.iter().take(HISTORY_LINES_MAX) {
            println!("    {line}");
        }
    }
    let mut again = format!("cargo run -p everhold-sim --bin everhold-sim -- {seed}");
    if !arguments.kinds.is_empty() {
        again += &format!(" --kinds {}", arguments.kinds.join(","));
    }
    println!("  replay: {again} --trace trace.txt\n");
}

/// Tries each bug with one seed after the other until it is found.
async fn planted(arguments: &Arguments, bugs: &[Bug]) -> anyhow::Result<bool> {
    let mut missed = 0;
    println!("{:<34} {:>6}  by", "planted bug", "seeds");
    for bug in bugs {
        match find(arguments, *bug).await? {
            Some((seeds, invariant)) => println!("{:<34} {seeds:>6}  {invariant}", bug.name()),
            None => {
                println!("{:<34} {:>6}  NOT FOUND", bug.name(), format!(">{PLANTED_SEEDS_MAX}"));
                missed += 1;
            }
        }
    }
    println!("{} planted bugs, {} found", bugs.len(), bugs.len() - missed);
    Ok(missed == 0)
}

async fn find(arguments: &Arguments, bug: Bug) -> anyhow::Result<Option<(u64, String)>> {
    let mut running = stream::iter(1..=PLANTED_SEEDS_MAX)
        .map(|seed| one(arguments, seed, Some(bug.name())))
        .buffered(jobs(arguments));
    let mut tried = 0;
    while let Some(outcome) = running.next().await {
        tried += 1;
        if let Some(violation) = outcome?.violations.first() {
            return Ok(Some((tried, violation.invariant.clone())));
        }
    }
    Ok(None)
}

/// What all seeds together came to.
#[derive(Default, serde::Serialize)]
struct Summary {
    seeds: u64,
    failed: u64,
    failed_seeds: Vec<u64>,
    simulated_seconds: f64,
    cpu_seconds: f64,
    slowest_convergence_seconds: f64,
    faults: BTreeMap<Kind, u64>,
    operations: BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, outcome: &Outcome) {
        self.seeds += 1;
        if !outcome.violations.is_empty() {
            self.failed += 1;
            self.failed_seeds.push(outcome.seed);
        }
        self.simulated_seconds += outcome.simulated_seconds;
        self.cpu_seconds += outcome.cpu_seconds;
        self.slowest_convergence_seconds =
            self.slowest_convergence_seconds.max(outcome.converged_seconds);
        for (kind, count) in &outcome.faults {
            *self.faults.entry(*kind).or_default() += count;
        }
        for (kind, count) in &outcome.operations {
            *self.operations.entry(kind.clone()).or_default() += count;
        }
    }

    fn print(&self, json: bool) {
        if json {
            println!("{}", serde_json::to_string_pretty(self).expect("a summary is plain data"));
            return;
        }
        let faults: u64 = self.faults.values().sum();
        let operations: u64 = self.operations.values().sum();
        let list = |(kind, count): (&Kind, &u64)| format!("{kind} {count}");
        println!("faults: {}", self.faults.iter().map(list).collect::<Vec<_>>().join(", "));
        println!(
            "{} seeds: {:.2} simulated hours, {faults} faults, {operations} operations, {:.0} \
             simulated seconds for each second of processor time, slowest convergence {:.0} s",
            self.seeds,
            self.simulated_seconds / 3600.0,
            self.simulated_seconds / self.cpu_seconds.max(0.001),
            self.slowest_convergence_seconds,
        );
        println!("{} passed, {} failed", self.seeds - self.failed, self.failed);
        if !self.failed_seeds.is_empty() {
            println!("failed seeds: {:?}", self.failed_seeds);
        }
    }
}
