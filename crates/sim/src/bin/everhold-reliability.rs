//! `everhold-reliability`: the promises, measured; see [`everhold_sim::real::reliability`].

use clap::Parser;
use everhold_sim::real::reliability::{Options, run};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// Runs a cluster of real processes on hosts made of network namespaces, injects one fault after another while
/// clients write, read and compare, and holds what they felt against what is promised.
#[derive(Debug, Parser)]
#[command(name = "everhold-reliability", version)]
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
