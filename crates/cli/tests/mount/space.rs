//! Holes, `fallocate`, copies that share blocks.

use crate::common::noise;
use crate::world::{Committed, visit};
use everhold_proto::InodeId;
use everhold_proto::fs::Source;
use rustix::fs::{FallocateFlags, SeekFrom, copy_file_range, fallocate, seek};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

const MIB: u64 = 1 << 20;

fn open(path: &Path) -> File {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// A file with holes reads as zeroes there, takes no space for them, and says where they are.
#[test]
fn sparse_files_know_their_holes() {
    let Some(world) = visit() else { return };
    let (a, _) = world.directory("sparse");
    let file = open(&a.join("f"));
    file.write_all_at(&noise(1, MIB as usize), MIB).unwrap();
    file.write_all_at(&noise(2, 100_000), 8 * MIB).unwrap();
    file.set_len(16 * MIB).unwrap();
    let data = |from| seek(&file, SeekFrom::Data(from));
    let hole = |from| seek(&file, SeekFrom::Hole(from));
    assert_eq!(data(0), Ok(MIB));
    assert_eq!(hole(MIB), Ok(2 * MIB));
    assert_eq!(hole(0), Ok(0));
    assert_eq!(data(2 * MIB), Ok(8 * MIB));
    assert_eq!(hole(8 * MIB), Ok(8 * MIB + 100_000));
    assert_eq!(data(9 * MIB), Err(rustix::io::Errno::NXIO));
    assert_eq!(hole(9 * MIB), Ok(9 * MIB));
    assert_eq!(hole(16 * MIB), Err(rustix::io::Errno::NXIO));
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), 16 * MIB);
    assert!(meta.blocks() * 512 < 2 * MIB, "{} blocks for two pieces", meta.blocks());
    let mut bytes = vec![1; 4 * MIB as usize];
    file.read_exact_at(&mut bytes, 3 * MIB).unwrap();
    assert!(bytes.iter().all(|b| *b == 0), "a hole reads as zeroes");
    // The page cache and the cluster agree after the file is opened anew.
    let all = std::fs::read(a.join("f")).unwrap();
    assert!(all[MIB as usize..2 * MIB as usize] == noise(1, MIB as usize));
}

/// `fallocate` punches holes, zeroes ranges and grows files, with the size kept where that is asked for.
#[test]
fn fallocate_in_its_ways() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("fallocate");
    let mut expected = noise(3, 2 * MIB as usize);
    let file = open(&a.join("f"));
    file.write_all_at(&expected, 0).unwrap();
    let size = || file.metadata().unwrap().len();

    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    fallocate(&file, punch, 4097, 100_000).unwrap();
    expected[4097..104_097].fill(0);
    fallocate(&file, punch, 2 * MIB - 10, MIB).unwrap();
    expected[2 * MIB as usize - 10..].fill(0);
    assert_eq!(size(), 2 * MIB, "a punch does not grow");
    let zero = FallocateFlags::ZERO_RANGE;
    fallocate(&file, zero | FallocateFlags::KEEP_SIZE, MIB, 5000).unwrap();
    expected[MIB as usize..MIB as usize + 5000].fill(0);
    fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 4 * MIB).unwrap();
    assert_eq!(size(), 2 * MIB, "space may be set aside without a size");
    let mut read = vec![1; expected.len()];
    file.read_exact_at(&mut read, 0).unwrap();
    assert!(read == expected, "through the descriptor that punched");

    fallocate(&file, zero, 2 * MIB - 5, 105).unwrap();
    assert_eq!(size(), 2 * MIB + 100, "a zeroed range grows");
    fallocate(&file, FallocateFlags::empty(), 0, 3 * MIB).unwrap();
    assert_eq!(size(), 3 * MIB);
    expected.resize(3 * MIB as usize, 0);
    drop(file);
    assert!(std::fs::read(a.join("f")).unwrap() == expected);
    assert!(std::fs::read(b.join("f")).unwrap() == expected);
}

/// The blocks of a file, with where in the file they are.
fn blocks(committed: &Committed, inode: u64) -> Vec<(u64, u64, Source)> {
    let Committed { client, runtime } = committed;
    let extents = client.extents_of(InodeId(inode), 0, u64::MAX, client.deadline());
    let (_, extents) = runtime.block_on(extents).expect("extents");
    let of_blocks = extents.into_iter().filter(|e| matches!(e.source, Source::Block { .. }));
    of_blocks.map(|e| (e.offset, e.length, e.source)).collect()
}

/// A copied range has the same content, and the cluster stores its blocks once.
#[test]
fn copies_share_their_blocks() {
    let Some(world) = visit() else { return };
    let (a, b) = world.directory("copies");
    let content = noise(4, 9 * MIB as usize);
    std::fs::write(a.join("from"), &content).unwrap();
    let (from, to) = (open(&a.join("from")), open(&a.join("to")));
    let (mut at, mut put) = (0, 0);
    loop {
        let count = copy_file_range(&from, Some(&mut at), &to, Some(&mut put), 9 * MIB as usize);
        if count.unwrap() == 0 {
            break;
        }
    }
    assert_eq!((at, put), (9 * MIB, 9 * MIB));
    let mut read = vec![0; content.len()];
    to.read_exact_at(&mut read, 0).unwrap();
    assert!(read == content, "through the descriptor that was copied to");
    let committed = world.client();
    let (source, copy) = (from.metadata().unwrap().ino(), to.metadata().unwrap().ino());
    let source = blocks(&committed, source);
    assert!(!source.is_empty());
    assert_eq!(source, blocks(&committed, copy), "the very same blocks");
    // They part when one of them is written.
    to.write_all_at(b"changed", 5 * MIB).unwrap();
    drop((from, to));
    assert!(std::fs::read(b.join("from")).unwrap() == content);
    let mut changed = content;
    changed[5 * MIB as usize..][..7].copy_from_slice(b"changed");
    assert!(std::fs::read(b.join("to")).unwrap() == changed);
}
