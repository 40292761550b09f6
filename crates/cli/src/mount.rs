//! `everhold mount`: the cluster as a file system of this machine.

mod background;
mod control;
mod remount;

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
use rustix::process::{Signal, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The process of a mount that was unmounted is waited for so long, and the kernel while it unmounts.
const LEAVING_LIMIT: Duration = Duration::from_secs(10);
/// A process that is told to end although it has not committed everything.
const ENDING_LIMIT: Duration = Duration::from_secs(2);
/// A cluster that has not answered for so long does not answer.
const SILENT_SECONDS: u64 = 3;

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
            if let Some(options) = &here.remount {
                return remount::run(&path, options);
            }
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
    let write_behind = !here.no_write_behind && !here.sync;
    let connect = connect(&seeds, path, on_loss, write_behind);
    let client = interrupt.guard(connect).await?;
    let options = MountOptions {
        source: seeds.first().cloned().unwrap_or_default(),
        read_only: here.read_only,
        private: here.private,
        threads: here.threads.into(),
        dev_suid: here.dev_suid,
        no_exec: here.no_exec,
        sync: here.sync,
    };
    // Before it is mounted: afterwards the path leads into the mount.
    let point = control::absolute(path);
    let mounted = everhold_fuse::mount(client.clone(), path, options).map_err(mount_error)?;
    let registered = control::register(&point, mounted.watch()).map_err(|e| {
        tracing::warn!(error = %e, "`mount ls`, `mount stats` and `umount` cannot ask this process");
    });
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
    drop(registered);
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

/// Mounts of this machine. Asks their processes, and no file system.
fn ls(json: bool) -> CliResult {
    let entries = control::entries();
    let rows = everhold_fuse::mounts().into_iter().map(|(path, source)| {
        let entry = entries.iter().rfind(|entry| entry.path == path);
        let state = match entry.map(control::Entry::state) {
            // Its process has ended, or is in a container of its own.
            None => "stale",
            Some(None) => "not answering",
            Some(Some(state)) if state.silent_seconds >= SILENT_SECONDS => "cluster silent",
            Some(Some(_)) => "mounted",
        };
        (path, source, state, entry.map(|entry| entry.pid))
    });
    let rows: Vec<_> = rows.collect();
    if json {
        let rows = rows.iter().map(|(path, source, state, pid)| {
            serde_json::json!({ "path": path, "source": source, "state": state, "pid": pid })
        });
        return line(serde_json::Value::Array(rows.collect()).to_string());
    }
    for (path, source, state, pid) in rows {
        let pid = pid.map_or("-".to_string(), |pid| pid.to_string());
        line(format!("{state:<15}{pid:>8}  {}  {source}", path.display()))?;
    }
    Ok(())
}

/// Statistics of one mount, from its process.
fn stats(path: &Path, json: bool) -> CliResult {
    let entry = control::find(path).ok_or_else(|| no_process(path))?;
    let state = entry.state().ok_or_else(|| not_answering(path, &entry))?;
    if json {
        let text = serde_json::to_string(&state.operations);
        return line(text.map_err(|e| CliError::new(Exit::Failed, e.to_string(), "try again"))?);
    }
    line(format!("process            {:>10}", entry.pid))?;
    line(format!("cluster answered   {:>10} s ago", state.silent_seconds))?;
    line(format!("held up by others  {:>10} times", state.held_up))?;
    line(state.loss().unwrap_or_else(|| "everything is committed".into()))?;
    line(format!(
        "{:<18}{:>10}{:>9}{:>12}{:>12}{:>11}",
        "operation", "count", "errors", "mean ms", "longest ms", "under way"
    ))?;
    for (name, row) in state.operations {
        line(format!(
            "{name:<18}{:>10}{:>9}{:>12.3}{:>12.1}{:>11}",
            row.count, row.errors, row.mean_ms, row.longest_ms, row.under_way
        ))?;
    }
    Ok(())
}

fn no_process(path: &Path) -> CliError {
    CliError::new(
        Exit::NotFound,
        format!("no process of this user serves a mount on {}", path.display()),
        "name the mount point itself; `everhold mount ls` lists mounts",
    )
}

fn not_answering(path: &Path, entry: &control::Entry) -> CliError {
    CliError::new(
        Exit::Unreachable,
        format!("process {} of {} does not answer", entry.pid, path.display()),
        "it may be stopped or overloaded; `everhold umount --force DIR` gives it up",
    )
}

/// Unmounts, and waits until the mount's process has committed what was written and ended: some seconds at most, also
/// when nobody answers.
pub(crate) fn umount(path: &Path, force: bool) -> CliResult {
    let point = control::absolute(path);
    let entry = control::find(&point);
    let state = entry.as_ref().map(control::Entry::state);
    if force {
        return give_up(&point, entry.as_ref(), state.flatten().as_ref());
    }
    match (&entry, &state) {
        (Some(entry), Some(None)) => return Err(not_answering(&point, entry)),
        (_, Some(Some(state))) if state.silent_seconds >= SILENT_SECONDS => {
            if let Some(loss) = state.loss() {
                return Err(CliError::new(
                    Exit::Unreachable,
                    format!(
                        "{} stays mounted: the cluster has not answered for {} s, and {loss}",
                        point.display(),
                        state.silent_seconds
                    ),
                    "wait for the cluster, or give that up with `everhold umount --force DIR`",
                ));
            }
        }
        _ => {}
    }
    let process = entry.as_ref().and_then(control::Entry::process);
    unmount_within(&point, LEAVING_LIMIT)?;
    let (Some(entry), Some(process)) = (entry, process) else { return Ok(()) };
    match has_ended(&process, LEAVING_LIMIT)? {
        true => Ok(()),
        false => {
            let loss = entry.state().and_then(|state| state.loss());
            Err(CliError::new(
                Exit::Unreachable,
                format!(
                    "{} is unmounted, but its process {} still commits what was written: {}",
                    point.display(),
                    entry.pid,
                    loss.unwrap_or_else(|| "it does not say what".into())
                ),
                "it goes on; its log and `everhold status` show what it waits for",
            ))
        }
    }
}

/// Unmounts in a thread of its own: the kernel may wait for the process of the mount.
fn unmount_within(point: &Path, limit: Duration) -> CliResult {
    let (done, wait) = std::sync::mpsc::sync_channel(1);
    let path = point.to_path_buf();
    std::thread::spawn(move || {
        // Nobody listens any more when it took too long.
        let _late = done.send(everhold_fuse::unmount(&path));
    });
    match wait.recv_timeout(limit) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(e)) if e.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => {
            let text = format!("{} is not a mount point", point.display());
            Err(CliError::new(Exit::NotFound, text, "`everhold mount ls` lists mounts"))
        }
        Ok(Err(e)) => {
            let hint =
                "close what uses it (`fuser -vm DIR` names it); `everhold mount ls` lists mounts";
            Err(CliError::new(Exit::Busy, format!("{}: {e}", point.display()), hint))
        }
        Err(_) => Err(CliError::new(
            Exit::Unreachable,
            format!("{} could not be unmounted within {} s", point.display(), limit.as_secs()),
            "`everhold umount --force DIR` takes it away whatever it waits for",
        )),
    }
}

/// Takes a mount away and ends its process, and says what was lost.
fn give_up(
    point: &Path,
    entry: Option<&control::Entry>,
    state: Option<&control::State>,
) -> CliResult {
    let process = entry.and_then(control::Entry::process);
    let taken = everhold_fuse::mount::abort(point);
    if let Some(process) = &process {
        for signal in [Signal::TERM, Signal::KILL] {
            // It may have ended by itself.
            let _sent = pidfd_send_signal(process, signal);
            if has_ended(process, ENDING_LIMIT)? {
                break;
            }
        }
    }
    match taken {
        Err(e) if process.is_none() => {
            let text = format!("{}: {e}", point.display());
            return Err(CliError::new(Exit::NotFound, text, "`everhold mount ls` lists mounts"));
        }
        _ => {}
    }
    let loss = match (entry, state) {
        (_, Some(state)) => state.loss(),
        (Some(_), None) => Some("its process did not say what was not committed".into()),
        (None, None) => None,
    };
    match loss {
        Some(loss) => line(format!("{} is given up: {loss}", point.display())),
        None => line(format!("{} is unmounted; nothing was lost", point.display())),
    }
}

/// Whether a process ends within a time.
fn has_ended(process: &OwnedFd, limit: Duration) -> CliResult<bool> {
    let mut ended = [PollFd::new(process, PollFlags::IN)];
    let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: 0 };
    match rustix::event::poll(&mut ended, Some(&limit)) {
        Ok(count) => Ok(count > 0),
        Err(e) => Err(CliError::local("everhold umount", &e.into())),
    }
}
