//! `everhold-faults`: real processes under faults; see [`everhold_sim::real`].

use clap::Parser;
use everhold_sim::real::{Options, run};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs a cluster of real processes on hosts made of network namespaces, injects faults while clients
/// work, and holds everything that was acknowledged against what is there in the end.
#[derive(Debug, Parser)]
#[command(name = "everhold-faults", version)]
struct Arguments {
    #[command(flatten)]
    options: Options,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = EnvFilter::try_from_env("EVERHOLD_LOG").unwrap_or_else(|_| EnvFilter::new("off"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    run(&arguments.options)
}
