//! `everhold bench`: what the cluster does per second and what that costs, beside what disk and
//! network of the same machine do in the same run.

mod baseline;
mod idle;
mod meter;
mod report;
mod work;

use crate::args::{BenchArgs, BenchMode, Global};
use crate::bench::meter::Meter;
use crate::bench::report::{Figure, Report, Target, Unit};
use crate::connect::{Admin, LEADER_LIMIT};
use crate::context::{Context, seeds};
use crate::exit::{CliError, CliResult, Exit};
use crate::fs::connect;
use crate::interrupt::Interrupt;
use crate::local::{ClusterFile, Lifetime, LocalCluster, Plan, wait_ready};
use crate::output::json;
use everhold_client::Client;
use everhold_proto::rpc::ClusterStatus;
use std::path::PathBuf;
use std::sync::Arc;
use tempfile::TempDir;

/// Targets of the first release, for three durable copies.
const PUT_SHARE_OF_DISK: f64 = 0.5;
const GET_MIB_PER_SECOND: f64 = 800.0;
const GET_SHARE_OF_LOOPBACK: f64 = 0.6;
const PUT_CPU_PER_GIB: f64 = 3.0;
const SMALL_ALONE_PER_SECOND: f64 = 800.0;
const SMALL_PARALLEL_PER_SECOND: f64 = 3000.0;
/// Small files that one client has under way at a time, as a transfer of a tree has.
const FILES_AT_A_TIME: u32 = 64;
/// Loopback is measured with as many bytes as take about a second.
const LOOPBACK_BYTES: u64 = 2 << 30;

/// Runs the measurements.
pub(crate) async fn run(args: BenchArgs, global: &Global) -> CliResult {
    let mut interrupt = Interrupt::listen()?;
    if let Some(BenchMode::IdleMemory { blocks }) = args.mode {
        return interrupt.guard(idle::run(blocks, global.json)).await;
    }
    let report = interrupt.guard(measure(&args, global)).await?;
    if global.json {
        json(&report)?
    } else {
        report.print()?
    }
    if report.pass {
        return Ok(());
    }
    Err(CliError::new(
        Exit::Failed,
        "some targets are missed",
        "measure a release build on an otherwise idle machine; docs/performance.md tells what limits each",
    ))
}

/// The cluster to measure, and where the disk's own rate is measured. Dropped from the top: servers
/// end before their directory goes.
struct Subject {
    _cluster: Option<LocalCluster>,
    _dir: Option<TempDir>,
    seeds: Vec<String>,
    disk_dir: PathBuf,
}

async fn subject(args: &BenchArgs, global: &Global) -> CliResult<Subject> {
    if args.temp {
        return temporary(args).await;
    }
    let context = if global.cluster.is_empty() { Context::read()? } else { None };
    let disk_dir = match (&args.disk_dir, context) {
        (Some(dir), _) => dir.clone(),
        (None, Some(context)) => context.dir,
        (None, None) => std::env::temp_dir(),
    };
    Ok(Subject { _cluster: None, _dir: None, seeds: seeds(global)?, disk_dir })
}

async fn temporary(args: &BenchArgs) -> CliResult<Subject> {
    let temporary = std::env::temp_dir();
    let dir = tempfile::Builder::new()
        .prefix("everhold-bench-")
        .tempdir_in(&temporary)
        .map_err(|e| CliError::local(&temporary, &e))?;
    let path = dir.path().canonicalize().map_err(|e| CliError::local(dir.path(), &e))?;
    let file = ClusterFile::plan(&Plan {
        nodes: 5,
        zones: 3,
        copies: 3,
        port_base: None,
        capacity_bytes: None,
        segment_bytes: None,
    })?;
    file.write(&path)?;
    let mut cluster = LocalCluster::new(path.clone(), file, Lifetime::WithParent);
    wait_ready(&mut cluster, |text| eprintln!("{text}")).await?;
    let seeds = cluster.file().addresses();
    let disk_dir = args.disk_dir.clone().unwrap_or(path);
    Ok(Subject { _cluster: Some(cluster), _dir: Some(dir), seeds, disk_dir })
}

async fn measure(args: &BenchArgs, global: &Global) -> CliResult<Report> {
    let subject = subject(args, global).await?;
    let status = Admin::new(&subject.seeds).status(LEADER_LIMIT).await?;
    let addresses = status.map.nodes.values().map(|node| node.address.clone()).collect();
    let meter = Meter::new(addresses, status.map.cluster);
    let client = connect(&subject.seeds, "everhold bench").await?;
    let root = format!("/.everhold-bench-{}", std::process::id());
    client.mkdir_all(&root, 0o755).await?;
    let result = figures(args, &subject, &client, &meter, &root).await;
    tell("removing what was written");
    let removed = client.remove_all(&root).await;
    let mut report = result?;
    removed?;
    report.cluster = describe(&status);
    if let Err(e) = client.close().await {
        tracing::debug!(error = %e, "the session was not ended");
    }
    Ok(report.judge())
}

fn describe(status: &ClusterStatus) -> String {
    let copies = status.map.policies.values().next().map_or(0, |policy| policy.copies);
    format!("{} nodes, {copies} durable copies of each block", status.map.nodes.len())
}

fn tell(what: &str) {
    eprintln!("{what} …");
}

async fn figures(
    args: &BenchArgs,
    subject: &Subject,
    client: &Arc<Client>,
    meter: &Meter,
    root: &str,
) -> CliResult<Report> {
    let bytes = args.size.0;
    let mut report = Report::default();
    tell("disk: O_DIRECT 4 MiB writes, three times the bytes");
    report.figures.push(disk_figure(subject, 3 * bytes).await?);
    tell("network: loopback TCP");
    report.figures.push(loopback_figure().await?);

    tell("sequential put");
    let path = format!("{root}/stream");
    let running = meter.start().await?;
    work::put_stream(client, &path, bytes).await?;
    report.figures.push(meter.stop(running, "sequential put", Unit::Bytes, bytes).await?);
    tell("sequential get");
    let running = meter.start().await?;
    work::get_stream(client, &path, bytes).await?;
    report.figures.push(meter.stop(running, "sequential get", Unit::Bytes, bytes).await?);

    let clients = work::more_clients(&subject.seeds, args.clients).await?;
    for phase in phases(&clients, args.files) {
        let directory = format!("{root}/{}", phase.directory);
        let (clients, files, at_a_time) = (phase.clients, phase.files, phase.at_a_time);
        work::directories(&clients[0], &directory, clients.len(), files).await?;
        tell(phase.put);
        let running = meter.start().await?;
        work::put_small(clients, &directory, files, at_a_time).await?;
        report.figures.push(meter.stop(running, phase.put, Unit::Files, u64::from(files)).await?);
        tell(phase.get);
        let running = meter.start().await?;
        work::get_small(clients, &directory, files, at_a_time).await?;
        report.figures.push(meter.stop(running, phase.get, Unit::Files, u64::from(files)).await?);
    }
    for client in &clients {
        client.close().await?;
    }
    add_targets(&mut report);
    Ok(report)
}

/// One way to put and get small files.
struct Phase<'a> {
    clients: &'a [Arc<Client>],
    directory: &'static str,
    files: u32,
    at_a_time: u32,
    put: &'static str,
    get: &'static str,
}

/// One file at a time shows the latency of a commit; many at a time is what a transfer of a tree does.
fn phases(clients: &[Arc<Client>], files: u32) -> [Phase<'_>; 3] {
    [
        Phase {
            clients: &clients[..1],
            directory: "single",
            files: files.div_ceil(10),
            at_a_time: 1,
            put: "4 KiB files put, one at a time",
            get: "4 KiB files get, one at a time",
        },
        Phase {
            clients: &clients[..1],
            directory: "one",
            files,
            at_a_time: FILES_AT_A_TIME,
            put: "4 KiB files put, 1 client",
            get: "4 KiB files get, 1 client",
        },
        Phase {
            clients,
            directory: "many",
            files,
            at_a_time: FILES_AT_A_TIME,
            put: "4 KiB files put, parallel clients",
            get: "4 KiB files get, parallel clients",
        },
    ]
}

async fn disk_figure(subject: &Subject, bytes: u64) -> CliResult<Figure> {
    let dir = subject.disk_dir.clone();
    let measured = tokio::task::spawn_blocking(move || baseline::disk(&dir, bytes)).await;
    let rate = measured
        .map_err(|e| CliError::new(Exit::Failed, e.to_string(), "run it again"))?
        .map_err(|e| CliError::local(&subject.disk_dir, &e))?;
    let what = if rate.direct { "disk, O_DIRECT writes" } else { "disk, buffered writes" };
    Ok(machine(what, bytes, rate))
}

async fn loopback_figure() -> CliResult<Figure> {
    let measured = tokio::task::spawn_blocking(|| baseline::loopback(LOOPBACK_BYTES)).await;
    let rate = measured
        .map_err(|e| CliError::new(Exit::Failed, e.to_string(), "run it again"))?
        .map_err(|e| CliError::local("loopback", &e))?;
    Ok(machine("loopback TCP, 1 stream", LOOPBACK_BYTES, rate))
}

fn machine(what: &'static str, bytes: u64, rate: baseline::Rate) -> Figure {
    Figure {
        what,
        rate: rate.bytes_per_second / (1u64 << 20) as f64,
        unit: Unit::Bytes,
        seconds: bytes as f64 / rate.bytes_per_second,
        cpu_nodes: None,
        cpu_client: rate.cpu_per_gib,
        target: None,
    }
}

fn add_targets(report: &mut Report) {
    let (disk, loopback) = (report.figures[0].rate, report.figures[1].rate);
    let (put, get) = (report.rate("sequential put"), report.rate("sequential get"));
    // The disk takes each byte three times.
    let ceiling = disk / 3.0;
    for figure in &mut report.figures {
        let rate = figure.rate;
        figure.target = match figure.what {
            "sequential put" => {
                let text = format!(
                    "≥ {:.0} ({PUT_SHARE_OF_DISK} × disk / 3)",
                    PUT_SHARE_OF_DISK * ceiling
                );
                Some(Target::at_least(text, put / ceiling, PUT_SHARE_OF_DISK))
            }
            "sequential get" => {
                let goal = GET_MIB_PER_SECOND.min(GET_SHARE_OF_LOOPBACK * loopback);
                let text = format!("≥ {goal:.0} (800 or {GET_SHARE_OF_LOOPBACK} × loopback)");
                Some(Target::at_least(text, get, goal))
            }
            "4 KiB files put, 1 client" => Some(Target::at_least(
                format!("≥ {SMALL_ALONE_PER_SECOND:.0}"),
                rate,
                SMALL_ALONE_PER_SECOND,
            )),
            "4 KiB files put, parallel clients" => Some(Target::at_least(
                format!("≥ {SMALL_PARALLEL_PER_SECOND:.0}"),
                rate,
                SMALL_PARALLEL_PER_SECOND,
            )),
            _ => None,
        };
    }
    let cost = report.figures.iter().find(|f| f.what == "sequential put");
    let cost = cost.map_or(f64::MAX, |f| f.cpu_nodes.unwrap_or(0.0) + f.cpu_client);
    let text = format!("CPU seconds per GiB put, all processes (≤ {PUT_CPU_PER_GIB})");
    report.targets.push(Target::at_most(text, cost, PUT_CPU_PER_GIB));
    let text = format!("put, share of a third of the disk's rate (≥ {PUT_SHARE_OF_DISK})");
    report.targets.push(Target::at_least(text, put / ceiling, PUT_SHARE_OF_DISK));
}
