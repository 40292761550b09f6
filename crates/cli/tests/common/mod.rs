//! A local cluster driven through the built binary, for tests. Everything lives in one temporary
//! directory; only processes of this cluster are ever signalled, by the pids in its own pid files.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(clippy::disallowed_methods, reason = "tests of real processes need real time")]

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// For conditions that take seconds on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Whether somebody has the turn.
static TAKEN: Mutex<bool> = Mutex::new(false);
static FREE: Condvar = Condvar::new();

/// A running `everhold up`.
pub(crate) struct Cluster {
    up: Child,
    dir: TempDir,
    /// One cluster at a time: two cores carry no more.
    _turn: Turn,
}

/// The built binary, blind to the user's own context.
pub(crate) fn everhold(state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everhold"));
    command.env("XDG_STATE_HOME", state).env_remove("EVERHOLD_CLUSTER").env_remove("EVERHOLD_LOG");
    command
}

/// The right to run a cluster. Unlike a lock's guard it may be handed to another thread, or live in a static.
pub(crate) struct Turn(());

/// Holds other clusters off; for tests that start servers by themselves.
pub(crate) fn serial() -> Turn {
    let mut taken = TAKEN.lock().unwrap_or_else(PoisonError::into_inner);
    while *taken {
        taken = FREE.wait(taken).unwrap_or_else(PoisonError::into_inner);
    }
    *taken = true;
    Turn(())
}

impl Drop for Turn {
    fn drop(&mut self) {
        *TAKEN.lock().unwrap_or_else(PoisonError::into_inner) = false;
        FREE.notify_one();
    }
}

impl Cluster {
    /// A fresh cluster of `nodes` nodes in three zones, ready for use.
    pub(crate) fn up(nodes: u32, options: &[&str]) -> Self {
        let turn = serial();
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut command = everhold(&dir.path().join("state"));
        command.args(["up", "--json", "--segment-size", "32MiB", "--nodes", &nodes.to_string()]);
        command.arg("--dir").arg(dir.path().join("cluster")).args(options);
        let up = ready(command);
        Cluster { up, dir, _turn: turn }
    }

    /// Ends `up` with all its nodes, and starts the cluster again.
    pub(crate) fn up_again(&mut self) {
        self.end();
        let mut command = self.command(&["up", "--json", "--dir"]);
        command.arg(self.dir.path().join("cluster"));
        self.up = ready(command);
    }

    fn end(&mut self) {
        if let Some(pid) = i32::try_from(self.up.id()).ok().and_then(Pid::from_raw) {
            // It may have ended by itself; then there is nothing left to stop.
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.up.wait();
    }

    /// Where scratch files may go.
    pub(crate) fn scratch(&self) -> &Path {
        self.dir.path()
    }

    /// The directory of a node.
    pub(crate) fn node_dir(&self, number: u32) -> PathBuf {
        self.dir.path().join(format!("cluster/node{number}"))
    }

    /// A command in the context of this cluster.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = everhold(&self.dir.path().join("state"));
        command.args(arguments);
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the binary runs")
    }

    /// Runs a command that must succeed, and gives its standard output.
    pub(crate) fn ok(&self, arguments: &[&str]) -> Vec<u8> {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "everhold {arguments:?} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output.stdout
    }

    /// Runs a command that must succeed and print JSON.
    pub(crate) fn json(&self, arguments: &[&str]) -> Value {
        let mut arguments = arguments.to_vec();
        arguments.push("--json");
        serde_json::from_slice(&self.ok(&arguments)).expect("it prints JSON")
    }

    /// The state of the cluster; `None` while there is no leader.
    pub(crate) fn try_status(&self) -> Option<Value> {
        let output = self.run(&["status", "--json"]);
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    /// One node of a status.
    pub(crate) fn node_of(status: &Value, number: u32) -> &Value {
        let nodes = status["nodes"].as_array().expect("nodes");
        nodes.iter().find(|node| node["id"] == number).expect("the node is listed")
    }

    /// Addresses of all nodes.
    pub(crate) fn addresses(&self) -> BTreeMap<u32, String> {
        let text =
            std::fs::read(self.dir.path().join("cluster/cluster.json")).expect("written by up");
        let file: Value = serde_json::from_slice(&text).expect("JSON");
        let nodes = file["nodes"].as_array().expect("nodes").iter();
        nodes
            .map(|node| {
                let number =
                    u32::try_from(node["number"].as_u64().expect("number")).expect("small");
                (number, node["address"].as_str().expect("address").to_string())
            })
            .collect()
    }

    /// Pid of a node's process, as its pid file has it.
    pub(crate) fn pid(&self, number: u32) -> u32 {
        let text = std::fs::read_to_string(self.node_dir(number).join("pid")).expect("a pid file");
        text.trim().parse().expect("a number")
    }

    /// Whether a node takes connections.
    pub(crate) fn serves(&self, number: u32) -> bool {
        std::net::TcpStream::connect(&self.addresses()[&number]).is_ok()
    }

    /// Sends SIGKILL to these nodes, all before any is waited for.
    pub(crate) fn kill_at_once(&self, numbers: &[u32]) {
        let pids: Vec<Pid> = numbers
            .iter()
            .map(|n| Pid::from_raw(i32::try_from(self.pid(*n)).expect("a pid")).expect("not 0"))
            .collect();
        for pid in &pids {
            kill_process(*pid, Signal::KILL).expect("it runs");
        }
        for pid in &pids {
            let process = format!("/proc/{}", pid.as_raw_nonzero());
            // Its last thread closes its files, and its first is a zombie before that.
            let threads =
                || std::fs::read_dir(format!("{process}/task")).map_or(0, Iterator::count);
            let stat = || std::fs::read_to_string(format!("{process}/stat"));
            eventually("a killed process to end", || match stat() {
                Ok(text) => (text.contains(") Z ") && threads() <= 1).then_some(()),
                Err(_) => Some(()),
            });
        }
    }

    /// Starts stopped nodes.
    pub(crate) fn start(&self, numbers: &[u32]) {
        for number in numbers {
            self.ok(&["node", "start", &number.to_string()]);
        }
    }

    /// Waits until every node is up and every copy is where it belongs.
    pub(crate) fn wait_redundant(&self) -> Value {
        eventually("full redundancy", || {
            self.try_status().filter(|status| {
                let nodes = status["nodes"].as_array().expect("nodes");
                status["redundancy"]["redundant"] == true
                    && nodes.iter().all(|node| node["state"] == "up")
            })
        })
    }

    /// Number of the node that leads.
    pub(crate) fn leader(&self) -> u32 {
        let leader = eventually("a leader", || self.try_status()?["leader"].as_u64());
        u32::try_from(leader).expect("small")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let nodes = self.addresses();
            for number in nodes.keys() {
                let log = std::fs::read(self.node_dir(*number).join("log")).unwrap_or_default();
                let text =
                    String::from_utf8_lossy(&log[log.len().saturating_sub(3000)..]).into_owned();
                eprintln!("---- end of the log of node {number}\n{text}");
            }
        }
        self.end();
    }
}

/// A process id of the system's.
pub(crate) fn process(number: u32) -> Pid {
    i32::try_from(number).ok().and_then(Pid::from_raw).expect("a process id")
}

/// Starts `up`, and waits until it says that the cluster is ready.
fn ready(mut command: Command) -> Child {
    let mut up = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("up starts");
    let (out, mut err) = (up.stdout.take().expect("piped"), up.stderr.take().expect("piped"));
    let complaints = std::thread::spawn(move || {
        let mut text = String::new();
        // The pipe ends with the process; a broken one ends the text.
        let _ = err.read_to_string(&mut text);
        text
    });
    let mut lines = BufReader::new(out).lines();
    if !lines.any(|line| line.is_ok_and(|line| line.contains("\"ready\": true"))) {
        let status = up.wait();
        panic!("up ended ({status:?}): {}", complaints.join().unwrap_or_default());
    }
    up
}

/// Waits for a condition; panics when it does not come.
pub(crate) fn eventually<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited {PATIENCE:?} in vain for {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Bytes that depend on a seed: xorshift, good enough to be incompressible and unique.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend(next().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
