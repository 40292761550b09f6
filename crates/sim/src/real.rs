//! Faults against real processes: the built `everhold` on hosts made of network namespaces, killed,
//! stopped, cut off, slowed, filled and damaged while clients work, then held against what it
//! acknowledged.
//!
//! The simulator searches more and repeats exactly; this shows that the kernel's network, real disks
//! and real signals do what the simulator says they do. Real time is not deterministic: a seed repeats
//! the faults and their order, not what they meet.

mod cluster;
mod command;
mod disks;
mod drive;
mod faults;
mod hosts;
mod inject;
mod ledger;
mod load;
mod nodes;
mod options;
mod probe;
mod recorded;
pub mod reliability;
mod report;
mod requirements;
mod timeline;
mod vanish;

pub use faults::FaultKind;
pub use options::Options;
pub use requirements::unmet_requirements;

use crate::real::hosts::Hosts;
use crate::real::report::Report;
use anyhow::{Context, Result};
use everhold_env::Env;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

const FAILED: u8 = 1;
const CANNOT_RUN: u8 = 2;
const INTERRUPTED: u8 = 130;

/// Runs the faults and prints the report. 0: nothing was lost, altered or violated, and the cluster
/// converged; 1: something was; 2: it cannot run here; 130: interrupted.
///
/// Must be called before any thread is started, as it moves into namespaces of its own.
pub fn run(options: &Options) -> ExitCode {
    conclude("everhold-faults", || attempt(options))
}

/// `None`: it was interrupted.
fn attempt(options: &Options) -> Result<Option<Report>> {
    options.setup()?;
    let hosts = Hosts::enter(options.nodes)?;
    let seed = options.seed.unwrap_or_else(|| Env::real().entropy.below(1 << 32));
    eprintln!("seed {seed}");
    on_stage(options.dir.as_deref(), options.json.as_deref(), async |dir| {
        drive::drive(options, seed, hosts, dir).await
    })
}

/// What a run came to.
trait Outcome: Serialize {
    fn pass(&self) -> bool;
    fn table(&self) -> String;
}

impl Outcome for Report {
    fn pass(&self) -> bool {
        self.pass
    }

    fn table(&self) -> String {
        self.table()
    }
}

/// Runs a program of real processes, if it can run here, and says how it ended.
fn conclude<R: Outcome>(program: &str, attempt: impl FnOnce() -> Result<Option<R>>) -> ExitCode {
    let unmet = unmet_requirements();
    if !unmet.is_empty() {
        eprintln!("{program} cannot run here: {}", unmet.join("; "));
        return ExitCode::from(CANNOT_RUN);
    }
    match attempt() {
        Ok(Some(report)) if report.pass() => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::from(FAILED),
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(e) => {
            eprintln!("{program}: {e:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Does `work` in a directory for disks and logs, unless it is interrupted (`None`), and reports.
fn on_stage<R: Outcome>(
    dir: Option<&Path>,
    json: Option<&Path>,
    work: impl AsyncFnOnce(&Path) -> Result<R>,
) -> Result<Option<R>> {
    let stage = Stage::new(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // On the main thread: the servers end with the thread that starts them.
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            report = work(&stage.dir) => report.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    runtime.shutdown_background();
    let failed = !matches!(&report, Ok(None)) && !matches!(&report, Ok(Some(r)) if r.pass());
    stage.strike(failed)?;
    if let Ok(Some(report)) = &report {
        print!("{}", report.table());
        if let Some(path) = json {
            let text = serde_json::to_string_pretty(report)?;
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
    }
    report
}

/// Where disks and logs are.
struct Stage {
    dir: PathBuf,
    temporary: Option<TempDir>,
}

impl Stage {
    fn new(dir: Option<&Path>) -> Result<Self> {
        if let Some(dir) = dir {
            std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
            return Ok(Stage { dir: dir.canonicalize()?, temporary: None });
        }
        let temporary = tempfile::Builder::new().prefix("everhold-faults-").tempdir()?;
        Ok(Stage { dir: temporary.path().canonicalize()?, temporary: Some(temporary) })
    }

    /// Removes what was temporary, but for the logs of a run that failed.
    fn strike(self, failed: bool) -> Result<()> {
        if let Some(temporary) = self.temporary.filter(|_| failed) {
            let logs = temporary.path().with_extension("logs");
            if std::fs::rename(temporary.path().join("logs"), &logs).is_ok() {
                eprintln!("the logs of the nodes are in {}", logs.display());
            }
        }
        Ok(())
    }
}
