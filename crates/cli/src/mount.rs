//! `everhold mount`: the cluster as a file system of this machine.

mod background;

use crate::args::Global;
use crate::args::{MountArgs, MountCommand, MountHere, OnLossArg};
use crate::connect::LEADER_LIMIT;
use crate::context::seeds;
use crate::exit::{CliError, CliResult, Exit};
use crate::interrupt::Interrupt;
use crate::output::line;
use everhold_client::{Client, ClientError, ClientOptions};
use everhold_env::Env;
use everhold_fuse::{MountError, MountOptions, OnLoss};
use everhold_proto::Kind;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The attribute in which a mount shows its statistics.
const STATS: &str = "user.everhold.stats";
/// And the one with the number of its process.
const PROCESS: &str = "user.everhold.process";
/// The process of a mount that was unmounted is waited for so long.
const LEAVING_LIMIT: Duration = Duration::from_secs(60);
/// Larger than any statistics.
const STATS_BYTES_MAX: usize = 64 << 10;

/// Mounts, or shows mounts.
pub(crate) async fn run(args: MountArgs, global: &Global) -> CliResult {
    match args.command {
        Some(MountCommand::Ls) => ls(global.json),
        Some(MountCommand::Stats { path }) => stats(&path, global.json),
        None => {
            let here = args.here;
            let path = here.path.clone().ok_or_else(|| {
                CliError::usage("no mount point is named", "write `everhold mount DIRECTORY`")
            })?;
            let seeds = seeds(global)?;
            match here.foreground {
                true => foreground(&path, &here, seeds).await,
                false => background::start(&path, &here, &seeds),
            }
        }
    }
}

async fn foreground(path: &Path, here: &MountHere, seeds: Vec<String>) -> CliResult {
    let on_loss = match here.on_loss {
        OnLossArg::Wait => OnLoss::Wait,
        OnLossArg::Error => OnLoss::Error,
    };
    let mut interrupt = Interrupt::listen()?;
    let connect = connect(&seeds, path, on_loss, !here.no_write_behind);
    let client = interrupt.guard(connect).await?;
    let options = MountOptions {
        source: seeds.first().cloned().unwrap_or_default(),
        read_only: here.read_only,
        private: here.private,
        threads: here.threads.into(),
        dev_suid: !here.no_dev_suid,
    };
    let mounted = everhold_fuse::mount(client.clone(), path, options).map_err(mount_error)?;
    line(format!("mounted on {}", path.display()))?;
    tokio::select! {
        () = mounted.ended() => {}
        () = interrupt.wait() => {}
    }
    let unmounted = mounted.unmount().await;
    // A session that cannot be ended ends by itself.
    if let Err(e) = client.close().await {
        tracing::debug!(error = %e, "the session was not ended");
    }
    let lost = unmounted.map_err(|e| in_use(path, &e))?;
    match lost {
        0 => Ok(()),
        count => Err(CliError::new(
            Exit::Corrupt,
            format!("what was written last to {count} files was not committed"),
            "see the log above and `everhold status`",
        )),
    }
}

/// Programs still have files open, but this process was told to end: without it nobody would answer on the mount
/// point, so it goes.
fn in_use(path: &Path, error: &std::io::Error) -> CliError {
    if let Err(e) = everhold_fuse::mount::detach(path) {
        tracing::warn!(path = %path.display(), error = %e, "a mount without a process stays behind");
    }
    CliError::new(
        Exit::Busy,
        format!("{} was in use ({error}): what was written is committed", path.display()),
        "programs that have files open there get errors now; end them first next time",
    )
}

/// Connects within the time that a person waits, whatever the mount does later when the cluster is lost.
async fn connect(
    seeds: &[String],
    path: &Path,
    on_loss: OnLoss,
    write_behind: bool,
) -> CliResult<Arc<Client>> {
    let options = ClientOptions {
        name: format!("mount {}", path.display()),
        deadline: LEADER_LIMIT,
        operation_deadline: Some(on_loss.deadline()),
        follow: true,
        write_behind,
        ..ClientOptions::default()
    };
    Client::connect(Env::real(), seeds, options).await.map_err(|e| not_connected(seeds, e))
}

/// Before there is a mount, a session whose opening is in doubt is no more than one that was not opened.
fn not_connected(seeds: &[String], error: ClientError) -> CliError {
    match error.kind() {
        Kind::Retry | Kind::NotLeader | Kind::MaybeApplied => CliError::new(
            Exit::Unreachable,
            format!(
                "no cluster answers at {} within {} s: {error}",
                seeds.join(","),
                LEADER_LIMIT.as_secs()
            ),
            "check that the nodes run and that this machine reaches them, or name others with --cluster HOST:PORT",
        ),
        _ => error.into(),
    }
}

fn mount_error(error: MountError) -> CliError {
    let (exit, hint) = match &error {
        MountError::Missing(_) => (Exit::NotFound, "create the directory first"),
        MountError::NotDirectory(_) => (Exit::Usage, "name a directory to mount on"),
        MountError::Busy(_) => (Exit::Conflict, "unmount it first, or choose another directory"),
        MountError::NoFuse(_) => (
            Exit::Failed,
            "load the module with `modprobe fuse`, or give the container `--device /dev/fuse`",
        ),
        MountError::NotPermitted { .. } => {
            (Exit::Failed, "run it as root, or install fusermount3 and use --private")
        }
        MountError::Failed { .. } => {
            (Exit::Failed, "look at the mount point and at `dmesg`, then try again")
        }
    };
    CliError::new(exit, error.to_string(), hint)
}

/// Mounts of this machine.
fn ls(json: bool) -> CliResult {
    let state = |path: &Path| if everhold_fuse::is_stale(path) { "stale" } else { "mounted" };
    let mounts = everhold_fuse::mounts();
    if json {
        let rows = mounts.iter().map(|(path, source)| {
            serde_json::json!({ "path": path, "source": source, "state": state(path) })
        });
        return line(serde_json::Value::Array(rows.collect()).to_string());
    }
    for (path, source) in mounts {
        line(format!("{:<9}{}  {source}", state(&path), path.display()))?;
    }
    Ok(())
}

/// Statistics of one mount.
fn stats(path: &Path, json: bool) -> CliResult {
    let mut value = vec![0; STATS_BYTES_MAX];
    let length = rustix::fs::getxattr(path, STATS, &mut value[..]).map_err(|e| {
        CliError::new(
            Exit::NotFound,
            format!("{} shows no statistics: {e}", path.display()),
            "name the mount point itself; `everhold mount ls` lists them",
        )
    })?;
    let text = String::from_utf8_lossy(&value[..length]).into_owned();
    if json {
        return line(text);
    }
    let table: std::collections::BTreeMap<String, Row> =
        serde_json::from_str(&text).map_err(|e| {
            CliError::new(
                Exit::Failed,
                format!("the statistics of {} are not readable: {e}", path.display()),
                "use the program version that mounted it",
            )
        })?;
    line(format!(
        "{:<18}{:>10}{:>9}{:>12}{:>12}{:>11}",
        "operation", "count", "errors", "mean ms", "longest ms", "under way"
    ))?;
    for (name, row) in table {
        line(format!(
            "{name:<18}{:>10}{:>9}{:>12.3}{:>12.1}{:>11}",
            row.count, row.errors, row.mean_ms, row.longest_ms, row.under_way
        ))?;
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Row {
    count: u64,
    errors: u64,
    mean_ms: f64,
    longest_ms: f64,
    under_way: u64,
}

/// Unmounts, and waits until the mount's process has committed what was written and ended.
pub(crate) fn umount(path: &Path) -> CliResult {
    let process = process_of(path);
    everhold_fuse::unmount(path).map_err(|e| {
        let hint =
            "close what uses it (`fuser -vm DIR` names it); `everhold mount ls` lists mounts";
        CliError::new(Exit::Busy, format!("{}: {e}", path.display()), hint)
    })?;
    let Some((number, process)) = process else { return Ok(()) };
    let mut ended = [PollFd::new(&process, PollFlags::IN)];
    let limit = Timespec { tv_sec: LEAVING_LIMIT.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut ended, Some(&limit)) {
        Ok(0) => Err(CliError::new(
            Exit::Unreachable,
            format!(
                "{} is unmounted, but its process {number} still commits what was written",
                path.display()
            ),
            "it goes on; its log and `everhold status` show what it waits for",
        )),
        Ok(_) => Ok(()),
        Err(e) => Err(CliError::local("everhold umount", &e.into())),
    }
}

/// The process that serves a mount on this machine. One in another container cannot be told from its number, and is
/// not waited for.
fn process_of(path: &Path) -> Option<(i32, OwnedFd)> {
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(path, PROCESS, &mut value[..]).ok()?;
    let number = std::str::from_utf8(value.get(..length)?).ok()?.parse().ok()?;
    let process = pidfd_open(Pid::from_raw(number)?, PidfdFlags::empty()).ok()?;
    let program = |process: &str| std::fs::read(format!("/proc/{process}/comm")).ok();
    (program(&number.to_string())? == program("self")?).then_some((number, process))
}
