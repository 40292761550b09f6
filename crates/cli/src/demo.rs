//! `everhold demo`: real files in a fresh cluster of real processes, while nodes are killed.
//!
//! While it copies in, one storage node dies for good; while it reads, the metadata leader dies too.
//! The cluster has to notice, go on, and restore every copy by itself; then everything is read back
//! and compared. **Invariant:** no operation is left out of the figures.

mod copy;
mod probe;
mod report;
mod source;
mod stalls;
mod watch;

use crate::args::DemoArgs;
use crate::connect::Admin;
use crate::demo::copy::Copying;
use crate::demo::probe::Probe;
use crate::demo::report::Report;
use crate::demo::source::{Source, default_root};
use crate::demo::stalls::{Direction, Recorder, Window};
use crate::demo::watch::Watch;
use crate::exit::{CliError, CliResult, Exit};
use crate::fs::connect;
use crate::generated;
use crate::interrupt::Interrupt;
use crate::local::{ClusterFile, Lifetime, LocalCluster, Plan, wait_ready};
use crate::output::{json, size};
use everhold_client::Client;
use everhold_env::Task;
use everhold_proto::NodeId;
use everhold_proto::map::{ClusterMap, NodeState};
use everhold_proto::rpc::ClusterStatus;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::time::sleep;

const COPIES: u8 = 3;
const GENERATED_BYTES: u64 = 512 << 20;
const SEED: u64 = 0xe7e4_401d;
/// How often the cluster is asked how it is.
const WATCH: Duration = Duration::from_millis(150);
const POLL: Duration = Duration::from_millis(20);
const STATUS_LIMIT: Duration = Duration::from_secs(2);
/// The cluster must be able to lose another node within this time after the first.
const SAFE_LIMIT: Duration = Duration::from_secs(60);
/// The reading and the probes go on for so long after the leader's kill, to see its whole effect.
const AFTERMATH: Duration = Duration::from_secs(5);

/// Runs the demo in a temporary (or kept) directory.
pub(crate) async fn run(args: DemoArgs, as_json: bool) -> CliResult {
    let mut interrupt = Interrupt::listen()?;
    let report = interrupt.guard(demonstrate(args)).await?;
    if as_json {
        json(&report)?
    } else {
        report.print()?
    }
    if report.pass {
        return Ok(());
    }
    let exit =
        if report.files_lost + report.files_altered > 0 { Exit::Corrupt } else { Exit::Failed };
    Err(CliError::new(
        exit,
        format!("the demo failed: {}", report.broken.join("; ")),
        "run it with --keep DIR and read DIR/cluster/nodeN/log",
    ))
}

/// Tells what happens, with the time since the start.
#[derive(Clone)]
struct Live(Instant);

impl Live {
    fn say(&self, text: impl AsRef<str>) {
        eprintln!("{:7.2} s  {}", self.0.elapsed().as_secs_f64(), text.as_ref());
    }
}

/// Everything of a run; dropped from the top, so the servers end before their directory goes.
struct Stage {
    cluster: LocalCluster,
    client: Arc<Client>,
    copying: Arc<Copying>,
    recorder: Arc<Recorder>,
    watch: Arc<Mutex<Watch>>,
    admin: Admin,
    live: Live,
    source_bytes: u64,
    _watcher: Task<()>,
    _dir: Option<TempDir>,
}

async fn demonstrate(args: DemoArgs) -> CliResult<Report> {
    let live = Live(Instant::now());
    let mut stage = Stage::set(&args, live).await?;
    let prober = connect(&stage.cluster.file().addresses(), "everhold demo probe").await?;
    let mut probe = Probe::start(prober, stage.recorder.clone()).await?;
    let copied = stage.copy_in().await?;
    let read = stage.read().await?;
    probe.stop().await;
    stage.live.say("probes stopped; waiting for full redundancy");
    stage.wait_whole(Duration::from_secs(args.repair_timeout)).await;
    stage.live.say("reading everything back and comparing it");
    stage.copying.read_back().await;
    probe.read_back().await;
    let mut report = stage.report(&probe);
    report.copy_in_bytes_per_second = copied;
    report.read_bytes_per_second = read;
    Ok(report.judge())
}

/// A directory for the cluster and the generated data: temporary, or the one to keep.
fn directory(args: &DemoArgs) -> CliResult<(PathBuf, Option<TempDir>)> {
    let fail = |path: &Path| {
        let path = path.to_path_buf();
        move |e: std::io::Error| CliError::local(path, &e)
    };
    let Some(keep) = &args.keep else {
        let temporary = std::env::temp_dir();
        let dir = tempfile::Builder::new().prefix("everhold-demo-").tempdir_in(&temporary);
        let dir = dir.map_err(fail(&temporary))?;
        return Ok((dir.path().canonicalize().map_err(fail(dir.path()))?, Some(dir)));
    };
    std::fs::create_dir_all(keep).map_err(fail(keep))?;
    if ClusterFile::read(&keep.join("cluster"))?.is_some() {
        return Err(CliError::usage(
            format!("{} holds a cluster already", keep.display()),
            "the demo starts a fresh one: name an empty directory",
        ));
    }
    Ok((keep.canonicalize().map_err(fail(keep))?, None))
}

fn sources(args: &DemoArgs, dir: &Path, live: &Live) -> CliResult<Source> {
    let mut source = Source::default();
    match &args.path {
        Some(path) => source.add(path, "/input", false)?,
        None => source.add(&default_root()?, "/source", true)?,
    }
    let default = if args.path.is_none() { GENERATED_BYTES } else { 0 };
    let bytes = args.size.map_or(default, |size| size.0);
    if bytes > 0 {
        let generated = dir.join("generated");
        live.say(format!("generating {}", size(bytes, false)));
        generated::tree(&generated, bytes, SEED).map_err(|e| CliError::local(&generated, &e))?;
        source.add(&generated, "/generated", false)?;
    }
    Ok(source)
}

impl Stage {
    /// Starts the cluster and prepares the work.
    async fn set(args: &DemoArgs, live: Live) -> CliResult<Self> {
        let (dir, temporary) = directory(args)?;
        let file = ClusterFile::plan(&Plan {
            nodes: args.nodes,
            zones: args.zones.min(args.nodes),
            copies: COPIES,
            port_base: None,
            capacity_bytes: None,
            segment_bytes: None,
        })?;
        let cluster_dir = dir.join("cluster");
        std::fs::create_dir_all(&cluster_dir).map_err(|e| CliError::local(&cluster_dir, &e))?;
        file.write(&cluster_dir)?;
        let addresses = file.addresses();
        let mut cluster = LocalCluster::new(cluster_dir, file, Lifetime::WithParent);
        let status = wait_ready(&mut cluster, |text| live.say(text)).await?;
        live.say(format!(
            "cluster ready: {} nodes, {} voters, {} placement groups",
            status.map.nodes.len(),
            status.voters.len(),
            status.map.pgs.len()
        ));
        let source = sources(args, &dir, &live)?;
        live.say(format!("to copy: {} files, {}", source.files(), size(source.bytes, false)));
        let client = connect(&addresses, "everhold demo").await?;
        let recorder = Arc::new(Recorder::default());
        let watch = Arc::new(Mutex::new(Watch::default()));
        let admin = Admin::of_cluster(&addresses, status.map.cluster);
        let watcher = client.env().tasks.spawn(observe(admin.clone(), watch.clone(), live.clone()));
        Ok(Stage {
            source_bytes: source.bytes,
            copying: Copying::new(client.clone(), source, recorder.clone()),
            cluster,
            client,
            recorder,
            watch,
            admin,
            live,
            _watcher: watcher,
            _dir: temporary,
        })
    }

    /// Copies everything in; a storage node dies when a third is done. Gives the rate.
    async fn copy_in(&mut self) -> CliResult<f64> {
        self.live.say("copying in");
        let started = Instant::now();
        let copying = self.copying.clone();
        let work = self.client.env().tasks.spawn(async move { copying.copy_in().await });
        while self.copying.done_bytes() < self.source_bytes / 3 && !work.is_finished() {
            sleep(POLL).await;
        }
        let status = self.admin.status(STATUS_LIMIT).await?;
        let victim = storage_victim(&status)?;
        self.kill(&status.map, victim, Window::StorageNodeKilled)?;
        self.watch.lock().storage_killed(victim, Instant::now());
        self.live.say(format!("killed storage node {victim} (SIGKILL); it stays dead"));
        work.join().await.expect("the copying neither panics nor is aborted");
        let rate = self.source_bytes as f64 / started.elapsed().as_secs_f64();
        let (files, bytes) = self.copying.acknowledged();
        self.live.say(format!(
            "copied in {files} files, {} at {}/s",
            size(bytes, false),
            size(rate as u64, false)
        ));
        Ok(rate)
    }

    /// Reads everything, again and again; the leader dies meanwhile. Gives the rate.
    async fn read(&mut self) -> CliResult<f64> {
        self.live.say("reading and comparing");
        let started = Instant::now();
        let mut killed = None;
        let mut read_bytes = 0;
        loop {
            let copying = self.copying.clone();
            copying.begin_pass();
            let work = self.client.env().tasks.spawn(async move { copying.read_back().await });
            while !work.is_finished() {
                let far_enough = self.copying.done_bytes() >= self.source_bytes / 3;
                if killed.is_none() && far_enough && self.may_lose_another(started).await? {
                    killed = Some(self.kill_leader().await?);
                }
                sleep(POLL).await;
            }
            work.join().await.expect("the reading neither panics nor is aborted");
            read_bytes += self.copying.done_bytes();
            if killed.is_some_and(|at: Instant| at.elapsed() >= AFTERMATH) {
                break;
            }
        }
        Ok(read_bytes as f64 / started.elapsed().as_secs_f64())
    }

    /// Three copies, two of which make a write: the promise is to survive one failure per repair. So
    /// the second kill comes when every group has two whole copies on nodes that live, and in the
    /// middle of the repair, which the next leader has to carry on.
    async fn may_lose_another(&self, reading_since: Instant) -> CliResult<bool> {
        let Ok(status) = self.admin.status(STATUS_LIMIT).await else { return Ok(false) };
        let dead = self.watch.lock().storage().map(|killed| killed.node);
        let lives = |node: NodeId| Some(node) != dead;
        let safe = status.map.pgs.values().all(|pg| {
            let whole = pg.members.iter().filter(|member| {
                let disk = status.map.disks.get(&member.disk);
                member.is_full() && disk.is_some_and(|disk| lives(disk.node))
            });
            whole.count() >= 2
        });
        let safe = safe && self.watch.lock().repair_started_after().is_some();
        if !safe && reading_since.elapsed() > SAFE_LIMIT {
            return Err(CliError::new(
                Exit::Failed,
                "repair has not begun, or not everything has two whole copies on living nodes",
                "look at DIR/cluster/nodeN/log (run with --keep DIR)",
            ));
        }
        Ok(safe)
    }

    async fn kill_leader(&mut self) -> CliResult<Instant> {
        let status = self.admin.status(STATUS_LIMIT).await?;
        let leader = status.leader.ok_or_else(|| {
            CliError::new(Exit::Unreachable, "there is no leader to kill", "run the demo again")
        })?;
        self.kill(&status.map, leader, Window::LeaderKilled)?;
        let now = Instant::now();
        self.watch.lock().leader_killed(leader, now);
        self.live.say(format!("killed the metadata leader {leader} (SIGKILL)"));
        Ok(now)
    }

    fn kill(&mut self, map: &ClusterMap, node: NodeId, window: Window) -> CliResult {
        let address = map.nodes.get(&node).map(|n| n.address.as_str()).unwrap_or_default();
        let number = self.cluster.number_at(address).ok_or_else(|| {
            CliError::new(Exit::Failed, format!("{node} is none of ours"), "run the demo again")
        })?;
        self.recorder.enter(window);
        self.cluster.kill(number)
    }

    async fn wait_whole(&self, limit: Duration) {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(after) = self.watch.lock().restored_after() {
                let after_ms = after.as_millis();
                self.live.say(format!("full redundancy {after_ms} ms after the last kill"));
                return;
            }
            if Instant::now() >= deadline {
                self.live.say("redundancy was not restored in time");
                return;
            }
            sleep(POLL).await;
        }
    }

    fn report(&self, probe: &Probe) -> Report {
        let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
        let of = |window, direction| self.recorder.of(window, direction);
        let (files, bytes) = self.copying.acknowledged();
        let (lost, altered, mut failures) = self.copying.findings();
        let (probed, probe_lost, probe_altered) = probe.findings();
        let (operations, operations_failed) = self.recorder.totals();
        failures.extend(self.recorder.failures());
        let watch = self.watch.lock();
        let name = |killed: Option<&watch::Killed>| {
            killed.map_or(String::new(), |killed| killed.node.to_string())
        };
        let storage_writes = of(Window::StorageNodeKilled, Direction::Write);
        let storage_reads = of(Window::StorageNodeKilled, Direction::Read);
        let leader_writes = of(Window::LeaderKilled, Direction::Write);
        let leader_reads = of(Window::LeaderKilled, Direction::Read);
        Report {
            files: files + probed,
            bytes: bytes + probed * probe::FILE_BYTES as u64,
            files_lost: lost + probe_lost,
            files_altered: altered + probe_altered,
            operations,
            operations_failed,
            longest_write_stall_ms: storage_writes.longest_ms,
            longest_read_stall_ms: storage_reads.longest_ms,
            leader_longest_write_stall_ms: leader_writes.longest_ms,
            leader_longest_read_stall_ms: leader_reads.longest_ms,
            storage_node: name(watch.storage()),
            detected_after_ms: watch.storage().and_then(|k| k.detected_after).map(ms),
            repair_started_after_ms: watch.repair_started_after().map(ms),
            leader: name(watch.leader()),
            new_leader_after_ms: watch.new_leader_after().map(ms),
            redundancy_restored_after_ms: watch.restored_after().map(ms),
            copies_missing_max: watch.copies_missing_max(),
            repaired_bytes: watch.repaired_bytes(),
            healthy_writes: of(Window::Healthy, Direction::Write),
            healthy_reads: of(Window::Healthy, Direction::Read),
            storage_writes,
            storage_reads,
            leader_writes,
            leader_reads,
            failures,
            ..Report::default()
        }
    }
}

/// A storage node that does not lead, of a zone that keeps another node, if there is one.
fn storage_victim(status: &ClusterStatus) -> CliResult<NodeId> {
    let up = || status.map.nodes.values().filter(|node| node.state == NodeState::Up);
    let others_in_zone = |zone: &str| up().filter(|node| node.zone() == zone).count();
    up().filter(|node| Some(node.id) != status.leader)
        .max_by_key(|node| (others_in_zone(&node.zone()) > 1, node.id))
        .map(|node| node.id)
        .ok_or_else(|| CliError::new(Exit::Failed, "no node can be killed", "use more --nodes"))
}

/// Asks the cluster how it is, again and again.
async fn observe(admin: Admin, watch: Arc<Mutex<Watch>>, live: Live) {
    loop {
        let asked = Instant::now();
        if let Ok(status) = admin.status(STATUS_LIMIT).await {
            let answers = status.map.nodes.values().map(|node| {
                let admin = admin.clone();
                async move { (node.id, admin.node_status(&node.address).await) }
            });
            let answers = futures_util::future::join_all(answers).await;
            let news = {
                let mut watch = watch.lock();
                for (node, answer) in answers {
                    if let Ok(answer) = answer {
                        watch.fetched(node, answer.repair.fetched_bytes);
                    }
                }
                watch.observe(&status, asked, Instant::now())
            };
            news.iter().for_each(|text| live.say(text));
        }
        sleep(WATCH).await;
    }
}
