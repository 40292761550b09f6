//! The `everhold` binary: arguments in, exit code out. Reading order: [`args`] for what there is,
//! [`exit`] for how it ends, [`local`] for clusters on this machine, then the commands.

#![allow(
    clippy::disallowed_methods,
    reason = "the command line drives real processes and measures real time; the simulator never runs it"
)]

mod args;
mod bench;
mod connect;
mod context;
mod demo;
mod disk;
mod exit;
mod fs;
mod generated;
mod health;
mod interrupt;
mod limits;
mod local;
mod log;
mod man;
mod mount;
mod node;
mod output;
mod policy;
mod rebalance;
mod scrub;
mod server;
mod status;
mod up;
mod views;

use crate::args::{Cli, Command, PgCommand, RepairCommand};
use crate::exit::{CliError, CliResult};
use clap::Parser;
use std::io::Write;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Err(error) = log::start(&cli.command) {
        return failed(&error, cli.global.json);
    }
    if matches!(cli.command, Command::Server(_) | Command::Mount(_)) {
        limits::raise_files();
    }
    // The allocator asks for huge pages, and some systems give them to everybody: to zero 2 MiB for the first small piece
    // of each is a tenth of a server's time, and takes twice the memory.
    if let Err(e) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(error = %e, "huge pages stay as the system has them");
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if let Command::Server(args) = &cli.command
        && let Some(threads) = args.threads
    {
        runtime.worker_threads(threads.max(1));
    }
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("everhold: no runtime: {e}\nhint: check the limits on threads and memory");
            return ExitCode::FAILURE;
        }
    };
    let json = cli.global.json;
    // The command runs on the main thread: servers that it starts live as long as this thread.
    let result = runtime.block_on(run(cli));
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(&error, json),
    }
}

/// Tells why the command failed.
fn failed(error: &CliError, json: bool) -> ExitCode {
    let text = if json { error.to_json().to_string() } else { error.to_string() };
    // A closed standard error leaves nobody to tell.
    let _ = writeln!(std::io::stderr(), "{text}");
    error.exit.into()
}

async fn run(cli: Cli) -> CliResult {
    let global = cli.global;
    match cli.command {
        Command::Server(args) => server::run(args).await,
        Command::Up(args) => up::run(args, global.json).await,
        Command::Demo(args) => demo::run(args, global.json).await,
        Command::Fs(command) => fs::run(command, &global).await,
        Command::Mount(args) => mount::run(args, &global).await,
        Command::Umount { path, force } => mount::umount(&path, force),
        Command::Status => status::run(&global).await,
        Command::Node(command) => node::run(command, &global).await,
        Command::Pg(PgCommand::Ls) => views::pgs(&global).await,
        Command::Repair(RepairCommand::Ls) => views::repair(&global).await,
        Command::Health => health::run(&global).await,
        Command::Disk(command) => disk::run(command, &global).await,
        Command::Policy(command) => policy::run(command, &global).await,
        Command::Scrub(command) => scrub::run(command, &global).await,
        Command::Rebalance(command) => rebalance::run(command, &global).await,
        Command::Events { limit, of, all } => views::events(&global, limit, &of, all).await,
        Command::Bench(args) => bench::run(args, &global).await,
        Command::Man { dir } => man::run(&dir),
    }
}
