//! The server processes: one `everhold server` per host, started, killed, stopped and continued.
//!
//! **Invariant:** only processes that were started here are signalled, through their handles, which
//! are not reused before they are waited for. All of them end with this one, whatever ends it.

use crate::real::hosts::{Hosts, address};
use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process, set_parent_process_death_signal, setsid};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How many copies each block has.
const COPIES: u32 = 3;
/// Small: the disks are.
const SEGMENT: &str = "32MiB";

/// The processes of all nodes.
pub(crate) struct Nodes {
    everhold: PathBuf,
    logs: PathBuf,
    count: u32,
    zones: u32,
    running: BTreeMap<u32, Child>,
    /// Whether the first node has lost its disk: then it joins too, instead of making another cluster.
    first_joins: bool,
}

impl Nodes {
    /// Nobody runs yet. The logs go to the directory `logs`.
    pub(crate) fn new(everhold: PathBuf, logs: PathBuf, count: u32, zones: u32) -> Result<Self> {
        std::fs::create_dir_all(&logs)?;
        Ok(Nodes { everhold, logs, count, zones, running: BTreeMap::new(), first_joins: false })
    }

    /// Starts a node that does not run. Call it from the main thread: the kernel ends the server when
    /// the *thread* that started it ends.
    pub(crate) fn start(&mut self, number: u32, hosts: &Hosts, data: &Path) -> Result<()> {
        assert!(!self.running.contains_key(&number), "node {number} runs already");
        let log = OpenOptions::new().create(true).append(true).open(self.log(number))?;
        let mut command = Command::new(&self.everhold);
        command.arg("server").arg("--dir").arg(data).args(self.arguments(number));
        command.env_remove("EVERHOLD_LOG").env_remove("EVERHOLD_CLUSTER").env("NO_COLOR", "1");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        hosts.place(number, &mut command);
        let parent = rustix::process::getpid();
        let bind = move || {
            // Ctrl-C at the terminal must reach the harness only.
            setsid()?;
            set_parent_process_death_signal(Some(Signal::KILL))?;
            if rustix::process::getppid() != Some(parent) {
                return Err(io::Error::from(rustix::io::Errno::SRCH));
            }
            Ok(())
        };
        // SAFETY: between fork and exec only system calls are made, and nothing is allocated.
        unsafe { command.pre_exec(bind) };
        let child = command.spawn().with_context(|| format!("start node {number}"))?;
        self.running.insert(number, child);
        Ok(())
    }

    /// Sends SIGKILL to these nodes, all before any is waited for. Those that do not run stay so.
    pub(crate) fn kill(&mut self, numbers: &[u32]) {
        let mut killed: Vec<Child> =
            numbers.iter().filter_map(|number| self.running.remove(number)).collect();
        for child in &mut killed {
            // It fails only for one that has ended, which is what is wanted.
            let _ = child.kill();
        }
        for child in &mut killed {
            let _ = child.wait();
        }
    }

    /// Sends a signal to a node that runs.
    pub(crate) fn signal(&self, number: u32, signal: Signal) {
        let pid = self.running.get(&number).and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid.and_then(Pid::from_raw) {
            // It may have ended by itself; `ended` tells.
            let _ = kill_process(pid, signal);
        }
    }

    /// A node lost its disk: the next start is its first one.
    pub(crate) fn forget(&mut self, number: u32) {
        self.first_joins |= number == 1;
    }

    /// Whether it was started and not killed.
    pub(crate) fn runs(&self, number: u32) -> bool {
        self.running.contains_key(&number)
    }

    /// Whether a node that was told to stop has ended; then it counts as one that does not run.
    pub(crate) fn take_ended(&mut self, number: u32) -> bool {
        let ended = self
            .running
            .get_mut(&number)
            .is_none_or(|child| matches!(child.try_wait(), Ok(Some(_))));
        if ended {
            self.running.remove(&number);
        }
        ended
    }

    /// The process of a node that runs.
    pub(crate) fn pid(&self, number: u32) -> Option<u32> {
        self.running.get(&number).map(Child::id)
    }

    /// Those that ended by themselves since the last call: how, with the end of the log.
    pub(crate) fn ended(&mut self) -> Vec<(u32, String)> {
        let mut ended = Vec::new();
        for (number, child) in &mut self.running {
            if let Ok(Some(status)) = child.try_wait() {
                ended.push((*number, status.to_string()));
            }
        }
        for (number, how) in &mut ended {
            self.running.remove(number);
            *how = format!("{how}: {}", self.log_tail(*number));
        }
        ended
    }

    /// Lines of the logs that tell of a panic: no server may ever.
    pub(crate) fn panics(&self) -> Vec<String> {
        let mut panics = Vec::new();
        for number in 1..=self.count {
            let log = std::fs::read(self.log(number)).unwrap_or_default();
            let text = String::from_utf8_lossy(&log);
            let lines = text.lines().filter(|line| line.contains("panicked at"));
            panics.extend(lines.map(|line| format!("node {number}: {line}")));
        }
        panics
    }

    fn log(&self, number: u32) -> PathBuf {
        self.logs.join(format!("node{number}.log"))
    }

    fn log_tail(&self, number: u32) -> String {
        let log = std::fs::read(self.log(number)).unwrap_or_default();
        let text = String::from_utf8_lossy(&log[log.len().saturating_sub(2000)..]).into_owned();
        let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(3)..].join(" | ")
    }

    fn arguments(&self, number: u32) -> Vec<String> {
        let others = (1..=self.count).filter(|other| *other != number).map(address);
        let zone = format!("z{}", (number - 1) % self.zones + 1);
        let mut arguments: Vec<String> =
            ["--listen", &address(number), "--zone", &zone, "--segment-size", SEGMENT]
                .map(String::from)
                .into();
        // All nodes share one machine's cores.
        arguments.extend(["--threads".into(), "1".into()]);
        if number == 1 && !self.first_joins {
            arguments.extend(["--copies".into(), COPIES.to_string(), "--bootstrap".into()]);
        } else {
            arguments.extend(["--join".into(), others.collect::<Vec<_>>().join(",")]);
        }
        arguments
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        let all: Vec<u32> = self.running.keys().copied().collect();
        self.kill(&all);
    }
}
