//! What was written to an open file and is not committed yet, over what is. Pure.
//!
//! **Invariants:** runs do not overlap or touch within a window, and none crosses the end of one, so
//! that each run fits a block. What is on its way is never changed: newer bytes lie over it.

use crate::buffers::{Buffer, Buffers};
use bytes::Bytes;
use everhold_proto::limits::BLOCK_BYTES_MAX;
use std::collections::{BTreeMap, VecDeque};

/// Runs end where blocks of a file that is written from its beginning end.
const WINDOW: u64 = BLOCK_BYTES_MAX as u64;
/// A run that grows beyond this takes a recycled buffer of a whole block.
pub(crate) const SMALL_MAX: usize = 256 << 10;

/// Bytes that wait for a commit.
#[derive(Default)]
pub(super) struct Overlay {
    runs: BTreeMap<u64, Run>,
    /// Under commits, or left by ones that failed: the oldest first.
    sealed: VecDeque<Sealed>,
    /// How often something was sealed.
    seals: u64,
    /// Bytes in `runs`.
    dirty: usize,
}

/// Runs that one flush takes.
#[derive(Clone)]
pub(super) struct Sealed {
    /// Rises from one to the next.
    pub(super) number: u64,
    /// A commit of it may have been made.
    pub(super) doubt: Option<Doubt>,
    /// Ascending, not overlapping, each at most a block.
    pub(super) runs: Vec<(u64, Bytes)>,
}

/// A commit of which nobody knows whether it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Doubt {
    /// The version that the file had before it, if that is known.
    pub(super) over: Option<u64>,
}

enum Run {
    Small(Vec<u8>),
    Block(Buffer),
}

impl Overlay {
    /// Bytes that no commit has taken yet.
    pub(super) fn dirty(&self) -> usize {
        self.dirty
    }

    /// All bytes in memory, those on their way too.
    pub(super) fn held(&self) -> usize {
        self.dirty + self.sealed_runs().map(|(_, bytes)| bytes.len()).sum::<usize>()
    }

    /// Nothing waits and nothing is on its way.
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.sealed.is_empty()
    }

    /// First offset after all of it.
    pub(super) fn end(&self) -> u64 {
        let runs = self.runs.last_key_value().map_or(0, |(at, run)| at + run.len());
        self.sealed_runs().map(|(at, bytes)| at + bytes.len() as u64).fold(runs, u64::max)
    }

    fn sealed_runs(&self) -> impl Iterator<Item = &(u64, Bytes)> {
        self.sealed.iter().flat_map(|sealed| &sealed.runs)
    }

    /// Takes bytes at an offset.
    pub(super) fn write(&mut self, mut offset: u64, mut data: &[u8], pool: &Buffers) {
        while !data.is_empty() {
            let left = WINDOW - offset % WINDOW;
            let (now, rest) = data.split_at(data.len().min(left as usize));
            self.write_in_window(offset, now, pool);
            offset += now.len() as u64;
            data = rest;
        }
    }

    fn write_in_window(&mut self, offset: u64, data: &[u8], pool: &Buffers) {
        let (window, end) = (offset - offset % WINDOW, offset + data.len() as u64);
        let touched: Vec<u64> = self
            .runs
            .range(window..=end.min(window + WINDOW - 1))
            .filter(|(at, run)| *at + run.len() >= offset)
            .map(|(at, _)| *at)
            .collect();
        match touched[..] {
            [] => {
                let mut run = Run::Small(Vec::new());
                run.append(data, pool);
                self.dirty += data.len();
                self.runs.insert(offset, run);
            }
            [at] if at <= offset => {
                let run = self.runs.get_mut(&at).expect("it was just found");
                self.dirty += run.write((offset - at) as usize, data, pool);
            }
            _ => self.merge(&touched, offset, data, pool),
        }
    }

    /// Joins runs that `data` touches; it covers the gaps between them.
    fn merge(&mut self, touched: &[u64], offset: u64, data: &[u8], pool: &Buffers) {
        let start = offset.min(touched[0]);
        let mut joined = Run::Small(Vec::new());
        if touched[0] > offset {
            joined.append(&data[..(touched[0] - offset) as usize], pool);
        }
        for at in touched {
            let run = self.runs.remove(at).expect("it was just found");
            self.dirty -= run.len() as usize;
            let have = start + joined.len();
            if *at > have {
                joined.append(&data[(have - offset) as usize..(*at - offset) as usize], pool);
            }
            joined.append(run.bytes(), pool);
        }
        joined.write((offset - start) as usize, data, pool);
        self.dirty += joined.len() as usize;
        self.runs.insert(start, joined);
    }

    /// Takes everything that waits for a flush. It stays readable here until [`Overlay::committed`].
    pub(super) fn seal(&mut self) -> Option<Sealed> {
        let runs = std::mem::take(&mut self.runs);
        self.dirty = 0;
        if runs.is_empty() {
            return None;
        }
        self.seals += 1;
        let runs = runs.into_iter().map(|(at, run)| (at, run.into_bytes())).collect();
        let sealed = Sealed { number: self.seals, doubt: None, runs };
        self.sealed.push_back(sealed.clone());
        Some(sealed)
    }

    /// The number of what was sealed last.
    pub(super) fn seals(&self) -> u64 {
        self.seals
    }

    /// What was sealed first and is not committed.
    pub(super) fn oldest(&self) -> Option<&Sealed> {
        self.sealed.front()
    }

    /// A commit of what was sealed first may have been made. What is known of an earlier one stays.
    pub(super) fn doubt(&mut self, doubt: Doubt) {
        if let Some(sealed) = self.sealed.front_mut() {
            sealed.doubt.get_or_insert(doubt);
        }
    }

    /// What was sealed first is committed.
    pub(super) fn committed(&mut self) {
        self.sealed.pop_front();
    }

    /// Whether `[from, to)` is all here.
    pub(super) fn covers(&self, from: u64, to: u64) -> bool {
        let mut at = from;
        while at < to {
            let run = self.runs.range(..=at).next_back().map(|(start, run)| start + run.len());
            let sealed = self
                .sealed_runs()
                .filter(|(start, _)| *start <= at)
                .map(|(start, bytes)| start + bytes.len() as u64)
                .max();
            match run.max(sealed) {
                Some(end) if end > at => at = end,
                _ => return false,
            }
        }
        true
    }

    /// What of `[from, to)` is here, oldest first: to be laid over what is committed.
    pub(super) fn slices(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let mut slices = Vec::new();
        let cut = |start: u64, length: u64| {
            let (low, high) = (start.max(from), (start + length).min(to));
            (low < high).then(|| (low, (low - start) as usize..(high - start) as usize))
        };
        for (start, bytes) in self.sealed_runs() {
            if let Some((at, range)) = cut(*start, bytes.len() as u64) {
                slices.push((at, bytes.slice(range)));
            }
        }
        let first = from - from % WINDOW; // no run crosses the end of a window
        for (start, run) in self.runs.range(first..to.max(first)) {
            if let Some((at, range)) = cut(*start, run.len()) {
                slices.push((at, Bytes::copy_from_slice(&run.bytes()[range])));
            }
        }
        slices
    }
}

impl Run {
    fn bytes(&self) -> &[u8] {
        match self {
            Run::Small(bytes) => bytes,
            Run::Block(buffer) => buffer,
        }
    }

    fn len(&self) -> u64 {
        self.bytes().len() as u64
    }

    fn append(&mut self, data: &[u8], pool: &Buffers) {
        if let Run::Small(bytes) = self
            && bytes.len() + data.len() > SMALL_MAX
        {
            let mut buffer = pool.take();
            buffer.append(bytes);
            *self = Run::Block(buffer);
        }
        match self {
            Run::Small(bytes) => bytes.extend_from_slice(data),
            Run::Block(buffer) => {
                let count = buffer.append(data);
                assert_eq!(count, data.len(), "a run fits its window");
            }
        }
    }

    /// Overwrites from `at` (at most the length) and says how much longer it is now.
    fn write(&mut self, at: usize, data: &[u8], pool: &Buffers) -> usize {
        let over = data.len().min(self.bytes().len() - at);
        match self {
            Run::Small(bytes) => bytes[at..at + over].copy_from_slice(&data[..over]),
            Run::Block(buffer) => buffer[at..at + over].copy_from_slice(&data[..over]),
        }
        self.append(&data[over..], pool);
        data.len() - over
    }

    fn into_bytes(self) -> Bytes {
        match self {
            Run::Small(bytes) => bytes.into(),
            Run::Block(buffer) => buffer.into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write { offset: u64, length: usize, fill: u8 },
        Seal,
        Committed,
    }

    fn step() -> impl Strategy<Value = Step> {
        // Around the end of a window, where runs must be cut.
        let offset = (WINDOW - 300..WINDOW + 300).prop_map(|o| o);
        prop_oneof![
            6 => (offset, 1usize..200, any::<u8>())
                .prop_map(|(offset, length, fill)| Step::Write { offset, length, fill }),
            1 => Just(Step::Seal),
            1 => Just(Step::Committed),
        ]
    }

    proptest! {
        #[test]
        fn an_overlay_is_what_was_written(steps in proptest::collection::vec(step(), 1..60)) {
            const BASE: u64 = WINDOW - 300;
            const SPAN: usize = 900;
            let pool = Buffers::default();
            let mut overlay = Overlay::default();
            // What a reader must see, and what is committed below.
            let (mut seen, mut below) = (vec![None; SPAN], vec![None; SPAN]);
            for step in steps {
                match step {
                    Step::Write { offset, length, fill } => {
                        overlay.write(offset, &vec![fill; length], &pool);
                        let at = (offset - BASE) as usize;
                        seen[at..at + length].fill(Some(fill));
                    }
                    Step::Seal => {
                        let mut last = 0;
                        for (at, bytes) in overlay.seal().map(|s| s.runs).unwrap_or_default() {
                            prop_assert!(at >= last);
                            last = at + bytes.len() as u64;
                            prop_assert!(at / WINDOW == (last - 1) / WINDOW, "a run in one window");
                        }
                    }
                    Step::Committed => {
                        for (at, bytes) in overlay.oldest().map(|s| s.runs.clone()).unwrap_or_default() {
                            for (i, byte) in bytes.iter().enumerate() {
                                below[(at - BASE) as usize + i] = Some(*byte);
                            }
                        }
                        overlay.committed();
                    }
                }
                let mut view = below.clone();
                for (at, bytes) in overlay.slices(BASE, BASE + SPAN as u64) {
                    for (i, byte) in bytes.iter().enumerate() {
                        view[(at - BASE) as usize + i] = Some(*byte);
                    }
                }
                prop_assert_eq!(&view, &seen);
                let runs: u64 = overlay.runs.values().map(Run::len).sum();
                prop_assert_eq!(overlay.dirty() as u64, runs);
            }
        }
    }

    #[test]
    fn coverage_needs_every_byte() {
        let pool = Buffers::default();
        let mut overlay = Overlay::default();
        overlay.write(10, &[1; 10], &pool);
        assert_eq!(overlay.seal().unwrap().number, 1);
        overlay.write(15, &[2; 10], &pool);
        assert!(overlay.covers(10, 25));
        assert!(!overlay.covers(9, 25));
        assert!(!overlay.covers(10, 26));
        assert_eq!(overlay.end(), 25);
        overlay.committed();
        assert!(!overlay.covers(10, 25));
        assert!(overlay.covers(15, 25));
    }

    #[test]
    fn a_long_run_moves_to_a_block_buffer() {
        let pool = Buffers::default();
        let mut overlay = Overlay::default();
        let chunk = vec![7; SMALL_MAX / 2 + 1];
        for i in 0..16u64 {
            overlay.write(i * chunk.len() as u64, &chunk, &pool);
        }
        let pieces = overlay.seal().unwrap().runs;
        let total: usize = pieces.iter().map(|(_, b)| b.len()).sum();
        assert_eq!(total, 16 * chunk.len());
        assert!(pieces.iter().all(|(_, b)| b.iter().all(|b| *b == 7)));
    }
}
