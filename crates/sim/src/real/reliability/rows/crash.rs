//! Processes that end and processes that fall silent.

use crate::real::reliability::bench::{Bench, Felt};
use crate::real::reliability::figures::mib;
use crate::real::reliability::figures::now;
use crate::real::reliability::options::Row;
use crate::real::reliability::report::Verdict;
use anyhow::{Context, Result};
use everhold_proto::map::NodeState;
use everhold_proto::rpc::GetEvents;
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

/// Promised of writes and reads when a storage node is lost, in milliseconds.
const WRITE_STALL_MS: u64 = 250;
const READ_STALL_MS: u64 = 100;
/// Promised of the write set.
const OUT_OF_WRITES_S: f64 = 1.0;
/// Promised of a silent node.
const DOWN_S: f64 = 5.0;
/// Promised of repair: its start, and how much slower the 99th percentile may get.
const REPAIR_START_S: f64 = 15.0;
const SLOWER: f64 = 2.0;
/// Longer than anything that is promised, so that a broken promise shows by how much.
const LIMIT: Duration = Duration::from_secs(60);
const REPAIR_LIMIT: Duration = Duration::from_secs(400);

/// SIGKILL of a storage node; then its repair, by the others.
pub(super) async fn kill(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::Kill, "SIGKILL of a storage node");
    let victim = bench.victim().await?;
    let idle = idle_rate(&bench.cluster.disks.place(victim))?;
    let usual = usual_accesses(bench).await?;
    let before = bench.fetched(Some(victim)).await;
    let from = bench.seconds();
    bench.cluster.nodes.kill(&[victim]);
    let gone = |s: &super::super::watch::Sample| s.states.get(&victim) != Some(&NodeState::Up);
    let out = bench.watch.until(&bench.clock, from, LIMIT, gone).await;
    bench.check(
        row,
        fault,
        "out of the write set in 1 s",
        told_seconds(out),
        Verdict::of(out.is_some_and(|s| s <= OUT_OF_WRITES_S)),
    );
    bench.sleep(6.0).await;
    let felt = bench.felt(from, bench.seconds());
    stalls(bench, row, fault, &felt);
    none_failed(bench, row, fault, &felt);
    repair(bench, victim, from, before, (idle, usual)).await
}

async fn repair(
    bench: &mut Bench<'_>,
    victim: u32,
    killed: f64,
    fetched_before: u64,
    (idle, usual): (f64, f64),
) -> Result<()> {
    let (row, fault) = (Row::Kill, "repair of the lost node");
    let begun = bench
        .watch
        .until(&bench.clock, killed, LIMIT, |s| s.bytes_per_second > 0.0 && gone_out(s, victim))
        .await;
    bench.check(
        row,
        fault,
        "starts within 15 s of the kill",
        told_seconds(begun),
        Verdict::of(begun.is_some_and(|s| s <= REPAIR_START_S)),
    );
    let start = killed + begun.context("no repair began")?;
    let (looked, accessed_before) = (bench.seconds(), accessed(bench)?);
    let ended = bench
        .watch
        .until(&bench.clock, start, REPAIR_LIMIT, |s| s.redundant && gone_out(s, victim))
        .await
        .context("the repair does not end")?;
    let accesses = mib(accessed(bench)?.saturating_sub(accessed_before));
    let accesses = accesses / (bench.seconds() - looked).max(0.1) - usual;
    let bytes = bench.fetched(Some(victim)).await.saturating_sub(fetched_before);
    let rate = mib(bytes) / ended.max(0.1);
    bench.check(
        row,
        fault,
        "uses at least half of the idle disk bandwidth",
        format!(
            "{:.0} MiB in {ended:.1} s = {rate:.0} MiB/s; for that the disks, which share a device that takes \
             {idle:.0} MiB/s, read and wrote {accesses:.0} MiB/s more than the {usual:.0} before",
            mib(bytes)
        ),
        Verdict::of(accesses >= idle / 2.0),
    );
    let (write, read) = bench.p99(start, start + ended);
    let (write_before, read_before) = (bench.healthy.write_p99_ms, bench.healthy.read_p99_ms);
    let within = |now: Option<f64>, before: f64| now.is_some_and(|now| now <= SLOWER * before);
    bench.check(
        row,
        fault,
        "p99 of writes and reads within 2 ×",
        format!(
            "writes {} ms (before {write_before:.1}), reads {} ms (before {read_before:.1})",
            told(write),
            told(read)
        ),
        Verdict::of(within(write, write_before) && within(read, read_before)),
    );
    repair_alone(bench, victim).await
}

/// MiB per second that all disks read and write for the applications.
async fn usual_accesses(bench: &Bench<'_>) -> Result<f64> {
    const SECONDS: f64 = 5.0;
    let before = accessed(bench)?;
    bench.sleep(SECONDS).await;
    Ok(mib(accessed(bench)?.saturating_sub(before)) / SECONDS)
}

/// Bytes that the devices below the disks of all nodes have read and written, as the kernel counts them.
fn accessed(bench: &Bench<'_>) -> Result<u64> {
    const SECTOR: u64 = 512;
    // The fields of `/sys/block/*/stat`: sectors read, and sectors written.
    const FIELDS: [usize; 2] = [2, 6];
    let mut sectors = 0;
    for number in 1..=bench.cluster.count {
        let device = std::fs::metadata(bench.cluster.disks.place(number))?.dev();
        let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
        let file = format!("/sys/dev/block/{major}:{minor}/stat");
        let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
        let fields: Vec<u64> = text.split_whitespace().flat_map(str::parse).collect();
        for field in FIELDS {
            sectors += fields.get(field).with_context(|| format!("{file} has few fields"))?;
        }
    }
    Ok(sectors * SECTOR)
}

/// The same while no application does anything: what repair could have at most on this machine.
async fn repair_alone(bench: &mut Bench<'_>, victim: u32) -> Result<()> {
    bench.converge().await?;
    bench.rest(true);
    let alone = measure_alone(bench, victim).await;
    bench.rest(false);
    let (bytes, seconds) = alone?;
    let rate = mib(bytes) / seconds.max(0.1);
    let measured = format!("{:.0} MiB in {seconds:.1} s = {rate:.0} MiB/s", mib(bytes));
    let (fault, promised) = ("repair of the lost node", "(the same without applications)");
    bench.check(Row::Kill, fault, promised, measured, Verdict::Told);
    Ok(())
}

/// Bytes fetched, and the seconds that it took.
async fn measure_alone(bench: &mut Bench<'_>, victim: u32) -> Result<(u64, f64)> {
    let before = bench.fetched(Some(victim)).await;
    let killed = bench.seconds();
    bench.cluster.nodes.kill(&[victim]);
    let repairs = |s: &super::super::watch::Sample| s.bytes_per_second > 0.0 && gone_out(s, victim);
    let begun = bench.watch.until(&bench.clock, killed, LIMIT, repairs).await;
    let start = killed + begun.context("no repair began")?;
    let whole = |s: &super::super::watch::Sample| s.redundant && gone_out(s, victim);
    let ended = bench.watch.until(&bench.clock, start, REPAIR_LIMIT, whole).await;
    let ended = ended.context("the repair does not end")?;
    Ok((bench.fetched(Some(victim)).await.saturating_sub(before), ended))
}

fn gone_out(sample: &super::super::watch::Sample, victim: u32) -> bool {
    sample.states.get(&victim).is_none_or(|state| *state == NodeState::Out)
}

/// SIGSTOP of a storage node.
pub(super) async fn pause(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::Pause, "SIGSTOP of a storage node");
    let victim = bench.victim().await?;
    let from = bench.seconds();
    bench.cluster.nodes.signal(victim, Signal::STOP);
    let is_down = |s: &super::super::watch::Sample| s.states.get(&victim) >= Some(&NodeState::Down);
    let down = bench.watch.until(&bench.clock, from, LIMIT, is_down).await;
    bench.sleep(2.0).await;
    let felt = bench.felt(from, bench.seconds());
    bench.cluster.nodes.signal(victim, Signal::CONT);
    stalls(bench, row, fault, &felt);
    none_failed(bench, row, fault, &felt);
    let kept = down.is_some_and(|s| s <= DOWN_S);
    bench.check(row, fault, "Down within 5 s", told_seconds(down), Verdict::of(kept));
    Ok(())
}

/// Pauses of at most a second, none of which may make a node Down.
pub(super) async fn short_pauses(bench: &mut Bench<'_>) -> Result<()> {
    let (row, fault) = (Row::ShortPauses, "SIGSTOP for up to 1 s");
    let times = bench.options.either(100, 10);
    let begun = bench.seconds();
    let before = bench.cluster.ask(&GetEvents { limit: 1 }).await?;
    let after = before.last().map(|event| event.index);
    for time in 0..times {
        let victim = bench.victim().await?;
        // From a tenth of a second to a whole one.
        let lasts = f64::from(time % 10 + 1) / 10.0;
        bench.cluster.nodes.signal(victim, Signal::STOP);
        bench.sleep(lasts).await;
        bench.cluster.nodes.signal(victim, Signal::CONT);
        bench.sleep(1.0).await;
    }
    let events = bench.cluster.ask(&GetEvents { limit: 1000 }).await?;
    let new = events.iter().filter(|event| Some(event.index) > after);
    let down = new.filter(|event| event.text.contains("-> down")).count();
    let felt = bench.felt(begun, bench.seconds());
    let text = format!("{down} of {times}");
    bench.check(row, fault, "no false Down", text, Verdict::of(down == 0));
    none_failed(bench, row, fault, &felt);
    Ok(())
}

/// The metadata leader is killed, or falls silent.
pub(super) async fn leader(bench: &mut Bench<'_>, row: Row) -> Result<()> {
    let (fault, promised, limit_ms) = match row {
        Row::KillLeader => ("SIGKILL of the metadata leader", "metadata stall at most 1 s", 1000),
        _ => ("SIGSTOP of the metadata leader", "metadata stall at most 2 s", 2000),
    };
    let times = bench.options.either(3, 1);
    let (mut longest, mut failed, mut operations) = (Vec::new(), 0, 0);
    for _ in 0..times {
        let victim = bench.cluster.leader().await?;
        let from = bench.seconds();
        match row {
            Row::KillLeader => bench.cluster.nodes.kill(&[victim]),
            _ => bench.cluster.nodes.signal(victim, Signal::STOP),
        }
        bench.sleep(7.0).await;
        let felt = bench.felt(from, bench.seconds());
        bench.cluster.nodes.signal(victim, Signal::CONT);
        longest.push(felt.metadata.longest_ms);
        failed += felt.failed();
        operations += felt.operations();
        bench.converge().await?;
    }
    let worst = longest.iter().max().copied().unwrap_or(u64::MAX);
    let measured =
        format!("{} ms", longest.iter().map(u64::to_string).collect::<Vec<_>>().join(", "));
    bench.check(row, fault, promised, measured, Verdict::of(worst <= limit_ms));
    let measured = format!("{failed} of {operations}");
    bench.check(row, fault, "no failed operation", measured, Verdict::of(failed == 0));
    Ok(())
}

/// Judges the stalls of writes and reads.
fn stalls(bench: &mut Bench<'_>, row: Row, fault: &str, felt: &Felt) {
    let (write, read) = (felt.write.longest_ms, felt.read.longest_ms);
    let kept = felt.write.operations > 0 && write <= WRITE_STALL_MS;
    bench.check(row, fault, "longest write stall 250 ms", format!("{write} ms"), Verdict::of(kept));
    let kept = felt.read.operations > 0 && read <= READ_STALL_MS;
    bench.check(row, fault, "longest read stall 100 ms", format!("{read} ms"), Verdict::of(kept));
}

/// Judges that nothing failed, and that something was tried.
pub(super) fn none_failed(bench: &mut Bench<'_>, row: Row, fault: &str, felt: &Felt) {
    let measured = format!("{} of {}", felt.failed(), felt.operations());
    let kept = felt.failed() == 0 && felt.write.operations > 0 && felt.read.operations > 0;
    bench.check(row, fault, "no failed operation", measured, Verdict::of(kept));
}

fn told_seconds(seconds: Option<f64>) -> String {
    seconds.map_or("not in time".into(), |seconds| format!("{seconds:.2} s"))
}

pub(super) fn told(ms: Option<f64>) -> String {
    ms.map_or("none".into(), |ms| format!("{ms:.1}"))
}

/// MiB per second that a disk takes in large writes past the page cache, while the applications go on.
fn idle_rate(dir: &Path) -> Result<f64> {
    const PIECE: usize = 1 << 20;
    const PIECES: usize = 256;
    const ALIGNMENT: usize = 4096;
    let path = dir.join("rate");
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::DIRECT;
    let file = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))?;
    let memory = vec![0x5a_u8; PIECE + ALIGNMENT];
    let skip = memory.as_ptr().align_offset(ALIGNMENT);
    let began = now();
    for piece in 0..PIECES {
        let written =
            rustix::io::pwrite(&file, &memory[skip..skip + PIECE], (piece * PIECE) as u64)?;
        anyhow::ensure!(written == PIECE, "a short write of {written} bytes");
    }
    rustix::fs::fdatasync(&file)?;
    let took = (now() - began).as_secs_f64();
    std::fs::remove_file(&path)?;
    Ok(PIECES as f64 / took)
}
