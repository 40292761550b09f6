//! Changing: `mv`, `rm`, `mkdir`, `ln`, `set`.

use crate::exit::{CliError, CliResult, Exit};
use crate::fs::{base_name, join, remote};
use everhold_client::Client;
use everhold_proto::fs::{Consistency, FileKind, RenameMode, SetAttr};
use std::sync::Arc;

/// Mode of new directories.
const DIRECTORY_MODE: u32 = 0o755;

/// Where something called like `from` goes when the target is `to`: into it, if it is a directory.
async fn into_directory(client: &Arc<Client>, from: &str, to: &str) -> CliResult<String> {
    let target = match client.stat(to).await {
        Ok(attr) => Some(attr),
        Err(e) if e.is_not_found() => None,
        Err(e) => return Err(e.into()),
    };
    match (target, base_name(from)) {
        (Some(attr), Some(name)) if attr.kind == FileKind::Directory => Ok(join(to, name)),
        _ => Ok(to.to_string()),
    }
}

/// `mv`.
pub(super) async fn mv(client: &Arc<Client>, from: &str, to: &str, no_clobber: bool) -> CliResult {
    let to = into_directory(client, remote(from)?, remote(to)?).await?;
    let mode = if no_clobber { RenameMode::NoReplace } else { RenameMode::Replace };
    client.rename(from, &to, mode).await?;
    Ok(())
}

/// `rm`.
pub(super) async fn rm(
    client: &Arc<Client>,
    paths: &[String],
    recursive: bool,
    force: bool,
) -> CliResult {
    for path in paths {
        if base_name(remote(path)?).is_none() {
            return Err(CliError::usage(
                "the root directory cannot be removed",
                "name what is in it: `everhold fs ls /`",
            ));
        }
        let removed = match client.lstat(path).await {
            Ok(attr) if attr.kind == FileKind::Directory && !recursive => {
                return Err(CliError::new(
                    Exit::Failed,
                    format!("{path} is a directory"),
                    "use -r to remove a directory with all it holds",
                ));
            }
            Ok(attr) if attr.kind == FileKind::Directory => client.remove_all(path).await.map(drop),
            Ok(_) => client.remove(path).await,
            Err(e) => Err(e),
        };
        match removed {
            Err(e) if force && e.is_not_found() => {}
            other => other?,
        }
    }
    Ok(())
}

/// `mkdir`.
pub(super) async fn mkdir(client: &Arc<Client>, paths: &[String], parents: bool) -> CliResult {
    for path in paths {
        remote(path)?;
        if parents {
            client.mkdir_all(path, DIRECTORY_MODE).await?;
        } else {
            client.mkdir(path, DIRECTORY_MODE).await?;
        }
    }
    Ok(())
}

/// `ln`.
pub(super) async fn ln(
    client: &Arc<Client>,
    target: &str,
    link: &str,
    symbolic: bool,
) -> CliResult {
    if symbolic {
        client.symlink(target, remote(link)?).await?;
    } else {
        client.hard_link(remote(target)?, remote(link)?).await?;
    }
    Ok(())
}

/// `set`.
pub(super) async fn set(
    client: &Arc<Client>,
    paths: &[String],
    consistency: Consistency,
) -> CliResult {
    for path in paths {
        let set = SetAttr { consistency: Some(consistency), ..SetAttr::default() };
        client.set_attr(remote(path)?, set).await?;
    }
    Ok(())
}
