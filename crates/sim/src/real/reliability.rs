//! What is promised of a cluster while machines fail, measured: real processes on hosts of their own, one
//! client that writes small files durably, one that reads them back and compares, one that changes names, and
//! one fault after another. Each row of the table says what was promised and what was measured, and whether
//! the one keeps the other. `docs/reliability.md` has its output.
//!
//! **Invariant:** a row passes only by figures that were taken in this run. What cannot be measured here is
//! reported as not run, with the reason, and is no pass.

mod bench;
mod figures;
mod options;
mod probes;
mod report;
mod rows;
mod throttle;
mod watch;

pub use options::{Options, Row};

use crate::real::hosts::Hosts;
use crate::real::reliability::report::Report;
use crate::real::requirements::unmet_requirements;
use crate::real::{CANNOT_RUN, FAILED, INTERRUPTED, Stage};
use anyhow::{Context, Result};
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// Runs the rows and prints the table. 0: every row that ran passed; 1: one did not; 2: it cannot run here;
/// 130: interrupted.
///
/// Must be called before any thread is started, as it moves into namespaces of its own.
pub fn run(options: &Options) -> ExitCode {
    let unmet = unmet_requirements();
    if !unmet.is_empty() {
        eprintln!("everhold-reliability cannot run here: {}", unmet.join("; "));
        return ExitCode::from(CANNOT_RUN);
    }
    match attempt(options) {
        Ok(Some(report)) if report.pass() => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::from(FAILED),
        Ok(None) => ExitCode::from(INTERRUPTED),
        Err(e) => {
            eprintln!("everhold-reliability: {e:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// `None`: it was interrupted.
fn attempt(options: &Options) -> Result<Option<Report>> {
    let setup = options.setup()?;
    let hosts = Hosts::enter(options.hosts())?;
    let stage = Stage::new(options.dir.as_deref())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    // On the main thread: the servers end with the thread that starts them.
    let report = runtime.block_on(async {
        let (mut interrupt, mut terminate) =
            (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            report = rows::run(options, &setup, hosts, &stage.dir) => report.map(Some),
            _ = interrupt.recv() => Ok(None),
            _ = terminate.recv() => Ok(None),
        }
    });
    runtime.shutdown_background();
    let failed = !matches!(&report, Ok(None)) && !matches!(&report, Ok(Some(r)) if r.pass());
    stage.strike(failed)?;
    if let Ok(Some(report)) = &report {
        print!("{}", report.table());
        if let Some(path) = &options.json {
            let text = serde_json::to_string_pretty(report)?;
            std::fs::write(path, text).with_context(|| path.display().to_string())?;
        }
    }
    report
}
