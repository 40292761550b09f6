//! `everhold up`: a local cluster of real server processes, watched until Ctrl-C.

use crate::args::UpArgs;
use crate::context::{Context, default_cluster_dir};
use crate::exit::{CliError, CliResult, Exit};
use crate::interrupt::Interrupt;
use crate::local::{ClusterFile, Lifetime, LocalCluster, Plan, wait_ready};
use crate::output::{json, line};
use rustix::fs::{FlockOperation, flock};
use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const NODES: u32 = 5;
const ZONES: u32 = 3;
const COPIES: u8 = 3;
/// How often the processes are looked at.
const WATCH: Duration = Duration::from_millis(250);
/// How long the nodes may take to stop before they are killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// Runs the cluster.
pub(crate) async fn run(args: UpArgs, as_json: bool) -> CliResult {
    let dir = match &args.dir {
        Some(dir) => dir.clone(),
        None => default_cluster_dir()?,
    };
    std::fs::create_dir_all(&dir).map_err(|e| CliError::local(&dir, &e))?;
    let dir = dir.canonicalize().map_err(|e| CliError::local(&dir, &e))?;
    let _lock = lock(&dir)?;
    let file = found_or_new(&dir, &args)?;
    let lifetime = if args.detach { Lifetime::Detached } else { Lifetime::WithParent };
    let mut interrupt = Interrupt::listen()?;
    let mut cluster = LocalCluster::new(dir.clone(), file, lifetime);
    let tell = |text: String| {
        if !as_json {
            eprintln!("{text}");
        }
    };
    let started = interrupt.guard(wait_ready(&mut cluster, tell)).await;
    if let Err(e) = started {
        // Nodes in the background may serve, and what they lack may come.
        if !args.detach {
            cluster.stop_started(STOP_LIMIT);
        }
        return Err(e);
    }
    let context = Context { cluster: cluster.file().addresses(), dir };
    context.write()?;
    announce(&mut cluster, &context, args.detach, as_json)?;
    if args.detach {
        return Ok(());
    }
    watch(&mut cluster, &mut interrupt).await;
    tell("stopping all nodes".into());
    cluster.stop_all(STOP_LIMIT);
    Ok(())
}

/// Two `up` on one directory would fight over its nodes.
fn lock(dir: &Path) -> CliResult<File> {
    let path = dir.join("up.lock");
    let file = File::create(&path).map_err(|e| CliError::local(&path, &e))?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        CliError::new(
            Exit::Conflict,
            format!("another `everhold up` runs the cluster in {}", dir.display()),
            "use that one, stop it with Ctrl-C, or choose another --dir",
        )
    })?;
    Ok(file)
}

/// The cluster that is in the directory, or a new one.
fn found_or_new(dir: &Path, args: &UpArgs) -> CliResult<ClusterFile> {
    if let Some(file) = ClusterFile::read(dir)? {
        let asked = |given: Option<u32>, is: usize| given.is_none_or(|n| n as usize == is);
        let copies = args.copies.is_none_or(|copies| copies == file.copies);
        if asked(args.nodes, file.nodes.len()) && asked(args.zones, file.zones()) && copies {
            return Ok(file);
        }
        return Err(CliError::usage(
            format!(
                "the cluster in {} has {} nodes in {} zones and {} copies",
                dir.display(),
                file.nodes.len(),
                file.zones(),
                file.copies
            ),
            "leave --nodes, --zones and --copies out to restart it, or choose another --dir",
        ));
    }
    let nodes = args.nodes.unwrap_or(NODES);
    let most = u8::try_from(nodes).unwrap_or(u8::MAX);
    let copies = args.copies.unwrap_or(COPIES.min(most));
    if copies > most {
        return Err(CliError::usage(
            format!("{copies} copies do not fit on {nodes} nodes"),
            "use at least as many --nodes as --copies",
        ));
    }
    let file = ClusterFile::plan(&Plan {
        nodes,
        zones: args.zones.unwrap_or(ZONES).min(nodes),
        copies,
        port_base: args.port_base,
        capacity_bytes: args.capacity.map(|size| size.0),
        segment_bytes: args.segment_size.map(|size| size.0),
    })?;
    file.write(dir)?;
    Ok(file)
}

fn announce(
    cluster: &mut LocalCluster,
    context: &Context,
    detached: bool,
    as_json: bool,
) -> CliResult {
    if as_json {
        let pids = cluster.running();
        return json(&serde_json::json!({
            "dir": context.dir, "cluster": context.cluster, "pids": pids, "ready": true,
        }));
    }
    let file = cluster.file();
    line(format!(
        "ready: {} nodes in {} zones, {} copies, data in {}",
        file.nodes.len(),
        file.zones(),
        file.copies,
        context.dir.display()
    ))?;
    line("  everhold fs put FILE /FILE      copy a file in")?;
    line("  everhold fs ls -l /             see what is there")?;
    line("  everhold status                 nodes, leader, redundancy")?;
    line("  everhold node stop 2 --kill     let a node die; `node start 2` brings it back")?;
    line(format!("from elsewhere: everhold --cluster {} …", context.cluster.join(",")))?;
    line(if detached {
        "the nodes run in the background; `everhold node stop N` ends each"
    } else {
        "Ctrl-C stops all nodes"
    })
}

/// Tells of processes that end or come back; none is restarted, because a node that was killed stays
/// down until someone decides otherwise.
async fn watch(cluster: &mut LocalCluster, interrupt: &mut Interrupt) {
    let mut seen: BTreeMap<u32, u32> = cluster.running();
    loop {
        tokio::select! {
            () = interrupt.wait() => return,
            () = tokio::time::sleep(WATCH) => {}
        }
        let now = cluster.running();
        for (number, pid) in &seen {
            if now.get(number) != Some(pid) {
                let how = cluster.ended(*number).unwrap_or_else(|| "ended".into());
                eprintln!(
                    "node {number} (pid {pid}) is gone: {how}; it stays down until `everhold node start {number}`"
                );
            }
        }
        for (number, pid) in &now {
            if seen.get(number) != Some(pid) {
                eprintln!("node {number} is back (pid {pid})");
            }
        }
        seen = now;
    }
}
