//! `DIR/cluster.json`: the nodes of a local cluster, their zones and ports. Written once; the ports
//! stay, because nodes know each other by address.

use crate::context::write_file;
use crate::exit::{CliError, CliResult, Exit};
use serde::{Deserialize, Serialize};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

/// Version of this file.
const FORMAT: u32 = 1;

/// What a new local cluster is to be.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Number of nodes.
    pub(crate) nodes: u32,
    /// Number of zones; nodes are dealt to them in turn.
    pub(crate) zones: u32,
    /// Copies of each block.
    pub(crate) copies: u8,
    /// First port, or free ones.
    pub(crate) port_base: Option<u16>,
    /// Most bytes that each node stores.
    pub(crate) capacity_bytes: Option<u64>,
    /// Size of segment files.
    pub(crate) segment_bytes: Option<u64>,
}

/// The whole file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ClusterFile {
    /// Version of this file.
    format: u32,
    /// Copies of each block.
    pub(crate) copies: u8,
    /// Most bytes that each node stores.
    pub(crate) capacity_bytes: Option<u64>,
    /// Size of segment files.
    pub(crate) segment_bytes: Option<u64>,
    /// Nodes, ascending by number.
    pub(crate) nodes: Vec<LocalNode>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LocalNode {
    /// Counts from 1: its directory is `nodeN`, and nodes join in this order, so that it is its id too.
    pub(crate) number: u32,
    /// Its zone.
    pub(crate) zone: String,
    /// Where it listens.
    pub(crate) address: String,
}

impl ClusterFile {
    /// Where the file of the cluster in `dir` is.
    pub(crate) fn path(dir: &Path) -> PathBuf {
        dir.join("cluster.json")
    }

    /// Plans a new cluster and takes its ports.
    pub(crate) fn plan(plan: &Plan) -> CliResult<Self> {
        let ports = match plan.port_base {
            Some(base) => consecutive_ports(base, plan.nodes)?,
            None => free_ports(plan.nodes)?,
        };
        let nodes = (1..=plan.nodes).zip(ports).map(|(number, port)| LocalNode {
            number,
            zone: format!("z{}", (number - 1) % plan.zones + 1),
            address: format!("127.0.0.1:{port}"),
        });
        Ok(ClusterFile {
            format: FORMAT,
            copies: plan.copies,
            capacity_bytes: plan.capacity_bytes,
            segment_bytes: plan.segment_bytes,
            nodes: nodes.collect(),
        })
    }

    /// Reads the cluster in `dir`; `None` when there is none.
    pub(crate) fn read(dir: &Path) -> CliResult<Option<Self>> {
        let path = Self::path(dir);
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| CliError::local(&path, &e))?,
        };
        let damaged = |reason: String| {
            CliError::new(
                Exit::Foreign,
                format!("{}: {reason}", path.display()),
                "restore this file, or use another --dir for a new cluster",
            )
        };
        let file: ClusterFile =
            serde_json::from_slice(&text).map_err(|e| damaged(e.to_string()))?;
        if file.format != FORMAT {
            return Err(damaged(format!(
                "format version {}, this program reads {FORMAT}",
                file.format
            )));
        }
        if file.nodes.is_empty() {
            return Err(damaged("it names no nodes".into()));
        }
        Ok(Some(file))
    }

    /// Writes it to `dir`.
    pub(crate) fn write(&self, dir: &Path) -> CliResult {
        write_file(&Self::path(dir), self)
    }

    /// Addresses of all nodes.
    pub(crate) fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Number of zones.
    pub(crate) fn zones(&self) -> usize {
        let zones: std::collections::BTreeSet<_> = self.nodes.iter().map(|n| &n.zone).collect();
        zones.len()
    }
}

fn consecutive_ports(base: u16, count: u32) -> CliResult<Vec<u16>> {
    (0..count)
        .map(|i| {
            let port = u32::from(base) + i;
            u16::try_from(port).ok().filter(|port| *port > 0).ok_or_else(|| {
                CliError::usage(
                    format!("port {port} does not exist"),
                    "choose a --port-base between 1 and 65535 less the number of nodes",
                )
            })
        })
        .collect()
}

/// Ports that are free now: all are held at once, so that they differ.
fn free_ports(count: u32) -> CliResult<Vec<u16>> {
    let bind = || -> std::io::Result<Vec<u16>> {
        let held: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<std::io::Result<_>>()?;
        held.iter().map(|listener| Ok(listener.local_addr()?.port())).collect()
    };
    bind().map_err(|e| CliError::local("127.0.0.1", &e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_planned_written_and_read() {
        let plan = Plan {
            nodes: 5,
            zones: 3,
            copies: 3,
            port_base: None,
            capacity_bytes: None,
            segment_bytes: None,
        };
        let file = ClusterFile::plan(&plan).unwrap();
        let zones: Vec<_> = file.nodes.iter().map(|n| n.zone.as_str()).collect();
        assert_eq!(zones, ["z1", "z2", "z3", "z1", "z2"]);
        assert_eq!(file.zones(), 3);
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(ClusterFile::read(dir.path()).unwrap(), None);
        file.write(dir.path()).unwrap();
        assert_eq!(ClusterFile::read(dir.path()).unwrap(), Some(file));
        std::fs::write(ClusterFile::path(dir.path()), "{}").unwrap();
        assert_eq!(ClusterFile::read(dir.path()).unwrap_err().exit, Exit::Foreign);
        assert!(consecutive_ports(65_535, 2).is_err());
    }
}
