//! `everhold-sim`: whole clusters in a deterministic simulator; see [`everhold_sim::runner`].

use clap::Parser;
use everhold_sim::runner::{Arguments, main as run};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Ok(filter) = tracing_subscriber::EnvFilter::try_from_env("EVERHOLD_LOG") {
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        log.with_timer(everhold_sim::trace::SimulatedTime).init();
    }
    run(&arguments)
}
