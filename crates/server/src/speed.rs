//! How fast a disk answers: the median and the 90th percentile of the times of its writes and reads over the last
//! seconds. Heartbeats tell the leader, who holds the disks against each other (`everhold_cluster::slow`).
//!
//! An operation that does not end counts with its age, so that a disk that stands still is noticed too. Clients go
//! round a disk that stood still before there are figures of it; the node then tries the disk itself.

use crate::disk::DiskSeat;
use crate::node::Node;
use everhold_env::{AlignedBuf, Clock, OpenMode};
use everhold_proto::DiskId;
use everhold_proto::map::DiskState;
use everhold_proto::rpc::DiskSpeed;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What happened longer ago does not count.
const WINDOW: Duration = Duration::from_secs(2);
/// Operations remembered: enough for a median, however busy the disk is.
const SAMPLES_MAX: usize = 256;
/// Fewer tell nothing, unless they took long.
const SAMPLES_MIN: usize = 4;
/// So long together.
const SAMPLES_TIME: Duration = Duration::from_millis(400);
/// Fewer tell nothing of the slowest tenth.
const TAIL_SAMPLES_MIN: usize = 20;
/// An operation under way for this long counts as one that took so long.
const STUCK_AFTER: Duration = Duration::from_millis(100);
/// After an operation that took so long, a disk without figures is tried.
const SUSPECT_AFTER: Duration = Duration::from_millis(20);
/// For so long.
const SUSPECT_FOR: Duration = Duration::from_secs(10);
/// How often a disk that is suspect or called slow is tried: nobody else may use it enough to tell.
const PROBE_EVERY: Duration = Duration::from_millis(250);
/// What is written and read then, and how long it may take.
const PROBE_BYTES: usize = 64 << 10;
const PROBE_LIMIT: Duration = Duration::from_secs(5);
/// The file that is used for it, in the disk's directory.
const PROBE_FILE: &str = "probe";

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// A block becomes durable.
    Write,
    /// A block is read.
    Read,
}

/// The times of one disk.
#[derive(Default)]
pub(crate) struct Speedometer {
    writes: Mutex<Track>,
    reads: Mutex<Track>,
}

#[derive(Default)]
struct Track {
    done: VecDeque<(Instant, u32)>,
    running: BTreeMap<u64, Instant>,
    next: u64,
    /// When an operation last ended that took long.
    suspect: Option<Instant>,
}

/// In microseconds; `None`: too few operations to tell.
struct Figures {
    median: Option<u32>,
    /// The 90th percentile.
    tail: Option<u32>,
}

/// An operation under way. Dropped without [`Timing::finish`] it failed, and is forgotten; or whoever waited for
/// it went away because it took long, and it counts with its age.
pub(crate) struct Timing<'a> {
    track: &'a Mutex<Track>,
    number: u64,
    clock: Clock,
}

impl Speedometer {
    /// An operation begins.
    pub(crate) fn start(&self, access: Access, clock: Clock) -> Timing<'_> {
        let track = self.track(access);
        let mut locked = track.lock();
        let number = locked.next;
        locked.next += 1;
        locked.running.insert(number, clock.now());
        Timing { track, number, clock }
    }

    /// The figures for a heartbeat.
    pub(crate) fn speed(&self, disk: DiskId, now: Instant) -> DiskSpeed {
        let (writes, reads) = (self.writes.lock().figures(now), self.reads.lock().figures(now));
        DiskSpeed {
            disk,
            write_micros: writes.median,
            read_micros: reads.median,
            write_tail_micros: writes.tail,
            read_tail_micros: reads.tail,
            answer_micros: None,
        }
    }

    /// Whether it stood still lately, and nobody has used it enough since to tell how fast it is.
    fn is_in_doubt(&self, now: Instant) -> bool {
        let in_doubt = |track: &Mutex<Track>| {
            let mut track = track.lock();
            track.is_suspect(now) && track.figures(now).median.is_none()
        };
        in_doubt(&self.writes) || in_doubt(&self.reads)
    }

    fn track(&self, access: Access) -> &Mutex<Track> {
        match access {
            Access::Write => &self.writes,
            Access::Read => &self.reads,
        }
    }
}

impl Timing<'_> {
    /// It ended well.
    pub(crate) fn finish(self) {
        self.track.lock().end(self.number, self.clock.now(), Duration::ZERO);
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        self.track.lock().end(self.number, self.clock.now(), STUCK_AFTER);
    }
}

impl Track {
    /// The operation is under way no more; it counts if it took at least so long.
    fn end(&mut self, number: u64, now: Instant, at_least: Duration) {
        let Some(started) = self.running.remove(&number) else { return };
        let took = now.saturating_duration_since(started);
        if took < at_least {
            return;
        }
        if took >= SUSPECT_AFTER {
            self.suspect = Some(now);
        }
        if self.done.len() == SAMPLES_MAX {
            self.done.pop_front();
        }
        self.done.push_back((now, micros(took)));
    }

    fn is_suspect(&self, now: Instant) -> bool {
        let age = |at: Instant| now.saturating_duration_since(at);
        self.suspect.is_some_and(|at| age(at) <= SUSPECT_FOR)
            || self.running.values().any(|at| age(*at) >= SUSPECT_AFTER)
    }

    fn figures(&mut self, now: Instant) -> Figures {
        let age = |at: Instant| now.saturating_duration_since(at);
        while self.done.front().is_some_and(|(at, _)| age(*at) > WINDOW) {
            self.done.pop_front();
        }
        let stuck = self.running.values().map(|at| age(*at)).filter(|age| *age >= STUCK_AFTER);
        let mut all: Vec<u32> =
            self.done.iter().map(|(_, took)| *took).chain(stuck.map(micros)).collect();
        all.sort_unstable();
        let together: u64 = all.iter().map(|took| u64::from(*took)).sum();
        let enough = all.len() >= SAMPLES_MIN || u128::from(together) >= SAMPLES_TIME.as_micros();
        let at = |place: usize| all.get(place).copied();
        Figures {
            median: at(all.len() / 2).filter(|_| enough),
            tail: at(all.len() * 9 / 10).filter(|_| all.len() >= TAIL_SAMPLES_MIN),
        }
    }
}

fn micros(took: Duration) -> u32 {
    u32::try_from(took.as_micros()).unwrap_or(u32::MAX)
}

/// Tries the disks that the map calls slow, for as long as it does, and those that are in doubt. Runs for the life of
/// the node.
pub(crate) async fn watch(node: Arc<Node>) {
    loop {
        node.env.clock.sleep(PROBE_EVERY).await;
        let (map, now) = (node.map.current(), node.env.clock.now());
        let tried = |seat: &&Arc<DiskSeat>| {
            let row = seat.id().and_then(|id| map.disks.get(&id));
            row.is_some_and(|disk| match disk.state {
                DiskState::Slow => true,
                DiskState::In => seat.speed.is_in_doubt(now),
                _ => false,
            })
        };
        for seat in node.disks.all().iter().filter(tried) {
            match node.env.clock.within(PROBE_LIMIT, probe(&node, seat)).await {
                Ok(Ok(())) => {}
                Ok(Err(e)) => {
                    tracing::info!(disk = ?seat.id(), error = %e, "a slow disk was not tried");
                }
                Err(e) => tracing::info!(disk = ?seat.id(), error = %e, "a slow disk is stuck"),
            }
        }
    }
}

/// Writes a file of the size of a small block durably, and reads it back.
async fn probe(node: &Node, seat: &DiskSeat) -> io::Result<()> {
    let clock = node.env.clock;
    let mode = OpenMode { create: true, direct: true };
    let file = node.env.disk.open(&seat.path.join(PROBE_FILE), mode).await?;
    let mut content = AlignedBuf::zeroed(PROBE_BYTES);
    content.set_len(PROBE_BYTES);
    let timing = seat.speed.start(Access::Write, clock);
    file.write_at(0, content).await?;
    file.sync_data().await?;
    timing.finish();
    let timing = seat.speed.start(Access::Read, clock);
    file.read_at(0, PROBE_BYTES).await?;
    timing.finish();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pass(ms: u64) {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }

    /// Operations that take so many milliseconds, one after another.
    async fn writes(meter: &Speedometer, clock: Clock, millis: &[u64]) {
        for ms in millis {
            let timing = meter.start(Access::Write, clock);
            pass(*ms).await;
            timing.finish();
        }
    }

    /// The median of what ended lately, from a few operations on; old times do not count.
    #[tokio::test(start_paused = true)]
    async fn the_median_of_the_last_seconds() {
        let (meter, clock) = (Speedometer::default(), Clock::real());
        let speed = || meter.speed(DiskId(1), clock.now());
        writes(&meter, clock, &[1, 2, 30]).await;
        assert_eq!(speed().write_micros, None, "three tell nothing");
        writes(&meter, clock, &[3]).await;
        assert_eq!(speed().write_micros, Some(3000));
        assert_eq!(speed().read_micros, None);
        pass(2500).await;
        assert_eq!(speed().write_micros, None, "that was long ago");
    }

    /// A disk that stands still for one operation in eight has a usual median, and a tail that tells.
    #[tokio::test(start_paused = true)]
    async fn the_tail_of_the_last_seconds() {
        let (meter, clock) = (Speedometer::default(), Clock::real());
        let speed = || meter.speed(DiskId(1), clock.now());
        writes(&meter, clock, &[1, 1, 1, 80, 1, 1, 1, 1]).await;
        assert_eq!(speed().write_tail_micros, None, "eight tell nothing of a tenth");
        writes(&meter, clock, &[1, 1, 1, 80, 1, 1, 1, 1]).await;
        writes(&meter, clock, &[1, 1, 1, 80, 1, 1, 1, 1]).await;
        assert_eq!((speed().write_micros, speed().write_tail_micros), (Some(1000), Some(80_000)));
    }

    /// What does not end counts with its age, also when whoever waited for it has gone; what failed at once does
    /// not count.
    #[tokio::test(start_paused = true)]
    async fn what_is_stuck_counts() {
        let (meter, clock) = (Speedometer::default(), Clock::real());
        let speed = || meter.speed(DiskId(1), clock.now()).read_micros;
        let stuck: Vec<_> = (0..5).map(|_| meter.start(Access::Read, clock)).collect();
        pass(50).await;
        assert_eq!(speed(), None);
        pass(850).await;
        assert_eq!(speed(), Some(900_000));
        drop(stuck);
        assert_eq!(speed(), Some(900_000));
        pass(2500).await;
        let failed: Vec<_> = (0..5).map(|_| meter.start(Access::Read, clock)).collect();
        pass(5).await;
        drop(failed);
        assert_eq!(speed(), None);
    }

    /// A disk that stood still for one write, and got no other, is in doubt for a while: unless figures tell.
    #[tokio::test(start_paused = true)]
    async fn a_disk_is_in_doubt() {
        let (meter, clock) = (Speedometer::default(), Clock::real());
        writes(&meter, clock, &[1]).await;
        assert!(!meter.is_in_doubt(clock.now()), "it was quick");
        writes(&meter, clock, &[60]).await;
        assert!(meter.is_in_doubt(clock.now()));
        pass(3000).await;
        assert!(meter.is_in_doubt(clock.now()));
        writes(&meter, clock, &[1, 1, 1, 1]).await;
        assert!(!meter.is_in_doubt(clock.now()), "figures tell");
        pass(12_000).await;
        assert!(!meter.is_in_doubt(clock.now()), "that was long ago");
        let reading = meter.start(Access::Read, clock);
        pass(50).await;
        assert!(meter.is_in_doubt(clock.now()), "it stands still");
        drop(reading);
    }

    /// A few operations tell when they took long.
    #[tokio::test(start_paused = true)]
    async fn a_few_long_ones_tell() {
        let (meter, clock) = (Speedometer::default(), Clock::real());
        writes(&meter, clock, &[300]).await;
        assert_eq!(meter.speed(DiskId(1), clock.now()).write_micros, None);
        writes(&meter, clock, &[300]).await;
        assert_eq!(meter.speed(DiskId(1), clock.now()).write_micros, Some(300_000));
    }

    /// Memory is bounded, and the newest count.
    #[tokio::test(start_paused = true)]
    async fn the_newest_are_kept() {
        let (meter, clock) = (Speedometer::default(), Clock::real());
        writes(&meter, clock, &[2; SAMPLES_MAX]).await;
        writes(&meter, clock, &[1; SAMPLES_MAX]).await;
        assert_eq!(meter.speed(DiskId(1), clock.now()).write_micros, Some(1000));
        assert_eq!(meter.writes.lock().done.len(), SAMPLES_MAX);
    }
}
