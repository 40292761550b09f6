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
use crate::real::{Outcome, conclude, on_stage};
use anyhow::Result;
use std::process::ExitCode;

/// Runs the rows and prints the table. 0: every row that ran passed; 1: one did not; 2: it cannot run here;
/// 130: interrupted.
///
/// Must be called before any thread is started, as it moves into namespaces of its own.
pub fn run(options: &Options) -> ExitCode {
    conclude("everhold-reliability", || attempt(options))
}

/// `None`: it was interrupted.
fn attempt(options: &Options) -> Result<Option<Report>> {
    let setup = options.setup()?;
    let hosts = Hosts::enter(options.hosts())?;
    on_stage(options.dir.as_deref(), options.json.as_deref(), async |dir| {
        rows::run(options, &setup, hosts, dir).await
    })
}

impl Outcome for Report {
    fn pass(&self) -> bool {
        self.pass()
    }

    fn table(&self) -> String {
        self.table()
    }
}
