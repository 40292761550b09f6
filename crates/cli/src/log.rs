//! The log of a process: what is told, how often, and where it goes.
//!
//! **Invariant:** neither what goes wrong nor how long it does decides how large a log becomes. An event that repeats is
//! written a few times, then counted ([`repeats`]); a log file has a successor when it is large ([`mod@file`]).

mod file;
mod repeats;

use crate::args::Command;
use crate::exit::{CliError, CliResult};
use crate::log::file::LogFile;
use crate::log::repeats::Sparing;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::Mutex;
use tracing_subscriber::EnvFilter;

/// Starts the log of this process: to standard error, or to the file that the command names.
pub(crate) fn start(command: &Command) -> CliResult {
    let default = match command {
        // Of the internals of openraft only who debugs it makes sense: what they mean for the cluster is told by who uses
        // them, and a failure ends the process with its reason.
        Command::Server(_) => "info,openraft=off",
        Command::Mount(_) => "info",
        _ => "error",
    };
    let filter =
        EnvFilter::try_from_env("EVERHOLD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let file = match path(command) {
        Some(path) => LogFile::open(path).map_err(|e| CliError::local(path, &e))?,
        None => LogFile::standard_error(),
    };
    let colours = path(command).is_none() && std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colours);
    let format = Sparing::new(tracing_subscriber::fmt::format());
    log.event_format(format).with_writer(Mutex::new(file)).init();
    Ok(())
}

/// The file that the command names for its log.
fn path(command: &Command) -> Option<&Path> {
    match command {
        Command::Server(args) => args.log.as_deref(),
        Command::Mount(args) if args.here.foreground => args.here.log.as_deref(),
        _ => None,
    }
}
