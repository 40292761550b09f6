//! What `fuzz/` and the tests drive: decoders of what is on the disk, recovery from a log with forged
//! records, and the store against a model.

pub(crate) mod model;
mod recovery;
mod structures;
pub(crate) mod world;

pub use recovery::{recover, samples_of_logs};
pub use structures::{decode_structure, samples_of_structures};

use model::Event;

/// Events of the store's model, read from bytes: whatever was acknowledged holds.
pub fn run_model(bytes: &[u8]) {
    let mut bytes = bytes.iter().copied();
    let events: Vec<Event> =
        std::iter::from_fn(|| event(&mut bytes)).take(model::EVENTS_MAX).collect();
    model::run(&events);
}

fn event(bytes: &mut impl Iterator<Item = u8>) -> Option<Event> {
    let kind = bytes.next()?;
    let mut next = || u64::from(bytes.next().unwrap_or_default());
    Some(match kind % 12 {
        0 => Event::Put(next() % model::IDS),
        1 => Event::PutMany(next() % model::IDS, 1 + next() % 7),
        2 => Event::Delete(next() % model::IDS, 1 + next() % 9),
        3 => Event::Read(next() % model::IDS),
        4 => Event::Compact,
        5 => Event::Flush,
        6 => Event::Reopen,
        7 => Event::Crash(Some(next()).filter(|seed| *seed != 0)),
        8 => Event::CrashAt(1 + next() % 39),
        9 => Event::LoseIndex,
        10 => Event::ReadRange(next() % model::IDS, next(), next()),
        _ => Event::Flip(next() % model::IDS, next() << 8 | next()),
    })
}

/// Sequences of events that reach every kind.
pub fn samples_of_models() -> Vec<Vec<u8>> {
    let mut samples: Vec<Vec<u8>> = vec![
        vec![0, 1, 3, 1, 2, 1, 1, 3, 1],
        vec![1, 0, 6, 1, 6, 6, 2, 0, 8, 4, 4, 5, 6, 7, 9, 3, 2],
        vec![1, 0, 6, 8, 9, 1, 6, 6, 8, 5, 2, 0, 8, 4, 4, 5, 9],
        vec![0, 7, 10, 7, 9, 200, 11, 7, 1, 1, 3, 7, 0, 7, 3, 7, 6],
        vec![1, 0, 6, 1, 8, 6, 11, 3, 0, 9, 9, 2, 0, 9, 4, 7, 3],
    ];
    // Long enough that segments fill up and compaction has something to do.
    let churn = (0..36).flat_map(|i: u8| [1, i % 24, 5, 2, (i * 7) % 24, 4, 4]);
    samples.push(churn.collect());
    samples
}
