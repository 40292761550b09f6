//! What a run is told.

use crate::real::cluster::Setup;
use crate::real::faults::FaultKind;
use everhold_proto::ByteSize;
use std::io;
use std::path::{Path, PathBuf};

/// A run: how long, how large, and the seed of its faults.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Minutes of faults; healing and the last check come after them
    #[arg(long, default_value_t = 10.0, value_parser = minutes)]
    pub minutes: f64,
    /// Decides which faults come in which order; without it, one is drawn and printed
    #[arg(long)]
    pub seed: Option<u64>,
    /// Write the report here as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// The `everhold` to test; without it, the one beside this program
    #[arg(long, value_name = "FILE")]
    pub everhold: Option<PathBuf>,
    /// Number of nodes, one host each
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(5..=60))]
    pub nodes: u32,
    /// Number of zones; nodes are dealt to them in turn
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(3..=60))]
    pub zones: u32,
    /// Number of clients that work beside the two probes
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub clients: u32,
    /// Only these faults
    #[arg(long, value_name = "KIND,…", value_delimiter = ',')]
    pub faults: Vec<FaultKind>,
    /// Keep disks and logs here; without it, logs are kept only when the run fails
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Size of each node's disk, a sparse file
    #[arg(long, value_name = "SIZE", default_value = "2GiB")]
    pub disk_size: ByteSize,
    /// Seconds that the cluster has to converge after a fault
    #[arg(long, default_value_t = 180)]
    pub recovery_seconds: u64,
}

fn minutes(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(minutes) if minutes > 0.0 && minutes <= 24.0 * 60.0 => Ok(minutes),
        _ => Err("not a number of minutes above 0, at most a day".into()),
    }
}

/// The binary under test: the one that was named, or the one beside this program.
pub(crate) fn binary(named: Option<&Path>) -> io::Result<PathBuf> {
    let path = match named {
        Some(path) => path.to_path_buf(),
        None => std::env::current_exe()?.with_file_name("everhold"),
    };
    path.canonicalize().map_err(|e| {
        let hint = "build it with `cargo build -p everhold-cli`, or name it with --everhold";
        io::Error::new(e.kind(), format!("{}: {e}; {hint}", path.display()))
    })
}

impl Options {
    /// The kinds of faults that may come.
    pub(crate) fn kinds(&self) -> Vec<FaultKind> {
        if self.faults.is_empty() { FaultKind::ALL.to_vec() } else { self.faults.clone() }
    }

    /// What the cluster is made of.
    pub(crate) fn setup(&self) -> io::Result<Setup> {
        let (nodes, zones, disk_bytes) = (self.nodes, self.zones, self.disk_size.0);
        Ok(Setup { everhold: binary(self.everhold.as_deref())?, nodes, zones, disk_bytes })
    }

    /// The command that draws the same faults again.
    pub(crate) fn again(&self, seed: u64) -> String {
        use clap::ValueEnum;
        let mut command = format!(
            "cargo run -p everhold-sim --bin everhold-faults -- --minutes {} --seed {seed} \
             --nodes {} --zones {} --clients {}",
            self.minutes, self.nodes, self.zones, self.clients
        );
        let value = |kind: &FaultKind| kind.to_possible_value().map(|v| v.get_name().to_owned());
        let names: Vec<String> = self.faults.iter().filter_map(value).collect();
        if !names.is_empty() {
            command += &format!(" --faults {}", names.join(","));
        }
        command
    }
}
