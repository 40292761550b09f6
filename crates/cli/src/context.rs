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

    /// Makes this the context of the commands that follow.
    pub(crate) fn write(&self) -> CliResult<PathBuf> {
        let path = path()?;
        write_file(&path, self)?;
        Ok(path)
    }
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

    #[test]
    fn addresses_are_checked() {
        assert!(checked("127.0.0.1:7600").is_ok());
        assert!(checked("node-3.example:80").is_ok());
        for bad in ["", "localhost", ":80", "h:99999", "h:x"] {
            assert_eq!(checked(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
