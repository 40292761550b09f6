//! What a run is told.

use crate::real::cluster::Setup;
use crate::real::options::binary;
use clap::ValueEnum;
use everhold_proto::ByteSize;
use serde::Serialize;
use std::io;
use std::path::PathBuf;

/// The rows of the table, in the order in which they are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Row {
    /// A storage node is killed; it is given up and its copies are made anew elsewhere.
    Kill,
    /// A storage node falls silent.
    Pause,
    /// Short pauses of a node, one after another.
    ShortPauses,
    /// The metadata leader is killed.
    KillLeader,
    /// The metadata leader falls silent.
    PauseLeader,
    /// A whole zone is gone.
    Zone,
    /// A node hears nothing, or is not heard.
    OneWay,
    /// Two nodes do not reach each other.
    Partial,
    /// A disk becomes slow by 20 times.
    SlowDisk,
    /// Bits rot on one node.
    BitRot,
    /// A node returns after a minute.
    Return,
    /// All nodes are restarted one after another.
    Rolling,
    /// Clients ask for five times what the cluster can do while a node is slow.
    Surge,
    /// More than half of the nodes are cut off.
    Mass,
}

/// A run: how large, and which rows.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Bytes that are stored before the first fault
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub data: ByteSize,
    /// A short form for tests: less data, shorter faults, fewer repetitions
    #[arg(long)]
    pub short: bool,
    /// Only these rows
    #[arg(long, value_name = "ROW,…", value_delimiter = ',')]
    pub rows: Vec<Row>,
    /// Decides contents and places of damage
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report here as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The `everhold` to test; without it, the one beside this program
    #[arg(long, value_name = "FILE")]
    pub everhold: Option<PathBuf>,
    /// Number of nodes, one host each; two more join before the row `mass`
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..=60))]
    pub nodes: u32,
    /// Number of zones; nodes are dealt to them in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=60))]
    pub zones: u32,
    /// Keep disks and logs here; without it, logs are kept only when the run fails
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Size of each node's disk, a sparse file
    #[arg(long, value_name = "SIZE", default_value = "12GiB")]
    pub disk_size: ByteSize,
}

/// Bytes of the short form.
const SHORT_DATA: u64 = 128 << 20;
/// Nodes that join before more than half of them are cut off: more than the five voters are needed, so that
/// a majority of these is left.
const MORE: u32 = 2;

impl Options {
    /// The rows to run, in order.
    pub(super) fn rows(&self) -> Vec<Row> {
        let all = Row::value_variants().to_vec();
        all.into_iter().filter(|row| self.rows.is_empty() || self.rows.contains(row)).collect()
    }

    /// What the cluster is made of at first.
    pub(super) fn setup(&self) -> io::Result<Setup> {
        let (nodes, zones, disk_bytes) = (self.nodes, self.zones, self.disk_size.0);
        Ok(Setup { everhold: binary(self.everhold.as_deref())?, nodes, zones, disk_bytes })
    }

    /// Hosts that are needed in the end.
    pub(super) fn hosts(&self) -> u32 {
        self.nodes + MORE
    }

    /// Bytes stored before the first fault.
    pub(super) fn data_bytes(&self) -> u64 {
        if self.short { self.data.0.min(SHORT_DATA) } else { self.data.0 }
    }

    /// The longer or the shorter of two.
    pub(super) fn either<T>(&self, long: T, short: T) -> T {
        if self.short { short } else { long }
    }
}
