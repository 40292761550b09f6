//! Which cluster a command means: `--cluster`, else `EVERHOLD_CLUSTER` (both by clap), else the
//! context that the last `everhold up` wrote.

use crate::args::Global;
use crate::exit::{CliError, CliResult, Exit};
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// What `up` leaves for the commands that follow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// Addresses of the nodes.
    pub(crate) cluster: Vec<String>,
    /// Directory of the local cluster.
    pub(crate) dir: PathBuf,
}

impl Context {
    /// Reads the context of the last `up`; `None` when there was none.
    pub(crate) fn read() -> CliResult<Option<Context>> {
        let path = path()?;
        let text = match std::fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(|e| CliError::local(&path, &e))?,
        };
        serde_json::from_slice(&text).map(Some).map_err(|e| {
            CliError::new(
                Exit::Failed,
                format!("{}: {e}", path.display()),
                "remove this file and run `everhold up`, or use --cluster HOST:PORT",
            )
        })
    }

    /// Makes this the context of the commands that follow, and notes it among the local clusters.
    pub(crate) fn write(&self) -> CliResult<PathBuf> {
        let path = path()?;
        write_file(&path, self)?;
        let known = known_path()?;
        let others = read_known(&known)?.into_iter();
        let mut all: Vec<Context> =
            others.filter(|other| other.dir != self.dir && other.dir.exists()).collect();
        all.push(self.clone());
        let surplus = all.len().saturating_sub(KNOWN_MAX);
        all.drain(..surplus);
        write_file(&known, &all)?;
        Ok(path)
    }

    /// The local cluster that a command means: the one that has the addresses of `--cluster`, else that of the last `up`.
    pub(crate) fn local(global: &Global) -> CliResult<Context> {
        if global.cluster.is_empty() {
            return Self::read()?.ok_or_else(|| {
                CliError::new(
                    Exit::NotFound,
                    "there is no local cluster",
                    "start one with `everhold up`; servers elsewhere are started by their own machine",
                )
            });
        }
        one_of(read_known(&known_path()?)?, &seeds(global)?)
    }
}

/// So many local clusters are remembered, the last ones that were started.
const KNOWN_MAX: usize = 64;

/// The one cluster of `known` that has one of these addresses.
fn one_of(known: Vec<Context>, seeds: &[String]) -> CliResult<Context> {
    let has = |context: &Context| context.cluster.iter().any(|address| seeds.contains(address));
    let mut found: Vec<Context> = known.into_iter().filter(has).collect();
    match found.len() {
        1 => Ok(found.remove(0)),
        0 => Err(CliError::new(
            Exit::NotFound,
            format!("no local cluster has the address {}", seeds.join(",")),
            "servers elsewhere are started and stopped by their own machine; name a cluster that `everhold up` started here",
        )),
        _ => Err(CliError::new(
            Exit::Conflict,
            format!(
                "{} clusters that were started here have the address {}: in {}",
                found.len(),
                seeds.join(","),
                found.iter().map(|c| c.dir.display().to_string()).collect::<Vec<_>>().join(", ")
            ),
            "remove the directory of the one that is not used any more, or call `everhold up --dir DIR`",
        )),
    }
}

fn read_known(path: &Path) -> CliResult<Vec<Context>> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|e| CliError::local(path, &e))?,
    };
    serde_json::from_slice(&text).map_err(|e| {
        CliError::new(
            Exit::Failed,
            format!("{}: {e}", path.display()),
            "remove this file; `everhold up --dir DIR` notes a cluster again",
        )
    })
}

/// Addresses of the cluster that a command means.
pub(crate) fn seeds(global: &Global) -> CliResult<Vec<String>> {
    if !global.cluster.is_empty() {
        return global.cluster.iter().map(|address| checked(address)).collect();
    }
    match Context::read()? {
        Some(context) => Ok(context.cluster),
        None => Err(CliError::usage(
            "no cluster is named",
            "start one with `everhold up`, or name one with --cluster HOST:PORT or EVERHOLD_CLUSTER",
        )),
    }
}

/// An address, checked for its form.
fn checked(address: &str) -> CliResult<String> {
    let port = address
        .rsplit_once(':')
        .and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>().ok()).flatten());
    match port {
        Some(_) => Ok(address.to_string()),
        None => Err(CliError::usage(
            format!("{address:?} is not an address"),
            "write HOST:PORT, several separated by commas",
        )),
    }
}

/// Writes JSON to a file, atomically, creating its directory.
pub(crate) fn write_file<T: Serialize>(path: &Path, value: &T) -> CliResult {
    let attempt = || {
        let dir = path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(dir)?;
        let temporary = path.with_extension(format!("tmp{}", std::process::id()));
        std::fs::write(&temporary, serde_json::to_vec_pretty(value)?)?;
        std::fs::rename(&temporary, path)
    };
    attempt().map_err(|e| CliError::local(path, &e))
}

/// `$XDG_STATE_HOME/everhold/context.json` or `~/.local/state/everhold/context.json`.
fn path() -> CliResult<PathBuf> {
    home_or("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("everhold/context.json"))
}

/// The local clusters that were started, beside the context.
fn known_path() -> CliResult<PathBuf> {
    home_or("XDG_STATE_HOME", ".local/state").map(|dir| dir.join("everhold/clusters.json"))
}

/// Where the log of a mount in the background goes by default: beside the context, named after the mount point.
pub(crate) fn mount_log(mount_point: &Path) -> CliResult<PathBuf> {
    let name = mount_point.to_string_lossy().trim_matches('/').replace('/', "-");
    home_or("XDG_STATE_HOME", ".local/state")
        .map(|dir| dir.join(format!("everhold/mount-{name}.log")))
}

/// The default directory of a local cluster: `$XDG_DATA_HOME` or `~/.local/share`, `everhold/cluster`.
pub(crate) fn default_cluster_dir() -> CliResult<PathBuf> {
    home_or("XDG_DATA_HOME", ".local/share").map(|dir| dir.join("everhold/cluster"))
}

fn home_or(variable: &str, fallback: &str) -> CliResult<PathBuf> {
    let absolute =
        |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| absolute("HOME").map(|home| home.join(fallback))).ok_or_else(
        || {
            CliError::usage(
                format!("neither {variable} nor HOME names a directory"),
                format!("set {variable}, or use --dir and --cluster"),
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command for one cluster never acts on another one.
    #[test]
    fn the_named_cluster_is_found_among_several() {
        let context = |dir: &str, ports: &[u16]| Context {
            cluster: ports.iter().map(|port| format!("127.0.0.1:{port}")).collect(),
            dir: dir.into(),
        };
        let known = || vec![context("/a", &[1, 2]), context("/b", &[3]), context("/c", &[3, 4])];
        let of = |port: u16| one_of(known(), &[format!("127.0.0.1:{port}")]);
        assert_eq!(of(2).unwrap().dir, Path::new("/a"));
        assert_eq!(of(4).unwrap().dir, Path::new("/c"));
        assert_eq!(of(9).unwrap_err().exit, Exit::NotFound);
        assert_eq!(of(3).unwrap_err().exit, Exit::Conflict);
    }

    #[test]
    fn addresses_are_checked() {
        assert!(checked("127.0.0.1:7600").is_ok());
        assert!(checked("node-3.example:80").is_ok());
        for bad in ["", "localhost", ":80", "h:99999", "h:x"] {
            assert_eq!(checked(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
