//! `everhold fs`: the familiar file commands, in the cluster. Remote paths are absolute.

mod change;
mod listing;
mod transfer;

use crate::args::{FsCommand, Global};
use crate::context::seeds;
use crate::exit::{CliError, CliResult};
use everhold_client::{Client, ClientOptions};
use everhold_env::Env;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// When nobody answers for so long, the user is told whom the command tries to reach.
const TELL_AFTER: Duration = Duration::from_secs(2);

/// Runs one of them with a session of its own.
pub(crate) async fn run(command: FsCommand, global: &Global) -> CliResult {
    if let FsCommand::Df { bytes } = command {
        return listing::df(global, bytes).await;
    }
    let client = connect(&seeds(global)?, "everhold fs").await?;
    let result = dispatch(command, &client, global.json).await;
    // What was done is durable; a session that cannot be ended ends by itself.
    if let Err(e) = client.close().await {
        tracing::debug!(error = %e, "the session was not ended");
    }
    result
}

/// Opens a session with the cluster of `seeds`.
pub(crate) async fn connect(seeds: &[String], name: &str) -> CliResult<Arc<Client>> {
    let options = ClientOptions { name: name.into(), ..ClientOptions::default() };
    let mut connecting = pin!(Client::connect(Env::real(), seeds, options));
    match timeout(TELL_AFTER, connecting.as_mut()).await {
        Ok(connected) => Ok(connected?),
        Err(_) => {
            let addresses = seeds.join(", ");
            eprintln!("everhold: nobody answers yet at {addresses}; still trying (Ctrl-C ends it)");
            Ok(connecting.await?)
        }
    }
}

async fn dispatch(command: FsCommand, client: &Arc<Client>, json: bool) -> CliResult {
    match command {
        FsCommand::Ls { long, paths } => listing::ls(client, &paths, long, json).await,
        FsCommand::Tree { path, depth } => listing::tree(client, &path, depth, json).await,
        FsCommand::Stat { paths } => listing::stat(client, &paths, json).await,
        FsCommand::Du { summarize, bytes, paths } => {
            listing::du(client, &paths, summarize, bytes, json).await
        }
        FsCommand::Df { .. } => Ok(()),
        FsCommand::Cat { paths } => transfer::cat(client, &paths).await,
        FsCommand::Put { paths, jobs } => transfer::put(client, &paths, jobs, json).await,
        FsCommand::Get { remote, local, jobs } => {
            transfer::get(client, &remote, &local, jobs, json).await
        }
        FsCommand::Cp { recursive, from, to } => {
            transfer::cp(client, &from, &to, recursive, json).await
        }
        FsCommand::Mv { no_clobber, from, to } => change::mv(client, &from, &to, no_clobber).await,
        FsCommand::Rm { recursive, force, paths } => {
            change::rm(client, &paths, recursive, force).await
        }
        FsCommand::Mkdir { parents, paths } => change::mkdir(client, &paths, parents).await,
        FsCommand::Ln { symbolic, target, link } => {
            change::ln(client, &target, &link, symbolic).await
        }
        FsCommand::Set { consistency, paths } => {
            change::set(client, &paths, consistency.into()).await
        }
    }
}

/// Checks that a path of the cluster is absolute.
pub(crate) fn remote(path: &str) -> CliResult<&str> {
    if path.starts_with('/') {
        return Ok(path);
    }
    Err(CliError::usage(
        format!("{path:?} is not a path in the cluster"),
        format!("paths in the cluster are absolute, such as /{}", path.trim_start_matches("./")),
    ))
}

/// The path of `name` in the directory `parent`.
pub(crate) fn join(parent: &str, name: &str) -> String {
    format!("{}/{name}", parent.trim_end_matches('/'))
}

/// The last name of a path; `None` for the root.
pub(crate) fn base_name(path: &str) -> Option<&str> {
    path.trim_end_matches('/').rsplit('/').next().filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart_and_joined() {
        assert!(remote("/a").is_ok());
        assert!(remote("a/b").unwrap_err().hint.ends_with("/a/b"));
        assert_eq!(join("/", "a"), "/a");
        assert_eq!(join("/a/", "b"), "/a/b");
        assert_eq!(base_name("/a/b/"), Some("b"));
        assert_eq!(base_name("/"), None);
    }
}
