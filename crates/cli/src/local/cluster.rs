//! The processes of one local cluster.

use crate::exit::{CliError, CliResult, Exit};
use crate::local::file::{ClusterFile, LocalNode};
use crate::local::process::{NodeDir, STOP_LIMIT};
use everhold_proto::NodeId;
use rustix::process::Signal;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

/// What becomes of the servers when this program ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lifetime {
    /// They end with it, whatever ends it.
    WithParent,
    /// They go on.
    Detached,
}

/// A local cluster; the servers that it started are stopped when it is dropped, unless they are detached.
pub(crate) struct LocalCluster {
    dir: PathBuf,
    file: ClusterFile,
    lifetime: Lifetime,
    children: BTreeMap<u32, Child>,
}

impl LocalCluster {
    /// The cluster in `dir`, which must be absolute.
    pub(crate) fn new(dir: PathBuf, file: ClusterFile, lifetime: Lifetime) -> Self {
        assert!(dir.is_absolute(), "servers are found again by their absolute directories");
        LocalCluster { dir, file, lifetime, children: BTreeMap::new() }
    }

    /// The cluster in `dir`, to start or stop single nodes of it.
    pub(crate) fn open(dir: &Path, lifetime: Lifetime) -> CliResult<Self> {
        let dir = dir.canonicalize().map_err(|e| CliError::local(dir, &e))?;
        let file = ClusterFile::read(&dir)?.ok_or_else(|| {
            CliError::new(
                Exit::NotFound,
                format!("{} holds no local cluster", dir.display()),
                "start one there with `everhold up --dir DIR`",
            )
        })?;
        Ok(Self::new(dir, file, lifetime))
    }

    /// Its description.
    pub(crate) fn file(&self) -> &ClusterFile {
        &self.file
    }

    /// The node with this number.
    pub(crate) fn node(&self, number: u32) -> CliResult<&LocalNode> {
        self.file.nodes.iter().find(|node| node.number == number).ok_or_else(|| {
            CliError::new(
                Exit::NotFound,
                format!("{} has no node {number}", self.dir.display()),
                format!("its nodes are 1 to {}; see `everhold node ls`", self.file.nodes.len()),
            )
        })
    }

    /// The number here of the node that the cluster calls `id`. They are the same unless a node lost its directory and joined
    /// anew; a node that never joined has its number for an id.
    pub(crate) fn number_of(&self, id: NodeId) -> CliResult<u32> {
        let numbers = self.file.nodes.iter().map(|node| node.number);
        let named = numbers.clone().find(|number| self.node_dir(*number).id() == Some(id));
        if let Some(number) = named {
            return Ok(number);
        }
        let number = self.node(id.0)?.number;
        match self.node_dir(number).id() {
            None => Ok(number),
            Some(other) => Err(CliError::new(
                Exit::NotFound,
                format!("node {id} is not here any more: its directory is that of {other} now"),
                format!("name {other}; if {id} is lost for good, `everhold node replace {id}`"),
            )),
        }
    }

    /// The number of the node that listens on `address`.
    pub(crate) fn number_at(&self, address: &str) -> Option<u32> {
        self.file.nodes.iter().find(|node| node.address == address).map(|node| node.number)
    }

    /// The process side of a node.
    pub(crate) fn node_dir(&self, number: u32) -> NodeDir {
        NodeDir::new(&self.dir, number)
    }

    /// Pid of each running node.
    pub(crate) fn running(&mut self) -> BTreeMap<u32, u32> {
        self.reap();
        let pid = |node: &LocalNode| Some((node.number, self.node_dir(node.number).running()?));
        self.file.nodes.iter().filter_map(pid).collect()
    }

    /// Starts a node and gives its pid; one that runs stays as it is.
    pub(crate) fn start(&mut self, number: u32) -> CliResult<u32> {
        let node = self.node(number)?;
        let dir = self.node_dir(number);
        if let Some(pid) = dir.running() {
            return Ok(pid);
        }
        let arguments = self.arguments(node);
        let child = dir
            .spawn(&arguments, self.lifetime == Lifetime::WithParent)
            .map_err(|e| CliError::local(dir.path(), &e))?;
        let pid = child.id();
        self.children.insert(number, child);
        Ok(pid)
    }

    /// Ends a node at once, as a power cut of its machine would; returns when it is gone.
    pub(crate) fn kill(&mut self, number: u32) -> CliResult {
        self.end(number, Signal::KILL)
    }

    /// Asks a node to stop; one that does not within the limit is killed.
    pub(crate) fn stop(&mut self, number: u32) -> CliResult {
        self.end(number, Signal::TERM)
    }

    fn end(&mut self, number: u32, signal: Signal) -> CliResult {
        self.node(number)?;
        let dir = self.node_dir(number);
        dir.signal(signal);
        if !dir.wait_ended(Instant::now() + STOP_LIMIT) {
            dir.signal(Signal::KILL);
            if !dir.wait_ended(Instant::now() + STOP_LIMIT) {
                return Err(CliError::new(
                    Exit::Failed,
                    format!("node {number} does not end although it was killed"),
                    "look at the process in /proc; it may wait for a broken disk",
                ));
            }
        }
        self.reap();
        Ok(())
    }

    /// Stops all nodes: all are asked at once, and those that did not end within the limit are killed.
    pub(crate) fn stop_all(&mut self, limit: Duration) {
        let numbers = self.file.nodes.iter().map(|node| node.number).collect();
        self.stop_these(numbers, limit);
    }

    /// Stops those that this program started; what others started goes on.
    pub(crate) fn stop_started(&mut self, limit: Duration) {
        let numbers = self.children.keys().copied().collect();
        self.stop_these(numbers, limit);
    }

    fn stop_these(&mut self, numbers: Vec<u32>, limit: Duration) {
        let dirs: Vec<NodeDir> = numbers.into_iter().map(|number| self.node_dir(number)).collect();
        for dir in &dirs {
            dir.signal(Signal::TERM);
        }
        let deadline = Instant::now() + limit;
        for dir in &dirs {
            if !dir.wait_ended(deadline) {
                dir.signal(Signal::KILL);
                dir.wait_ended(Instant::now() + STOP_LIMIT);
            }
        }
        self.reap();
    }

    /// Whether the process that was started for a node has ended, with the reason.
    pub(crate) fn ended(&mut self, number: u32) -> Option<String> {
        let status = self.children.get_mut(&number)?.try_wait().ok()??;
        Some(status.to_string())
    }

    fn reap(&mut self) {
        for child in self.children.values_mut() {
            // An error here means that it was reaped before.
            let _ = child.try_wait();
        }
    }

    fn arguments(&self, node: &LocalNode) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: &str| {
            arguments.push(name.into());
            arguments.push(value.into());
        };
        add("--listen", &node.address);
        add("--zone", &node.zone);
        if let Some(bytes) = self.file.capacity_bytes {
            add("--capacity", &bytes.to_string());
        }
        if let Some(bytes) = self.file.segment_bytes {
            add("--segment-size", &bytes.to_string());
        }
        // The nodes share one machine's cores: more threads than that only wake each other up, which
        // cost a third more CPU per write where it was measured (5 nodes, 2 cores).
        let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
        add("--threads", &(cores / self.file.nodes.len()).max(1).to_string());
        let first = &self.file.nodes[0];
        if node.number == first.number {
            add("--copies", &self.file.copies.to_string());
            arguments.push("--bootstrap".into());
        } else {
            let others = self.file.nodes.iter().filter(|other| other.number != node.number);
            let join: Vec<&str> = others.map(|other| other.address.as_str()).collect();
            add("--join", &join.join(","));
        }
        arguments
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::WithParent {
            self.stop_started(STOP_LIMIT);
        }
    }
}
