//! A mount in the background: this program again, in a session of its own, waited for until the mount is
//! there.

use crate::args::{MountHere, OnLossArg};
use crate::exit::{CliError, CliResult, Exit};
use crate::output::line;
use rustix::process::setsid;
use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Starts it and returns once the mount is there, or with the error of the process.
pub(crate) fn start(path: &Path, here: &MountHere, seeds: &[String]) -> CliResult {
    let program = std::env::current_exe().map_err(|e| CliError::local("everhold", &e))?;
    let mut command = Command::new(program);
    command.args(arguments(path, here, seeds)).stdin(Stdio::null()).stdout(Stdio::piped());
    match &here.log {
        None => command.stderr(Stdio::piped()),
        Some(log) => {
            let file = OpenOptions::new().create(true).append(true).open(log);
            command.stderr(file.map_err(|e| CliError::local(log, &e))?)
        }
    };
    // SAFETY: between fork and exec one async-signal-safe system call is made.
    unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
    let mut child = command.spawn().map_err(|e| CliError::local("everhold", &e))?;
    // One line says that the mount is there; no line, that the process has ended.
    let mut first = String::new();
    if let Some(stdout) = child.stdout.take() {
        let read = BufReader::new(stdout).read_line(&mut first);
        read.map_err(|e| CliError::local("everhold mount", &e))?;
    }
    if first.starts_with("mounted on ") {
        return line(format!("mounted on {} (process {})", path.display(), child.id()));
    }
    let mut text = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut text).map_err(|e| CliError::local("everhold mount", &e))?;
    }
    let status = child.wait().map_err(|e| CliError::local("everhold mount", &e))?;
    Err(failure(status.code(), &text, here))
}

/// The error of the process as our own.
fn failure(code: Option<i32>, text: &str, here: &MountHere) -> CliError {
    let after = |mark: &str| text.lines().rev().find_map(|line| line.strip_prefix(mark));
    let exit = match code {
        Some(2) => Exit::Usage,
        Some(3) => Exit::NotFound,
        Some(4) => Exit::Unreachable,
        Some(5) => Exit::Busy,
        Some(8) => Exit::Conflict,
        Some(9) => Exit::Foreign,
        _ => Exit::Failed,
    };
    let log = match &here.log {
        Some(log) => format!("see {}", log.display()),
        None => "run it with --foreground to see why".into(),
    };
    let message = after("everhold: ").unwrap_or("the mount's process ended");
    CliError::new(exit, message, after("hint: ").map_or(log, String::from))
}

fn arguments(path: &Path, here: &MountHere, seeds: &[String]) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["mount".into(), "--foreground".into()];
    arguments.extend(["--cluster".into(), seeds.join(",").into()]);
    arguments.extend(["--threads".into(), here.threads.to_string().into()]);
    let on_loss = match here.on_loss {
        OnLossArg::Wait => "wait",
        OnLossArg::Error => "error",
    };
    arguments.extend(["--on-loss".into(), on_loss.into()]);
    let flags = [
        (here.read_only, "--read-only"),
        (here.private, "--private"),
        (here.no_dev_suid, "--no-dev-suid"),
    ];
    arguments.extend(flags.iter().filter(|(on, _)| *on).map(|(_, flag)| OsString::from(flag)));
    arguments.push(path.into());
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command as Subcommand};
    use clap::Parser;

    #[test]
    fn the_process_gets_every_option() {
        let words =
            "everhold mount --read-only --private --no-dev-suid --on-loss error --threads 7 /m";
        let Subcommand::Mount(args) = Cli::parse_from(words.split(' ')).command else {
            panic!("another command");
        };
        let path = args.here.path.clone().unwrap();
        let again = arguments(&path, &args.here, &["h:1".into(), "h:2".into()]);
        let program = [OsString::from("everhold")];
        let cli = Cli::parse_from(program.into_iter().chain(again));
        assert_eq!(cli.global.cluster, ["h:1", "h:2"]);
        let Subcommand::Mount(same) = cli.command else { panic!("another command") };
        assert!(same.here.foreground);
        let relevant = |here: &MountHere| {
            let (on_loss, path) = (format!("{:?}", here.on_loss), here.path.clone());
            (here.read_only, here.private, here.no_dev_suid, here.threads, on_loss, path)
        };
        assert_eq!(relevant(&same.here), relevant(&args.here));
    }

    #[test]
    fn the_error_of_the_process_is_handed_on() {
        let words = ["everhold", "mount", "/m"];
        let Subcommand::Mount(args) = Cli::parse_from(words).command else { panic!() };
        let text = "log line\neverhold: /m does not exist\nhint: create the directory first\n";
        let error = failure(Some(3), text, &args.here);
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(error.message, "/m does not exist");
        assert_eq!(error.hint, "create the directory first");
        assert_eq!(failure(None, "", &args.here).exit, Exit::Failed);
    }
}
