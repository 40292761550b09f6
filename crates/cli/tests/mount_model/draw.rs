//! What is done next, drawn from the seed.

use super::op::{Handle, How, Op};
use rand::RngExt;
use rand_chacha::ChaCha8Rng;

/// Directories, and names in each: few, so that operations meet.
const DIRECTORIES: [&str; 2] = ["d0", "d1"];
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
const ATTRIBUTES: [&str; 3] = ["user.one", "user.two", "user.three"];
/// No file is longer: some pages, inline and in blocks.
const LENGTH_MAX: u64 = 96 << 10;

/// Longer than any file: those that are copied to are the longest.
pub(crate) const READ_ALL: usize = 1 << 20;

pub(crate) fn directories() -> [&'static str; 2] {
    DIRECTORIES
}

/// Paths of all names in a directory.
pub(crate) fn names(directory: &str) -> Vec<String> {
    NAMES.iter().map(|name| format!("{directory}/{name}")).collect()
}

/// An operation of one mount, which has these files open (`true`: it appends).
pub(crate) fn draw(rng: &mut ChaCha8Rng, open: &[(Handle, bool)], fresh: Handle) -> Op {
    let path = |rng: &mut ChaCha8Rng| {
        let directory = DIRECTORIES[rng.random_range(0..DIRECTORIES.len())];
        format!("{directory}/{}", NAMES[rng.random_range(0..NAMES.len())])
    };
    if !open.is_empty() && rng.random_bool(0.5) {
        return with_handle(rng, open);
    }
    let first = path(rng);
    match rng.random_range(0..100) {
        0..25 => Op::Open(fresh, first, how(rng)),
        25..35 => Op::Stat(first),
        35..41 => Op::List(DIRECTORIES[rng.random_range(0..DIRECTORIES.len())].into()),
        41..46 => Op::Truncate(first, length(rng)),
        46..56 => Op::Rename(first, path(rng)),
        56..59 => Op::Exchange(first, path(rng)),
        59..65 => Op::Link(first, path(rng)),
        65..73 => Op::Unlink(first),
        73..76 => Op::Mkdir(first),
        76..79 => Op::Rmdir(first),
        79..82 => Op::Symlink(format!("to-{}", rng.random_range(0..9)), first),
        82..84 => Op::Readlink(first),
        84..87 => Op::Chmod(first, [0o600, 0o644, 0o755, 0o777][rng.random_range(0..4)]),
        87..90 => Op::SetTime(first, rng.random_range(1_000_000..2_000_000_000)),
        90..94 => Op::SetXattr(first, attribute(rng), bytes(rng, 64)),
        94..96 => Op::GetXattr(first, attribute(rng)),
        96..98 => Op::ListXattr(first),
        _ => Op::RemoveXattr(first, attribute(rng)),
    }
}

fn with_handle(rng: &mut ChaCha8Rng, open: &[(Handle, bool)]) -> Op {
    let (handle, appends) = open[rng.random_range(0..open.len())];
    let offset = length(rng) / 2;
    match rng.random_range(0..100) {
        0..22 => Op::Write(handle, offset, bytes(rng, 20 << 10)),
        22..45 => Op::Read(handle, offset, rng.random_range(1..40 << 10)),
        45..60 => Op::Close(handle),
        60..68 => Op::Sync(handle),
        68..73 => Op::SetLength(handle, length(rng)),
        73..77 => Op::Punch(handle, offset, rng.random_range(1..20 << 10)),
        77..81 => {
            let (to, _) = open[rng.random_range(0..open.len())];
            // Ranges of one file must not overlap.
            let there = offset + LENGTH_MAX;
            Op::Copy(handle, offset, to, there, rng.random_range(1..20 << 10))
        }
        81..86 if !appends => Op::WriteMapped(handle, offset, bytes(rng, 5000)),
        86..92 if !appends => Op::ReadMapped(handle),
        _ => Op::StatHandle(handle),
    }
}

fn how(rng: &mut ChaCha8Rng) -> How {
    let create = rng.random_bool(0.7);
    let (exclusive, truncate) = (create && rng.random_bool(0.2), rng.random_bool(0.2));
    How { create, exclusive, truncate, append: rng.random_bool(0.15) }
}

fn attribute(rng: &mut ChaCha8Rng) -> String {
    ATTRIBUTES[rng.random_range(0..ATTRIBUTES.len())].into()
}

/// Mostly short.
fn length(rng: &mut ChaCha8Rng) -> u64 {
    let most = [100, 5000, 20_000, LENGTH_MAX][rng.random_range(0..4)];
    rng.random_range(0..most)
}

fn bytes(rng: &mut ChaCha8Rng, most: usize) -> Vec<u8> {
    let (first, length) = (rng.random_range(1..=255u8), rng.random_range(1..most));
    (0..length).map(|at| first.wrapping_add(at as u8)).collect()
}
