//! The trace of a simulated run: everything that happens, hashed in the order in which it happens. Two
//! runs of one seed must agree on the hash; the last lines are kept for the report of a failure.
//!
//! A simulation lives on one thread, and so does its trace.

use everhold_proto::checksum::crc32c;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::io::Write;

/// Lines kept for a report.
const LAST_LINES: usize = 60;

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<String>,
    file: Option<std::io::BufWriter<std::fs::File>>,
}

thread_local! {
    static TRACE: RefCell<Trace> = const {
        RefCell::new(Trace { hash: FNV_OFFSET, events: 0, last: VecDeque::new(), file: None })
    };
}

/// Starts a trace; with `file`, every line is also written there.
pub fn begin(file: Option<std::fs::File>) {
    TRACE.with_borrow_mut(|trace| {
        let file = file.map(std::io::BufWriter::new);
        *trace = Trace { hash: FNV_OFFSET, events: 0, last: VecDeque::new(), file };
    });
}

/// The simulated time, for lines.
pub(crate) fn now_ms() -> u64 {
    turmoil::sim_elapsed().map_or_else(|| CLOCK.get(), |elapsed| elapsed.as_millis() as u64)
}

thread_local!(static CLOCK: std::cell::Cell<u64> = const { std::cell::Cell::new(0) });

/// Between two steps of the simulation no host runs: the driver says what time it is.
pub(crate) fn set_clock(ms: u64) {
    CLOCK.set(ms);
}

/// Something worth a line.
pub fn line(what: fmt::Arguments<'_>) {
    let text = format!("{:>9.3} {what}", now_ms() as f64 / 1e3);
    TRACE.with_borrow_mut(|trace| {
        trace.mix(text.as_bytes());
        trace.write(&text);
        if trace.last.len() == LAST_LINES {
            trace.last.pop_front();
        }
        trace.last.push_back(text);
    });
}

/// Bytes on their way: hashed, and a line only in the file.
pub(crate) fn bytes(what: &str, from: &str, to: &dyn fmt::Display, bytes: &[u8]) {
    let crc = crc32c(bytes);
    TRACE.with_borrow_mut(|trace| {
        trace.mix(what.as_bytes());
        trace.mix(from.as_bytes());
        trace.mix(&(bytes.len() as u64).to_le_bytes());
        trace.mix(&crc.to_le_bytes());
        trace.mix(&now_ms().to_le_bytes());
        if trace.file.is_some() {
            let n = bytes.len();
            let text = format!("{:>9.3} {what} {from} {to} {n} {crc:08x}", now_ms() as f64 / 1e3);
            trace.write(&text);
        }
    });
}

/// The hash of everything so far, and of how many events it was made.
pub fn summary() -> (u64, u64) {
    TRACE.with_borrow(|trace| (trace.hash, trace.events))
}

/// The last lines.
pub fn last_lines() -> Vec<String> {
    TRACE.with_borrow(|trace| trace.last.iter().cloned().collect())
}

impl Trace {
    fn mix(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
        }
        self.events += 1;
    }

    fn write(&mut self, text: &str) {
        if let Some(file) = &mut self.file
            && let Err(e) = writeln!(file, "{text}")
        {
            eprintln!("the trace cannot be written: {e}");
            self.file = None;
        }
    }
}

/// A line of the trace.
#[macro_export]
macro_rules! event {
    ($($part:tt)*) => { $crate::trace::line(format_args!($($part)*)) };
}

/// Stamps lines of the log with simulated time.
#[derive(Clone, Copy, Debug)]
pub struct SimulatedTime;

impl tracing_subscriber::fmt::time::FormatTime for SimulatedTime {
    fn format_time(&self, w: &mut tracing_subscriber::fmt::format::Writer<'_>) -> fmt::Result {
        write!(w, "{:>9.3}", now_ms() as f64 / 1e3)
    }
}
