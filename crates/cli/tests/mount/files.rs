//! What the flags of `open` mean.

use crate::common::noise;
use crate::world::visit;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

/// O_EXCL makes a file or fails, O_TRUNC empties it for everybody.
#[test]
fn create_and_truncate() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("create-and-truncate");
    let new = |at: &std::path::Path| OpenOptions::new().write(true).create_new(true).open(at);
    let mut file = new(&a.join("f")).unwrap();
    file.write_all(&noise(1, 100_000)).unwrap();
    drop(file);
    for path in [a.join("f"), b.join("f")] {
        assert_eq!(new(&path).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    let open = File::open(a.join("f")).unwrap();
    drop(OpenOptions::new().write(true).truncate(true).open(b.join("f")).unwrap());
    assert_eq!(std::fs::metadata(a.join("f")).unwrap().len(), 0);
    assert_eq!(open.metadata().unwrap().len(), 0);
    assert_eq!(std::fs::read(a.join("f")).unwrap(), b"");
}

/// What an O_APPEND descriptor writes goes to the end, wherever others have put it.
#[test]
fn append_goes_to_the_end() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("append");
    let append = |at| OpenOptions::new().append(true).create(true).open(at).unwrap();
    let (mut one, mut two) = (append(a.join("f")), append(b.join("f")));
    one.write_all(b"one ").unwrap();
    two.write_all(b"two ").unwrap();
    one.seek(SeekFrom::Start(0)).unwrap();
    one.write_all(b"three").unwrap();
    drop((one, two));
    assert_eq!(std::fs::read(a.join("f")).unwrap(), b"one two three");
    assert_eq!(std::fs::read(b.join("f")).unwrap(), b"one two three");
}

/// O_DIRECT writes and reads, aligned and not, and agrees with what goes through the page cache.
#[test]
fn direct_and_cached_agree() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("direct");
    let mut expected = noise(2, 300_000);
    std::fs::write(a.join("f"), &expected).unwrap();
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    let cached = options.open(a.join("f")).unwrap();
    let direct = options.custom_flags(libc::O_DIRECT).open(a.join("f")).unwrap();
    for (turn, (at, length)) in (3..).zip([(4096, 8192), (100, 7), (65_535, 70_000), (299_999, 1)])
    {
        let bytes = noise(turn, length);
        let (writer, reader) = if turn % 2 == 0 { (&cached, &direct) } else { (&direct, &cached) };
        writer.write_all_at(&bytes, at as u64).unwrap();
        expected[at..at + length].copy_from_slice(&bytes);
        let mut all = vec![0; expected.len()];
        reader.read_exact_at(&mut all, 0).unwrap();
        assert!(all == expected, "turn {turn}: the other descriptor reads something else");
    }
    drop((cached, direct));
    assert!(std::fs::read(a.join("f")).unwrap() == expected);
}

/// O_SYNC writes and `fsync` are committed when they return, without a close.
#[test]
fn synced_bytes_are_committed() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("synced");
    let committed = world.client();
    let mut options = OpenOptions::new();
    options.write(true).create(true);
    let mut synced = options.clone().custom_flags(libc::O_SYNC).open(a.join("sync")).unwrap();
    synced.write_all(&noise(4, 50_000)).unwrap();
    assert_eq!(committed.read("/synced/sync"), Some(noise(4, 50_000)));
    let mut later = options.open(a.join("fsync")).unwrap();
    later.write_all(&noise(5, 5_000_000)).unwrap();
    later.sync_data().unwrap();
    assert_eq!(committed.read("/synced/fsync"), Some(noise(5, 5_000_000)));
}

/// A reader in the same mount sees what was written before it is committed, and the size that goes with it.
#[test]
fn one_mount_sees_its_own_writes_at_once() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("own-writes");
    let mut writer = File::create(a.join("f")).unwrap();
    let mut reader = File::open(a.join("f")).unwrap();
    let mut expected = Vec::new();
    for turn in 0..20 {
        let bytes = noise(turn, 1 + 5_000 * turn as usize);
        writer.write_all(&bytes).unwrap();
        expected.extend(bytes);
        assert_eq!(writer.metadata().unwrap().size(), expected.len() as u64);
        let mut all = Vec::new();
        reader.seek(SeekFrom::Start(0)).unwrap();
        reader.read_to_end(&mut all).unwrap();
        assert!(all == expected, "turn {turn}");
    }
}

/// A file in many pieces, each with its bytes in the metadata, is read by many at once: their answers together
/// are larger than one reply may be.
#[test]
fn a_file_in_many_pieces_is_read_by_many() {
    const PIECES: u64 = 400;
    const PIECE: u64 = 8 << 10;
    const READERS: u64 = 16;
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("pieces");
    let file = File::create(a.join("f")).unwrap();
    for piece in 0..PIECES {
        // Every other one, so that none is joined with the next.
        file.write_all_at(&noise(piece, PIECE as usize), 2 * piece * PIECE).unwrap();
        file.sync_data().unwrap();
    }
    std::thread::scope(|scope| {
        for reader in 0..READERS {
            let path = b.join("f");
            scope.spawn(move || {
                let (file, piece) = (File::open(path).unwrap(), reader * 7 % PIECES);
                let mut bytes = vec![0; PIECE as usize];
                file.read_exact_at(&mut bytes, 2 * piece * PIECE).unwrap();
                assert!(bytes == noise(piece, PIECE as usize), "reader {reader}");
            });
        }
    });
}
