//! Moving bytes in and out: `cat`, `put`, `get`, and `cp` within the cluster. On a terminal with a
//! progress bar; failures of single files are listed and do not stop the rest.

use crate::exit::{CliError, CliResult, Exit};
use crate::fs::{base_name, join, remote};
use crate::output::{duration, json, line, raw, size};
use everhold_client::{Client, CreateOptions, Progress, Totals, TransferOptions, TransferReport};
use everhold_proto::fs::FileKind;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the bar moves.
const REDRAW: Duration = Duration::from_millis(100);
/// Failures listed one by one; more are only counted.
const FAILURES_SHOWN: usize = 10;

/// `-`: standard input or output.
fn is_stream(path: &Path) -> bool {
    path.as_os_str() == "-"
}

/// `cat`.
pub(super) async fn cat(client: &Arc<Client>, paths: &[String]) -> CliResult {
    for path in paths {
        to_stdout(client, path).await?;
    }
    Ok(())
}

async fn to_stdout(client: &Arc<Client>, path: &str) -> CliResult {
    let mut reader = client.read_file(remote(path)?).await?;
    while let Some(chunk) = reader.next_chunk().await.map_err(|e| CliError::from(e).about(path))? {
        raw(&chunk)?;
    }
    Ok(())
}

/// `put`.
pub(super) async fn put(
    client: &Arc<Client>,
    paths: &[PathBuf],
    jobs: usize,
    as_json: bool,
) -> CliResult {
    let Some((target, locals)) = paths.split_last() else {
        return Err(CliError::usage("nothing to put", "name local files, then the target"));
    };
    let target = target.to_str().ok_or_else(|| {
        CliError::usage("the target is not UTF-8", "choose a target in the cluster such as /name")
    })?;
    let into = directory_to_enter(client, remote(target)?).await?;
    if locals.len() > 1 && !into {
        return Err(CliError::new(
            Exit::NotFound,
            format!("{target} is not a directory"),
            format!("several files go into a directory: make it with `everhold fs mkdir {target}`"),
        ));
    }
    for local in locals {
        if is_stream(local) {
            from_stdin(client, target, into).await?;
            continue;
        }
        let name = local.canonicalize().map_err(|e| CliError::local(local, &e))?;
        let name = name.file_name().map(|name| name.to_string_lossy().into_owned());
        let to = match (into, name) {
            (true, Some(name)) => join(target, &name),
            _ => target.to_string(),
        };
        let progress = Arc::new(Progress::default());
        let options = TransferOptions { jobs, ..TransferOptions::default() };
        let work = client.put_tree(local, &to, options, progress.clone());
        shown(work, &progress, as_json).await?;
    }
    Ok(())
}

/// Whether sources go into the target rather than become it. A target that ends in `/` must be a
/// directory.
async fn directory_to_enter(client: &Arc<Client>, target: &str) -> CliResult<bool> {
    match client.stat(target).await {
        Ok(attr) if attr.kind == FileKind::Directory => Ok(true),
        Ok(_) => Ok(false),
        Err(e) if e.is_not_found() && !target.ends_with('/') => Ok(false),
        Err(e) => Err(e.into()),
    }
}

async fn from_stdin(client: &Arc<Client>, target: &str, is_directory: bool) -> CliResult {
    if is_directory {
        return Err(CliError::usage(
            format!("{target} is a directory"),
            "standard input needs the name of a file",
        ));
    }
    let mut writer = client.create(target, CreateOptions::default()).await?;
    loop {
        let mut buffer = client.wire().buffers().take();
        let limit = buffer.room();
        let tasks = client.env().tasks;
        let filled = tasks.blocking(move || {
            buffer.fill_from(limit, |to| io::Read::read(&mut io::stdin().lock(), to))?;
            Ok(buffer.into_bytes())
        });
        let bytes = filled.await.map_err(|e| CliError::local("standard input", &e))?;
        if bytes.is_empty() {
            break;
        }
        writer.write_bytes(bytes).await?;
    }
    writer.finish().await.map_err(|e| CliError::from(e).about(target))?;
    Ok(())
}

/// `get`.
pub(super) async fn get(
    client: &Arc<Client>,
    from: &str,
    to: &Path,
    jobs: usize,
    as_json: bool,
) -> CliResult {
    remote(from)?;
    if is_stream(to) {
        return to_stdout(client, from).await;
    }
    let to = match base_name(from) {
        Some(name) if to.is_dir() => to.join(name),
        _ => to.to_path_buf(),
    };
    let progress = Arc::new(Progress::default());
    let options = TransferOptions { jobs, ..TransferOptions::default() };
    shown(client.get_tree(from, &to, options, progress.clone()), &progress, as_json).await
}

/// `cp`.
pub(super) async fn cp(
    client: &Arc<Client>,
    from: &str,
    to: &str,
    recursive: bool,
    as_json: bool,
) -> CliResult {
    let attr = client.stat(remote(from)?).await?;
    if attr.kind == FileKind::Directory && !recursive {
        return Err(CliError::new(
            Exit::Failed,
            format!("{from} is a directory"),
            "use -r to copy a directory with all it holds",
        ));
    }
    let into = directory_to_enter(client, remote(to)?).await?;
    let to = match base_name(from) {
        Some(name) if into => join(to, name),
        _ => to.to_string(),
    };
    let inside = to.strip_prefix(from.trim_end_matches('/'));
    if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
        return Err(CliError::usage(
            format!("{from} cannot be copied into itself"),
            "choose a target outside of it",
        ));
    }
    let progress = Arc::new(Progress::default());
    let work = client.copy_tree(from, &to, TransferOptions::default(), progress.clone());
    shown(work, &progress, as_json).await
}

/// Runs a transfer with a progress bar, then tells what it did.
async fn shown(
    work: impl Future<Output = everhold_client::Result<TransferReport>>,
    progress: &Progress,
    as_json: bool,
) -> CliResult {
    let started = Instant::now();
    let bar = bar(as_json);
    let report = {
        tokio::pin!(work);
        loop {
            tokio::select! {
                report = &mut work => break report,
                () = tokio::time::sleep(REDRAW) => redraw(&bar, progress.totals()),
            }
        }
    };
    bar.finish_and_clear();
    let report = report?;
    tell(&report, started.elapsed(), as_json)?;
    match report.failures.first() {
        None => Ok(()),
        Some((path, error)) => {
            let mut first = CliError::from(error.clone());
            let others = report.totals.failed.saturating_sub(1);
            if !first.message.contains(path.as_str()) {
                first = first.about(path);
            }
            if others > 0 {
                first.message = format!("{} (and {others} more failures)", first.message);
            }
            Err(first)
        }
    }
}

fn bar(as_json: bool) -> ProgressBar {
    let target = match !as_json && io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let bar = ProgressBar::with_draw_target(Some(0), target);
    let template = "{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {msg}";
    bar.set_style(
        ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar()),
    );
    bar
}

fn redraw(bar: &ProgressBar, totals: Totals) {
    bar.set_length(totals.bytes_found);
    bar.set_position(totals.bytes);
    bar.set_message(format!("{}/{} files", totals.files, totals.files_found));
}

fn tell(report: &TransferReport, took: Duration, as_json: bool) -> CliResult {
    let totals = report.totals;
    if as_json {
        let failures: Vec<_> = report
            .failures
            .iter()
            .map(|(path, error)| serde_json::json!({ "path": path, "error": error.to_string() }))
            .collect();
        return json(&serde_json::json!({
            "files": totals.files, "directories": totals.directories, "links": totals.links,
            "bytes": totals.bytes, "failed": totals.failed, "seconds": took.as_secs_f64(),
            "failures": failures,
        }));
    }
    for (path, error) in report.failures.iter().skip(1).take(FAILURES_SHOWN) {
        eprintln!("everhold: {path}: {error}");
    }
    if totals.files + totals.directories + totals.links > 1 {
        let rate = totals.bytes as f64 / took.as_secs_f64().max(1e-3);
        line(format!(
            "{} files, {} directories, {} links, {} in {} ({}/s)",
            totals.files,
            totals.directories,
            totals.links,
            size(totals.bytes, false),
            duration(took),
            size(rate as u64, false)
        ))?;
    }
    Ok(())
}
