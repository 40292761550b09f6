//! One server process: started so that it ends with its parent (or detached), found again through
//! its pid file, and stopped by signal with a deadline.

use everhold_proto::NodeId;
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal, setsid};
use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a server may take to end when asked, before it is killed.
pub(crate) const STOP_LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);

/// Threads of a process that have not ended.
fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// The directory of a node as far as its process is concerned: `pid` and `log` are in it.
#[derive(Clone, Debug)]
pub(crate) struct NodeDir(PathBuf);

impl NodeDir {
    /// The directory of node `number` of the cluster in `dir`, which must be absolute.
    pub(crate) fn new(dir: &Path, number: u32) -> Self {
        NodeDir(dir.join(format!("node{number}")))
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The log of its process.
    pub(crate) fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// The last lines of the log, for an error message.
    pub(crate) fn log_tail(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2000)..]).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    /// Starts the server with `arguments`; output goes to the log, the pid to the pid file.
    ///
    /// With `dies_with_parent` the kernel kills it when the *thread* that called this ends: call it
    /// from a thread that lives as long as the program wants its servers to.
    pub(crate) fn spawn(
        &self,
        arguments: &[OsString],
        dies_with_parent: bool,
    ) -> io::Result<Child> {
        std::fs::create_dir_all(&self.0)?;
        let log: File = OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("server").arg("--dir").arg(&self.0).args(arguments);
        command.arg("--log").arg(self.log());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let parent = rustix::process::getpid();
        let in_child = move || {
            // A session of its own: Ctrl-C at the terminal reaches only the parent, which stops the
            // servers in order.
            setsid()?;
            if dies_with_parent {
                set_parent_process_death_signal(Some(Signal::KILL))?;
                if rustix::process::getppid() != Some(parent) {
                    return Err(io::Error::other("the parent has ended"));
                }
            }
            Ok(())
        };
        // SAFETY: between fork and exec only async-signal-safe system calls are made, and nothing is
        // allocated but the error of a parent that has ended.
        unsafe { command.pre_exec(in_child) };
        let child = command.spawn()?;
        std::fs::write(self.0.join("pid"), format!("{}\n", child.id()))?;
        Ok(child)
    }

    /// The id that the cluster gave the node of this directory; `None` before it has joined.
    pub(crate) fn id(&self) -> Option<NodeId> {
        let text = std::fs::read(self.0.join("node.json")).ok()?;
        let file: serde_json::Value = serde_json::from_slice(&text).ok()?;
        Some(NodeId(u32::try_from(file["node"].as_u64()?).ok()?))
    }

    /// The pid of the running server of this directory.
    pub(crate) fn running(&self) -> Option<u32> {
        let text = std::fs::read_to_string(self.0.join("pid")).ok()?;
        let pid: u32 = text.trim().parse().ok()?;
        self.is_ours(pid).then_some(pid)
    }

    /// Whether `pid` is a live process, and the server of this directory.
    fn is_ours(&self, pid: u32) -> bool {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = status.rsplit_once(") ").map(|(_, rest)| rest.as_bytes().first().copied());
        match state.flatten() {
            None | Some(b'X') => return false,
            // Its last thread closes its files, and its first is a zombie before that.
            Some(b'Z') => return threads(pid) > 1,
            Some(_) => {}
        }
        use std::os::unix::ffi::OsStrExt;
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut arguments = line.split(|byte| *byte == 0).skip(1);
        arguments.next() == Some(b"server")
            && arguments.any(|argument| argument == self.0.as_os_str().as_bytes())
    }

    /// Sends a signal to the running server; `false` when none runs.
    pub(crate) fn signal(&self, signal: Signal) -> bool {
        let pid = self.running().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
    }

    /// Waits until no server of this directory runs; `false` when the deadline came first. The
    /// caller reaps its children, a zombie counts as ended.
    pub(crate) fn wait_ended(&self, deadline: Instant) -> bool {
        loop {
            if self.running().is_none() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(POLL);
        }
    }
}
