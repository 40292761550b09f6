//! The log of a process: what is of note, to standard error.
//!
//! What happens again and again is told some times and then counted: one dead node must not fill a disk. A log in a file that
//! another process of this program opened is turned over when it has become long.

use crate::args::Command;
use parking_lot::Mutex;
use rustix::fs::OFlags;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use tracing::callsite::Identifier;
use tracing::subscriber::Interest;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// So many events of one place in the code are told in one period; the others are counted.
const EVENTS_MAX: u32 = 8;
const PERIOD: Duration = Duration::from_secs(10);
/// A longer file is moved to `FILE.1`, over the one before.
const FILE_BYTES_MAX: u64 = 16 << 20;
/// Set for processes whose standard error is a file that this program opened.
pub(crate) const TURN_OVER: &str = "EVERHOLD_TURN_LOG_OVER";

/// Starts it: of a server everything of note, of other commands only warnings.
pub(crate) fn start(command: &Command) {
    let default = match command {
        // openraft tells of each message that is not answered; the state of nodes is in the log anyway.
        Command::Server(_) => "info,openraft=error",
        Command::Mount(_) => "info",
        _ => "error",
    };
    let filter =
        EnvFilter::try_from_env("EVERHOLD_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let throttle = Arc::new(Throttle::default());
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .with_filter(Shared(throttle.clone()));
    tracing_subscriber::registry().with(filter).with(lines).init();
    if matches!(command, Command::Server(_) | Command::Mount(_)) {
        tend(Arc::downgrade(&throttle));
    }
}

/// Tells what was left out, and keeps the file short, for the life of the process.
fn tend(throttle: Weak<Throttle>) {
    let turn_over = std::env::var_os(TURN_OVER).is_some();
    let work = move || {
        while let Some(throttle) = throttle.upgrade() {
            for (place, count) in throttle.left_out(Instant::now()) {
                tracing::warn!(events = count, place, "events of one kind were left out");
            }
            if turn_over && let Err(e) = turn_over_stderr() {
                tracing::warn!(error = %e, "the log could not be turned over");
            }
            drop(throttle);
            std::thread::sleep(PERIOD);
        }
    };
    if let Err(e) = std::thread::Builder::new().name("log".into()).spawn(work) {
        tracing::warn!(error = %e, "no thread for the log: what is left out is not told");
    }
}

/// Moves the content of the file that standard error is to `FILE.1`, when there is much of it.
fn turn_over_stderr() -> io::Result<()> {
    let stderr = io::stderr();
    let status = rustix::fs::fstat(&stderr)?;
    let is_file = rustix::fs::FileType::from_raw_mode(status.st_mode).is_file();
    let appends = rustix::fs::fcntl_getfl(&stderr)?.contains(OFlags::APPEND);
    // Only what is appended goes on at the beginning after the file was cut.
    if is_file && appends && status.st_size as u64 > FILE_BYTES_MAX {
        let path = std::fs::read_link("/proc/self/fd/2")?;
        turn_over(&path, &File::from(stderr.as_fd().try_clone_to_owned()?))?;
    }
    Ok(())
}

fn turn_over(path: &Path, file: &File) -> io::Result<()> {
    let mut before = path.as_os_str().to_owned();
    before.push(".1");
    std::fs::copy(path, before)?;
    file.set_len(0)
}

/// Counts events by the place in the code that they come from. There are as many as the program has, so it is bounded.
#[derive(Default)]
struct Throttle(Mutex<HashMap<Identifier, Place>>);

struct Place {
    name: String,
    began: Instant,
    told: u32,
    left_out: u64,
}

impl Throttle {
    /// Whether an event is told.
    fn admit(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut places = self.0.lock();
        let place = places.entry(metadata.callsite()).or_insert_with(|| Place {
            name: format!("{}:{}", metadata.target(), metadata.line().unwrap_or(0)),
            began: now,
            told: 0,
            left_out: 0,
        });
        place.admit(now)
    }

    /// What was left out in periods that are over, by place.
    fn left_out(&self, now: Instant) -> Vec<(String, u64)> {
        let mut places = self.0.lock();
        let over = places.values_mut().filter(|place| place.is_over(now) && place.left_out > 0);
        over.map(|place| (place.name.clone(), std::mem::take(&mut place.left_out))).collect()
    }
}

impl Place {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.began) >= PERIOD
    }

    fn admit(&mut self, now: Instant) -> bool {
        if self.is_over(now) {
            (self.began, self.told) = (now, 0);
        }
        let admitted = self.told < EVENTS_MAX;
        match admitted {
            true => self.told += 1,
            false => self.left_out += 1,
        }
        admitted
    }
}

/// The throttle as a filter of one layer.
struct Shared(Arc<Throttle>);

impl<S: Subscriber> Filter<S> for Shared {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn callsite_enabled(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::always()
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.0.admit(event.metadata(), Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_often_is_counted() {
        let began = Instant::now();
        let mut place = Place { name: String::new(), began, told: 0, left_out: 0 };
        let told = (0..100).filter(|_| place.admit(began)).count();
        assert_eq!((told, place.left_out), (EVENTS_MAX as usize, 100 - u64::from(EVENTS_MAX)));
        assert!(!place.is_over(began) && place.is_over(began + PERIOD));
        assert!(place.admit(began + PERIOD), "another period");
        assert_eq!(place.left_out, 100 - u64::from(EVENTS_MAX), "not told yet");
    }

    #[test]
    fn a_long_file_is_turned_over() {
        use std::io::Write;
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        let mut file =
            File::options().append(true).create(true).open(&path).expect("the file opens");
        file.write_all(b"before").expect("it is written");
        turn_over(&path, &file).expect("it is turned over");
        file.write_all(b"after").expect("it is written");
        assert_eq!(std::fs::read(&path).expect("it is there"), b"after");
        assert_eq!(std::fs::read(dir.path().join("log.1")).expect("it is there"), b"before");
    }
}
