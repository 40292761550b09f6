//! Tools of the system, run to their end.

use crate::real::requirements::find;
use anyhow::{Context, Result, bail};
use std::process::{Command, Stdio};

/// The command of a tool, found wherever it is.
pub(crate) fn tool(name: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs it; what it complained about is the error. Takes milliseconds, so it may block its caller.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?} did not start"))?;
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        bail!("{command:?} ended with {}: {complaint}", output.status);
    }
    Ok(())
}
