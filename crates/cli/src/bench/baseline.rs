//! What the machine itself can do, measured in the same run: the disk, written as segments are
//! (O_DIRECT, 4 MiB, into a file whose blocks were written before), and TCP over loopback.

use everhold_env::AlignedBuf;
use rustix::fs::OFlags;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Instant;

const PIECE: usize = 4 << 20;
/// Writes in flight: enough that the disk never waits for the program.
const WRITERS: u64 = 4;
/// The file is overwritten again and again rather than grown, so that three copies of the stream
/// need not fit on the disk twice.
const FILE_BYTES_MAX: u64 = 1 << 30;

/// Bytes per second of a disk or network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rate {
    /// Bytes per second.
    pub(crate) bytes_per_second: f64,
    /// CPU seconds per GiB, of this process.
    pub(crate) cpu_per_gib: f64,
    /// Whether O_DIRECT was used (of a disk).
    pub(crate) direct: bool,
}

/// Overwrites a file in `dir` until `bytes` are written, then makes it durable.
pub(crate) fn disk(dir: &Path, bytes: u64) -> io::Result<Rate> {
    let path = dir.join("bench-disk.tmp");
    let result = measure_disk(&path, bytes);
    let removed = std::fs::remove_file(&path);
    let rate = result?;
    removed?;
    Ok(rate)
}

fn measure_disk(path: &Path, bytes: u64) -> io::Result<Rate> {
    let (file, direct) = open(path)?;
    let pieces = (bytes.min(FILE_BYTES_MAX) / PIECE as u64).max(WRITERS);
    write_pieces(&file, pieces, pieces)?;
    file.sync_data()?;
    let total = (bytes / PIECE as u64).max(pieces);
    let (started, cpu) = (Instant::now(), cpu_seconds());
    write_pieces(&file, pieces, total)?;
    file.sync_data()?;
    Ok(rate(total * PIECE as u64, started, cpu, direct))
}

fn open(path: &Path) -> io::Result<(File, bool)> {
    let flags = OFlags::DIRECT.bits() as i32;
    let mut options = OpenOptions::new();
    options.create(true).write(true).truncate(true);
    match options.clone().custom_flags(flags).open(path) {
        Ok(file) => Ok((file, true)),
        // Some file systems (tmpfs of old) have no direct I/O.
        Err(_) => Ok((options.open(path)?, false)),
    }
}

/// Writes `total` pieces, in turn over the first `pieces` places of the file.
fn write_pieces(file: &File, pieces: u64, total: u64) -> io::Result<()> {
    thread::scope(|scope| {
        let writer = |first: u64| {
            let mut buffer = AlignedBuf::zeroed(PIECE);
            buffer.fill(0x5a);
            let mut at = first;
            while at < total {
                buffer[..8].copy_from_slice(&at.to_le_bytes());
                file.write_all_at(&buffer, at % pieces * PIECE as u64)?;
                at += WRITERS;
            }
            Ok(())
        };
        let writers: Vec<_> =
            (0..WRITERS).map(|first| scope.spawn(move || writer(first))).collect();
        writers.into_iter().try_for_each(|w| w.join().expect("a writer does not panic"))
    })
}

/// Sends `bytes` over one loopback connection.
pub(crate) fn loopback(bytes: u64) -> io::Result<Rate> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let (started, cpu) = (Instant::now(), cpu_seconds());
    let sender = thread::spawn(move || -> io::Result<()> {
        let mut stream = TcpStream::connect(address)?;
        let piece = vec![0x5a; 1 << 20];
        let mut left = bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
            stream.write_all(&piece[..length])?;
            left -= length as u64;
        }
        Ok(())
    });
    let (mut stream, _) = listener.accept()?;
    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            n => received += n as u64,
        }
    }
    sender.join().expect("the sender does not panic")?;
    Ok(rate(received, started, cpu, false))
}

fn rate(bytes: u64, started: Instant, cpu_before: f64, direct: bool) -> Rate {
    let gib = bytes as f64 / (1u64 << 30) as f64;
    Rate {
        bytes_per_second: bytes as f64 / started.elapsed().as_secs_f64(),
        cpu_per_gib: (cpu_seconds() - cpu_before) / gib,
        direct,
    }
}

/// CPU seconds (user and system) that this process has used, from `/proc/self/stat`.
pub(crate) fn cpu_seconds() -> f64 {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
    // Fields 14 and 15 of proc(5); the two before `) ` are gone.
    let ticks: u64 = fields.split(' ').skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    ticks as f64 / rustix::param::clock_ticks_per_second() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_are_measured() {
        let dir = tempfile::tempdir().unwrap();
        let rate = disk(dir.path(), 32 << 20).unwrap();
        assert!(rate.bytes_per_second > 0.0);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "the file is removed");
        assert!(loopback(16 << 20).unwrap().bytes_per_second > 0.0);
        assert!(cpu_seconds() > 0.0);
    }
}
