//! A mount in the background: this program again, in a session of its own, waited for until the mount is
//! there.

use crate::args::{MountHere, OnLossArg};
use crate::context::mount_log;
use crate::exit::{CliError, CliResult, Exit};
use crate::output::line;
use rustix::process::setsid;
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

/// Most that is looked at of what a process wrote before it ended.
const LOG_BYTES_MAX: u64 = 64 << 10;

/// Starts it and returns once the mount is there, or with the error of the process.
pub(crate) fn start(path: &Path, here: &MountHere, seeds: &[String]) -> CliResult {
    let program = std::env::current_exe().map_err(|e| CliError::local("everhold", &e))?;
    let mut command = Command::new(program);
    command.args(arguments(path, here, seeds)).stdin(Stdio::null()).stdout(Stdio::piped());
    let log = match &here.log {
        Some(log) => log.clone(),
        None => mount_log(&std::path::absolute(path).map_err(|e| CliError::local(path, &e))?)?,
    };
    command.arg("--log").arg(&log);
    let (file, before) = open_log(&log).map_err(|e| CliError::local(&log, &e))?;
    command.stderr(file);
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
    let status = child.wait().map_err(|e| CliError::local("everhold mount", &e))?;
    let text = read_from(&log, before).map_err(|e| CliError::local(&log, &e))?;
    Err(failure(status.code(), &text, &log))
}

/// The log, to be added to, and its length until now.
fn open_log(log: &Path) -> io::Result<(File, u64)> {
    if let Some(dir) = log.parent() {
        std::fs::create_dir_all(dir)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(log)?;
    let length = file.metadata()?.len();
    Ok((file, length))
}

/// What was added to the log since then.
fn read_from(log: &Path, offset: u64) -> io::Result<String> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut text = Vec::new();
    file.take(LOG_BYTES_MAX).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The error of the process as our own.
fn failure(code: Option<i32>, text: &str, log: &Path) -> CliError {
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
    let message = after("everhold: ").unwrap_or("the mount's process ended");
    let see = format!("see {}", log.display());
    CliError::new(exit, message, after("hint: ").map_or(see, String::from))
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
        (here.dev_suid, "--dev-suid"),
        (here.no_exec, "--no-exec"),
        (here.sync, "--sync"),
        (here.no_write_behind, "--no-write-behind"),
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
        let words = "everhold mount --read-only --private --dev-suid --no-exec --sync --no-write-behind --on-loss error \
             --threads 7 /m";
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
            let flags = [
                here.read_only,
                here.private,
                here.dev_suid,
                here.no_exec,
                here.sync,
                here.no_write_behind,
            ];
            (flags, here.threads, on_loss, path)
        };
        assert_eq!(relevant(&same.here), relevant(&args.here));
    }

    #[test]
    fn the_error_of_the_process_is_handed_on() {
        let text = "log line\neverhold: /m does not exist\nhint: create the directory first\n";
        let error = failure(Some(3), text, Path::new("/log"));
        assert_eq!(error.exit, Exit::NotFound);
        assert_eq!(error.message, "/m does not exist");
        assert_eq!(error.hint, "create the directory first");
        assert_eq!(failure(None, "", Path::new("/log")).hint, "see /log");
    }
}
